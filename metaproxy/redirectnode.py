"""The redirect on this node: what of it is there, put in place in an order that leaves no gap, taken away.

Knows: which layer comes when, and which tool has it.
Must not know: how a layer is written or compared, when anybody wants it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from metaproxy import portgroup, redirectiptables, redirectnft
from metaproxy.redirectcommands import MissingToolError, RedirectError, Tries, listed, run
from metaproxy.redirectplan import BACKENDS, IPV4, IPV6, Backend, Family, Finding, Plan
from metaproxy.redirectport import kept, led_to, listened_at
from metaproxy.redirectrender import restore, stale
from metaproxy.redirectroutes import (
    address,
    address_findings,
    guard,
    guard_findings,
    route,
    route_findings,
    rules_ahead,
    speaker,
    stale_rules,
)

_GONE = ("No such", "Cannot assign", "Cannot find", "not found", "does not exist")
_NO_TABLE = ("No such file or directory", "does not exist", "Table does not exist")
_NO_ROUTE = ("nreachable", "No route", "Permission denied", "Invalid argument")
_IPV6 = Path("/proc/sys/net/ipv6/conf")


ROUNDS = 8
"""How often the guard is looked at again while rules are taken away: many times what anybody adds by mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found: `differs` is to be repaired, `notes` are beyond repair and to be known."""

    backend: Backend | None
    differs: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = field(default=())


def families() -> tuple[Family, ...]:
    """Those that the kernel has. A family that is merely disabled on some devices is closed like any other."""
    return (IPV4, IPV6) if _IPV6.exists() else (IPV4,)


def device_exists(name: str) -> bool:
    """Whether there is such a network device."""
    return bool(listed("ip", "-j", "link", "show", "dev", name, accept=_GONE))


def backend_in_use() -> Backend:
    """The backend to use where nobody says: the one that holds our rules, else what suits the host.

    A host that keeps its rules in legacy iptables goes on with that; every other gets tables of our own.

    Raises:
        RedirectError: there is none.
    """
    usable = [backend for backend in BACKENDS if _answers(backend)]
    if not usable:
        raise RedirectError("neither nft nor iptables works here: install one of them")
    for backend in usable:
        if any(_present(backend, family) for family in families()):
            return backend
    hosts = [backend for backend in usable if backend != "nftables" and _host_rules(backend)]
    return "iptables-legacy" if hosts == ["iptables-legacy"] else usable[0]


class Node:
    """This node. `backend` is what netfilter is spoken to with.

    None where there is nothing to speak with, and `lack` says so: every other layer is kept all the same.
    """

    def __init__(self, plan: Plan, backend: Backend | None, lack: str = "") -> None:
        self._plan = plan
        self._lack = lack
        self.backend = backend

    def check(self) -> Report:
        """What is not as planned; raises RedirectError when it cannot be told."""
        listings = {family: _listing(self.backend, family) for family in self._plan.families}
        plan, notes = self._leading(listings.values())
        differs = list[Finding]()
        links = listed("ip", "-j", "addr", "show", "dev", plan.device, accept=_GONE)
        for family in plan.families:
            if disabled := self._disabled(family):
                notes.append(disabled)
            else:
                differs += address_findings(plan, family, links)
            differs += route_findings(family, listed("ip", "-j", family.flag, "route", "show", "type", "unreachable"))
            rules = listed("ip", "-j", family.flag, "rule")
            differs += guard_findings(self._speaking(family), family, rules)
            notes += map(str, rules_ahead(family, rules))
            differs += self._rules(plan, family, listings[family])
            notes += self._ahead(family)
        return Report(backend=self.backend, differs=tuple(differs), notes=tuple(notes))

    def apply(self) -> Report:
        """Put everything in place, and say what is not so even then. Safe to repeat.

        A step that fails leaves none of the others undone: each closes alone what it can.

        Raises:
            RedirectError: steps failed; names each.
        """
        plan, notes, tries = self._plan, list[str](), Tries()
        if plan.own_device:
            tries.run("ip", "link", "add", plan.device, "type", "dummy", accept=("File exists",))
            tries.run("ip", "link", "set", plan.device, "up", accept=_GONE)
        for family in plan.families:
            if not self._disabled(family):
                tries.run("ip", *address(plan, family))
            tries.run("ip", family.flag, "route", "replace", *route(family))
            notes += self._put_guard(family, tries)
        tries.do(self._put_rules)
        for other in BACKENDS:
            if self.backend is not None and other != self.backend and _answers(other):
                tries.do(_remove_rules, other, plan.families)
        for family in plan.families:
            try:
                run("conntrack", *stale(family), accept=("0 flow entries",))
            except MissingToolError:
                notes.append(
                    "conntrack is not installed: connections from before are not forgotten, only stopped by the guard"
                )
                break
            except RedirectError as error:
                tries.failed.append(str(error))
        tries.end()
        left = self.check()
        return Report(backend=self.backend, differs=left.differs, notes=(*notes, *left.notes))

    def remove(self) -> None:
        """Take everything away that is ours, whichever backend it was made with, and whatever of it is there.

        Raises:
            RedirectError: steps failed, or a tool is missing that would have to look; names each.
        """
        plan, tries = self._plan, Tries()
        if self._lack:
            tries.failed.append(self._lack)
        for backend in BACKENDS:
            if backend == self.backend or _answers(backend):
                tries.do(_remove_rules, backend, plan.families)
        for family in plan.families:
            rules = listed("ip", "-j", family.flag, "rule")
            for rule in [*reversed(guard(plan, family)), *stale_rules(plan, family, rules)]:
                tries.run("ip", family.flag, "rule", "del", *rule, accept=_GONE)
            tries.run("ip", family.flag, "route", "del", *route(family), accept=_GONE)
            own = f"{family.own}/{family.length}"
            tries.run("ip", family.flag, "addr", "del", own, "dev", plan.device, accept=_GONE)
        if plan.own_device:
            tries.run("ip", "link", "del", plan.device, accept=_GONE)
        tries.end()

    def _put_guard(self, family: Family, tries: Tries) -> Iterator[str]:
        """Add what is missing, take away what is a hole; what was taken away.

        A rule is taken away by what it says, and the first one that says at least that goes: it may be ours instead. So
        it is looked at again, and ours are put back, until there is nothing to take away.
        """
        for _ in range(ROUNDS):
            rules = listed("ip", "-j", family.flag, "rule")
            plan = self._speaking(family)
            if not list(guard_findings(plan, family, rules)):
                return
            for rule in guard(plan, family):
                tries.run("ip", family.flag, "rule", "add", *rule, accept=("File exists",))
            for rule in stale_rules(plan, family, rules):
                tries.run("ip", family.flag, "rule", "del", *rule, accept=_GONE)
                yield f"taken away: {family.name} routing rule {' '.join(rule)}"

    def _speaking(self, family: Family) -> Plan:
        """The plan, with the address from which the node speaks to the service now."""
        command = ("ip", "-j", family.flag, "route", "get", family.metadata, "ipproto", "tcp", "dport", "80")
        return replace(self._plan, speakers=speaker(family, listed(*command, accept=_NO_ROUTE)))

    def _ahead(self, family: Family) -> list[str]:
        """Others' chains that translate before ours, as far as nft can tell."""
        priority = redirectnft.PRIORITY if self.backend == "nftables" else redirectnft.IPTABLES
        try:
            chains = listed("nft", "-j", "list", "chains")
        except RedirectError:
            return []
        return [str(finding) for finding in redirectnft.chains_ahead(family, chains, priority)]

    def _disabled(self, family: Family) -> str:
        """Why the agent cannot have its address of a family; empty when it can."""
        switch = _IPV6 / self._plan.device / "disable_ipv6"
        if family is IPV6 and switch.exists() and switch.read_text().strip() == "1":
            return f"IPv6 is disabled on {self._plan.device}: who asks {family.metadata} is refused"
        return ""

    def _leading(self, listings: Iterable[str]) -> tuple[Plan, list[str]]:
        """The plan with the port that pods are to be led to now, and what there is to be said of that."""
        plan = self._plan
        now = led_to("\n".join(listings))
        if now is None:
            # Rules of another backend, which ours come in the place of, lead pods as well.
            others = [other for other in BACKENDS if other != self.backend and _answers(other)]
            now = led_to("\n".join(_listing(other, family) for other in others for family in plan.families))
        if now in (None, plan.port):
            return plan, []
        port = kept(plan.port, now, listened_at(portgroup.holders()))
        if port == plan.port:
            return plan, []
        return replace(plan, port=port), [f"pods are led to port {port} until somebody listens at {plan.port}"]

    def _rules(self, plan: Plan, family: Family, listing: str) -> Iterator[Finding]:
        if self.backend is None:
            return iter([Finding(part="rules", family=family.name, text=self._lack)])
        if self.backend == "nftables":
            return redirectnft.findings(plan, family, listing)
        return redirectiptables.findings(plan, family, listing)

    def _put_rules(self) -> None:
        if self.backend is None:
            raise RedirectError(self._lack)
        listings = {family: _listing(self.backend, family) for family in self._plan.families}
        plan, _ = self._leading(listings.values())
        if self.backend == "nftables":
            run("nft", "-f", "-", stdin=redirectnft.transaction(plan))
            return
        for family, saved in listings.items():
            run(*restore(self.backend, family), stdin=redirectiptables.restoration(plan, family, saved))


def _answers(backend: Backend) -> bool:
    """Whether the backend works here."""
    try:
        if backend == "nftables":
            run("nft", "list", "tables")
        else:
            _saved(backend, IPV4)
    except RedirectError:
        return False
    return True


def _saved(backend: Backend, family: Family) -> str:
    return run(f"{family.iptables}-{backend.removeprefix('iptables-')}-save")


def _listing(backend: Backend | None, family: Family) -> str:
    """The netfilter rules as their tool tells of them; empty where there is none to ask."""
    if backend is None:
        return ""
    if backend == "nftables":
        return run("nft", "-y", "list", "table", family.nft, redirectnft.TABLE, accept=_NO_TABLE)
    return _saved(backend, family)


def _present(backend: Backend, family: Family) -> bool:
    if backend == "nftables":
        return f"table {family.nft} {redirectnft.TABLE}\n" in run("nft", "list", "tables")
    return bool(redirectiptables.removal(_saved(backend, family)))


def _host_rules(backend: Backend) -> bool:
    return any(redirectiptables.has_rules(_saved(backend, family)) for family in families())


def _remove_rules(backend: Backend, of: tuple[Family, ...]) -> None:
    for family in of:
        if not _present(backend, family):
            continue
        if backend == "nftables":
            run("nft", "-f", "-", stdin=redirectnft.removal(family))
            continue
        run(*restore(backend, family), stdin=redirectiptables.removal(_saved(backend, family)))
        if backend == "iptables-nft":
            # iptables-nft makes tables and chains when they are first used, and never unmakes them.
            for table in redirectiptables.empty_tables(_saved(backend, family)):
                run("nft", "delete", "table", family.nft, table, accept=_GONE)
            for table, chain in redirectiptables.empty_chains(_saved(backend, family)):
                run("nft", "delete", "chain", family.nft, table, chain, accept=_GONE)

"""The redirect on this node: what of it is there, put in place in an order that leaves no gap, taken away.

Knows: which layer comes when, and which tool has it.
Must not know: how a layer is written or compared, when anybody wants it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from metaproxy import redirectiptables, redirectnft
from metaproxy.redirectcommands import MissingToolError, RedirectError, listed, run
from metaproxy.redirectplan import BACKENDS, IPV4, IPV6, Backend, Family, Finding, Plan
from metaproxy.redirectrender import restore, stale
from metaproxy.redirectroutes import (
    address,
    address_findings,
    guard,
    guard_findings,
    route,
    route_findings,
    rules_ahead,
    stale_rules,
)

_GONE = ("No such", "Cannot assign", "Cannot find", "not found", "does not exist")
_NO_TABLE = ("No such file or directory", "does not exist", "Table does not exist")
_IPV6 = Path("/proc/sys/net/ipv6/conf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found: `differs` is to be repaired, `notes` are beyond repair and to be known."""

    backend: Backend
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
    """This node. `backend` is what netfilter is spoken to with."""

    def __init__(self, plan: Plan, backend: Backend) -> None:
        self._plan = plan
        self.backend = backend

    def check(self) -> Report:
        """What is not as planned; raises RedirectError when it cannot be told."""
        plan, differs, notes = self._plan, list[Finding](), list[str]()
        links = listed("ip", "-j", "addr", "show", "dev", plan.device, accept=_GONE)
        for family in plan.families:
            if self._disabled(family):
                notes.append(self._disabled(family))
            else:
                differs += address_findings(plan, family, links)
            differs += route_findings(family, listed("ip", "-j", family.flag, "route", "show", "type", "unreachable"))
            rules = listed("ip", "-j", family.flag, "rule")
            differs += guard_findings(plan, family, rules)
            notes += map(str, rules_ahead(family, rules))
            differs += self._rules(family)
            if self.backend == "nftables":
                notes += map(str, redirectnft.chains_ahead(family, listed("nft", "-j", "list", "chains")))
        return Report(backend=self.backend, differs=tuple(differs), notes=tuple(notes))

    def apply(self) -> Report:
        """Put everything in place, and say what is not so even then. Safe to repeat.

        Raises:
            RedirectError: a step failed; what stands before it in the module's order is in place.
        """
        plan, notes = self._plan, list[str]()
        if plan.own_device:
            run("ip", "link", "add", plan.device, "type", "dummy", accept=("File exists",))
            run("ip", "link", "set", plan.device, "up")
        for family in plan.families:
            if not self._disabled(family):
                run("ip", *address(plan, family))
            run("ip", family.flag, "route", "replace", *route(family))
            rules = listed("ip", "-j", family.flag, "rule")
            for rule in guard(plan, family):
                run("ip", family.flag, "rule", "add", *rule, accept=("File exists",))
            for rule in stale_rules(plan, family, rules):
                run("ip", family.flag, "rule", "del", *rule, accept=_GONE)
        self._put_rules()
        for other in BACKENDS:
            if other != self.backend and _answers(other):
                _remove_rules(other, plan.families)
        for family in plan.families:
            try:
                run("conntrack", *stale(family), accept=("0 flow entries",))
            except MissingToolError:
                notes.append(
                    "conntrack is not installed: connections from before are not forgotten, only stopped by the guard"
                )
                break
        left = self.check()
        return Report(backend=self.backend, differs=left.differs, notes=(*notes, *left.notes))

    def remove(self) -> None:
        """Take everything away that is ours, whichever backend it was made with.

        Raises:
            RedirectError: a step failed.
        """
        plan = self._plan
        for backend in BACKENDS:
            if _answers(backend):
                _remove_rules(backend, plan.families)
        for family in plan.families:
            rules = listed("ip", "-j", family.flag, "rule")
            for rule in [*reversed(guard(plan, family)), *stale_rules(plan, family, rules)]:
                run("ip", family.flag, "rule", "del", *rule, accept=_GONE)
            run("ip", family.flag, "route", "del", *route(family), accept=_GONE)
            own = f"{family.own}/{family.length}"
            run("ip", family.flag, "addr", "del", own, "dev", plan.device, accept=_GONE)
        if plan.own_device:
            run("ip", "link", "del", plan.device, accept=_GONE)

    def _disabled(self, family: Family) -> str:
        """Why the agent cannot have its address of a family; empty when it can."""
        switch = _IPV6 / self._plan.device / "disable_ipv6"
        if family is IPV6 and switch.exists() and switch.read_text().strip() == "1":
            return f"IPv6 is disabled on {self._plan.device}: who asks {family.metadata} is refused"
        return ""

    def _rules(self, family: Family) -> Iterator[Finding]:
        if self.backend == "nftables":
            table = run("nft", "-y", "list", "table", family.nft, redirectnft.TABLE, accept=_NO_TABLE)
            return redirectnft.findings(self._plan, family, table)
        return redirectiptables.findings(self._plan, family, _saved(self.backend, family))

    def _put_rules(self) -> None:
        if self.backend == "nftables":
            run("nft", "-f", "-", stdin=redirectnft.transaction(self._plan))
            return
        for family in self._plan.families:
            text = redirectiptables.restoration(self._plan, family, _saved(self.backend, family))
            run(*restore(self.backend, family), stdin=text)


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
            # iptables-nft makes a table when it is first used, and never unmakes it.
            for table in redirectiptables.empty_tables(_saved(backend, family)):
                run("nft", "delete", "table", family.nft, table, accept=_GONE)

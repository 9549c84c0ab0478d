"""The doctor's look at this node: its rules by the tools for them, its links and switches by the kernel itself.

Knows: which tool tells what, and what it takes to ask it or the kernel.
Must not know: how what a tool says is judged.
"""

import shlex
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaproxy.findings import Finding
from metaproxy.interfaces import NEW_LINK, Interface, interface_request, interfaces
from metaproxy.netlinkwire import DONE, ERROR, INTERRUPTED, ending, frames, sealed
from metaproxy.nodechecks import (
    bridges,
    iptables_leftovers,
    leftover_findings,
    nft_leftovers,
    past_the_node,
    redirect_findings,
    source_route_findings,
)
from metaproxy.redirect import node_of
from metaproxy.redirectcommands import MissingToolError, RedirectError, lacking, run
from metaproxy.redirectplan import IPV4, IPV6, Family

_SWITCHES = Path("/proc/sys/net/ipv4/conf")
_PROC_NET = Path("/proc/net")
_NET_ADMIN, _NET_RAW = 12, 13

WITHIN = 5.0
"""Seconds for the kernel's answer, which takes milliseconds."""

TRIES = 5
"""How often links are asked for while they change."""

_DATAGRAM = 1 << 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """This node's links, as far as they matter; None where they could not be looked at."""

    bridges: dict[str, int] | None = None
    past: list[str] | None = None


def links() -> Links:
    """Bridges with pods, and links that go past the node's hooks."""
    for _ in range(TRIES):
        try:
            found = _asked()
        except OSError:
            break
        if found is not None:
            return Links(bridges=bridges(found), past=past_the_node(found))
    return Links()


def _asked() -> list[Interface] | None:
    """The links, by the kernel's own word: it takes neither a tool nor a capability. None: they changed meanwhile.

    Raises:
        OSError: the kernel is not to be asked, or does not answer.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(WITHIN)
        kernel.send(sealed(interface_request(), 1))
        told: list[bytes] = []
        whole = True
        while True:
            for kind, flags, _, _, body in frames(kernel.recv(_DATAGRAM)):
                whole = whole and not flags & INTERRUPTED
                if kind == NEW_LINK:
                    told.append(body)
                elif kind in {DONE, ERROR}:
                    return list(interfaces(told)) if whole and not ending(body) else None


def node_findings(redirect: Any) -> Iterator[Finding]:
    """The redirect, leftovers of others, source routes; `redirect` is the group of settings."""
    yield from _redirect(redirect)
    yield from _leftovers()
    yield from source_route_findings(_source_routes())


def _redirect(chosen: Any) -> Iterator[Finding]:
    if without := lacking(_NET_ADMIN):
        return redirect_findings([], [], "", trouble=f"{without} is missing")
    try:
        report = node_of(chosen).check()
    except RedirectError as error:
        return redirect_findings([], [], "", trouble=str(error))
    return redirect_findings([str(each) for each in report.differs], report.notes, str(report.backend))


def _leftovers() -> Iterator[Finding]:
    if without := lacking(_NET_ADMIN):
        # Some tools then say that there is nothing.
        return leftover_findings([], [], [], [f"{without} is missing"])
    removals: list[str] = []
    looked: list[str] = []
    unread: list[str] = []
    covered: set[str] = set()
    for family in (IPV4, IPV6):
        for kind in ("nft", "legacy"):
            tool = f"{family.iptables}-{kind}"
            try:
                saved = _saved(family, kind)
            except MissingToolError:
                continue
            except RedirectError as error:
                unread.append(str(error))
                continue
            looked.append(tool)
            if kind == "nft":
                covered.add(f"{family.nft} nat")  # that is where it keeps its rules: nft would tell of them again
            removals += [f"{tool} {shlex.join(words)}" for words in iptables_leftovers(saved)]
    others: list[str] = []
    try:
        others += nft_leftovers(run("nft", "list", "ruleset"), without=covered)
        looked.append("nft")
    except MissingToolError:
        pass
    except RedirectError as error:
        unread.append(str(error))
    return leftover_findings(removals, others, looked, unread)


def _saved(family: Family, kind: str) -> str:
    """All rules of a kind of iptables.

    Raises:
        RedirectError: they cannot be read.
    """
    tool = f"{family.iptables}-{kind}"
    if kind == "legacy" and lacking(_NET_RAW):
        # It takes a raw socket to read them; that there are none can be known without.
        if _has_legacy_table(family):
            raise RedirectError(f"CAP_NET_RAW is missing: {tool} has a table nat, which cannot be read")
        return ""
    return run(f"{tool}-save")  # not of a table by name: the kernel would make one that is not there


def _has_legacy_table(family: Family) -> bool:
    """Whether legacy iptables has a table for addresses to be translated in; if in doubt it has."""
    try:
        return "nat" in (_PROC_NET / family.iptables.replace("tables", "_tables_names")).read_text().split()
    except FileNotFoundError:
        return False  # the kernel has no such tables
    except OSError:
        return True


def _source_routes() -> dict[str, str]:
    found = {}
    for path in _SWITCHES.glob("*/accept_source_route"):
        try:
            found[path.parent.name] = path.read_text()
        except OSError:  # the interface has gone meanwhile
            continue
    return found

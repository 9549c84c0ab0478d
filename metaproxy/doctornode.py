"""The doctor's look at this node: its rules, links and switches, by its own tools.

Knows: which tool tells what, and what it takes to ask it.
Must not know: how what a tool says is judged.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaproxy.findings import Finding
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
from metaproxy.redirectcommands import MissingToolError, RedirectError, lacking, listed, run
from metaproxy.redirectplan import IPV4, IPV6

_SWITCHES = Path("/proc/sys/net/ipv4/conf")
_NET_ADMIN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """This node's links, as far as they matter; None where they could not be looked at."""

    bridges: dict[str, int] | None = None
    past: list[str] | None = None


def links() -> Links:
    """Bridges with pods, and links that go past the node's hooks."""
    try:
        found = listed("ip", "-j", "-d", "link", "show")
    except RedirectError:
        return Links()
    return Links(bridges=bridges(found), past=past_the_node(found))


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
                saved = run(f"{tool}-save")  # not of a table by name: the kernel would make one that is not there
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


def _source_routes() -> dict[str, str]:
    found = {}
    for path in _SWITCHES.glob("*/accept_source_route"):
        try:
            found[path.parent.name] = path.read_text()
        except OSError:  # the interface has gone meanwhile
            continue
    return found

"""`metaproxy redirect`: the verbs, what they print, and their exit codes.

Knows: which verb does what with the plan that the settings make.
Must not know: how anything is written or run.

Exit codes: 0 done or in place, or left to a watch; 1 failed or not in place; 2 bad usage, as a device to apply to that
is not there.
"""

import asyncio
import contextlib
import json
import sys
from dataclasses import replace
from ipaddress import ip_network

from metaproxy import redirectrender
from metaproxy.processsettings import Log, Redirect
from metaproxy.redirectcommands import RedirectError, lacking
from metaproxy.redirectnode import Node, Report, backend_in_use, device_exists, families
from metaproxy.redirectplan import DEVICE, IPV4, IPV6, Backend, Plan
from metaproxy.redirectturn import Turn
from metaproxy.redirectwatch import until_signal
from metaproxy.telemetry import configure_logging

VERBS = ("apply", "check", "remove", "watch", "render")

_NET_ADMIN, _NET_RAW = 12, 13
DONE, FAILED, USAGE = 0, 1, 2


def act(verb: str, chosen: Redirect, logs: Log, *, as_json: bool = False) -> int:
    """Run a verb on this node; its exit code."""
    needed = (_NET_ADMIN, _NET_RAW) if chosen.backend == "iptables-legacy" else (_NET_ADMIN,)
    if without := lacking(*needed):
        what = "legacy iptables" if _NET_RAW in needed else "netfilter"
        why = f"{without} is missing: it takes it to read and change addresses, routes and {what}"
        return _failed(why, as_json=as_json)
    # Whoever looks or takes away must be able to after the device has gone.
    try:
        if verb in {"apply", "watch"} and chosen.device and not device_exists(chosen.device):
            print(f"metaproxy: --redirect.device: there is no device {chosen.device}", file=sys.stderr)
            return USAGE
        node = node_of(chosen)
        if verb == "watch":
            configure_logging(json=logs.format == "json", level=logs.level)
            asyncio.run(until_signal(node, node.backend or "none", chosen.listen, chosen.socket))
            return DONE
        return _told(node.check(), as_json=as_json) if verb == "check" else _changed(verb, node, as_json=as_json)
    except (RedirectError, OSError) as error:
        return _failed(str(error), as_json=as_json)


def _changed(verb: str, node: Node, *, as_json: bool) -> int:
    """Apply or remove, unless a watch is at work: it would undo what it does not want."""
    with contextlib.closing(Turn()) as turn:
        mine = asyncio.run(turn.take())
        beside = (f"{turn.beside} has the name of a watch and is none",) if turn.beside else ()
        if verb == "remove":
            if not mine:
                return _failed("a watch is at work and would put everything back: end it first", as_json=as_json)
            node.remove()
            for note in beside:
                print(f"note: {note}")
            return DONE
        if not mine:
            found = node.check()
            # Whoever has the turn: a node that is open is closed.
            if not any(finding.part == "guard" for finding in found.differs):
                why = "a watch is at work: the redirect is left to it, and to the one that comes after it"
                _told(replace(found, notes=(why, *found.notes)), as_json=as_json)
                return DONE
        report = node.apply()
        return _told(replace(report, notes=(*beside, *report.notes)), as_json=as_json)


def node_of(chosen: Redirect) -> Node:
    """This node with what the settings want of it."""
    plan = plan_of(chosen)
    try:
        return Node(plan, backend_in_use() if chosen.backend == "auto" else chosen.backend)
    except RedirectError as error:
        return Node(plan, None, str(error))


def render(chosen: Redirect, *, guard: bool, cilium: bool) -> str:
    """The redirect as text. Both families, whatever this machine has: it is for another."""
    plan = plan_of(chosen, everywhere=True)
    if cilium:
        return redirectrender.cilium(plan)
    if guard:
        return redirectrender.guard_script(plan)
    backend: Backend = "nftables" if chosen.backend == "auto" else chosen.backend
    return redirectrender.script(plan, backend)


def plan_of(chosen: Redirect, *, everywhere: bool = False) -> Plan:
    """What the settings want of this node, or of any."""
    return Plan(
        device=chosen.device or DEVICE,
        own_device=not chosen.device,
        port=chosen.port,
        families=(IPV4, IPV6) if everywhere else families(),
        include=tuple(chosen.include_interface),
        exclude=tuple(chosen.exclude_interface),
        sources=tuple(map(ip_network, chosen.exclude_source)),
    )


def _told(report: Report, *, as_json: bool) -> int:
    if as_json:
        document = {
            "in_place": not report.differs,
            "backend": report.backend,
            "differs": [
                {"part": finding.part, "family": finding.family, "text": finding.text} for finding in report.differs
            ],
            "notes": list(report.notes),
        }
        print(json.dumps(document))
    else:
        for finding in report.differs:
            print(finding)
        for note in report.notes:
            print(f"note: {note}")
        if not report.differs:
            print(f"in place ({report.backend})")
    return FAILED if report.differs else DONE


def _failed(why: str, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"in_place": False, "error": why}))
    print(f"metaproxy: {why}", file=sys.stderr)
    return FAILED

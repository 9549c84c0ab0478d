"""The node's redirect, at work: runs ip, nft and conntrack in the order that leaves no gap.

Knows commands and exit codes; what they should bring about is decided in ``redirectrules``.
Commands and not pyroute2: the node has iproute2 and nft already, and what is run is what an operator can repeat.
"""

import argparse
import contextlib
import json
import select
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from metaproxy import redirectrules as rules

CHECK_SECONDS = 10.0
NETLINK_NETFILTER = 12
# rtnetlink(7): links, IPv4 and IPv6 addresses, routes and routing rules, as a bit mask of groups.
ROUTE_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18
NFTABLES_GROUP = 1 << 6


class RedirectFailed(Exception):
    """A step could not be done; says which command and what it answered."""


def _run(*command: str, stdin: str | None = None, accept: tuple[str, ...] = ()) -> str:
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        raise RedirectFailed(f"{command[0]} is not installed") from None
    if done.returncode and not any(text in done.stderr for text in accept):
        reason = done.stderr.strip()
        if "Unknown device type" in reason:
            reason += " (this kernel has no dummy devices: name an existing device with --redirect.device)"
        if "not permitted" in reason:
            reason += " (needs CAP_NET_ADMIN to change addresses, routes and rules)"
        raise RedirectFailed(f"{' '.join(command)}: {reason}")
    return done.stdout


def _families() -> tuple[rules.Family, ...]:
    disabled = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
    if not disabled.exists() or disabled.read_text().strip() == "1":
        print("IPv6 is disabled on this node: only IPv4 is redirected", file=sys.stderr)  # noqa: T201
        return (rules.IPV4,)
    return (rules.IPV4, rules.IPV6)


def apply(plan: rules.Plan, *, own_device: bool) -> None:
    """Address, routes, guard, DNAT, flush: in this order nothing is open in between."""
    if own_device:
        _run("ip", "link", "add", plan.device, "type", "dummy", accept=("File exists",))
        _run("ip", "link", "set", plan.device, "up")
    for family in plan.families:
        _run("ip", *rules.address(plan, family))
        _run("ip", family.flag, "route", "replace", *rules.route(family))
        for rule in rules.guard(family):
            _run("ip", family.flag, "rule", "add", *rule, accept=("File exists",))
    _run("nft", "-f", "-", stdin=rules.nft(plan))
    for family in plan.families:
        try:
            _run("conntrack", *rules.stale(family), accept=("0 flow entries",))
        except RedirectFailed as failed:
            print(f"stale connections were not removed: {failed}", file=sys.stderr)  # noqa: T201


def check(plan: rules.Plan) -> list[str]:
    """What is missing, one line each. Presence only: contents of tables are not compared."""
    missing = []
    for family in plan.families:
        held = json.loads(_run("ip", "-j", family.flag, "addr", "show", "dev", plan.device) or "[]")
        if not any(a.get("local") == family.own for link in held for a in link.get("addr_info", ())):
            missing.append(f"{family.name} address {family.own} on {plan.device}")
        if not _run("ip", family.flag, "route", "show", "type", *rules.route(family)[:2]).strip():
            missing.append(f"{family.name} unreachable route")
        missing += [
            f"{family.name} routing rule {rule[1]}"
            for rule in rules.guard(family)
            if not _run("ip", family.flag, "rule", "show", "pref", rule[1]).strip()
        ]
        if f"table {family.nft} {rules.TABLE}\n" not in _run("nft", "list", "tables"):
            missing.append(f"{family.name} nft table")
    return missing


def remove(plan: rules.Plan, *, own_device: bool) -> None:
    """Take everything away again."""
    gone = ("No such", "Cannot assign", "Cannot find", "not found")
    for family in plan.families:
        _run("nft", "-f", "-", stdin=f"add table {family.nft} {rules.TABLE}\ndelete table {family.nft} {rules.TABLE}\n")
        for rule in reversed(rules.guard(family)):
            _run("ip", family.flag, "rule", "del", *rule, accept=gone)
        _run("ip", family.flag, "route", "del", *rules.route(family), accept=gone)
        _run("ip", family.flag, "addr", "del", f"{family.own}/{family.prefix}", "dev", plan.device, accept=gone)
    if own_device:
        _run("ip", "link", "del", plan.device, accept=gone)


def watch(plan: rules.Plan, *, own_device: bool) -> None:
    """Repair on every change that the kernel tells of and every 10 s, until ended; ending removes nothing."""
    routes = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    routes.bind((0, ROUTE_GROUPS))
    tables = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    tables.bind((0, NFTABLES_GROUP))
    for told in (routes, tables):
        told.setblocking(False)
    while True:
        try:
            missing = check(plan)
            if missing:
                apply(plan, own_device=own_device)
                print(f"repaired: {', '.join(missing)}", file=sys.stderr, flush=True)  # noqa: T201
        except RedirectFailed as failed:
            print(f"not repaired: {failed}", file=sys.stderr, flush=True)  # noqa: T201
        for told in select.select([routes, tables], [], [], CHECK_SECONDS)[0]:
            # What changed does not matter, nor whether some was lost (ENOBUFS): everything is looked at again.
            with contextlib.suppress(OSError):
                while told.recv(65536):
                    pass


def main(argv: Sequence[str]) -> int:
    """Run one verb; 0 done, 1 failed or differs, 2 bad usage."""
    parser = argparse.ArgumentParser("metaproxy redirect")
    parser.add_argument("verb", choices=("apply", "check", "remove", "watch", "render"))
    parser.add_argument("--redirect.device", dest="device", help="an existing device instead of the own metaproxy0")
    parser.add_argument("--redirect.port", dest="port", type=int, default=80)
    parser.add_argument("--redirect.backend", dest="backend", choices=("nftables",), default="nftables")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    if given.device and not Path("/sys/class/net", given.device).exists() and given.verb != "render":
        try:
            _run("ip", "link", "show", "dev", given.device)
        except RedirectFailed as failed:
            print(failed, file=sys.stderr)  # noqa: T201
            return 2
    own_device = not given.device
    plan = rules.Plan(given.device or "metaproxy0", given.port, _families())
    try:
        if given.verb == "render":
            print(rules.nft(plan), end="")  # noqa: T201
        elif given.verb == "apply":
            apply(plan, own_device=own_device)
        elif given.verb == "watch":
            watch(plan, own_device=own_device)
        elif given.verb == "remove":
            remove(plan, own_device=own_device)
        else:
            missing = check(plan)
            print(json.dumps({"missing": missing}) if given.json else "\n".join(missing) or "in place")  # noqa: T201
            return int(bool(missing))
    except RedirectFailed as failed:
        print(failed, file=sys.stderr)  # noqa: T201
        return 1
    return 0

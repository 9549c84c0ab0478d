"""Which port pods are led to while the agent's changes: the old one, until somebody listens at the new.

Knows: how rules of either kind, and /proc/net/tcp, tell of a port.
Must not know: how they are read, or written.

The new agent of an upgrade listens at both ports and the redirect moves when it does; one that never comes up costs
nobody anything, for pods are led to the old one as before.
"""

import re
import sys
from collections.abc import Iterable
from ipaddress import ip_address

from metaproxy.addresses import OWN

_LISTENS = "0A"
"""TCP_LISTEN (net/tcp_states.h), as /proc/net/tcp writes it."""


def led_to(rules: str) -> int | None:
    """The port at the agent's own addresses to which a listing of rules leads; None: to none."""
    for old, new, port in re.findall(r"(?:dnat to|--to-destination) (?:([0-9.]+)|\[([0-9a-f:]+)\]):([0-9]+)", rules):
        if (old or new) in OWN:
            return int(port)
    return None


def listened_at(tables: Iterable[str]) -> frozenset[int]:
    """The ports of the agent's own addresses, or of all, at which somebody listens, by /proc/net/tcp and tcp6."""
    found = set()
    for line in "\n".join(tables).splitlines():
        match line.split()[1:4]:
            case [local, _, state] if state == _LISTENS:
                place, _, port = local.partition(":")
                address = ip_address(_in_order(bytes.fromhex(place)))
                if address.is_unspecified or str(address) in OWN:
                    found.add(int(port, 16))
    return frozenset(found)


def kept(wanted: int, now: int | None, listened: frozenset[int]) -> int:
    """The port to lead pods to: the wanted one, but never from somebody who listens to nobody who does."""
    return now if now is not None and wanted not in listened and now in listened else wanted


def _in_order(raw: bytes) -> bytes:
    """The kernel prints each four bytes of an address as one number in the machine's own order."""
    if sys.byteorder == "big":
        return raw
    return b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))

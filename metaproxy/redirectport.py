"""Which port pods are led to while the agent's changes: the old one, until somebody listens at the new.

Knows: how rules of either kind tell of a port, and when another one is to be kept.
Must not know: how rules are read or written, how it is known who listens.

The new agent of an upgrade listens at both ports and the redirect moves when it does; one that never comes up costs
nobody anything, for pods are led to the old one as before.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_address

from metaproxy.addresses import OWN
from metaproxy.tcptable import Holder


def led_to(rules: str) -> int | None:
    """The port at the agent's own addresses to which a listing of rules leads; None: to none."""
    for old, new, port in re.findall(r"(?:dnat to|--to-destination) (?:([0-9.]+)|\[([0-9a-f:]+)\]):([0-9]+)", rules):
        if (old or new) in OWN:
            return int(port)
    return None


def listened_at(holders: Iterable[Holder]) -> frozenset[int]:
    """The ports of the agent's own addresses, or of all, at which somebody listens."""
    own = [ip_address(address) for address in OWN]
    return frozenset(each.port for each in holders if (at := ip_address(each.host)).is_unspecified or at in own)


def kept(wanted: int, now: int | None, listened: frozenset[int]) -> int:
    """The port to lead pods to: the wanted one, but never from somebody who listens to nobody who does."""
    return now if now is not None and wanted not in listened and now in listened else wanted

"""Tells of addresses that were taken from their pods: who is told of which, and how often.

Knows: the directory's reasons, and for whom each is news.
Must not know: when an address is withdrawn; how a pod's owner is told.
"""

import asyncio
from collections.abc import Callable

import structlog

from metaproxy.caller import Directory
from metaproxy.claims import Why
from metaproxy.errors import CallerWithdrawn
from metaproxy.loglimit import LogLimit
from metaproxy.pods import Pod
from metaproxy.telemetry import Metrics

log = structlog.get_logger()


class Withdrawals:
    """See the module."""

    def __init__(self, directory: Directory, metrics: Metrics) -> None:
        self._directory = directory
        self._limit = LogLimit()
        self._counts = {why: metrics.counter("caller_withdrawn_total", why=why.value) for why in Why}

    def note(self, address: str, why: Why, tell: Callable[[Pod, str], None] | None) -> None:
        """The address was withdrawn; `tell` reaches the owner of a pod."""
        self._counts[why].inc()
        if why is Why.UNSETTLED:
            self._unsettled(address)
        if tell is None or why not in {Why.LOST, Why.SHARED}:
            return  # what a bridge forgot, or was not heard, is not told to anybody: it is looked for
        # A neighbour can take an address many times a second; its pod's owner need not read of each.
        if self._limit.left_out((address, why), asyncio.get_running_loop().time()) is None:
            return
        for pod in self._directory.claims(address):
            # The address of a pod that ends goes before its last event: nothing to tell.
            if not pod.terminating:
                tell(
                    pod,
                    f"{address} is withdrawn ({why.value}): the node's kernel does not show it where the pod was; "
                    "it is given back when it is there again, or when there is newer word of the pod",
                )

    def _unsettled(self, address: str) -> None:
        """Tell the operator alone for whom is waited: the address's pod need not know its neighbours' names."""
        names = sorted(f"{pod.namespace}/{pod.name}" for pod in self._directory.awaited(address))
        now = asyncio.get_running_loop().time()
        if names and self._limit.left_out(("unsettled", *names), now) is not None:
            log.warning(
                "pods that do not answer on their bridge keep others there from a first port",
                address=address,
                pods=names,
                remedy="if it lasts, see why these pods do not answer to ARP or neighbour discovery, or delete them",
            )


def refusal(why: Why) -> CallerWithdrawn:
    """What whoever asks from such an address is told."""
    return CallerWithdrawn(
        "it is not certain yet which pod is at which port of the node's bridge (unsettled)"
        if why is Why.UNSETTLED
        else f"the node's kernel does not show your address where its pod was ({why.value})",
        remedy="ask again; it is yours again when the kernel shows it in its place, or when the API server has "
        "newer word of your pod; if it lasts, the operator should ask metaproxy explain",
    )

"""A connection that ends before the loop has made it; all else of connections is seen at the listener."""

import asyncio
import socket

import pytest

from metaproxy.connection import Connection
from metaproxy.imds import Answer, Request
from metaproxy.listener import Listener
from metaproxy.telemetry import Metrics


async def nobody(_request: Request) -> Answer:
    """Nothing is asked."""
    raise AssertionError


@pytest.mark.parametrize("how", ["drain", "part", "abort", "reset"])
async def test_what_ended_before_it_was_made_is_closed_when_it_is(how: str) -> None:
    """However it was told to end: by a crowd, by the address's next pod, by the end of the agent."""
    listener = Listener(nobody, Metrics(), connections=1, connections_per_address=1)
    await listener.open([])
    connection = Connection(listener, "127.0.0.2")
    getattr(connection, how)()
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: connection, ours)
        async with asyncio.timeout(60):
            assert await loop.sock_recv(theirs, 1) == b""

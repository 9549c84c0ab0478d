"""Which event loops the components are tested on."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_configure(config: pytest.Config) -> None:
    """Known by name: an unknown marker is an error."""
    config.addinivalue_line("markers", "sockets: meets real sockets, so it runs on asyncio's loop and on uvloop")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Asyncio's own loop, which virtual time needs; what meets sockets runs on uvloop, too, as the agent does."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.get_closest_marker("sockets"):
        factories["uvloop"] = uvloop.new_event_loop
    return factories

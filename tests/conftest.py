"""Guards around every test: nothing of the machine gets in, and nothing is left behind silently.

Un-awaited coroutines and unraisable exceptions fail a test through `filterwarnings = ["error"]` and pytest itself.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import settings

from tests.guides import Typed

# How long an example takes depends on what else the machine does; what hangs is ended by pytest's own time-out.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")

FOREIGN = ("AWS_", "KUBE", "METAPROXY_", "WATCHFILES_")
"""Beginnings of the variables by which the machine's own set-up would reach the tests."""

SETTLE = 20
"""Turns of the loop that closing transports and cancelled tasks get to end by themselves: turns, not time."""


@pytest.fixture(scope="session", autouse=True)
def hermetic_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No variable, AWS file or proxy of the machine is seen by a test; HOME stays, build caches live there."""
    # Else pytest-asyncio lets the policy make a loop that nobody closes; its warning would then hit any test.
    asyncio.set_event_loop(None)
    nowhere = tmp_path_factory.mktemp("aws")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(FOREIGN) or name.lower().endswith("_proxy"):
                patch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "BOTO_CONFIG"):
            patch.setenv(name, str(nowhere / name.lower()))
        yield


@pytest.fixture(autouse=True)
def guarded_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """An async test fails when metaproxy blocks its loop, leaves a task behind, or lets an exception fall."""
    if request.node.get_closest_marker("asyncio") is None:
        yield
        return
    request.getfixturevalue("clean_loop")
    # Only calls with a frame of ours in their stack: a test may read and write files as it likes.
    with blockbuster_ctx("metaproxy"):
        yield


@pytest.fixture
async def clean_loop() -> AsyncIterator[None]:
    """Set up before and torn down after every other fixture of the loop: those may clean up after themselves."""
    fallen: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: fallen.append(context))
    yield
    for _ in range(SETTLE):
        if not (left := asyncio.all_tasks() - {asyncio.current_task()}):
            break
        await asyncio.sleep(0)
    assert not left, f"tasks left behind: {left}"
    assert not fallen, f"exceptions that nobody took: {fallen}"


@pytest.fixture
def typed(request: pytest.FixtureRequest) -> Typed:
    """The commands of documents that the test says it runs."""
    return Typed([mark.args for mark in request.node.iter_markers("runs")])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """A test that passed has taken every command that it claims to run."""
    yield
    if item.get_closest_marker("runs") is not None:
        taken = getattr(item, "funcargs", {}).get("typed")
        assert isinstance(taken, Typed), "a test that claims commands gets them from the fixture `typed`"
        assert taken.left() == [], "claimed, and not run"

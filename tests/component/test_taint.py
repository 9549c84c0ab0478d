"""The startup taint, in virtual time: when it goes, what is left alone, who is in the way. The API is scripted."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
from structlog.testing import capture_logs

from metaproxy.taint import CONFLICTS, KEY, LOOK, PAUSE, StartupTaint, without

pytestmark = pytest.mark.looptime(noop_cycles=2)

OURS = {"key": KEY, "effect": "NoSchedule"}
OTHER = {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}


@dataclass
class Answer:
    """An answer of the API server."""

    status: int
    body: bytes = b"{}"


class Api:
    """One node, changed as the API server would; `between` happens after each read."""

    def __init__(self, *taints: dict[str, str]) -> None:
        self.node: dict[str, Any] = {"metadata": {"resourceVersion": "7"}, "spec": {"taints": list(taints)}}
        self.refuse: dict[str, int] = {}
        self.said = b"{}"
        self.broken = False
        self.between: list[dict[str, str]] = []
        self.asked: list[str] = []

    async def request(
        self, method: str, path: str, *, body: bytes | None = None, content_type: str = "application/json"
    ) -> Answer:
        """One request."""
        self.asked.append(f"{method} {path}")
        if self.broken:
            raise ConnectionError("refused")
        if method in self.refuse:
            return Answer(self.refuse[method], self.said)
        if method == "GET":
            read = Answer(200, json.dumps(self.node).encode())
            if self.between:
                self._change([*self.node["spec"]["taints"], self.between.pop(0)])
            return read
        assert (content_type, body is not None) == ("application/json-patch+json", True)
        test, change = json.loads(body or b"")
        if test["value"] != self.node["metadata"]["resourceVersion"]:
            return Answer(422)
        self._change(change["value"])
        return Answer(200)

    def _change(self, taints: list[dict[str, str]]) -> None:
        self.node["spec"]["taints"] = taints
        version = self.node["metadata"]
        version["resourceVersion"] = str(int(version["resourceVersion"]) + 1)


class Bench:
    """A taint's remover at work."""

    def __init__(self, api: Api, *, ready: bool = True) -> None:
        self.api, self.ready = api, ready
        self.taint = StartupTaint(api, "n1", ready=lambda: self.ready)

    @property
    def taints(self) -> list[dict[str, str]]:
        """What is on the node."""
        taints: list[dict[str, str]] = self.api.node["spec"]["taints"]
        return taints


@asynccontextmanager
async def bench(api: Api, *, ready: bool = True) -> AsyncIterator[Bench]:
    """A bench whose task never ends by itself."""
    made = Bench(api, ready=ready)
    task = asyncio.create_task(made.taint.run())
    await asyncio.sleep(0.001)
    try:
        yield made
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_it_goes_when_the_agent_is_ready_and_not_before() -> None:
    """All others stay, whoever named them; nothing is asked before, and nothing after."""
    like_ours = {"key": "metaproxy.dev/kept", "effect": "NoSchedule"}
    async with bench(Api(OTHER, OURS, like_ours), ready=False) as b:
        await asyncio.sleep(100)
        assert b.api.asked == []
        b.ready = True
        await asyncio.sleep(2 * LOOK)
        assert (b.taints, b.taint.status()) == ([OTHER, like_ours], "off")
        await asyncio.sleep(10_000)
        assert b.api.asked == ["GET /api/v1/nodes/n1", "PATCH /api/v1/nodes/n1"]


@pytest.mark.parametrize("taints", [[], [OTHER]])
async def test_a_node_without_it_is_not_touched(taints: list[dict[str, str]]) -> None:
    """A restart finds nothing to do."""
    async with bench(Api(*taints)) as b:
        await asyncio.sleep(1)
        assert (b.taints, b.taint.status(), len(b.api.asked)) == (taints, "off", 1)


async def test_whatever_its_value_and_effect() -> None:
    """Every taint of our key goes, and no other of the same effect."""
    async with bench(Api({"key": KEY, "value": "x", "effect": "NoExecute"}, OURS, OTHER)) as b:
        await asyncio.sleep(1)
        assert b.taints == [OTHER]


async def test_somebody_else_changes_the_node_meanwhile() -> None:
    """Their change is not undone: it is read again, as often as it takes, and nothing is complained of."""
    api = Api(OURS)
    api.between = [OTHER, {"key": "x", "effect": "NoSchedule"}]
    with capture_logs() as logs:
        async with bench(api) as b:
            await asyncio.sleep(10)
            assert b.taints == [OTHER, {"key": "x", "effect": "NoSchedule"}]
    assert [line["event"] for line in logs] == ["startup taint removed"]


@pytest.mark.parametrize(
    ("refuse", "said"),
    [
        ({"GET": 403}, "the API server answered 403: may the agent get nodes?"),
        ({"PATCH": 403}, "the API server answered 403: may the agent patch nodes?"),
        ({"GET": 404}, "there is no such node: is --node-name right?"),
    ],
)
async def test_who_is_in_the_way_is_named_once(refuse: dict[str, int], said: str) -> None:
    """It is tried again, more and more rarely, until it can be done."""
    api = Api(OURS)
    api.refuse = refuse
    with capture_logs() as logs:
        async with bench(api) as b:
            await asyncio.sleep(20 * PAUSE[1])
            assert b.taint.status() == said
            assert 15 < len([asked for asked in api.asked if asked.startswith(next(iter(refuse)))]) < 40
            api.refuse = {}
            await asyncio.sleep(2 * PAUSE[1])
            assert b.taints == []
    assert [line.get("trouble") for line in logs] == [said, None]


@pytest.mark.parametrize("status", [409, 422])
async def test_a_refusal_that_looks_like_a_conflict(status: int) -> None:
    """What goes on is no other's change: it is said once, with the server's words, and tried more and more rarely."""
    api = Api(OURS)
    api.refuse = {"PATCH": status}
    api.said = json.dumps({"message": "ValidatingAdmissionPolicy 'nodes'\ndenied request: " + "x" * 500}).encode()
    with capture_logs() as logs:
        async with bench(api) as b:
            await asyncio.sleep(20 * PAUSE[1])
            assert 15 < api.asked.count("PATCH /api/v1/nodes/n1") < 40
            assert b.taint.status().startswith(f"the API server answered {status} {CONFLICTS + 1} times in a row")
            api.refuse = {}
            await asyncio.sleep(2 * PAUSE[1])
            assert (b.taints, b.taint.status()) == ([], "off")
    first, last = logs
    assert "ValidatingAdmissionPolicy 'nodes'\\ndenied request: xxx" in first["trouble"]
    assert f"kubectl taint node NAME {KEY}-" in first["trouble"]
    assert len(first["trouble"]) < 500
    assert last["event"] == "startup taint removed"


@pytest.mark.parametrize("said", [b"", b"[]", b"{}", b"no JSON"])
async def test_a_refusal_without_words(said: bytes) -> None:
    """Whatever its body is, it is told."""
    api = Api(OURS)
    api.refuse, api.said = {"PATCH": 422}, said
    async with bench(api) as b:
        await asyncio.sleep(20 * PAUSE[1])
        assert "(no reason given)" in b.taint.status()


async def test_no_answer() -> None:
    """An API server that is away, and answers that are no node."""
    api = Api(OURS)
    api.broken = True
    async with bench(api) as b:
        assert "ConnectionError" in b.taint.status()
        api.broken, api.node = False, {"metadata": {}}
        await asyncio.sleep(10)
        assert "KeyError" in b.taint.status()


def test_the_patch() -> None:
    """It names the version that was read."""
    node = {"metadata": {"resourceVersion": "7"}, "spec": {"taints": [OTHER, OURS]}}
    assert without(node) == [
        {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
        {"op": "replace", "path": "/spec/taints", "value": [OTHER]},
    ]
    assert without({"metadata": {}, "spec": {}}) is None

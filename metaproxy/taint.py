"""The startup taint: no pod is placed on a new node before its agent can answer; the agent removes the taint, once.

Knows: one taint, and how it is taken off a node without touching what others do to it meanwhile.
Must not know: what ready means.

Nodes register with the taint (kubelet's `--register-with-taints`), so the window between a node and its agent is closed
by the scheduler itself; helpers that put it on later leave a gap of seconds. Only our key is removed, whatever its
value and effect; the patch names the version that was read, so another's change in between makes it fail and be made
anew.
"""

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from metaproxy.wording import printable, shortened

log = structlog.get_logger()

KEY = "metaproxy.dev/agent-not-ready"

LOOK = 0.5
"""Seconds between two looks whether the agent is ready."""

PAUSE = (0.5, 30.0)
"""Seconds between two tries: from, and growing to."""

CONFLICTS = 4
"""So many in a row may be others' changes of the node. The API server answers 422 to a patch that came too late and to
one that an admission policy or its own rules refuse; only that it goes on tells them apart."""

_SAID_LIMIT = 200
"""Characters of the API server's own words that go on."""

_OK, _NOT_FOUND, _CONFLICT, _UNPROCESSABLE = 200, 404, 409, 422
_JSON_PATCH = "application/json-patch+json"


class Answer(Protocol):
    """An answer of the API server, whatever its status."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def body(self) -> bytes:
        """Its body."""
        ...


class Client(Protocol):
    """Who talks to the API server."""

    async def request(self, method: str, path: str, *, body: bytes | None = None, content_type: str = ...) -> Answer:
        """One request; raises when there is no answer."""
        ...


class StartupTaint:
    """Removes the taint from a node as soon as `ready` says so; see the module."""

    def __init__(self, client: Client, node_name: str, *, ready: Callable[[], bool]) -> None:
        self._client = client
        self._path = f"/api/v1/nodes/{node_name}"
        self._ready = ready
        self._state = "waiting until the agent is ready"
        self._conflicts = 0

    def status(self) -> str:
        """One line for a person."""
        return self._state

    async def run(self) -> None:
        """Eternal: when the taint is off there is nothing more to do, and nobody puts it on again."""
        while not self._ready():  # noqa: ASYNC110  what ready means has many sources, and no bell
            await asyncio.sleep(LOOK)
        pause, longest = PAUSE
        while (trouble := await self._removed()) is not None:
            if trouble and trouble != self._state:
                log.warning("the startup taint cannot be removed", taint=KEY, trouble=trouble)
            self._state = trouble or self._state
            await asyncio.sleep(pause * (0.75 + 0.5 * random.random()))  # noqa: S311  spreads load, guards nothing
            pause = min(2 * pause, longest) if trouble else PAUSE[0]
        await asyncio.Event().wait()

    async def _removed(self) -> str | None:
        """None when it is off; else what is in the way, empty when somebody else changed the node at the same time."""
        try:
            read = await self._client.request("GET", self._path)
            if read.status != _OK:
                return _refusal("get", read)
            patch = without(json.loads(read.body))
            if patch is None:
                self._state = "off"
                return None
            answer = await self._client.request(
                "PATCH", self._path, body=json.dumps(patch).encode(), content_type=_JSON_PATCH
            )
        except Exception as error:  # noqa: BLE001  whatever is in the way, it is said and tried again
            return f"no answer that can be used: {error!r}"
        if answer.status in {_CONFLICT, _UNPROCESSABLE}:
            self._conflicts += 1
            return _refusal("patch", answer) if self._conflicts > CONFLICTS else ""
        self._conflicts = 0
        if answer.status != _OK:
            return _refusal("patch", answer)
        self._state = "off"
        log.info("startup taint removed", taint=KEY)
        return None


def without(node: Any) -> list[dict[str, Any]] | None:
    """The JSON patch that takes our taint off a node as it was read, and nothing else; None when it has none."""
    taints = node["spec"].get("taints") or []
    kept = [taint for taint in taints if taint.get("key") != KEY]
    if len(kept) == len(taints):
        return None
    change = {"op": "replace", "path": "/spec/taints", "value": kept}
    return [{"op": "test", "path": "/metadata/resourceVersion", "value": node["metadata"]["resourceVersion"]}, change]


def _refusal(verb: str, answer: Answer) -> str:
    if answer.status == _NOT_FOUND:
        return "there is no such node: is --node-name right?"
    if answer.status in {_CONFLICT, _UNPROCESSABLE}:
        return (
            f"the API server answered {answer.status} {CONFLICTS + 1} times in a row ({_said(answer)}): does an "
            f"admission policy or webhook refuse it? As an administrator, `kubectl taint node NAME {KEY}-` takes it off"
        )
    return f"the API server answered {answer.status}: may the agent {verb} nodes?"


def _said(answer: Answer) -> str:
    """The API server's own words, as far as there are any."""
    try:
        said = json.loads(answer.body)["message"]
    except (ValueError, LookupError, TypeError):
        said = "no reason given"
    return shortened(printable(str(said)), _SAID_LIMIT)

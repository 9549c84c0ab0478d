"""A headless Chromium, led over its DevTools protocol: no script of a page is run, no library is needed.

What a page is like is asked of the browser's own layout, DOM and accessibility tree.
"""

import asyncio
import base64
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

PATIENCE = 60.0
"""Seconds: many times what anything here takes."""

BINARIES = ("chromium", "chromium-browser", "google-chrome")


def binary() -> str:
    """The path of a Chromium; empty when there is none."""
    return next((found for name in BINARIES if (found := shutil.which(name))), "")


class Page:
    """A tab without scripts."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = count(1)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One call; what was said in between is let go by."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            answer = await self._socket.receive_json(timeout=PATIENCE)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    async def go(self, url: str, *, width: int, height: int, dark: bool = False) -> None:
        """Look at the page in a window of that size, until it is loaded."""
        await self.call("Page.enable")
        await self.call("Emulation.setScriptExecutionDisabled", value=True)
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": "Page.navigate", "params": {"url": url}})
        await self.loaded()

    async def loaded(self) -> None:
        """Wait until a page is loaded, the next one from now on."""
        while (await self._socket.receive_json(timeout=PATIENCE)).get("method") != "Page.loadEventFired":
            pass

    async def overflow(self) -> float:
        """CSS pixels by which the content is wider than the window."""
        metrics = await self.call("Page.getLayoutMetrics")
        return float(metrics["cssContentSize"]["width"]) - float(metrics["cssLayoutViewport"]["clientWidth"])

    async def html(self) -> str:
        """The whole DOM."""
        root = await self.call("DOM.getDocument", depth=-1)
        return str((await self.call("DOM.getOuterHTML", nodeId=root["root"]["nodeId"]))["outerHTML"])

    async def accessible(self) -> list[tuple[str, str]]:
        """Role and name of each node that assistive technology meets."""
        tree = await self.call("Accessibility.getFullAXTree")
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in tree["nodes"]
            if not node["ignored"]
        ]

    async def shot(self, path: Path) -> None:
        """A picture of the whole page."""
        size = (await self.call("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        taken = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        await asyncio.to_thread(_write, path, base64.b64decode(taken["data"]))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@asynccontextmanager
async def browsing(profile: Path) -> AsyncIterator[Page]:
    """A browser of its own with an empty profile, and its tab; ended afterwards."""
    options = [
        "--headless=new",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--no-default-browser-check",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
    ]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # Chromium refuses to be root in its sandbox; it sees our own pages alone
    process = await asyncio.create_subprocess_exec(
        binary(), *options, "about:blank", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while b"DevTools listening on" not in (line := await process.stderr.readline()):
                assert line, "the browser ended at once"
        where = line.decode().split("ws://")[1].split("/")[0]
        drained = asyncio.create_task(process.stderr.read())
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{where}/json/list") as answer:
                tabs = [tab for tab in await answer.json() if tab["type"] == "page"]
            async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(PATIENCE):
            await process.wait()
    await drained

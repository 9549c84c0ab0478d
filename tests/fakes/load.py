"""Pods that ask without end, each request checked: `python -m tests.fakes.load HOST PORT POD...` until a line comes in.

With `--gently` first they leave the machine time for others, and have patience where these take it.

From each address some connections are made for each request, some are kept, until the answer says `Connection: close`,
and some of these are mostly idle. A request on a connection that ends before its answer has failed, whatever a
forgiving client would make of it.

Prints `begun`, and at the end one line of JSON: requests, of which fresh, kept and idle, seconds, longest (seconds that
an answer took), failed (what happened, at most twenty).
"""

import asyncio
import json
import socket
import sys
import threading
import time
from collections import Counter

import uvloop

ASK = b"GET /latest/meta-data/iam/security-credentials/shop-web HTTP/1.1\r\nHost: x\r\n%s\r\n"
KEPT, FRESH = ASK % b"", ASK % b"Connection: close\r\n"
ANSWER = b"HTTP/1.1 200 "
WITNESS = b'"AccessKeyId"'

PAUSES = {"fresh": 0.0, "kept": 0.004, "idle": 1.5}
GENTLY = {"fresh": 0.04, "kept": 0.04, "idle": 8.0}
"""Seconds between two requests of a client: time for the other side to close what is kept, should it dare."""

LONG, PATIENT = 5.0, 60.0
"""Seconds after which an answer counts as none, and so when gentle."""

SHOWN = 20


class Load:
    """What was asked and what came of it."""

    def __init__(self, host: str, port: int, *, gently: bool) -> None:
        self.where = (host, port)
        self.pauses, self.long = (GENTLY, PATIENT) if gently else (PAUSES, LONG)
        self.stop = False
        self.done: Counter[str] = Counter()
        self.longest = 0.0
        self.failed: list[str] = []

    async def asking(self, pod: str, kind: str) -> None:
        """One client of the pod's."""
        while not self.stop:
            try:
                await self._connection(pod, kind)
            except Exception as error:  # noqa: BLE001  that is what is counted
                self.failed.append(f"{kind} from {pod}: {error!r}")
            await asyncio.sleep(self.pauses[kind])

    async def _connection(self, pod: str, kind: str) -> None:
        loop = asyncio.get_running_loop()
        made = socket.socket()
        try:
            made.setblocking(False)
            made.bind((pod, 0))
            await loop.sock_connect(made, self.where)
            more = True
            while more and not self.stop:
                begun = time.monotonic()
                async with asyncio.timeout(self.long):
                    await loop.sock_sendall(made, FRESH if kind == "fresh" else KEPT)
                    more = await self._answer(loop, made)
                self.longest = max(self.longest, time.monotonic() - begun)
                self.done[kind] += 1
                if more:
                    await asyncio.sleep(self.pauses[kind])
        finally:
            made.close()

    async def _answer(self, loop: asyncio.AbstractEventLoop, made: socket.socket) -> bool:
        """Read a whole answer; whether the connection may be used again."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not (part := await loop.sock_recv(made, 65536)):
                raise ConnectionError(f"closed after {data[:80]!r}")
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        lines = {
            name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in head.split(b"\r\n"))
        }
        while len(body) < int(lines[b"content-length"]):
            if not (part := await loop.sock_recv(made, 65536)):
                raise ConnectionError("closed within the body")
            body += part
        if not head.startswith(ANSWER) or WITNESS not in body:
            raise ValueError(f"{head[:40]!r} {body[:120]!r}")
        return lines.get(b"connection", b"keep-alive").lower() != b"close"


async def main(host: str, port: str, *pods: str, gently: bool) -> None:
    """Ask until standard input says something."""
    load, begun = Load(host, int(port), gently=gently), time.monotonic()
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def wait() -> None:
        sys.stdin.readline()
        loop.call_soon_threadsafe(stopped.set)

    threading.Thread(target=wait, daemon=True).start()
    print("begun", flush=True)
    async with asyncio.TaskGroup() as group:
        for pod in pods:
            for kind in PAUSES:
                group.create_task(load.asking(pod, kind))
        await stopped.wait()
        load.stop = True
    told = {
        "requests": load.done.total(),
        **load.done,
        "seconds": round(time.monotonic() - begun, 2),
        "longest": round(load.longest, 3),
        "failed": load.failed[:SHOWN],
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    words = sys.argv[1:]
    gentle = words[0] == "--gently"
    uvloop.run(main(*words[gentle:], gently=gentle))

"""Network namespaces of the tests' own: made, entered, left, removed.

Knows how the kernel's namespaces are handled; must not know what is built in them.
"""

import ctypes
import itertools
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

PATIENCE = 60.0
"""Seconds for a command: many times what it takes."""

CLONE_NEWNET = 0x40000000
NAMES = Path("/run/netns")
"""Where ip keeps namespaces by their names."""

_OWNER = re.compile(r"mp-(\d+)-.+")
_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """One network namespace; its name is this process's own, so runs beside each other do not meet.

    With the first of a process go those that a killed run has left.
    """

    def __init__(self, role: str) -> None:
        clear_abandoned()
        self.name = f"mp-{os.getpid()}-{next(_numbers)}-{role}"
        subprocess.run(["ip", "netns", "add", self.name], check=True, timeout=PATIENCE)
        self.shell("ip link set lo up")

    def close(self) -> None:
        """Remove it, and with it whatever interfaces are in it."""
        subprocess.run(["ip", "netns", "del", self.name], check=True, timeout=PATIENCE)

    def command(self, *arguments: str) -> list[str]:
        """A command as it must be written to run in here; ip replaces itself by it, so the process is the command's."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def run(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in here to its end, whatever its outcome."""
        return subprocess.run(
            self.command(*arguments),
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def shell(self, script: str) -> str:
        """Run a script in here that must succeed; what it printed."""
        done = self.run("bash", "-ec", script)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is in the namespace; sockets made meanwhile stay in it."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(NAMES / self.name, os.O_RDONLY)
        try:
            _enter(there)
            yield
        finally:
            _enter(here)
            os.close(here)
            os.close(there)

    def connect(
        self, address: str, port: int = 80, *, options: bytes = b"", source: str = "", timeout: float = 3.0
    ) -> socket.socket:
        """A TCP connection from in here, with IP options or a source address when given.

        Raises:
            OSError: it was refused, or not answered in time (seconds).
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.inside():
            end = socket.socket(family, socket.SOCK_STREAM)
        try:
            end.settimeout(timeout)
            if source:
                end.bind((source, 0))
            if options:
                end.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, options)
            end.connect((address, port))
        except BaseException:
            end.close()
            raise
        return end

    def ask_udp(self, address: str, port: int) -> bytes:
        """What a datagram from in here is answered with."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.inside():
            end = socket.socket(family, socket.SOCK_DGRAM)
        with end:
            end.settimeout(PATIENCE)
            end.sendto(b"?", (address, port))
            return end.recv(100)


@cache
def clear_abandoned() -> None:
    """Remove the namespaces of processes that are gone, and what still runs in them: their names say whose they are."""
    for path in sorted(NAMES.glob("mp-*")):
        owner = _OWNER.fullmatch(path.name)
        if owner is None or Path("/proc", owner[1]).exists():
            continue
        # Each may fail because another run is clearing too.
        found = subprocess.run(
            ["ip", "netns", "pids", path.name], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        for pid in found.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", path.name], capture_output=True, timeout=PATIENCE, check=False)


def ask(end: socket.socket, path: str) -> bytes:
    """The whole answer to a request on a connection that may be kept; empty when the other side closed instead."""
    end.sendall(f"GET {path} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n".encode())
    return answer(end)


def answer(end: socket.socket) -> bytes:
    """One answer with a Content-Length, read to its end; empty when the other side closed before it began."""
    held = b""
    while b"\r\n\r\n" not in held:
        if not (more := end.recv(65536)):
            return held
        held += more
    head, _, body = held.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    wanted = int(lengths[0].split(b":")[1])
    while len(body) < wanted and (more := end.recv(65536)):
        body += more
    return head + b"\r\n\r\n" + body


def until(holds: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Ask until it holds; each question takes a while by itself, so nothing sleeps."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"did not come to hold within {seconds:.0f} s"


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")

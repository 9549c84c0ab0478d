"""The way into the pods of a played node, for `kubectl exec`, `logs` and `port-forward`: a kubelet's server.

Knows: which of the node's pods is meant, and what it has said.
Must not know: kubectl, and the streams between it and the server.

The server is a program of its own (`kubectl/kubelet.go`). For each request it starts this module, which asks the test's
process through a socket, because the node's pods are known there alone.
"""

import os
import shlex
import socket
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from signal import SIGKILL
from types import TracebackType
from typing import Self

from tests.chart.controlplane.node import PlayedNode
from tests.cluster.actors import Actors
from tests.cluster.keys import make_keys
from tests.cluster.processes import Server, free_ports

ROOT = Path(__file__).parents[2]


class Door:
    """Open for as long as the context lasts; the API server is told where. `program` is the tests' own kubectl."""

    def __init__(self, node: PlayedNode, cluster: Actors, program: Path, folder: Path) -> None:
        folder.mkdir()
        self._node, self._cluster = node, cluster
        place = str(folder / "socket")
        self._listener = Listener(place, "AF_UNIX")
        self._place = place
        self._thread = threading.Thread(target=self._serve, name="door")
        ask = folder / "ask"
        words = shlex.join([sys.executable, "-m", "tests.chart.door", place])
        ask.write_text(f'#!/bin/sh\ncd {shlex.quote(str(ROOT))}\nexec {words} "$@"\n')
        ask.chmod(0o755)
        keys = make_keys(folder)
        (self._port,) = free_ports(1)
        served = ["kubelet", f"127.0.0.1:{self._port}", *map(str, (keys.serving_certificate, keys.serving_key, ask))]
        self._server = Server("kubelet", [program, *served], folder / "kubelet.log")

    def __enter__(self) -> Self:
        self._thread.start()
        self._server.start()
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._port}},
        }
        self._cluster.admin.merge(f"/api/v1/nodes/{self._node.name}/status", {"status": status})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.end(SIGKILL)
        with Client(self._place) as last:
            last.send([])
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            asking = self._listener.accept()
            words = asking.recv()
            if not words:
                asking.close()
                return
            threading.Thread(target=self._answer, args=(asking, words)).start()

    def _answer(self, asking: Connection, words: list[str]) -> None:
        """Output, errors, and exit code or a command to become."""
        with asking:
            verb, _, name, *rest = words
            pod = self._node.pods[name]
            if verb == "exec":
                done = pod.run(rest[0], *rest[1:])
                asking.send((done.stdout, done.stderr, done.returncode, []))
            elif verb == "logs":
                # "previous": this node keeps the lines of all its starts together.
                lines = pod.containers[rest[0]].lines
                asking.send(("".join(f"{line}\n" for line in lines), "", 0, []))
            else:
                command = self._node.lab.node.command(sys.executable, "-m", "tests.chart.door", "carry", *rest)
                asking.send(("", "", 0, command))


def main(words: list[str]) -> int:
    """Ask the test's process, for the server; or carry bytes to a port and back."""
    if words[0] == "carry":
        return _carry(int(words[1]))
    with Client(words[0]) as door:
        door.send(words[1:])
        out, errors, code, command = door.recv()
    if command:
        os.execvp(command[0], command)
    sys.stdout.write(out)
    sys.stderr.write(errors)
    return int(code)


def _carry(port: int) -> int:
    """Between standard input and output and a port of this network, until the port's side ends."""
    with socket.create_connection(("127.0.0.1", port)) as end:

        def there() -> None:
            with suppress(OSError):
                while data := os.read(0, 65536):
                    end.sendall(data)
                end.shutdown(socket.SHUT_WR)

        threading.Thread(target=there, daemon=True).start()
        while data := end.recv(65536):
            os.write(1, data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

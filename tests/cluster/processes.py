"""One server process on a port of loopback: started, watched, frozen, ended.

Knows: its command line, its log file, its pid.
Must not know: what the program does.
"""

import random
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM, Signals

_TAIL = 4_000  # bytes of a log that a failure shows: some thirty lines


class Server:
    """A program that runs until it is ended, with both outputs in one log file.

    Its standard input is a pipe that only we hold: the test binary ends when that closes, so no server outlives a
    test run, however the run died.
    """

    def __init__(self, name: str, command: Sequence[str | Path], log_file: Path) -> None:
        self.name = name
        self.log_file = log_file
        self._command = [str(part) for part in command]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process exists (a frozen one does)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id; raises RuntimeError when it does not run."""
        if self._process is None or not self.running:
            raise RuntimeError(f"{self.name} does not run\n{self.tail()}")
        return self._process.pid

    def start(self) -> None:
        """Start the process; its log is appended to what an earlier one left."""
        if self.running:
            raise RuntimeError(f"{self.name} already runs")
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the test run, which then ends its servers in order
            )

    def signal(self, number: Signals) -> None:
        """Send one signal; raises RuntimeError when the process is gone."""
        if self._process is None or not self.running:
            raise RuntimeError(f"{self.name} does not run\n{self.tail()}")
        self._process.send_signal(number)

    def freeze(self) -> None:
        """Stop the process in its tracks: connections stay open and silent."""
        self.signal(SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self.signal(SIGCONT)

    def end(self, number: Signals = SIGTERM, *, grace: float = 5.0) -> int | None:
        """End the process and wait until it is gone, after `grace` seconds by SIGKILL; its status, None if none."""
        process = self._process
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(number)
            process.send_signal(SIGCONT)  # a frozen process hears SIGTERM only when it goes on
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdin is not None:
            process.stdin.close()
        self._process = None
        return process.returncode

    def tail(self) -> str:
        """The end of the log, for a failure's message."""
        if not self.log_file.exists():
            return f"--- {self.name}: no log"
        text = self.log_file.read_bytes()[-_TAIL:].decode(errors="replace")
        return f"--- end of {self.log_file}\n{text}"


def free_ports(count: int) -> list[int]:
    """`count` ports on which nothing listens now, and which the kernel gives to nobody as an outgoing port.

    A server that restarts must get its port again; one from the ephemeral range might by then belong to a client.
    """
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: list[int] = []
    candidates = random.sample(range(min(20_000, low - 2_000), low), k=1_000)
    for port in candidates:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"no {count} free ports on 127.0.0.1 below {low}")

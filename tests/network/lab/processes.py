"""Processes of a test's own: started, read to the end of what they say, ended by their own id.

Knows how a process lives; must not know what it is.
"""

import os
import subprocess
import threading

from tests.network.lab.namespaces import PATIENCE

QUIET = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"), "")
"""Variables by which the machine's proxies would get between a client and the metadata service."""


class Process:
    """A process of the test's own, its standard output read to the end so that it never blocks."""

    def __init__(self, command: list[str], **environment: str) -> None:
        self.lines: list[str] = []
        self._said = threading.Condition()
        self.popen = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, **QUIET, **environment}
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            with self._said:
                self.lines.append(line.rstrip("\n"))
                self._said.notify_all()
        with self._said:
            self.lines.append("")
            self._said.notify_all()

    def wait_for(self, *texts: str, seconds: float = PATIENCE) -> str:
        """Until each text was said; the first line with the last of them."""
        found = ""

        def all_said() -> bool:
            nonlocal found
            hits = [next((line for line in self.lines if text in line), "") for text in texts]
            found = hits[-1]
            return all(hits) or self.popen.poll() is not None

        with self._said:
            assert self._said.wait_for(all_said, seconds), f"{texts} not said: {self.lines}"
        assert found, f"ended with {self.popen.poll()}: {self.lines}"
        return found

    def end(self, signal: int) -> None:
        """End it by a signal and wait for that; harmless when it has ended."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal)
        self.popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.popen.stdout is not None
        self.popen.stdout.close()

"""What the measurements are made with: the agent as a process on one core, a slow STS, nginx, wrk.

Knows: how each is started, pinned and ended, and how the system counts their time and memory.
Must not know: what is being compared.
"""

import asyncio
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs

from aiohttp import web

from tests.fakes.kube_api import FakeKubeApi

SERVER_CORE, LOAD_CORE = 0, 1
NODE = "bench-node"
TOKEN_SIZE = 700
"""Characters of a session token: about what STS gives; makes a body of 1.1 kB."""

NEEDED = {"wrk": "wrk", "nginx": "nginx-light"}


def missing() -> list[str]:
    """The distribution's packages that are not here."""
    return [package for command, package in NEEDED.items() if shutil.which(command) is None]


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class SlowSts:
    """An STS that answers after `delay` seconds and remembers when it answered for which role."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.answered: dict[str, float] = {}
        self.url = ""
        self._news = asyncio.Event()

    async def until(self, roles: int) -> None:
        """Wait until that many roles were answered."""
        async with asyncio.timeout(120):
            while len(self.answered) < roles:
                self._news.clear()
                await self._news.wait()

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """AssumeRole and GetCallerIdentity, as XML."""
        form = {key: values[0] for key, values in parse_qs((await request.read()).decode()).items()}
        if form["Action"] == "GetCallerIdentity":
            return _xml("GetCallerIdentity", "<Arn>arn:aws:sts::123456789012:assumed-role/nodes/i-1</Arn>")
        await asyncio.sleep(self.delay)
        expires = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.answered[form["RoleArn"].rpartition("/")[2]] = time.monotonic()
        self._news.set()
        return _xml(
            "AssumeRole",
            f"<Credentials><AccessKeyId>ASIA{abs(hash(form['RoleArn'])) % 10**16:016d}</AccessKeyId>"
            f"<SecretAccessKey>{'s' * 40}</SecretAccessKey><SessionToken>{'t' * TOKEN_SIZE}</SessionToken>"
            f"<Expiration>{expires}</Expiration></Credentials>",
        )


def _xml(action: str, inner: str) -> web.Response:
    space = "https://sts.amazonaws.com/doc/2011-06-15/"
    text = f'<{action}Response xmlns="{space}"><{action}Result>{inner}</{action}Result></{action}Response>'
    return web.Response(text=text, content_type="text/xml")


@asynccontextmanager
async def slow_sts(delay: float) -> AsyncIterator[SlowSts]:
    """Run one in this loop."""
    sts = SlowSts(delay)
    runner = web.ServerRunner(web.Server(sts.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sts.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield sts
    finally:
        await runner.cleanup()


def pinned(core: int) -> list[str]:
    """The beginning of a command that stays on one core."""
    return ["taskset", "-c", str(core)]


class Agent:
    """metaproxy as a process of its own, on the server's core, with the Kubernetes source."""

    def __init__(self, api: FakeKubeApi, sts: SlowSts, folder: Path) -> None:
        self.port, self.admin = free_port(), free_port()
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
            "contexts: [{name: c, context: {cluster: k, user: u}}]\n"
            f"clusters: [{{name: k, cluster: {{server: '{api.url}'}}}}]\nusers: [{{name: u, user: {{token: t}}}}]\n"
        )
        self.begun = time.monotonic()
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "METAPROXY_"))}
        environment |= {"AWS_ACCESS_KEY_ID": "AKIABENCH", "AWS_SECRET_ACCESS_KEY": "bench"}
        command = [
            *pinned(SERVER_CORE),
            *(sys.executable, "-m", "metaproxy", "run"),
            f"--server.listen=127.0.0.1:{self.port}",
            "--server.accept-direct=true",
            f"--admin.listen=127.0.0.1:{self.admin}",
            f"--source.kubeconfig={kubeconfig}",
            f"--node-name={NODE}",
            f"--sts.endpoint-url={sts.url}",
            "--sts.region=us-east-1",
            "--role-base-arn=arn:aws:iam::123456789012:role/",
            f"--tokens.key-file={folder / 'key'}",
            "--upstream.profile=none",
            "--log.level=warning",
        ]
        self.process = subprocess.Popen(command, env=environment)

    @property
    def url(self) -> str:
        """Where pods are answered."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(30)

    def resident(self) -> float:
        """MiB in memory."""
        return _status(self.process.pid, "VmRSS") / 1024

    def proportional(self) -> float:
        """MiB in memory, what is shared counted in parts."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        return cpu(self.process.pid)


def _status(pid: int, key: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{key}:"))


def cpu(pid: int) -> float:
    """Seconds of processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def nginx(folder: Path, answers: Sequence[tuple[str, bytes, dict[str, str]]]) -> Iterator[tuple[str, int]]:
    """One worker of nginx that serves these bytes and headers from files; yields its URL and the worker's pid."""
    port = free_port()
    locations = []
    for number, (path, body, headers) in enumerate(answers):
        added = "".join(f'add_header {name} "{value}" always; ' for name, value in headers.items())
        file = folder / f"body{number}"
        file.write_bytes(body)
        # Files answer neither PUT nor a path that ends in a slash.
        what = f'return 200 "{body.decode()}";' if path.endswith(("token", "/")) else f"alias {file}; etag off;"
        locations.append(f"location = {path} {{ default_type text/plain; {added}{what} }}")
    config = folder / "nginx.conf"
    config.write_text(
        f"user {getpass.getuser()}; worker_processes 1; daemon off;\n"
        f"pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; keepalive_requests 100000000; server_tokens off; open_file_cache max=10;\n"
        f"client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;\n"
        f"uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        f"server {{ listen 127.0.0.1:{port} backlog=4096;\n" + "\n".join(locations) + "\n} }\n"
    )
    process = subprocess.Popen([*pinned(SERVER_CORE), "nginx", "-c", str(config), "-p", str(folder)])
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
        worker = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()[0])
        yield f"http://127.0.0.1:{port}", worker
    finally:
        process.terminate()
        process.wait(30)

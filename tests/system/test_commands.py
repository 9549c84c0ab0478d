"""The commands as operators and probes start them: exit codes, what is printed where, the running agent asked."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from metaproxy import __version__
from metaproxy.__main__ import main
from metaproxy.commands import COMMANDS
from metaproxy.status import Condition
from scripts.generate_docs import DOCS
from tests.fakes.process import own_address
from tests.guides import Typed

PATIENCE = 60.0
"""Seconds for a process: many times what it takes."""

SECRET = "wJalrXUtnFEMI-make-believe"

PODS = """\
kind: Namespace
metadata: {name: shop, annotations: {iam.amazonaws.com/permitted: '.*shop-.*'}}
---
kind: Pod
metadata: {namespace: shop, name: web, annotations: {iam.amazonaws.com/role: shop-web}}
status: {phase: Running, podIP: 127.0.0.2}
---
kind: Pod
metadata: {namespace: shop, name: thief, annotations: {iam.amazonaws.com/role: bank}}
status: {phase: Running, podIP: 127.0.0.3}
"""


def metaproxy(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "metaproxy", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@dataclass
class Running:
    """An agent in a process of its own."""

    process: subprocess.Popen[str]
    admin: str
    socket: Path

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command that asks this agent."""
        return metaproxy(*arguments, METAPROXY_ADMIN__LISTEN=self.admin)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An agent with pods from a file, no STS and no metadata service behind it."""
    folder = tmp_path_factory.mktemp("agent")
    (folder / "pods.yaml").write_text(PODS)
    host = own_address()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "metaproxy", "run"),
            f"--source.manifests={folder / 'pods.yaml'}",
            f"--server.listen={host}:8181",
            f"--admin.listen={host}:9181",
            f"--admin.socket={folder / 'admin'}",
            f"--tokens.key-file={folder / 'key'}",
            f"--upstream.url=http://{host}:9",
            f"--sts.endpoint-url=http://{host}:9",
            "--sts.region=us-east-1",
            "--role-base-arn=arn:aws:iam::111122223333:role/",
        ],
        env={**os.environ, "AWS_ACCESS_KEY_ID": "AKIADEMO", "AWS_SECRET_ACCESS_KEY": SECRET},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    met = {"listening": False, "manifests are read": False}
    for line in process.stdout:
        met[json.loads(line)["event"]] = True
        if met["listening"] and met["manifests are read"]:
            break
    # What is said from now on must not fill the pipe.
    drain = threading.Thread(target=process.stdout.read, daemon=True)
    drain.start()
    yield Running(process, f"{host}:9181", folder / "admin")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    assert not (folder / "admin").exists()
    drain.join(PATIENCE)
    process.stdout.close()


class Other(BaseHTTPRequestHandler):
    """What answers at an admin address and is no agent."""

    def do_GET(self) -> None:
        """Answer with the server's body."""
        body = self.server.body  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def other() -> Iterator[ThreadingHTTPServer]:
    """Another server on loopback; its `body` is what it answers."""
    with ThreadingHTTPServer((own_address(), 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def where(server: ThreadingHTTPServer) -> str:
    """The flag that leads to a server."""
    host, port = server.server_address[:2]
    return f"--admin.listen={host if isinstance(host, str) else host.decode()}:{port}"


def test_version() -> None:
    """The version is printed, and exit code 0."""
    done = metaproxy("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"metaproxy {__version__}\n", "")


def test_what_a_probe_does_not_need_is_not_imported() -> None:
    """Neither the version nor health, which is started every few seconds, loads the agent's libraries."""
    code = """if True:
        import sys
        from metaproxy.__main__ import main
        main(["--version"])
        assert "pydantic" not in sys.modules
        assert main(["health", "--admin.listen=127.255.255.254:9"]) == 1
        heavy = {"aiohttp", "aiobotocore", "botocore", "kubernetes_asyncio", "uvloop", "prometheus_client", "structlog"}
        assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["--help"], ["-h"], *([name, "--help"] for name in COMMANDS)])
def test_help_is_the_documented_text(words: list[str]) -> None:
    """The help of the program and of each command is, to the letter, in docs/command-line.txt."""
    done = metaproxy(*words)
    golden = (DOCS / "command-line.txt").read_text()
    assert (done.returncode, done.stderr) == (0, "")
    assert f"$ metaproxy {' '.join(words).replace('-h', '--help') if words == ['-h'] else ' '.join(words)}\n" in golden
    assert done.stdout in golden
    assert done.stdout.startswith("usage: metaproxy ")


def test_help_wins_over_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    """Who asks for help among mistakes gets help."""
    assert main(["run", "--nonsense", "-h"]) == 0
    assert capsys.readouterr().out.startswith("usage: metaproxy run")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "metaproxy: no command\nmetaproxy: see metaproxy --help\n"),
        (["rnu"], "metaproxy: 'rnu' is no command; the closest is run\nmetaproxy: see metaproxy --help\n"),
        (["--node-name", "n"], "metaproxy: '--node-name' is no command; "),
        (["run", "--sts.regoin=x"], "metaproxy: --sts.regoin is unknown; the closest known one is --sts.region\n"),
        (["run"], "metaproxy: --source.manifests: there is no source of pods"),
        (["config", "--sts.rate=fast"], "metaproxy: --sts.rate: "),
        (["config", "stray\x1b[2J"], "metaproxy: 'stray\\x1b[2J' is not expected\n"),
        (["run", "--\x1b[2J"], "metaproxy: --\\x1b[2J is unknown; "),
        (["demo", "--twice"], "metaproxy: unrecognized arguments: --twice\nmetaproxy: see metaproxy demo --help\n"),
        (["demo", "--port=0"], "metaproxy: --port: a port is 1 to 65535\n"),
        (["demo", "--port=x"], "metaproxy: argument --port: invalid int value: 'x'\n"),
        (["explain"], "metaproxy: one of the arguments --pod --ip is required\n"),
        (["explain", "--pod=web"], "metaproxy: --pod: write NAMESPACE/NAME\n"),
        (["explain", "--pod=/web"], "metaproxy: --pod: write NAMESPACE/NAME\n"),
        (["explain", "--ip=web"], "metaproxy: --ip: write an IP address\n"),
        (["explain", "--ip=::1", "--pod=a/b"], "metaproxy: argument --pod: not allowed with argument --ip\n"),
        (["health", "--admin.listen=127.0.0.1:0"], "metaproxy: --admin.listen: with port 0 nobody knows"),
        (["health", "--admin.listen=9181"], "metaproxy: --admin.listen: write ADDR:PORT"),
        (["health", "--admin.listen=none"], "metaproxy: --admin.listen: with none nobody can be asked; give --admin"),
        (["status", "--watch"], "metaproxy: --watch redraws a terminal: it goes with no --json and no pipe\n"),
        (["status", "--jsno"], "metaproxy: --jsno is unknown; the closest known one is --json\n"),
        (["redirect", "apply", "--redirect.device=no such"], "metaproxy: --redirect.device: it is no device's name"),
        (["redirect", "apply", "--redirect.backend=ipfw"], "metaproxy: --redirect.backend: input should be 'auto', "),
        (["redirect", "apply", "--exclude-interface=cali+"], "metaproxy: --redirect.exclude-interface: routing rules"),
        (["redirect", "apply", "--exclude-source=0.0.0.0/0"], "metaproxy: --redirect.exclude-source: it is everybody"),
        (["redirect", "apply", "--exclude-source=10.1.0.1/16"], "metaproxy: --redirect.exclude-source: 10.1.0.1/16 ha"),
        (["redirect", "repair"], "metaproxy: argument verb: invalid choice: 'repair' "),
        (["redirect"], "metaproxy: the following arguments are required: verb\n"),
        (["redirect", "apply", "--guard"], "metaproxy: --guard and --cilium say what to render\n"),
        (["redirect", "check", "--cilium"], "metaproxy: --guard and --cilium say what to render\n"),
        (["redirect", "watch", "--json"], "metaproxy: --json goes with apply and check\n"),
        (["redirect", "render", "--json"], "metaproxy: --json goes with apply and check\n"),
        (["redirect", "apply", "--devise=x"], "metaproxy: --devise is unknown; "),
        (["health", "--raedy"], "metaproxy: --raedy is unknown; the closest known one is --ready\n"),
    ],
)
def test_bad_usage(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Bad usage ends with exit code 2, words on stderr that name it, and nothing on stdout."""
    assert main(words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(said)


@pytest.mark.parametrize(
    ("words", "there", "not_there"),
    [
        ([], "dnat to 169.254.170.254:8181", "kind: "),
        (["--redirect.backend=iptables-nft", "--include-interface=eni+"], "-i eni+", "dnat to"),
        (["--guard"], "ip -4 rule add", "dnat to"),
        (["--cilium"], "kind: CiliumLocalRedirectPolicy", "ip -4"),
    ],
)
def test_the_redirect_on_paper(
    words: list[str], there: str, not_there: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the form that is asked for, by whomever."""
    assert main(["redirect", "render", *words]) == 0
    told = capsys.readouterr()
    assert there in told.out
    assert not_there not in told.out
    assert told.err == ""


def test_settings_that_cannot_work() -> None:
    """As a process too: exit code 2, each line beginning with the program's name, no trace."""
    done = metaproxy("run", METAPROXY_STS__REGOIN="x", METAPROXY_TOKEN__MODE="required")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "metaproxy: METAPROXY_STS__REGOIN is unknown; the closest known one is METAPROXY_STS__REGION\n"
        "metaproxy: METAPROXY_TOKEN__MODE is unknown; the closest known one is METAPROXY_TOKENS__MODE\n"
    )


def test_config(tmp_path: Path) -> None:
    """The settings in effect with their sources, on stdout, exit code 0, no password."""
    file = tmp_path / "settings.yaml"
    file.write_text("log: {level: warning}\n")
    done = metaproxy(
        "config",
        "--source.manifests=pods.yaml",
        f"--config={file}",
        METAPROXY_UPSTREAM__URL="http://me:hunter2@imds.example",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f'  level: "warning"  # file {file}\n' in done.stdout
    assert '  manifests: ["pods.yaml"]  # flag --source.manifests\n' in done.stdout
    assert '  url: "http://***@imds.example"  # environment METAPROXY_UPSTREAM__URL\n' in done.stdout
    assert "hunter2" not in done.stdout


def test_key_file_that_others_may_read(tmp_path: Path) -> None:
    """A run that cannot begin because of a setting ends with exit code 2."""
    key = tmp_path / "key"
    key.write_bytes(b"x" * 32)
    key.chmod(0o644)
    done = metaproxy(
        "run",
        f"--source.manifests={tmp_path}",
        f"--tokens.key-file={key}",
        f"--admin.listen={own_address()}:9181",
        f"--upstream.url=http://{own_address()}:9",
        "--sts.region=us-east-1",
    )
    assert done.returncode == 2
    assert str(key) in done.stdout


def test_address_that_is_taken(tmp_path: Path) -> None:
    """Pods are answered all the same, and it is said that the operator is not yet, and who holds the address."""
    told: dict[str, str] = {}
    with socket.socket() as taken:
        taken.bind((own_address(), 0))
        taken.listen()
        host, port = taken.getsockname()
        flags = f"--source.manifests={tmp_path}", f"--admin.listen={host}:{port}", f"--server.listen={host}:0"
        command = [sys.executable, "-m", "metaproxy", "run", *flags, f"--upstream.url=http://{host}:9"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                record = json.loads(line)
                told[record["event"]] = record.get("error", "")
                if "listening" in told:
                    break
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
            assert process.wait(PATIENCE) == 0
    assert f"{host}:{port}" in told["the operator is not answered at --admin.listen yet"]


def test_demo_without_its_packages() -> None:
    """Where the extra is not installed, the demo says how to get it, with exit code 2."""
    code = "import sys; sys.modules['moto'] = None; from metaproxy.__main__ import main; sys.exit(main(['demo']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("metaproxy: the demo needs moto")
    assert done.stderr.endswith("pip install 'metaproxy[demo]'\n")


def test_health_of_a_living_agent(agent: Running) -> None:
    """Alive is exit code 0; not ready is 1 and says what is missing, and what is well."""
    alive = agent.ask("health")
    assert (alive.returncode, alive.stdout, alive.stderr) == (0, "ok\n", "")
    ready = agent.ask("health", "--ready")
    assert ready.returncode == 1
    assert "[+] pods: ok\n" in ready.stdout
    assert "[-] identity: " in ready.stdout


@pytest.mark.parametrize(
    "name", [["health"], ["health", "--ready"], ["explain", "--ip=10.0.0.1"], ["status"], ["status", "--json"]]
)
def test_nobody_answers(name: list[str]) -> None:
    """Where nothing listens, exit code 1 and the address on stderr."""
    address = f"{own_address()}:9181"
    done = metaproxy(*name, f"--admin.listen={address}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"metaproxy: no agent answers at {address}: Connection refused\n"


@pytest.mark.parametrize(("listen", "asked"), [("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]")])
def test_who_listens_everywhere_is_asked_on_loopback(
    listen: str, asked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unspecified address cannot be asked; loopback is part of it."""
    with socket.socket(socket.AF_INET6 if ":" in listen else socket.AF_INET) as held:
        # Bound and not listening: nobody else can answer there.
        held.bind((asked.strip("[]"), 0))
        port = held.getsockname()[1]
        assert main(["health", f"--admin.listen={listen}:{port}"]) == 1
    assert f"no agent answers at {asked}:{port}: " in capsys.readouterr().err


def test_silence_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An agent that takes the connection and says nothing is not waited for: exit code 1."""
    monkeypatch.setattr("metaproxy.adminclient.PATIENCE", 0.05)
    with socket.socket() as silent:
        silent.bind((own_address(), 0))
        silent.listen()
        host, port = silent.getsockname()
        assert main(["health", f"--admin.listen={host}:{port}"]) == 1
    assert "timed out" in capsys.readouterr().err


def test_explain_a_pod_that_may(agent: Running) -> None:
    """Pod, role, the rule that decides, the state of its credentials; never a secret."""
    done = agent.ask("explain", "--pod=shop/web")
    assert (done.returncode, done.stderr) == (0, "")
    words = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert ["role", "arn:aws:iam::111122223333:role/shop-web"] in words
    assert ["allowed", "yes"] in words
    assert "iam.amazonaws.com/permitted" in done.stdout
    assert "credentials\n" in done.stdout
    assert SECRET not in done.stdout


def test_explain_a_pod_that_may_not(agent: Running) -> None:
    """By its address: the reason's code, what is wrong and what to do."""
    done = agent.ask("explain", "--ip", "127.0.0.3")
    assert done.returncode == 0
    words = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert ["allowed", "no"] in words
    assert ["reason", "NotPermitted"] in words
    assert any(word[0] == "remedy" for word in words)


def test_explain_for_a_program(agent: Running) -> None:
    """With --json the same as JSON."""
    about = json.loads(agent.ask("explain", "--json", "--pod", "shop/web").stdout)
    assert about["pod"]["name"] == "web"
    assert about["decision"]["allowed"] is True


@pytest.mark.parametrize("whom", ["--pod=shop/nobody", "--ip=127.0.0.99"])
def test_explain_nobody(agent: Running, whom: str) -> None:
    """A pod that the agent does not know: exit code 1, and that is said."""
    done = agent.ask("explain", whom)
    assert done.returncode == 1
    assert "no such pod" in done.stdout or "no live pod" in done.stdout


def test_texts_of_others_do_nothing_to_the_terminal(
    other: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control characters in what pods' owners wrote are shown, not sent; lists, blanks and flags read as words."""
    about = {"pod": {"name": "a\x1b[2J\nb"}, "x\x07_y": [], "list": ["1", "2"], "gone": None, "on": True, "number": 1.5}
    other.body = json.dumps(about).encode()  # type: ignore[attr-defined]
    assert main(["explain", "--pod=a/b", where(other)]) == 0
    assert capsys.readouterr().out == (
        "pod\n  name  a\\x1b[2J\\nb\nx\\x07 y  none\nlist     1, 2\ngone     none\non       yes\nnumber   1.5\n"
    )


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_agent(other: ThreadingHTTPServer, body: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """Something else at the admin address: exit code 1, and that is said."""
    other.body = body  # type: ignore[attr-defined]
    assert main(["explain", "--ip=::1", where(other)]) == 1
    assert "is no agent" in capsys.readouterr().err


# The status.


def test_status(agent: Running) -> None:
    """Into a pipe: plain text, a line for each pod, and what to do about a refusal."""
    done = agent.ask("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("metaproxy on ")
    assert "✗ not ready" in done.stdout
    [thief] = [line for line in done.stdout.splitlines() if line.startswith("shop/thief")]
    assert "NotPermitted" in thief
    assert "✗ shop/thief: " in done.stdout
    assert "\x1b" not in done.stdout
    assert SECRET not in done.stdout


def test_status_for_a_program(agent: Running) -> None:
    """The document, with the pods, their decisions and what the agent is."""
    done = agent.ask("status", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["agent"]["version"] == __version__
    assert {pod["name"]: pod["decision"]["allowed"] for pod in told["pods"]} == {"web": True, "thief": False}
    assert {check["name"] for check in told["checks"]} == {"pods", "namespaces", "identity", "witness", "listener"}
    assert SECRET not in done.stdout


def test_status_where_little_can_be_written(agent: Running) -> None:
    """A pipe in an encoding without our signs gets them written out, not a trace."""
    done = subprocess.run(
        [sys.executable, "-m", "metaproxy", "status", f"--admin.socket={agent.socket}"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u2717 not ready" in done.stdout


@pytest.mark.parametrize("words", [["health"], ["explain", "--pod=shop/web"], ["status", "--json"]])
def test_the_socket_is_asked_when_it_is_set(agent: Running, words: list[str]) -> None:
    """Whatever the address is: a probe in the agent's own container has the agent's own settings."""
    done = metaproxy(*words, METAPROXY_ADMIN__SOCKET=str(agent.socket), METAPROXY_ADMIN__LISTEN="127.255.255.254:9")
    assert (done.returncode, done.stderr) == (0, "")


def test_nobody_answers_at_the_socket(tmp_path: Path) -> None:
    """It is named."""
    done = metaproxy("health", f"--admin.socket={tmp_path / 'admin'}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"metaproxy: no agent answers at {tmp_path / 'admin'}: No such file or directory\n"


@pytest.mark.parametrize(("body", "said"), [(b"ok", "is no agent"), (b"[]", "is no agent")])
def test_status_of_something_else(
    other: ThreadingHTTPServer, body: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What answers and is no agent is told so, exit code 1."""
    other.body = body  # type: ignore[attr-defined]
    assert main(["status", where(other)]) == 1
    assert said in capsys.readouterr().err


def on_terminal(words: list[str], until: str, *, columns: int = 160) -> tuple[int, str]:
    """Run a command on a terminal, end it by Ctrl-C once that was said; its exit code and all that it said."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "metaproxy", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(theirs)
    said, interrupted = b"", False
    try:
        with contextlib.suppress(OSError):  # the terminal is gone with its last process
            while select.select([ours], [], [], PATIENCE)[0] and (part := os.read(ours, 65536)):
                said += part
                if until.encode() in said and not interrupted:
                    interrupted = True
                    process.send_signal(signal.SIGINT)
        return process.wait(PATIENCE), said.decode()
    finally:
        os.close(ours)
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("columns", "there", "left_out"),
    [(160, {"Address", "Carrier"}, set()), (110, {"Address"}, {"Carrier"}), (80, set(), {"Address", "Carrier"})],
)
def test_status_on_a_terminal(agent: Running, columns: int, there: set[str], left_out: set[str]) -> None:
    """A table, in colours, and of a narrow one what can best be missed is left out."""
    code, said = on_terminal(["status", f"--admin.socket={agent.socket}"], "\0", columns=columns)
    assert code == 0
    assert "\x1b[1;31m" in said
    bare = re.sub(r"\x1b\[[0-9;]*m", "", said)
    assert max(map(len, bare.splitlines())) <= columns
    heads = bare.splitlines()[next(n for n, line in enumerate(bare.splitlines()) if "Decision" in line)]
    for head in there | {"Pod", "Role", "Decision", "Freshness"}:
        assert head in heads
    for head in left_out:
        assert head not in heads


def test_status_is_watched(agent: Running) -> None:
    """On a screen of its own, until Ctrl-C, which is no failure."""
    code, said = on_terminal(["status", "--watch", f"--admin.socket={agent.socket}"], "shop/thief")
    assert code == 0
    assert "\x1b[?1049h" in said
    assert said.rindex("\x1b[?1049l") > said.rindex("shop/thief")
    assert "Traceback" not in said


def test_watching_outlives_the_agent(tmp_path: Path) -> None:
    """During an upgrade nobody answers for a moment: it says so, and asks again."""
    code, said = on_terminal(["status", "--watch", f"--admin.socket={tmp_path / 'admin'}"], "asking again")
    assert code == 0
    assert "no agent answers at" in said


PAGE = (DOCS / "status.md").read_text()


@pytest.mark.runs("docs/status.md", "metaproxy status", "metaproxy status …", "metaproxy run …", "metaproxy health …")
def test_the_commands_of_the_status_page(tmp_path: Path, typed: Typed) -> None:
    """Each does what the page says, with an agent that is started as the page says: no address, one socket."""
    path = tmp_path / "admin.sock"
    commands = [line.replace("/run/metaproxy/admin.sock", str(path)).split()[1:] for line in typed.each()]
    [run] = [words for words in commands if words[0] == "run"]
    (tmp_path / "pods.yaml").write_text(PODS)
    host = own_address()
    settings = {
        "METAPROXY_SOURCE__MANIFESTS": str(tmp_path / "pods.yaml"),
        "METAPROXY_SERVER__LISTEN": f"{host}:8181",
        "METAPROXY_UPSTREAM__URL": f"http://{host}:9",
        "METAPROXY_STS__ENDPOINT_URL": f"http://{host}:9",
        "METAPROXY_STS__REGION": "us-east-1",
        "METAPROXY_LOG__FORMAT": "json",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "metaproxy", *run], env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            if json.loads(line)["event"] == "listening":
                break
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        outcomes = {}
        try:
            for words in commands:
                if words[0] == "run":
                    continue
                if "--watch" in words:
                    outcomes[" ".join(words[:2])] = on_terminal([*words, f"--admin.socket={path}"], "shop/thief")[0]
                else:
                    outcomes[" ".join(words[:2])] = metaproxy(*words, METAPROXY_ADMIN__SOCKET=str(path)).returncode
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(PATIENCE)
            drain.join(PATIENCE)
    assert code == 0
    assert outcomes == {
        "status": 0,
        "status --watch": 0,
        "status --json": 0,
        f"health --admin.socket={path}": 0,
        "health --ready": 1,  # it has no identity here
    }
    assert not path.exists()


def test_every_condition_is_on_the_status_page() -> None:
    """And every path that the page tells of is there."""
    rows = re.findall(r"^\| ([a-z ]+) \|", PAGE, re.MULTILINE)
    assert {condition.value for condition in Condition} == set(rows) - {"condition", "path"}


def test_a_socket_that_is_somebodys(agent: Running, tmp_path: Path) -> None:
    """An agent does not start where another listens: exit code 1, and the other goes on."""
    done = metaproxy(
        "run",
        f"--source.manifests={tmp_path}",
        f"--admin.socket={agent.socket}",
        "--admin.listen=none",
        f"--server.listen={own_address()}:8181",
    )
    assert done.returncode == 1
    assert "another process listens there" in done.stdout
    assert metaproxy("health", f"--admin.socket={agent.socket}").returncode == 0

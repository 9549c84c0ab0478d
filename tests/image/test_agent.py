"""The agent's image at work: its own user, no capability, nothing to write to, and pods that are answered."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.fakes.process import OWN_SECRET, ROLES, AgentProcess
from tests.fakes.sts import NODE_KEY, FakeSts
from tests.image.building import Image
from tests.image.containers import Container

pytestmark = pytest.mark.timeout(900)

WEB, THIEF = "127.0.0.2", "127.0.0.3"
USER = 65532

MANIFESTS = """\
kind: Namespace
metadata: {name: shop, annotations: {iam.amazonaws.com/permitted: '.*:role/shop-.*'}}
---
kind: Pod
metadata: {namespace: shop, name: web, annotations: {iam.amazonaws.com/role: shop-web}}
status: {phase: Running, podIP: 127.0.0.2}
---
kind: Pod
metadata: {namespace: shop, name: thief, annotations: {iam.amazonaws.com/role: bank}}
status: {phase: Running, podIP: 127.0.0.3}
"""

PLACES = ("/", "/tmp", "/run", "/opt/metaproxy", "/var/tmp", "/etc")

WRITE = """\
import errno, os, sys
for place in sys.argv[1:]:
    try:
        os.close(os.open(place + "/x", os.O_CREAT | os.O_WRONLY))
    except OSError as error:
        print(place, errno.errorcode[error.errno])
    else:
        print(place, "WRITTEN")
"""


class ContainedAgent(AgentProcess):
    """`metaproxy run` in a container of the image."""

    def __init__(self, image: Image, folder: Path, sts: FakeSts) -> None:
        flags = "--source.manifests=/pods/pods.yaml", "--tokens.key-file=/key/key", f"--sts.endpoint-url={sts.url}"
        super().__init__(folder, flags, {})
        for name in ("pods", "key"):
            (folder / name).mkdir()
        (folder / "pods" / "pods.yaml").write_text(MANIFESTS)
        os.chown(folder / "key", USER, USER)
        self.container = Container(
            image=image,
            folder=folder,
            arguments=("run", *self._arguments),
            environment={"AWS_ACCESS_KEY_ID": NODE_KEY, "AWS_SECRET_ACCESS_KEY": OWN_SECRET},
            shared={"/pods": (folder / "pods", "ro"), "/key": (folder / "key", "rw")},
        )

    async def start(self) -> None:
        """Start the container."""
        command = await asyncio.to_thread(self.container.command)
        with self.log_file.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)

    async def execute(self, *command: str, user: str = "") -> tuple[int, str]:
        """Exit code and words of a command in the container."""
        done = await asyncio.to_thread(lambda: self.container.execute(*command, user=user))
        return done.returncode, done.stdout + done.stderr


@asynccontextmanager
async def answering(image: Image, folder: Path) -> AsyncIterator[ContainedAgent]:
    """A running agent that is ready, and ends with 0 when it is told to."""
    async with FakeSts() as sts:
        made = ContainedAgent(image, folder, sts)
        begun = asyncio.get_running_loop().time()
        await made.start()
        try:
            await made.until_ready()
            await made.until_told(WEB, 200, "shop-web")
            print(f"first answer {asyncio.get_running_loop().time() - begun:.2f} s after the container's start")
            yield made
        except BaseException:
            print(made.log())
            raise
        finally:
            code = await made.stop()
        assert code == 0, made.log()


@pytest.fixture
async def contained(agent: Image, tmp_path: Path) -> AsyncIterator[ContainedAgent]:
    """One on this machine's own platform."""
    async with answering(agent, tmp_path) as made:
        yield made


async def test_it_answers_pods(contained: ContainedAgent) -> None:
    """Credentials for whom they are, a refusal with its reason for whom not, one JSON object a line in the log."""
    status, body = await contained.ask(WEB, f"{ROLES}shop-web")
    assert status == 200
    assert json.loads(body)["Code"] == "Success"
    status, body = await contained.ask(THIEF)
    assert (status, json.loads(body)["code"]) == (403, "NotPermitted")
    assert all(isinstance(json.loads(line), dict) for line in contained.log().splitlines())


async def test_its_commands_are_at_hand(contained: ContainedAgent) -> None:
    """What a probe and an operator run in the container: by the bare name, as the container's user."""
    for command, part in (
        (("health",), "ok"),
        (("health", "--ready"), "[+]"),
        (("explain", "--pod", "shop/web"), "shop-web"),
    ):
        code, said = await contained.execute("metaproxy", *command, f"--admin.listen={contained.admin}")
        assert (code, part in said) == (0, True), said


async def test_nothing_can_be_written_to(contained: ContainedAgent) -> None:
    """Not even by root: there is no writable place but the key's folder, and the agent has put its key there alone."""
    for user in ("", "0:0"):
        code, said = await contained.execute("python3", "-c", WRITE, *PLACES, user=user)
        assert (code, said.splitlines()) == (0, [f"{place} EROFS" for place in PLACES])
    assert [path.name for path in (contained.log_file.parent / "key").iterdir()] == ["key"]


async def test_it_has_no_power(contained: ContainedAgent) -> None:
    """The first process is the agent itself, as the image's user, without a capability and without a way to get one."""
    code, said = await contained.execute("cat", "/proc/1/status")
    status = dict(line.split(":\t", 1) for line in said.splitlines())
    assert code == 0
    assert status["Uid"].split() == [str(USER)] * 4
    assert status["Gid"].split() == [str(USER)] * 4
    assert status["Groups"].split() == []
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    _, command = await contained.execute("cat", "/proc/1/cmdline")
    assert command.split("\0")[1:3] == ["/opt/metaproxy/bin/metaproxy", "run"]


async def test_it_runs_on_what_has_no_shell(images: dict[str, Image], tmp_path: Path) -> None:
    """A runtime of the operator's own: it takes the same Python and nothing else of Debian's."""
    bare = await asyncio.to_thread(images["agent"].store.build_bare)
    assert not (bare.root / "bin/sh").exists()
    done = await asyncio.to_thread(Container(image=bare, folder=tmp_path, arguments=("run", "--help")).run)
    assert (done.returncode, done.stdout.partition("\n")[0]) == (0, "usage: metaproxy run [settings]"), done.stderr


async def test_it_compiles_nothing_at_its_start(contained: ContainedAgent) -> None:
    """Every module that a start imports was compiled with the image: it could not be kept otherwise."""
    code, said = await contained.execute("python3", "-v", "-c", "import metaproxy.app, metaproxy.kubeaccess")
    assert code == 0
    # Quoted where it was read, unquoted where it was made from the source.
    assert "code object from '/opt/metaproxy/" in said
    assert "code object from /opt/metaproxy/" not in said

"""`metaproxy doctor` as a process: exit codes, both forms of the answer, a peer's flags, foreign text in a terminal."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from metaproxy.__main__ import main
from metaproxy.findings import CHECKS
from metaproxy.pods import PERMITTED, ROLE
from tests.fakes.process import OWN_SECRET, PATIENCE
from tests.fakes.sts import NODE_KEY, FakeSts

FOREIGN = "x\x1b]0;owned\x07\r\nok\u202e\x9b31m"
"""What no terminal should be given: a title, a line of its own, a turned direction, a colour."""


class Machine:
    """A folder with manifests, and an STS."""

    def __init__(self, folder: Path, sts: FakeSts) -> None:
        self._folder, self._sts = folder, sts

    def declare(self, role: str, permitted: str = ".*", owner: str = "web") -> None:
        """One pod with a role, and what its namespace permits; the API server takes any text for an owner's name."""
        space = {"kind": "Namespace", "metadata": {"name": "shop", "annotations": {PERMITTED: permitted}}}
        owners = [{"controller": True, "apiVersion": "v1", "kind": "Any", "name": owner, "uid": "u"}]
        metadata = {"name": "web", "namespace": "shop", "annotations": {ROLE: role}, "ownerReferences": owners}
        pod = {"kind": "Pod", "metadata": metadata}
        documents = [{"apiVersion": "v1", **each} for each in (space, {**pod, "spec": {}})]
        (self._folder / "pods.yaml").write_text(yaml.safe_dump_all(documents))

    async def doctor(self, *words: str) -> tuple[int, str, str]:
        """Run it: exit code, what it printed, what it complained of."""
        where = f"--source.manifests={self._folder}", f"--sts.endpoint-url={self._sts.url}", "--sts.region=us-east-1"
        command = [sys.executable, "-m", "metaproxy", "doctor", *where, "--upstream.url=http://127.0.0.1:9", *words]
        own = {"AWS_ACCESS_KEY_ID": NODE_KEY, "AWS_SECRET_ACCESS_KEY": OWN_SECRET}
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **own},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE):
            out, errors = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), errors.decode()


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    """With an STS that refuses nobody."""
    async with FakeSts() as sts:
        yield Machine(tmp_path, sts)


async def test_the_table(machine: Machine) -> None:
    """A problem, and so exit code 1; nothing on the other stream, no log in between, no secret."""
    machine.declare("web", permitted="none")
    code, out, errors = await machine.doctor()
    assert (code, errors) == (1, "")
    rows = [line for line in out.splitlines() if not line.startswith(" ")]
    told = {line[13:].split()[0] for line in rows[:-2]}
    assert told == set(CHECKS) - {"compat"}
    assert rows[-2] == "not made: compat (see metaproxy doctor --help)"
    assert any(line.startswith("problem") and "NotPermitted" in line for line in rows)
    assert OWN_SECRET not in out


async def test_for_a_program(machine: Machine) -> None:
    """JSON alone; the exit code says the same as `ok`."""
    machine.declare("web")
    code, out, _ = await machine.doctor("--json")
    answer = json.loads(out)
    assert (code == 0) is answer["ok"]
    by_check = {finding["check"]: finding for finding in answer["findings"]}
    assert by_check["roles"]["verdict"] == "ok"
    assert by_check["own-identity"]["found"].startswith("arn:aws:sts::123456789012:assumed-role/node/")


async def test_the_node_alone(machine: Machine) -> None:
    """What was not looked at is named as such; the pods' file is not even read."""
    machine.declare("web", permitted="none")
    code, out, errors = await machine.doctor("--node", "--json", "--source.manifests=/nowhere")
    assert errors == ""
    answer = json.loads(out)
    assert (code == 0) is answer["ok"]
    made = {finding["check"] for finding in answer["findings"]}
    assert made == {"clock", "net-raw", "second-networks", "redirect", "leftover-rules", "source-route"}
    assert set(answer["not_made"]) == set(CHECKS) - made


async def test_a_peer(machine: Machine) -> None:
    """Its flags stand behind two dashes."""
    machine.declare("web")
    code, out, _ = await machine.doctor("--json", "--compat", "kube2iam", "--", "--namespace-restrictions")
    assert code in {0, 1}
    [row] = [each for each in json.loads(out)["findings"] if each["check"] == "compat"]
    assert (row["verdict"], row["subjects"]) == ("warning", ["shop/web"])
    assert row["found"].startswith("both annotations count")


@pytest.mark.parametrize("form", [[], ["--json"]])
async def test_what_pods_owners_write_does_nothing_to_a_terminal(machine: Machine, form: list[str]) -> None:
    """It is shown, spelt out."""
    machine.declare(FOREIGN, owner=FOREIGN)
    _, out, _ = await machine.doctor(*form, "--compat", "kiam")
    assert out.count("owned") >= 2
    assert all(char.isprintable() for line in out.splitlines() for char in line)
    assert not any(line.startswith("ok\\") for line in out.splitlines())


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--compat", "kube3iam"], "kube3iam"),
        (["--compat", "kiam", "--", "--nonsense"], "--nonsense"),
        (["--", "--role-base-arn=x"], "--compat"),
        (["--sts.rgion=x"], "--sts.region"),
        (["--node", "--compat", "kiam"], "--node"),
    ],
)
def test_bad_usage(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and what is wrong."""
    assert main(["doctor", *words]) == 2
    out, errors = capsys.readouterr()
    assert not out
    assert complaint in errors

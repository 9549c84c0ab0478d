"""The policy guide: its manifests, given to the agent as a process, and asked by the guide's own commands."""

import asyncio
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from metaproxy.errors import Reason
from metaproxy.metricnames import METRICS
from tests.fakes.process import running
from tests.fakes.sts import FakeSts
from tests.guides import Typed

pytestmark = pytest.mark.timeout(180)

GUIDE = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
(MANIFESTS,) = re.findall(r"^```yaml\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
GETS = re.findall(r"^\| `([a-z]+/[a-z]+)` \| (?:(\d+) )?`([^`]+)` \|$", GUIDE, re.MULTILINE)

NOBODYS = "192.0.2.1"
"""An address that no pod has, which is explained, and no success."""


async def explained(words: list[str], admin: str) -> dict[str, object]:
    """What `metaproxy explain` prints, as JSON."""
    command = [sys.executable, "-m", "metaproxy", *words[1:], "--admin.listen", admin]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert process.returncode == (1 if NOBODYS in words else 0)
    if "--json" not in words:
        assert said.strip()
        return await explained([*words, "--json"], admin)
    document: dict[str, object] = json.loads(said)
    return document


@pytest.mark.runs("docs/policy.md", "metaproxy run …", "metaproxy explain …")
async def test_the_example_is_true(tmp_path: Path, typed: Typed) -> None:
    """Each pod of the table gets what the table says."""
    words = shlex.split(typed("metaproxy run …"))
    assert words[:3] == ["metaproxy", "run", "--source.manifests"]
    (tmp_path / words[3]).write_text(MANIFESTS)
    assert len(GETS) == MANIFESTS.count("kind: Pod")
    async with FakeSts() as sts:
        arguments = [f"--sts.endpoint-url={sts.url}", *words[4:]]
        async with running(tmp_path, f"--source.manifests={tmp_path / words[3]}", *arguments) as agent:
            await agent.until_ready()
            admin = agent.admin
            for pod, status, gets in GETS:
                about = await explained(["metaproxy", "explain", "--pod", pod, "--json"], admin)
                decision = about["decision"]
                assert isinstance(decision, dict)
                assert (about.get("role"), decision.get("reason")) == ((None, gets) if status else (gets, None)), pod
            for line in typed.each("metaproxy explain …"):
                assert await explained(shlex.split(line.replace("ADDRESS", NOBODYS)), admin)


def test_every_refusal_is_in_the_table() -> None:
    """With its code, and nothing that is none; the metric is called so."""
    table = GUIDE[GUIDE.index("## Every refusal") :]
    rows = re.findall(r"^\| (`[^|]*`) \| ", table, re.MULTILINE)
    assert sorted(code for row in rows for code in re.findall(r"`(\w+)`", row)) == sorted(map(str, Reason))
    (metric,) = re.findall(r"`(metaproxy_\w+)`", table)
    assert metric in {spec.name for spec in METRICS}

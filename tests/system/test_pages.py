"""Commands of the README and of docs/doctor.md and docs/operations.md, typed as they stand there."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM

import pytest
import yaml

from tests.fakes.desk import Desk
from tests.fakes.process import OWN_SECRET, own_address
from tests.fakes.sts import NODE_KEY, FakeSts
from tests.guides import Typed
from tests.network.lab.processes import Process

pytestmark = pytest.mark.timeout(300)

PODS = """\
kind: Namespace
metadata: {name: shop, annotations: {iam.amazonaws.com/permitted: '.*:role/shop-.*'}}
---
kind: Pod
metadata: {namespace: shop, name: web, annotations: {iam.amazonaws.com/role: shop-web}}
status: {phase: Running, podIP: 127.0.0.2}
"""


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """With the manifests of one pod, an STS that refuses nobody, and addresses of its own."""
    (tmp_path / "pods.yaml").write_text(PODS)
    host = own_address()
    async with FakeSts() as sts:
        yield Desk(
            tmp_path,
            AWS_ACCESS_KEY_ID=NODE_KEY,
            AWS_SECRET_ACCESS_KEY=OWN_SECRET,
            METAPROXY_ADMIN__LISTEN=f"{host}:9181",
            METAPROXY_SERVER__LISTEN=f"{host}:8181",
            METAPROXY_LOG__FORMAT="json",
            METAPROXY_ROLE_BASE_ARN="arn:aws:iam::123456789012:role/",
            METAPROXY_STS__ENDPOINT_URL=sts.url,
            METAPROXY_STS__REGION="us-east-1",
            METAPROXY_UPSTREAM__URL=f"http://{host}:9",
        )


@contextmanager
def running(desk: Desk, line: str, event: str = "listening") -> Iterator[Process]:
    """A command that goes on, until it is told to stop, which it must do well."""
    process = desk.start(line)
    try:
        process.wait_for(f'"{event}"')
        yield process
    finally:
        process.end(SIGTERM)
    assert process.popen.returncode == 0, process.lines


@pytest.mark.runs(
    "README.md",
    "metaproxy run --source.manifests …",
    "metaproxy config --source.manifests pods.yaml",
    "metaproxy health",
    "metaproxy status",
    "metaproxy explain --pod shop/web",
    "metaproxy doctor --source.manifests pods.yaml",
)
async def test_the_readme(desk: Desk, typed: Typed) -> None:
    """An agent anywhere, and everything that it can be asked."""
    await asyncio.to_thread(_the_readme, desk, typed)


def _the_readme(desk: Desk, typed: Typed) -> None:
    config = desk.type(typed("metaproxy config --source.manifests pods.yaml"))
    assert "pods.yaml" in config
    host = desk.environment["METAPROXY_SERVER__LISTEN"].partition(":")[0]
    # Another test may have the port of the page.
    with running(desk, typed("metaproxy run --source.manifests …").replace("127.0.0.1", host)):
        desk.type(typed("metaproxy health"))
        assert "shop/web" in desk.type(typed("metaproxy status"))
        assert "arn:aws:iam::123456789012:role/shop-web" in desk.type(typed("metaproxy explain --pod shop/web"))
        # The desk is no node, so something may be missing; but it is asked.
        table = desk.type(typed("metaproxy doctor --source.manifests pods.yaml"), 0, 1)
        assert any(line.startswith("ok ") and " roles " in line for line in table.splitlines()), table


@pytest.mark.runs(
    "docs/doctor.md",
    "metaproxy doctor",
    "metaproxy doctor --node",
    "metaproxy doctor --json",
    "metaproxy doctor --compat …",
)
async def test_the_doctors_page(desk: Desk, typed: Typed) -> None:
    """As a table, of the node alone, for a program, and compared with a peer."""
    desk.environment["METAPROXY_SOURCE__MANIFESTS"] = "pods.yaml"
    table = await asyncio.to_thread(desk.type, typed("metaproxy doctor"), 0, 1)
    assert " own-identity " in table
    node = await asyncio.to_thread(desk.type, typed("metaproxy doctor --node"), 0, 1)
    assert "not made: own-identity" in node
    said = json.loads(await asyncio.to_thread(desk.type, typed("metaproxy doctor --json"), 0, 1))
    assert "compat" not in {finding["check"] for finding in said["findings"]}
    compared = await asyncio.to_thread(desk.type, typed("metaproxy doctor --compat …"), 0, 1)
    assert " compat " in compared


@pytest.mark.runs("docs/operations.md", "metaproxy run --config …")
async def test_the_upgrade_of_the_operations_page(desk: Desk, typed: Typed) -> None:
    """The same command twice: the second takes over from the first."""
    folder = desk.folder / "run"
    folder.mkdir(mode=0o700)
    settings = {"source": {"manifests": str(desk.folder / "pods.yaml")}}
    (desk.folder / "metaproxy.yaml").write_text(yaml.safe_dump(settings))
    await asyncio.to_thread(_upgrade, desk, typed("metaproxy run --config …").replace("/run/metaproxy", str(folder)))


def _upgrade(desk: Desk, line: str) -> None:
    with running(desk, line) as former:
        former.wait_for('"cold start: no predecessor is followed"')
        with running(desk, line, "taken over"):
            former.wait_for('"handed over"')
            former.end(SIGTERM)
            desk.type("metaproxy health --ready")

"""Commands of the README and of the pages about a running agent, typed as they stand there."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM

import pytest
import yaml

from tests.fakes.desk import PATIENCE, Desk
from tests.fakes.process import OWN_SECRET, own_address
from tests.fakes.sts import NODE_KEY, FakeSts
from tests.guides import Typed
from tests.network.lab.namespaces import until
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


@pytest.mark.runs("docs/doctor.md", "metaproxy iam hop-trust --node-role ARN")
@pytest.mark.runs("docs/faq.md", "metaproxy explain --pod NAMESPACE/NAME")
@pytest.mark.runs("docs/iam.md", "metaproxy explain --pod NAMESPACE/NAME")
@pytest.mark.runs("docs/install.md", "metaproxy config --config FILE --node-name any", "metaproxy health --ready")
@pytest.mark.runs("docs/migrate-from-kiam.md", "metaproxy doctor --node")
@pytest.mark.runs("docs/migrate-from-kube2iam.md", "metaproxy doctor --node")
@pytest.mark.runs("docs/networking.md", "metaproxy explain --ip ADDRESS", "metaproxy health --ready")
@pytest.mark.runs(
    "docs/operations.md",
    "metaproxy explain --pod NAMESPACE/NAME",
    "metaproxy explain --ip ADDRESS",
    "metaproxy health --ready",
)
@pytest.mark.runs(
    "docs/policy.md",
    "metaproxy explain --ip ADDRESS",
    "metaproxy health --ready",
    "metaproxy iam trust-policy --role ROLE",
)
@pytest.mark.runs("docs/runbooks.md", "metaproxy iam trust-policy --role ROLE")
@pytest.mark.runs("docs/security.md", "metaproxy explain --ip ADDRESS")
@pytest.mark.runs("docs/status.md", "metaproxy explain --pod NAMESPACE/NAME", "metaproxy explain --ip ADDRESS")
async def test_what_the_text_says_to_type(desk: Desk, typed: Typed) -> None:
    """Whoever reads on any page that something is asked so, is answered so."""
    await asyncio.to_thread(_the_text, desk, {*typed.each()})


def _the_text(desk: Desk, lines: set[str]) -> None:
    host = desk.environment["METAPROXY_SERVER__LISTEN"].partition(":")[0]
    answers = {
        "metaproxy explain --pod NAMESPACE/NAME": "arn:aws:iam::123456789012:role/shop-web",
        "metaproxy explain --ip ADDRESS": "shop/web",
        "metaproxy health --ready": "",
        "metaproxy iam trust-policy --role ROLE": "sts:AssumeRole",
        "metaproxy config --config FILE --node-name any": "from-the-file",
        "metaproxy doctor --node": "not made: own-identity",
        "metaproxy iam hop-trust --node-role ARN": "sts:AssumeRole",
    }
    (desk.folder / "FILE").write_text("cluster_name: from-the-file\n")
    node = "arn:aws:iam::123456789012:role/nodes"
    names = {"NAMESPACE/NAME": "shop/web", "ADDRESS": "127.0.0.2", "ROLE": "shop-web", "ARN": node}
    with running(desk, f"metaproxy run --source.manifests=pods.yaml --server.listen={host}:8181"):
        until(lambda: "[-]" not in desk.type("metaproxy health --ready", 0, 1), PATIENCE)
        desk.environment["METAPROXY_SOURCE__MANIFESTS"] = "pods.yaml"
        desk.environment["METAPROXY_ASSUME_ROLE_ARN"] = "arn:aws:iam::123456789012:role/hop"
        for line in sorted(lines):
            said = desk.type(filled(line, names), *((0, 1) if "doctor" in line else (0,)))
            assert answers.pop(line) in said
    assert answers == {}


def filled(line: str, names: Mapping[str, str]) -> str:
    """The line with the words that stand for something replaced."""
    for word, value in names.items():
        line = line.replace(word, value)
    return line


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

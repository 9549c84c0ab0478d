"""The README's command for an agent in a cluster, as it stands there."""

from pathlib import Path
from signal import SIGTERM

import pytest

from tests.cluster.harness import Cluster
from tests.fakes.desk import Desk
from tests.fakes.process import own_address
from tests.guides import Typed

pytestmark = pytest.mark.timeout(300)


@pytest.mark.runs("README.md", "metaproxy run --node-name …")
def test_an_agent_in_a_cluster(cluster: Cluster, node: str, tmp_path: Path, typed: Typed) -> None:
    """It knows its node's pods, and makes the key of its tokens; the rest of its settings is the machine's."""
    host = own_address()
    desk = Desk(
        tmp_path / "desk",
        NODE_NAME=node,
        METAPROXY_SOURCE__KUBECONFIG=str(cluster.write_kubeconfig(tmp_path / "kubeconfig")),
        METAPROXY_ADMIN__LISTEN=f"{host}:9181",
        METAPROXY_SERVER__LISTEN=f"{host}:8181",
        METAPROXY_LOG__FORMAT="json",
        METAPROXY_STS__ENDPOINT_URL=f"http://{host}:9",
        METAPROXY_STS__REGION="us-east-1",
        METAPROXY_UPSTREAM__URL=f"http://{host}:9",
    )
    folder = tmp_path / "key"
    folder.mkdir(mode=0o700)
    # The page's folder is the machine's own.
    agent = desk.start(typed("metaproxy run --node-name …").replace("/var/lib/metaproxy", str(folder)))
    try:
        agent.wait_for('"listening"')
        assert "pods" in desk.type("metaproxy health --ready", 0, 1)
    finally:
        agent.end(SIGTERM)
    assert agent.popen.returncode == 0, agent.lines
    assert (folder / "key").stat().st_mode & 0o777 == 0o600

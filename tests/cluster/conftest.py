"""The real API server as a fixture. What is missing for it fails loudly: these tests are never skipped."""

import secrets
from collections.abc import Iterator

import pytest

from tests.cluster.build import CannotBuildError, ensure
from tests.cluster.harness import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One running API server with etcd for the whole session; a test that breaks it asks for `fragile`."""
    try:
        binary = ensure()
    except CannotBuildError as error:
        pytest.fail(f"cluster tests cannot run: {error}", pytrace=False)
    with Cluster(binary, tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def fragile(cluster: Cluster) -> Iterator[Cluster]:
    """The same cluster, for a test that breaks it: mended afterwards, however the test ends."""
    yield cluster
    cluster.mend()


@pytest.fixture
def node() -> str:
    """The name of a node that no other test uses."""
    return f"node-{secrets.token_hex(4)}"


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    """A namespace that no other test uses. It stays: the cluster does not outlive the session."""
    name = f"ns-{secrets.token_hex(4)}"
    cluster.create_namespace(name)
    return name

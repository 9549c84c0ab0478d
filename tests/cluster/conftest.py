"""The real API server as a fixture. What is missing for it fails loudly: these tests are never skipped."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.build import CannotBuildError, ensure
from tests.cluster.harness import Cluster

_BUILT = pytest.StashKey[Path | CannotBuildError]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build before the first test when one asks for it.

    Building takes minutes, which no test's time-out allows for; and the machine's HTTP proxy, which Go may need for
    the modules, is hidden from fixtures and tests.
    """
    wanted = any("server_binary" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:
        session.config.stash[_BUILT] = _built()


def _built() -> Path | CannotBuildError:
    try:
        return ensure()
    except CannotBuildError as error:
        return error


@pytest.fixture(scope="session")
def server_binary(pytestconfig: pytest.Config) -> Path:
    """The program that is all the servers."""
    # Not there when the fixture was asked for by `getfixturevalue` alone, which collecting cannot see.
    built = pytestconfig.stash[_BUILT] if _BUILT in pytestconfig.stash else _built()
    if isinstance(built, CannotBuildError):
        pytest.fail(f"cluster tests cannot run: {built}", pytrace=False)
    return built


@pytest.fixture(scope="session")
def cluster(server_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One running API server with etcd for the whole session; a test that breaks it asks for `fragile`."""
    with Cluster(server_binary, tmp_path_factory.mktemp("cluster")) as running:
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

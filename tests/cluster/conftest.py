"""The real API server as a fixture. What is missing for it fails loudly: these tests are never skipped."""

from collections.abc import Iterator

import pytest

from tests.cluster.build import CannotBuildError, ensure
from tests.cluster.harness import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One running API server with etcd for the whole session; a test that breaks it mends it."""
    try:
        binary = ensure()
    except CannotBuildError as error:
        pytest.fail(f"cluster tests cannot run: {error}", pytrace=False)
    with Cluster(binary, tmp_path_factory.mktemp("cluster")) as running:
        yield running

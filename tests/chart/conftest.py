"""What the chart's tests need: helm and its kin, the real API server. What is missing fails loudly."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chart.build import CannotBuildError, Tools, ensure
from tests.chart.controlplane.plane import ControlPlane
from tests.chart.helm import CHART, Helm
from tests.cluster.conftest import cluster, pytest_collection_finish, server_binary
from tests.network.conftest import build, pytest_report_header

__all__ = ["build", "cluster", "pytest_collection_finish", "pytest_report_header", "server_binary"]

_BUILT = pytest.StashKey[Tools | CannotBuildError]()


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Build before the first test: it takes minutes, and the machine's HTTP proxy is hidden from tests."""
    if config.option.collectonly:
        return
    try:
        config.stash[_BUILT] = ensure()
    except CannotBuildError as error:
        config.stash[_BUILT] = error


@pytest.fixture(scope="session")
def tools(pytestconfig: pytest.Config) -> Tools:
    """The programs."""
    built = pytestconfig.stash[_BUILT]
    if isinstance(built, CannotBuildError):
        pytest.fail(f"the chart's tests cannot run: {built}", pytrace=False)
    return built


@pytest.fixture(scope="session")
def helm(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm, with folders of its own."""
    return Helm(tools.helm, tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session", params=sorted(path.name for path in (CHART / "ci").iterdir()))
def case(request: pytest.FixtureRequest) -> Path:
    """Each file of values below ci/."""
    return CHART / "ci" / str(request.param)


@pytest.fixture(scope="session")
def root() -> None:
    """What is run as root in a container is run as root here."""
    assert os.geteuid() == 0, "the chart's containers are run as the kubelet would: that needs root"


@pytest.fixture(scope="session")
def controlplane(server_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A second cluster, in which scheduler and controllers run: in the first one nobody makes pods of a DaemonSet."""
    with ControlPlane(server_binary, tmp_path_factory.mktemp("controlplane")) as running:
        yield running

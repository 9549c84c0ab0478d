"""What the tests of the images need: root, the tools, and both images, built once."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.image.building import MACHINES, THERE, Image, Store
from tests.image.emulation import obstacle

TOOLS = ("buildah", "crun", "dockerd", "ip", "make", "mmdebstrap", "nft", "podman", "unshare")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Image]]:
    """The images by their targets."""
    assert os.geteuid() == 0, "the tests of the images need root: they mount"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    assert not missing, f"not installed: {', '.join(missing)}"
    folder = tmp_path_factory.mktemp("images")
    store = Store(folder)
    try:
        yield store.build()
    finally:
        store.close()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def there(images: dict[str, Image]) -> dict[str, Image]:
    """The images for the other platform, by their targets."""
    if why := obstacle(MACHINES[THERE]):
        assert os.environ.get("CI") != "true", why
        pytest.skip(f"images for {THERE} are neither built nor run here: {why}")
    return images["agent"].store.build_there()


@pytest.fixture
def agent(images: dict[str, Image]) -> Image:
    """The image that answers pods."""
    return images["agent"]


@pytest.fixture
def redirect(images: dict[str, Image]) -> Image:
    """The image that leads pods to the agent."""
    return images["redirect"]

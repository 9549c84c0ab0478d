"""The limit of open files: raised as far as it goes, and shared out below it."""

import resource
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from metaproxy import descriptors


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """Soft and hard limit, as they are again afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield soft, hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_soft_limit_is_raised_to_the_hard_one(limits: tuple[int, int]) -> None:
    """It is said once, and is so."""
    _, hard = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    with capture_logs() as logs:
        assert descriptors.lift() == descriptors.limit() == descriptors.lift() == hard
    assert [(line["event"], line["before"], line["limit"]) for line in logs] == [
        ("limit of open files raised", 1024, hard)
    ]


def test_a_limit_that_cannot_be_raised_stays(limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox may forbid it: that ends nothing, and is said."""

    def forbidden(_which: int, _limits: tuple[int, int]) -> None:
        raise PermissionError("not here")

    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(resource, "setrlimit", forbidden)
        assert descriptors.lift() == descriptors.limit() == 1024
    assert [(line["log_level"], line["error"]) for line in logs] == [("warning", "not here")]


@pytest.mark.parametrize(
    ("limit", "room"), [(1_048_576, 1_048_320), (1024, 768), (512, 256), (300, 75), (64, 16), (3, 1), (0, 1)]
)
def test_room_is_left_for_everything_else(limit: int, room: int) -> None:
    """Connections of pods never take the last descriptor."""
    assert descriptors.room(limit) == room

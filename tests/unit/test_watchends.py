"""What each error says of the version that is held, and when the next list has to be etcd's own."""

import pytest

from metaproxy.kubeanswers import KubeError, KubeIdentity, KubeTimeout, KubeUnreachable
from metaproxy.watchends import End, end_by


def refused(status: int, retry_after: float | None = None) -> KubeError:
    """An answer of that status."""
    return KubeError("no", reason="", status=status, retry_after=retry_after)


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (KubeIdentity("no", reason=""), End(reason="refused", trouble="no")),
        (refused(401), End(reason="refused", trouble="no")),
        (refused(403), End(reason="refused", trouble="no")),
        (refused(429, 7.0), End(reason="refused", trouble="no", retry_after=7.0)),
        (KubeTimeout("no", reason=""), End(reason="silence", trouble="no", relist=True)),
        (KubeUnreachable("no", reason=""), End(reason="lost", trouble="no")),
        (refused(500, 3.0), End(reason="error", trouble="no", relist=True, retry_after=3.0)),
        (refused(504), End(reason="error", trouble="no", relist=True)),
        (refused(410), End(reason="expired", trouble="no", relist=True, at_once=True)),
    ],
)
def test_what_ended_a_watch(error: KubeError, end: End) -> None:
    """The version is kept unless the error says something of it, or nothing at all was said."""
    assert end_by(error, listing=False, consistent=False, expired=False) == end


def test_a_version_that_is_too_old_again_needs_a_list_of_etcd() -> None:
    """And then there is no hurry: a whole fleet may come with the same."""
    end = end_by(refused(410), listing=False, consistent=False, expired=True)
    assert end == End(reason="expired", trouble="no", relist=True, consistent=True)


@pytest.mark.parametrize("status", [410, 504])
@pytest.mark.parametrize("consistent", [False, True])
def test_a_list_that_fails_by_its_version_alternates(status: int, consistent: bool) -> None:
    """From memory and from etcd in turn: one of the two answers."""
    end = end_by(refused(status), listing=True, consistent=consistent, expired=False)
    assert end == End(reason="expired", trouble="no", consistent=not consistent)

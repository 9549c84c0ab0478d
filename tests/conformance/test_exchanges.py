"""Requests, their steps and their answers, as they are found in a stream, and when a run gives up."""

import pytest

from tests.conformance.exchanges import Heads, Statuses, Step, recorded, refused_at, refused_late, requested
from tests.conformance.tally import OF_ALL, OF_ONE, Tally


def test_requests_in_pieces() -> None:
    """Each request is seen once, wherever the stream is cut."""
    whole = b"PUT /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\n\r\n"
    for cut in range(len(whole)):
        heads = Heads()
        found = heads.feed(whole[:cut]) + heads.feed(whole[cut:])
        assert found == ["PUT /a HTTP/1.1\r\nHost: x", "GET /b HTTP/1.1"]


@pytest.mark.parametrize(
    ("head", "shows"),
    [
        ("PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60", False),
        ("GET /a HTTP/1.1\r\nHost: x", False),
        ("GET /b HTTP/1.1\r\nX-aws-ec2-metadata-token: \r\nHost: x", False),
        ("GET /c HTTP/1.1\r\nX-Aws-Ec2-Metadata-Token: a==\r\nHost: x", True),
        ("GET /d HTTP/1.1\r\nhost: x\r\nx-aws-ec2-metadata-token:a==", True),
    ],
)
def test_who_shows_a_token(head: str, shows: bool) -> None:
    """A header that is empty shows none, nor does the one that asks for a token."""
    assert requested(head).shows is shows


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("PUT /latest/api/token HTTP/1.1", Step.TOKEN),
        ("GET /latest/meta-data/iam/security-credentials HTTP/1.1", Step.LIST),
        ("GET /latest/meta-data/iam/security-credentials/ HTTP/1.1", Step.LIST),
        ("GET /2021-03-23/meta-data/iam/security-credentials-extended/ HTTP/1.1", Step.LIST),
        ("GET /latest/meta-data/iam/security-credentials/role HTTP/1.1", Step.CREDENTIALS),
        ("GET /latest/meta-data/iam/security-credentials/role/ HTTP/1.1", Step.CREDENTIALS),
        ("GET /latest/meta-data/iam/security-credentials-extended/a%2Bb?x HTTP/1.1", Step.CREDENTIALS),
        ("GET /latest/meta-data/iam/info HTTP/1.1", Step.OTHER),
        ("GET / HTTP/1.1", Step.OTHER),
    ],
)
def test_steps(line: str, step: Step) -> None:
    """What a path asks for."""
    assert requested(f"{line}\r\nHost: x").step is step


def test_answers_in_pieces() -> None:
    """Each status is seen once, wherever the stream is cut, and whatever a body looks like."""
    whole = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\nHTTP/1.1 500 Body\r\n\r\nxyz"
        b"HTTP/1.1 404 Not Found\r\ncontent-length:1\r\nX: y\r\n\r\n."
        b"HTTP/1.1 503 Service Unavailable\r\n\r\n"
    )
    for cut in range(len(whole)):
        statuses = Statuses()
        assert statuses.feed(whole[:cut]) + statuses.feed(whole[cut:]) == [200, 404, 503], cut


def test_where_it_was_refused() -> None:
    """The last refusal counts; a token that is asked for anew is none, nor is what nobody answered."""
    told = [recorded("GET", route, status) for route, status in (("list", 503), ("list", 404), ("list", 401))]
    assert refused_at([*told, recorded("GET", "credentials", 0)]) == "list 404"
    assert refused_at([recorded("PUT", "token", 200)]) == ""
    assert refused_late([*told, recorded("GET", "credentials", 401), recorded("GET", "credentials", 200)]) == 0
    assert refused_late([recorded("GET", "credentials", 403), recorded("GET", "credentials", 503)]) == 2


def test_one_client_is_given_up() -> None:
    """After too many cells that came to nothing it gets no more, and others do."""
    tally = Tally()
    for _ in range(OF_ONE):
        assert tally.plays("c")
        tally.lose("c")
    assert not tally.plays("c")
    assert tally.plays("d")
    assert not tally.over
    assert tally.words() == ["c, 1 cells were left out: too many came to nothing before, its own"]


def test_all_are_given_up() -> None:
    """After too many of different clients, nobody gets more."""
    tally = Tally()
    for number in range(OF_ALL):
        assert tally.plays(f"c{number}")
        tally.lose(f"c{number}")
    assert tally.over
    assert not tally.plays("d")
    assert tally.words() == [f"d, 1 cells were left out: too many came to nothing before, {OF_ALL} of all clients"]

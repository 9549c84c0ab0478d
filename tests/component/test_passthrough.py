"""Values of the node's own metadata service: asked for as EC2 wants it, kept, and had while it is away."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from structlog.testing import capture_logs

from metaproxy import passthrough
from metaproxy.errors import UpstreamUnavailable
from metaproxy.passthrough import ENTRIES, FAILED, FRESH, MISSING, TOKEN_LIFE, Item, Upstream
from metaproxy.telemetry import Metrics
from tests.fakes.upstream_imds import PROFILE, FakeUpstream

ID = "/latest/meta-data/instance-id"
TYPE = "/latest/meta-data/instance-type"
VALUE = b"i-0123456789abcdef0"

Made = Callable[..., AbstractAsyncContextManager[Upstream]]


class Timer:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
async def fake() -> AsyncIterator[FakeUpstream]:
    """The metadata service of the node."""
    async with FakeUpstream() as service:
        yield service


@pytest.fixture
def timer() -> Timer:
    """The clock of what is kept."""
    return Timer()


@pytest.fixture
def metrics() -> Metrics:
    """Metrics of their own for each test."""
    return Metrics()


@pytest.fixture
async def upstream(fake: FakeUpstream, timer: Timer, metrics: Metrics) -> AsyncIterator[Upstream]:
    """Ours, with time to spare: only tests of time-outs set their own."""
    async with Upstream(fake.url + "/", metrics=metrics, timer=timer, total_timeout=20, connect_timeout=20) as made:
        yield made


@asynccontextmanager
async def running(upstream: Upstream) -> AsyncIterator[None]:
    """Its eternal task."""
    task = asyncio.create_task(upstream.run())
    try:
        yield
    finally:
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_item_is_asked_for_once_with_a_token_of_our_own(upstream: Upstream, fake: FakeUpstream) -> None:
    """One token, one request, then the copy; nothing but our own few headers goes out."""
    assert "not asked yet" in upstream.status()
    assert await upstream.get(ID) == Item(status=200, body=VALUE, content_type="text/plain; charset=utf-8")
    await upstream.get(ID)
    await upstream.get(TYPE)
    assert fake.gets == [ID, TYPE]
    assert fake.puts == 1
    assert fake.seen[0].headers["X-aws-ec2-metadata-token-ttl-seconds"] == "21600"
    known = {"Host", "Accept", "Accept-Encoding", "User-Agent", "X-aws-ec2-metadata-token"}
    assert {name for request in fake.seen if request.method == "GET" for name in request.headers} == known
    assert upstream.status() == f"{fake.url.removeprefix('http://')} answers (with tokens)"


async def test_many_who_ask_at_once_are_one_request(upstream: Upstream, fake: FakeUpstream) -> None:
    """One flight serves everybody; that the first of them goes away harms nobody."""
    fake.gate.clear()
    waiting = [asyncio.create_task(upstream.get(ID)) for _ in range(100)]
    await fake.arrived.wait()
    waiting[0].cancel()
    await asyncio.wait([waiting[0]])
    fake.gate.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert {answer.body for answer in answers[1:] if isinstance(answer, Item)} == {VALUE}
    assert fake.gets == [ID]


async def test_values_are_good_for_an_hour(upstream: Upstream, fake: FakeUpstream, timer: Timer) -> None:
    """A value is asked for again only after an hour."""
    await upstream.get(ID)
    fake.items["meta-data/instance-id"] = "i-new"
    timer.now += FRESH - 1
    assert (await upstream.get(ID)).body == VALUE
    timer.now += 2
    assert (await upstream.get(ID)).body == b"i-new"


async def test_what_is_missing_is_remembered_for_a_minute(
    upstream: Upstream, fake: FakeUpstream, timer: Timer, metrics: Metrics
) -> None:
    """404 is an answer, without the service's own page; it holds for a minute, also for what was there before."""
    await upstream.get(ID)
    value = fake.items.pop("meta-data/instance-id")
    timer.now += FRESH + 1
    for _ in range(3):
        assert await upstream.get(ID) == Item(status=404, body=b"", content_type="text/plain; charset=utf-8")
    assert len(fake.gets) == 2
    fake.items["meta-data/instance-id"] = value
    timer.now += MISSING + 1
    assert (await upstream.get(ID)).body == VALUE
    sample = metrics.registry.get_sample_value
    assert sample("metaproxy_upstream_requests_total", {"outcome": "missing"}) == 1
    assert sample("metaproxy_upstream_requests_total", {"outcome": "ok"}) == 2


async def test_a_copy_is_served_while_the_service_is_away(
    upstream: Upstream, fake: FakeUpstream, timer: Timer, metrics: Metrics
) -> None:
    """However old, a copy is better than nothing; the dead service is asked once in a while, and said to be dead."""
    await upstream.get(ID)
    fake.broken = True
    with capture_logs() as logs:
        timer.now += 100 * FRESH
        for _ in range(5):
            assert (await upstream.get(ID)).body == VALUE
        asked = len(fake.seen)
        timer.now += FAILED + 1
        assert (await upstream.get(ID)).body == VALUE
    assert asked < len(fake.seen) <= 2 * asked
    assert [entry["event"] for entry in logs] == ["the node's metadata service does not answer"]
    assert "answers" not in upstream.status()
    assert metrics.registry.get_sample_value("metaproxy_upstream_requests_total", {"outcome": "failed"}) == 2
    fake.broken = False
    timer.now += FAILED + 1
    assert (await upstream.get(ID)).body == VALUE
    assert "answers" in upstream.status()


async def test_without_a_copy_it_is_unavailable(upstream: Upstream, fake: FakeUpstream, timer: Timer) -> None:
    """The refusal is retryable and says what to look at; the failure is remembered for a moment."""
    fake.broken = True
    for _ in range(3):
        with pytest.raises(UpstreamUnavailable) as refusal:
            await upstream.get(ID)
        assert refusal.value.retryable
        assert "--upstream.url" in refusal.value.remedy
    assert len(fake.seen) <= 2, "the client itself may try a second connection"
    fake.broken = False
    timer.now += FAILED + 1
    assert (await upstream.get(ID)).body == VALUE


@pytest.mark.parametrize("status", [403, 404, 405])
async def test_a_service_without_tokens(upstream: Upstream, fake: FakeUpstream, timer: Timer, status: int) -> None:
    """Where there are no tokens it goes without, and asks for one again after an hour."""
    fake.required = False
    fake.token_status = status
    await upstream.get(ID)
    await upstream.get(TYPE)
    assert fake.puts == 1
    assert "X-aws-ec2-metadata-token" not in fake.seen[-1].headers
    assert "without tokens" in upstream.status()
    timer.now += FRESH + 1
    fake.token_status = 200
    await upstream.get(ID)
    assert "with tokens" in upstream.status()


async def test_tokens_that_are_demanded_since_a_moment_ago(upstream: Upstream, fake: FakeUpstream) -> None:
    """Who switches the node to required tokens while we go without costs one more request, no failure."""
    fake.required = False
    fake.token_status = 403
    await upstream.get(ID)
    fake.required = True
    fake.token_status = 200
    assert (await upstream.get(TYPE)).status == 200
    assert fake.puts == 2


async def test_a_forgotten_token_is_replaced_once(upstream: Upstream, fake: FakeUpstream, timer: Timer) -> None:
    """401 means another token and one more try; a service that refuses that too has failed."""
    await upstream.get(ID)
    fake.forget_tokens()
    assert (await upstream.get(TYPE)).status == 200
    assert fake.puts == 2
    fake.status = 401
    timer.now += FRESH + 1
    assert (await upstream.get(ID)).body == VALUE
    assert "it answered 401" in upstream.status()
    assert fake.puts == 3


async def test_tokens_are_renewed_ahead(upstream: Upstream, fake: FakeUpstream, timer: Timer) -> None:
    """Before its six hours are over a token is replaced."""
    await upstream.get(ID)
    timer.now += TOKEN_LIFE * 0.95
    await upstream.get(ID)
    assert fake.puts == 2
    assert fake.gets == [ID, ID], "not found out by a refusal"


@pytest.mark.parametrize(("status", "location"), [(302, "/latest/user-data"), (500, ""), (200, "")])
async def test_what_is_no_answer(upstream: Upstream, fake: FakeUpstream, status: int, location: str) -> None:
    """Redirects are never followed, errors are no values, and a body without end is cut off."""
    if status == 200:
        fake.items["meta-data/instance-id"] = "x" * (passthrough.BODY_LIMIT + 1)
    else:
        fake.status, fake.location = status, location
    with pytest.raises(UpstreamUnavailable, match="longer than" if status == 200 else f"it answered {status}"):
        await upstream.get(ID)
    assert fake.gets == [ID]


@pytest.mark.parametrize("trouble", ["500", "an odd token"])
async def test_no_token_to_be_had(upstream: Upstream, fake: FakeUpstream, trouble: str) -> None:
    """A failing token request, or a token that is none, is a failure, not a service without tokens."""
    if trouble == "500":
        fake.token_status = 500
    else:
        fake.token_status = 204
    with pytest.raises(UpstreamUnavailable, match="to the token request"):
        await upstream.get(ID)
    assert not fake.gets


async def test_a_slow_service_is_given_up(fake: FakeUpstream, metrics: Metrics) -> None:
    """Token and item together have one time limit; what waits is told, and nothing stays under way."""
    fake.gate.clear()
    async with asyncio.timeout(10), Upstream(fake.url, metrics=metrics, total_timeout=0.05) as upstream:
        with pytest.raises(UpstreamUnavailable, match="time"):
            await upstream.get(ID)
    assert passthrough.TOTAL_TIMEOUT == 0.8
    assert passthrough.CONNECT_TIMEOUT == 0.3


async def test_nobody_listens(metrics: Metrics, unused_tcp_port: int) -> None:
    """A refused connection is an outage like any other, also before and after its life."""
    upstream = Upstream(f"http://127.0.0.1:{unused_tcp_port}", metrics=metrics)
    with pytest.raises(UpstreamUnavailable, match="not running"):
        await upstream.get(TYPE)
    async with upstream:
        with pytest.raises(UpstreamUnavailable):
            await upstream.get(ID)


async def test_closing_ends_what_is_under_way(fake: FakeUpstream, metrics: Metrics) -> None:
    """Who still waits when it is closed is refused, not cancelled and not forgotten."""
    fake.gate.clear()
    async with Upstream(fake.url, metrics=metrics, total_timeout=20) as upstream:
        waiting = asyncio.create_task(upstream.get(ID))
        await fake.arrived.wait()
    with pytest.raises(UpstreamUnavailable, match="stopping"):
        await waiting


async def test_only_so_much_is_remembered(upstream: Upstream, fake: FakeUpstream) -> None:
    """Pods that make up paths below an allowed prefix cannot make it grow."""
    for number in range(ENTRIES + 10):
        fake.items[f"meta-data/x/{number}"] = "x"
        await upstream.get(f"/latest/meta-data/x/{number}")
        await upstream.get(f"/latest/meta-data/missing/{number}")
    for kept in (upstream._fresh, upstream._last, upstream._failed):
        assert len(kept) <= ENTRIES
    assert not upstream._flights


async def test_paths_are_fetched_ahead(fake: FakeUpstream, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pods will ask is held before they do, is tried again after a failure, and renewed before it is old."""
    monkeypatch.setattr(passthrough, "RETRY", 0.01)
    fake.broken = True
    async with Upstream(fake.url, metrics=metrics, paths=(ID, TYPE), total_timeout=20) as upstream, running(upstream):
        await fake.arrived.wait()
        monkeypatch.setattr(passthrough, "FRESH", 0.01)
        fake.broken = False
        async with asyncio.timeout(10):
            while len(fake.gets) < 4:
                fake.arrived.clear()
                await fake.arrived.wait()
    assert set(fake.gets) == {ID, TYPE}


async def test_prefetch_never_raises(upstream: Upstream, fake: FakeUpstream) -> None:
    """Fetching ahead is nobody's request, so its failures are said, not raised."""
    fake.broken = True
    await upstream.prefetch([ID, TYPE])
    fake.broken = False
    await upstream.prefetch([ID, TYPE])
    fake.seen.clear()
    await upstream.get(ID)
    assert not fake.seen


async def test_the_region(upstream: Upstream, fake: FakeUpstream, timer: Timer) -> None:
    """The region is told by its own item, else by the identity document, else it is unknown."""
    assert await upstream.region() == "eu-west-1"
    del fake.items["meta-data/placement/region"]
    timer.now += FRESH + 1
    assert await upstream.region() == "eu-west-1"
    for odd in ("[", "[]", "{}", '{"region": 7}', '{"region": "eu-west-1/evil"}', "[" * 60_000):
        fake.items["dynamic/instance-identity/document"] = odd
        timer.now += FRESH + 1
        with pytest.raises(UpstreamUnavailable, match="no region"):
            await upstream.region()


async def test_the_instance_profile(upstream: Upstream, fake: FakeUpstream, timer: Timer) -> None:
    """The node's instance profile is an ARN, or none when there is none."""
    assert await upstream.instance_profile_arn() == PROFILE
    del fake.items["meta-data/iam/info"]
    timer.now += FRESH + 1
    assert await upstream.instance_profile_arn() is None


async def test_a_password_in_the_url_is_not_shown() -> None:
    """What the operator sees of the service names its host, not the password by which it is asked."""
    async with Upstream("http://user:hunter2@127.0.0.1:9", metrics=Metrics()) as upstream:
        shown = upstream.status()

    assert "127.0.0.1:9" in shown
    assert "hunter2" not in shown

"""Our own identity, the separate role and AssumeRole, against an STS that does as told and one that checks trust."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from metaproxy import ownidentity
from metaproxy import sts as module
from metaproxy.demo_sts import DemoSts
from metaproxy.errors import (
    IssueError,
    Reason,
    StsDenied,
    StsInvalidRequest,
    StsOwnIdentity,
    StsRegionDisabled,
    StsThrottled,
    StsUnreachable,
)
from metaproxy.handoverstate import Own
from metaproxy.roles import AssumeRole, RoleArn
from metaproxy.sts import Options, Sts
from metaproxy.stsclient import StsClient
from tests.fakes.sts import NODE_ARN, NODE_KEY, FakeSts, Step
from tests.fakes.upstream_imds import FakeUpstream

pytestmark = pytest.mark.sockets

REGION = "eu-west-1"
APP = RoleArn.parse("arn:aws:iam::123456789012:role/team/app")
HOP = RoleArn.parse("arn:aws:iam::210987654321:role/metaproxy")
NODE_ROLE = "arn:aws:iam::123456789012:role/node"
NODE_SECRET = "node-secret-that-must-never-leak"
PATIENCE = 30.0


class Wall:
    """A wall clock that can be set ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        """Unix seconds."""
        return time.time() + self.ahead


@pytest.fixture
def wall() -> Wall:
    """The node's clock."""
    return Wall()


@pytest.fixture
async def fake(wall: Wall) -> AsyncIterator[FakeSts]:
    """An STS that keeps the node's time."""
    async with FakeSts(clock=wall) as fake:
        yield fake


@pytest.fixture(autouse=True)
def node_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node's own keys, in the environment; no metadata service."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", NODE_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", NODE_SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"token/of/{NODE_SECRET}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call waits for keys for as long as a busy machine takes to read botocore's models."""
    monkeypatch.setattr(module, "KEYS_WAIT", PATIENCE)


@asynccontextmanager
async def running(sts: Sts) -> AsyncIterator[Sts]:
    """The supplier with its eternal task, which must not have ended by itself."""
    async with sts:
        task = asyncio.create_task(sts.run(), name="own identity")
        try:
            yield sts
            assert not task.done(), task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def made(fake: FakeSts, wall: Wall) -> Callable[..., Any]:
    """What makes a running supplier that asks the fake."""

    def make(**options: Any) -> Any:
        find_region = options.pop("find_region", None)
        options = {"region": REGION, "endpoint_url": fake.url, "connect_timeout": PATIENCE, **options}
        return running(Sts(Options(**options), find_region=find_region, clock=wall, chance=lambda: 0.0))

    return make


def call(**parts: Any) -> AssumeRole:
    """A call for the application's role."""
    return AssumeRole(**{"role": APP, "session_name": "shop.web", "duration": 3600, **parts})


async def until(condition: Callable[[], Any]) -> None:
    """Turn the loop until the condition holds: only for what no event tells."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def refused(sts: Sts, what: AssumeRole | None = None) -> IssueError:
    """The failure of a call."""
    with pytest.raises(IssueError) as caught:
        await sts.issue(what or call())
    return caught.value


# One call


async def test_a_session_is_what_sts_gave(fake: FakeSts, made: Any, wall: Wall) -> None:
    """The answer's four values arrive, issued by our clock and expiring as STS says."""
    before = wall()
    async with made() as sts:
        session = await sts.issue(call())
    assert fake.owner(session.access_key_id) == (APP.arn, "shop.web", None)
    assert session.secret_access_key.reveal() == "secret/of/1"
    assert session.session_token.reveal() == "token/of/1=="
    assert session.account == "123456789012"
    assert before <= session.issued <= wall()
    assert abs(session.expires - session.issued - 3600) < 10


async def test_everything_in_the_key_is_sent(fake: FakeSts, made: Any) -> None:
    """Session name, duration, external id, tags and source identity are sent, signed by the node for its region."""
    async with made() as sts:
        await sts.issue(
            call(external_id="shop-1", tags=(("team", "a b"), ("cost", "7")), source_identity="web", duration=1800)
        )
    (asked,) = fake.calls()
    assert asked.parameters == {
        "Version": "2011-06-15",
        "RoleArn": APP.arn,
        "RoleSessionName": "shop.web",
        "DurationSeconds": "1800",
        "ExternalId": "shop-1",
        "Tags.member.1.Key": "team",
        "Tags.member.1.Value": "a b",
        "Tags.member.2.Key": "cost",
        "Tags.member.2.Value": "7",
        "SourceIdentity": "web",
    }
    assert (asked.key, asked.region) == (NODE_KEY, REGION)


async def test_nothing_optional_is_sent_unasked(fake: FakeSts, made: Any) -> None:
    """Tags, source identity and external id need permissions of their own: they are not sent empty."""
    async with made() as sts:
        await sts.issue(call())
    assert set(fake.calls()[0].parameters) == {"Version", "RoleArn", "RoleSessionName", "DurationSeconds"}


async def test_connections_are_kept_and_as_many_as_calls(fake: FakeSts, made: Any) -> None:
    """Eight calls at once use eight connections; eight more use the same."""
    async with made(connections=8) as sts:
        await sts.identity()
        fake.always = Step(delay=0.05)
        for _ in range(2):
            await asyncio.gather(*(sts.issue(call(session_name=f"pod-{number}")) for number in range(8)))
    assert fake.most_flying == 8
    assert len({asked.connection for asked in fake.asked}) <= 8


ERRORS: list[tuple[int, str, type[IssueError]]] = [
    (400, "Throttling", StsThrottled),
    (400, "ThrottlingException", StsThrottled),
    (503, "RequestLimitExceeded", StsThrottled),
    (429, "TooManyRequestsException", StsThrottled),
    (503, "SlowDown", StsThrottled),
    (429, "Whatever", StsThrottled),
    (500, "InternalFailure", StsUnreachable),
    (502, "", StsUnreachable),
    (503, "ServiceUnavailable", StsUnreachable),
    (504, "GatewayTimeout", StsUnreachable),
    (400, "RequestTimeout", StsUnreachable),
    (400, "NeverHeardOf", StsUnreachable),
    (400, "IDPCommunicationError", StsOwnIdentity),
    (403, "ExpiredToken", StsOwnIdentity),
    (400, "ExpiredTokenException", StsOwnIdentity),
    (403, "InvalidClientTokenId", StsOwnIdentity),
    (403, "UnrecognizedClient", StsOwnIdentity),
    (403, "SignatureDoesNotMatch", StsOwnIdentity),
    (400, "RequestExpired", StsOwnIdentity),
    (403, "InvalidSignature", StsOwnIdentity),
    (403, "AccessDenied", StsDenied),
    (403, "AccessDeniedException", StsDenied),
    (403, "NeverHeardOf", StsDenied),
    (400, "ValidationError", StsInvalidRequest),
    (400, "MalformedPolicyDocument", StsInvalidRequest),
    (400, "PackedPolicyTooLarge", StsInvalidRequest),
    (403, "SessionDurationEscalationException", StsInvalidRequest),
    (403, "RegionDisabledException", StsRegionDisabled),
]


@pytest.mark.parametrize(("status", "code", "kind"), ERRORS)
async def test_errors_are_told_apart(fake: FakeSts, made: Any, status: int, code: str, kind: type[IssueError]) -> None:
    """Every row of the contract's table of errors becomes its own refusal, with remedy, without keys."""
    async with made() as sts:
        await sts.identity()
        fake.settings[APP.arn] = Step(status=status, code=code, body=b"" if not code else None, message=NODE_KEY)
        failure = await refused(sts)
    assert type(failure) is kind
    assert failure.remedy
    assert NODE_KEY not in f"{failure.message} {failure.remedy}"
    assert failure.__cause__ is None
    assert failure.__context__ is None


@pytest.mark.parametrize(
    "step",
    [
        Step(body=b""),
        Step(body=b"<html>captive portal</html>"),
        Step(body=b"\x00\xff garbage"),
        Step(body=b"{}"),
        Step(status=403, body=b"<html>proxy says no</html>"),
        Step(status=500, body=b"<unfinished"),
        Step(status=302, body=b""),
        Step(edit=lambda text: text.replace("AccessKeyId", "Else")),
        Step(edit=lambda text: text.replace("secret/of/1", "")),
        Step(edit=lambda text: text.replace("token/of", 'to"ken')),
        Step(edit=lambda text: text.replace("token/of", "x" * 40_000)),
        Step(edit=lambda text: text.replace("<Expiration>", "<Expiration>not a date ")),
        Step(edit=lambda text: text.replace("Expiration", "Else")),
        Step(edit=lambda text: text.replace("assumed-role/app/", "assumed-role/admin/")),
        Step(edit=lambda text: text.replace("sts::123456789012", "sts::999999999999")),
        Step(reset=True),
    ],
    ids=lambda step: str(step.body or step.status) if step.body is not None else "edited" if not step.reset else "cut",
)
async def test_answers_that_are_none(fake: FakeSts, made: Any, step: Step) -> None:
    """Garbage, half answers, somebody else's sessions and cut connections are an STS that cannot be reached."""
    async with made() as sts:
        await sts.identity()
        fake.settings[APP.arn] = step
        failure = await refused(sts)
        assert type(failure) is StsUnreachable
        assert failure.retryable
        fake.settings.clear()
        await sts.issue(call())


async def test_a_session_over_on_arrival_blames_the_clock(fake: FakeSts, made: Any) -> None:
    """A session that our clock calls over says that a clock is wrong, instead of being fetched again and again."""
    async with made() as sts:
        fake.settings[APP.arn] = Step(life=-1000)
        failure = await refused(sts)
    assert (type(failure), failure.code) == (StsOwnIdentity, "ClockSkew")
    assert "clock" in failure.remedy


async def test_a_silent_sts_is_given_up(fake: FakeSts, made: Any) -> None:
    """An STS that takes the request and never answers costs the read time-out, no more."""
    async with made(read_timeout=0.2) as sts:
        await sts.identity()
        fake.settings[APP.arn] = Step(hang=True)
        failure = await refused(sts)
    assert (type(failure), failure.code) == (StsUnreachable, "ReadTimeoutError")


async def test_a_whole_call_is_bounded(fake: FakeSts, made: Any) -> None:
    """Whatever each step may take, the call ends in time."""
    async with made() as sts:
        await sts.identity()
        fake.settings[APP.arn] = Step(hang=True)
        # Only now: finding ourselves is bounded by it too, and takes its time on a busy machine.
        sts._options = replace(sts._options, call_timeout=0.2)
        failure = await refused(sts)
    assert (type(failure), failure.code) == (StsUnreachable, "TimeoutError")


async def test_nobody_listens(made: Any) -> None:
    """A refused connection is an STS that cannot be reached; the task lives on and says so."""
    async with made(endpoint_url="http://127.0.0.1:9") as sts:
        failure = await refused(sts)
        assert type(failure) is StsUnreachable
        await until(lambda: sts.trouble() and "StsUnreachable" in sts.trouble())


async def test_being_cancelled_is_being_cancelled(fake: FakeSts, made: Any) -> None:
    """A cancelled call ends as cancelled, and the next one works."""
    async with made() as sts:
        await sts.identity()
        fake.settings[APP.arn] = Step(hang=True)
        fake.arrived.clear()
        task = asyncio.create_task(sts.issue(call()))
        await fake.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        fake.settings.clear()
        await sts.issue(call())


async def test_an_idle_connection_that_sts_closed_is_no_failure(fake: FakeSts, made: Any) -> None:
    """A connection cut under the first request after a good one is tried once more; one that goes on is reported."""
    async with made() as sts:
        await sts.issue(call())
        fake.script(Step(reset=True), role=APP.arn)
        await sts.issue(call())
        assert len(fake.calls()) == 3
        fake.settings[APP.arn] = Step(reset=True)
        for expected in (5, 6, 7):
            assert type(await refused(sts)) is StsUnreachable
            assert len(fake.calls()) == expected


# What a refusal says


async def test_a_denial_names_the_missing_statement(fake: FakeSts, made: Any) -> None:
    """The remedy names the role, the principal that its trust policy must name, and every action that is needed."""
    async with made() as sts:
        await sts.identity()
        fake.settings[APP.arn] = Step(status=403, code="AccessDenied", message=f"User: {NODE_ARN} is not authorized")
        plain = await refused(sts)
        rich = await refused(sts, call(external_id="x1", tags=(("a", "b"),), source_identity="web"))
    assert APP.arn in plain.message
    assert NODE_ARN in plain.message
    for part in (APP.arn, NODE_ROLE, "sts:AssumeRole"):
        assert part in plain.remedy
    assert "TagSession" not in plain.remedy
    for part in ("sts:TagSession", "sts:SetSourceIdentity", "external id"):
        assert part in rich.remedy
    assert (plain.status, plain.reason, plain.code) == (403, Reason.STS_DENIED, "AccessDenied")


async def test_the_words_of_sts_are_cut(fake: FakeSts, made: Any) -> None:
    """Long words of STS are cut, made one printable line, and carry no key id."""
    async with made() as sts:
        await sts.identity()
        words = f"line one\nline two {NODE_KEY} " + "xxx " * 2000
        fake.settings[APP.arn] = Step(status=400, code="ValidationError", message=words)
        failure = await refused(sts)
    assert len(failure.message) < 400
    assert failure.message.isprintable()
    assert "line one line two … xxx" in failure.message


async def test_a_refused_signature_tells_no_token(fake: FakeSts, made: Any) -> None:
    """STS repeats the signed headers, token included, when a signature is refused: none of that goes on."""
    async with made() as sts:
        await sts.identity()
        fake.settings[APP.arn] = Step(
            status=403, code="SignatureDoesNotMatch", message=f"x-amz-security-token:token/of/{NODE_SECRET}"
        )
        failure = await refused(sts)
    assert NODE_SECRET not in f"{failure.message} {failure.remedy} {failure.__cause__} {failure.__context__}"
    assert "clock" in failure.remedy


# Our own identity


async def test_who_we_are(fake: FakeSts, made: Any) -> None:
    """The identity is the one that STS knows the keys by; asking again asks nobody."""
    async with made() as sts:
        identity = await sts.identity()
        assert await sts.identity() == identity
        assert (identity.arn, identity.account, identity.partition) == (NODE_ARN, "123456789012", "aws")
        await until(lambda: sts.trouble() is None)
        assert NODE_ARN in sts.status()
    assert [asked.action for asked in fake.asked] == ["GetCallerIdentity"]


@pytest.mark.parametrize(
    "arn",
    ["not an arn", "arn:aws:sts::12:assumed-role/node/x", "arn:gcp:sts::123456789012:assumed-role/node/x"],
)
async def test_an_identity_that_is_none(fake: FakeSts, made: Any, arn: str) -> None:
    """An answer that names nobody is no identity."""
    fake.always = Step(edit=lambda text: text.replace(NODE_ARN, arn))
    async with made() as sts:
        with pytest.raises(StsUnreachable):
            await sts.identity()


async def test_a_user_is_named_as_it_is(fake: FakeSts, made: Any) -> None:
    """Own keys of a user, not of a role: the remedy names the user."""
    fake.arns[NODE_KEY] = "arn:aws:iam::123456789012:user/ops/deploy"
    async with made() as sts:
        await sts.identity()
        fake.settings[APP.arn] = Step(status=403, code="AccessDenied")
        failure = await refused(sts)
    assert "arn:aws:iam::123456789012:user/ops/deploy" in failure.remedy


async def test_the_first_call_waits_for_keys_not_for_the_proof(fake: FakeSts, made: Any) -> None:
    """A prefetch at the start needs our keys alone: it does not wait for STS to say who we are."""
    fake.settings["GetCallerIdentity"] = Step(hang=True)
    async with made() as sts:
        assert sts.trouble() == "STS has not answered yet"
        await sts.issue(call())
        assert sts.trouble() is None


async def test_no_credentials_at_all(fake: FakeSts, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keys the failure says so at once, however many ask, and keys that appear later are found."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    async with made() as sts:
        failures = await asyncio.gather(*(refused(sts) for _ in range(20)))
        assert {(type(failure), failure.code) for failure in failures} == {(StsOwnIdentity, "NoCredentialsError")}
        assert len({id(failure) for failure in failures}) == 20
        assert "NoCredentialsError" in sts.status()
        assert "StsOwnIdentity" in sts.trouble()
        with pytest.raises(StsOwnIdentity):
            await sts.identity()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", NODE_KEY)
        await until(lambda: sts.trouble() is None)
        await sts.issue(call())


async def test_half_credentials(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that is missing is our own trouble, not the pod's."""
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with made() as sts:
        failure = await refused(sts)
    assert (type(failure), failure.code) == (StsOwnIdentity, "PartialCredentialsError")


async def test_settings_that_botocore_cannot_use(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that is not there, or a region that is none, is named; the task lives on."""
    async with made(region="not a region") as sts:
        failure = await refused(sts)
        assert (type(failure), failure.code) == (StsOwnIdentity, "InvalidRegionError")
        assert "--sts.region" in failure.remedy
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    async with made() as sts:
        failure = await refused(sts)
        assert (type(failure), failure.code) == (StsOwnIdentity, "ProfileNotFound")


async def test_keys_that_changed_are_found(fake: FakeSts, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that STS calls expired are replaced by those at hand now, within the call that noticed."""
    async with made() as sts:
        await sts.identity()
        fake.arns["ASIANODE000000000001"] = NODE_ARN
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIANODE000000000001")
        fake.script(Step(status=403, code="ExpiredToken"), role=APP.arn)
        await sts.issue(call())
        assert [asked.key for asked in fake.calls()] == [NODE_KEY, "ASIANODE000000000001"]
        await until(lambda: sts.trouble() is None)


async def test_keys_that_stay_refused_are_not_hammered(fake: FakeSts, made: Any) -> None:
    """While STS refuses our keys it is asked by one task with pauses, however many pods wait; then it works again."""
    async with made() as sts:
        await sts.identity()
        fake.always = Step(status=403, code="ExpiredToken", message="gone")
        fake.asked.clear()
        failures = [await refused(sts) for _ in range(30)]
        assert {type(failure) for failure in failures} == {StsOwnIdentity}
        assert len(fake.calls()) == 1
        assert len(fake.asked) <= 4
        assert "ExpiredToken" in sts.trouble()
        fake.always = Step()
        await until(lambda: sts.trouble() is None)
        await sts.issue(call())


async def test_an_outage_of_sts_does_not_doubt_our_identity(
    fake: FakeSts, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once proven, our identity stays good while STS is down: readiness does not follow STS."""
    monkeypatch.setattr(ownidentity, "FRESH", 0.0)
    monkeypatch.setattr(module, "ROUND", 0.01)
    async with made() as sts:
        await sts.identity()
        fake.always = Step(status=503, code="ServiceUnavailable")
        await until(lambda: "StsUnreachable" in sts.status())
        assert sts.trouble() is None
        assert type(await refused(sts)) is StsUnreachable


async def test_throttled_while_asking_who_we_are(fake: FakeSts, made: Any) -> None:
    """Being throttled before we know who we are is told as that."""
    fake.always = Step(status=400, code="Throttling")
    async with made() as sts:
        with pytest.raises(StsThrottled):
            await sts.identity()


async def test_nothing_is_known_without_the_task(fake: FakeSts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that come before any round wait a moment and then say that they did."""
    monkeypatch.setattr(module, "KEYS_WAIT", 0.05)
    async with Sts(Options(region=REGION, endpoint_url=fake.url)) as sts:
        failure = await refused(sts)
        assert (failure.code, failure.status) == ("Pending", 503)
        assert sts.status() == "own identity not known yet"


async def test_a_region_that_comes_later(fake: FakeSts, made: Any) -> None:
    """Until the region is known calls fail with a remedy; once it is, they work."""
    answers: list[str | Exception] = [OSError("no metadata"), ""]

    async def find_region() -> str:
        answer = answers.pop(0) if answers else "ap-southeast-2"
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with made(region="", find_region=find_region) as sts:
        failure = await refused(sts)
        assert (type(failure), failure.code) == (StsOwnIdentity, "NoRegionError")
        assert "--sts.region" in failure.remedy
        await until(lambda: sts.trouble() is None)
        await sts.issue(call())
    assert {asked.region for asked in fake.asked} == {"ap-southeast-2"}


async def test_a_region_of_the_environment(fake: FakeSts, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a region told, botocore's own configuration is asked before the metadata service."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "sa-east-1")
    async with made(region="") as sts:
        await sts.issue(call())
    assert {asked.region for asked in fake.asked} == {"sa-east-1"}


async def test_no_region_and_nobody_to_ask(made: Any) -> None:
    """No region and nobody to ask is told, too."""
    async with made(region="") as sts:
        assert (await refused(sts)).code == "NoRegionError"


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us-east-1", "sts.us-east-1.amazonaws.com"),
        ("eu-west-1", "sts.eu-west-1.amazonaws.com"),
        ("af-south-1", "sts.af-south-1.amazonaws.com"),
        ("us-gov-west-1", "sts.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "sts.cn-north-1.amazonaws.com.cn"),
        ("cn-northwest-1", "sts.cn-northwest-1.amazonaws.com.cn"),
        ("us-iso-east-1", "sts.us-iso-east-1.c2s.ic.gov"),
        ("us-isob-east-1", "sts.us-isob-east-1.sc2s.sgov.gov"),
        ("eu-isoe-west-1", "sts.eu-isoe-west-1.cloud.adc-e.uk"),
        ("us-isof-south-1", "sts.us-isof-south-1.csp.hci.ic.gov"),
        ("eusc-de-east-1", "sts.eusc-de-east-1.amazonaws.eu"),
    ],
)
async def test_the_regional_endpoint_of_every_partition(
    region: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Always the region's own endpoint with its partition's suffix, even where the global one is configured."""
    monkeypatch.setenv("AWS_STS_REGIONAL_ENDPOINTS", "legacy")
    client = await StsClient.open(Options(region=region), None)
    assert client.endpoint == f"https://{host}"
    await client.close()


# The separate role


async def test_application_roles_are_assumed_by_the_separate_role(fake: FakeSts, made: Any) -> None:
    """The node assumes the separate role for an hour; the separate role alone assumes application roles."""
    async with made(hop=HOP, hop_session_name="metaproxy-node/1", hop_external_id="nodes") as sts:
        await asyncio.gather(*(sts.issue(call(session_name=f"pod-{number}")) for number in range(10)))
        assert HOP.arn in sts.status()
        assert sts.trouble() is None
    (hop,) = fake.calls(HOP.arn)
    assert hop.key == NODE_KEY
    assert hop.parameters["RoleSessionName"] == "metaproxy-node-1"
    assert (hop.parameters["DurationSeconds"], hop.parameters["ExternalId"]) == ("3600", "nodes")
    assert {asked.key for asked in fake.calls(APP.arn)} == {"ASIA0000000000000001"}


async def test_first_calls_wait_for_one_flight_of_the_separate_role(fake: FakeSts, made: Any) -> None:
    """Calls that come first wait for the one AssumeRole of the separate role; a cancelled one spoils nothing."""
    gate = asyncio.Event()
    fake.settings[HOP.arn] = Step(gate=gate)
    async with made(hop=HOP) as sts:
        tasks = [asyncio.create_task(sts.issue(call(session_name=f"pod-{number}"))) for number in range(10)]
        await until(lambda: fake.calls(HOP.arn))
        tasks[0].cancel()
        gate.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert not [result for result in done[1:] if isinstance(result, BaseException)]
    assert len(fake.calls(HOP.arn)) == 1


async def test_the_separate_role_is_renewed_at_half_life(fake: FakeSts, made: Any, wall: Wall) -> None:
    """Past half its life the separate role's session is replaced, without a call that waits or fails."""
    async with made(hop=HOP) as sts:
        await sts.issue(call())
        wall.ahead = 1500
        await sts.issue(call())
        assert len(fake.calls(HOP.arn)) == 1
        wall.ahead = 2200
        await sts.issue(call())
        await until(lambda: len(fake.calls(HOP.arn)) == 2)
        await until(lambda: fake.flying == 0)
        await sts.issue(call())
    first, _, _, last = fake.calls(APP.arn)
    assert fake.owner(first.key)[0] == fake.owner(last.key)[0] == HOP.arn
    assert first.key != last.key


async def test_a_short_separate_session_is_renewed_by_time_alone(fake: FakeSts, made: Any) -> None:
    """The task renews by itself, nobody asking: a session that is as good as over is replaced at once."""
    fake.script(Step(life=4.0), role=HOP.arn)
    async with made(hop=HOP):
        await until(lambda: len(fake.calls(HOP.arn)) == 2)


async def test_the_separate_role_is_kept_while_it_is_good(fake: FakeSts, made: Any, wall: Wall) -> None:
    """A renewal that fails harms nobody until the session that is held is over; then calls say why."""
    async with made(hop=HOP) as sts:
        await sts.issue(call())
        fake.settings[HOP.arn] = Step(status=503, code="ServiceUnavailable")
        wall.ahead = 2200
        await sts.issue(call())
        await until(lambda: "StsUnreachable" in sts.status())
        await sts.issue(call())
        assert sts.trouble() is None
        wall.ahead = 3560
        assert type(await refused(sts)) is StsUnreachable
        assert sts.trouble() is not None
    assert len(fake.calls(HOP.arn)) == 2


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (400, "ValidationError"), (403, "RegionDisabledException")]
)
async def test_a_refused_separate_role_is_our_trouble(fake: FakeSts, made: Any, status: int, code: str) -> None:
    """That the separate role does not trust the node is no fault of pods: 503 with the statement that is missing."""
    fake.settings[HOP.arn] = Step(status=status, code=code)
    async with made(hop=HOP) as sts:
        failures = [await refused(sts) for _ in range(10)]
        assert {(type(failure), failure.status, failure.code) for failure in failures} == {(StsOwnIdentity, 503, code)}
        assert HOP.arn in failures[0].message
        assert HOP.arn in sts.trouble()
        assert code in sts.status()
        assert len(fake.calls(HOP.arn)) == 1
    assert not fake.calls(APP.arn)


async def test_who_must_be_trusted_through_the_separate_role(fake: FakeSts, made: Any) -> None:
    """With a separate role it is that one that application roles must trust, not the node's."""
    fake.settings[APP.arn] = Step(status=403, code="AccessDenied")
    async with made(hop=HOP) as sts:
        failure = await refused(sts)
    assert HOP.arn in failure.remedy
    assert NODE_ROLE not in failure.remedy


async def test_a_separate_session_that_sts_forgot_is_had_anew(fake: FakeSts, made: Any) -> None:
    """ExpiredToken while hopping: the separate role is assumed once more, and the calls that met it succeed."""
    async with made(hop=HOP) as sts:
        await sts.issue(call())
        fake.script(*(Step(status=403, code="ExpiredToken") for _ in range(5)), role=APP.arn)
        await asyncio.gather(*(sts.issue(call(session_name=f"pod-{number}")) for number in range(5)))
        assert len(fake.calls(HOP.arn)) == 2


async def test_refused_node_keys_while_hopping(
    fake: FakeSts, made: Any, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Node keys that expired under the separate role's renewal are replaced, proven, and the renewal goes on."""
    async with made(hop=HOP) as sts:
        await sts.identity()
        await sts.issue(call())
        fake.arns["ASIANODE000000000001"] = NODE_ARN
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIANODE000000000001")
        fake.script(Step(status=403, code="ExpiredToken"), role=HOP.arn)
        wall.ahead = 2200
        await sts.issue(call())
        await until(lambda: len(fake.calls(HOP.arn)) == 3)
    assert [asked.key for asked in fake.calls(HOP.arn)] == [NODE_KEY, NODE_KEY, "ASIANODE000000000001"]


# Who the process before was


FORMER = Own(away=True, arn=NODE_ARN.replace("i-", "i-9"), access_key_id=NODE_KEY, method="env", separate=None)


AWAY = [Step(reset=True)] * 2
"""Of a connection that ends once STS may not know."""


async def believes(sts: Sts, fake: FakeSts, own: Own) -> bool:
    """Whether it is who it was told to be, and works, until STS tells who it is."""
    gate = asyncio.Event()
    fake.settings["GetCallerIdentity"] = Step(gate=gate)
    sts.adopt(own)
    with capture_logs() as logs:
        async with running(sts):
            await until(lambda: fake.asked)  # that is the last step of a round
            works = sts.trouble() is None
            fake.script(*AWAY, role="GetCallerIdentity")
            word = await sts.own()
            gate.set()
            await until(lambda: any(line["event"] == "own identity" for line in logs))
            assert sts.trouble() is None
            assert (await sts.identity()).arn == NODE_ARN
    assert works == (word is not None)
    assert word is None or (word.arn, word.access_key_id) == (own.arn, NODE_KEY)
    return works


@pytest.mark.parametrize(
    ("own", "believed"),
    [
        (FORMER, True),
        (replace(FORMER, arn=NODE_ARN), True),
        (replace(FORMER, method="shared-credentials-file"), True),
        (replace(FORMER, access_key_id="ASIAOTHER"), False),
        (replace(FORMER, access_key_id="ASIAOTHER", method="iam-role"), False),
        (replace(FORMER, arn="nobody"), False),
        (replace(FORMER, away=False), False),
    ],
)
async def test_the_same_keys_are_the_same_identity(fake: FakeSts, wall: Wall, own: Own, believed: bool) -> None:
    """As long as STS has not answered, where it was away: where it answers others, it has to answer us."""
    sts = Sts(Options(region=REGION, endpoint_url=fake.url), clock=wall)
    assert await believes(sts, fake, own) is believed


@pytest.mark.parametrize(("method", "believed"), [("iam-role", True), ("env", False)])
async def test_the_nodes_role_is_the_same_identity(
    fake: FakeSts, wall: Wall, metadata: FakeUpstream, method: str, believed: bool
) -> None:
    """Its metadata service gives other keys of it every hour."""
    sts = Sts(Options(region=REGION, endpoint_url=fake.url, metadata_url=metadata.url), clock=wall)
    assert await believes(sts, fake, replace(FORMER, access_key_id="ASIAOTHER", method=method)) is believed


@pytest.mark.parametrize(
    ("steps", "away"),
    [
        (AWAY, True),
        ([Step(status=503, code="ServiceUnavailable")] * 2, True),
        ([Step(status=400, code="Throttling")] * 2, True),
        ([Step(hang=True)], True),
        ([], False),
        ([AWAY[0]], False),
        ([Step(status=403, code="ExpiredToken")] * 2, None),
        ([Step(status=403, code="AccessDenied")] * 2, None),
    ],
)
async def test_our_word_tells_whether_sts_is_away(
    fake: FakeSts, made: Any, monkeypatch: pytest.MonkeyPatch, steps: list[Step], away: bool | None
) -> None:
    """Where it is not, who comes after us has to prove itself; where it refuses our keys, no word is given."""
    monkeypatch.setattr(ownidentity, "PATIENCE", 0.1 if any(step.hang for step in steps) else PATIENCE)
    async with made() as sts:
        await sts.identity()
        fake.script(*steps, role="GetCallerIdentity")
        word = await sts.own()
    told = Own(away=away is True, arn=NODE_ARN, access_key_id=NODE_KEY, method="env", separate=None)
    assert word == (None if away is None else told)


async def test_no_word_is_given_of_keys_that_sts_refused(fake: FakeSts, made: Any) -> None:
    """Nor of any before there are some: that STS is away since makes them no better."""
    async with made() as sts:
        assert await sts.own() is None
        await sts.identity()
        fake.script(Step(status=403, code="ExpiredToken"), role=APP.arn)
        fake.settings["GetCallerIdentity"] = AWAY[0]
        await refused(sts)
        assert await sts.own() is None


@pytest.mark.parametrize(("external_id", "believed"), [("x-1", True), ("x-2", False)])
async def test_the_separate_roles_session_goes_on(
    fake: FakeSts, wall: Wall, made: Any, external_id: str, believed: bool
) -> None:
    """While STS is away, if it was asked for in the same way; it signs calls, and is renewed as it was to be."""
    async with made(hop=HOP, hop_external_id="x-1") as former:
        await former.usable()
        await former.identity()
        fake.always = Step(reset=True)
        own = await former.own()
    assert own is not None
    options = Options(region=REGION, endpoint_url=fake.url, hop=HOP, hop_external_id=external_id)
    sts = Sts(options, clock=wall, chance=lambda: 0.0)
    sts.adopt(own)
    before = len(fake.asked)
    async with running(sts):
        await until(lambda: len(fake.asked) > before)
        assert (sts.trouble() is None) is believed
        if believed:
            fake.always = Step()
            await sts.issue(call())
            assert fake.calls(APP.arn)[-1].key == own.separate.credentials.access_key_id
            assert len(fake.calls(HOP.arn)) == 1
            wall.ahead = 2200
            await sts.issue(call())
            await until(lambda: len(fake.calls(HOP.arn)) == 2)


def asked_who(fake: FakeSts) -> int:
    """How often STS was asked who somebody is."""
    return len([asked for asked in fake.asked if asked.action == "GetCallerIdentity"])


@pytest.mark.parametrize(("access_key_id", "calls"), [(NODE_KEY, 1), ("ASIAOTHER", 2)])
async def test_the_separate_roles_session_goes_on_where_sts_answers(
    fake: FakeSts, wall: Wall, made: Any, access_key_id: str, calls: int
) -> None:
    """By the same keys it is not asked for again; that this process reaches STS is shown by who it is all the same."""
    gate = asyncio.Event()
    async with made(hop=HOP) as former:
        await former.usable()
        await former.identity()
        own = await former.own()
    assert own is not None
    sts = Sts(Options(region=REGION, endpoint_url=fake.url, hop=HOP), clock=wall, chance=lambda: 0.0)
    sts.adopt(replace(own, access_key_id=access_key_id))
    fake.settings["GetCallerIdentity"] = Step(gate=gate)
    before = asked_who(fake)
    async with running(sts):
        await until(lambda: asked_who(fake) > before)
        assert (sts.trouble() is None) is (calls == 2), "an AssumeRole that was answered shows it, too"
        gate.set()
        await until(lambda: sts.trouble() is None)
        await sts.issue(call())
    assert len(fake.calls(HOP.arn)) == calls


# Where our own keys come from


@pytest.fixture
async def metadata(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeUpstream]:
    """The node's metadata service, which has the keys of its role; there are no others."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    document = json.dumps(
        {
            "Code": "Success",
            "AccessKeyId": NODE_KEY,
            "SecretAccessKey": NODE_SECRET,
            "Token": NODE_SECRET,
            "Expiration": (datetime.now(UTC) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    )
    async with FakeUpstream() as upstream:
        upstream.items["meta-data/iam/security-credentials/node"] = document
        yield upstream


async def test_the_chain_asks_the_metadata_service_that_it_is_told(
    fake: FakeSts, made: Any, metadata: FakeUpstream
) -> None:
    """The node's role is asked for at the given address, whatever address would be the default."""
    async with made(metadata_url=metadata.url) as sts:
        await sts.issue(call())
    assert {asked.key for asked in fake.asked} == {NODE_KEY}
    assert any("security-credentials" in seen.path for seen in metadata.seen)


async def test_keys_from_a_file(fake: FakeSts, made: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shared credentials files are read, without holding up the loop."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    path = tmp_path / "credentials"
    await asyncio.to_thread(
        path.write_text, f"[default]\naws_access_key_id = {NODE_KEY}\naws_secret_access_key = {NODE_SECRET}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    async with made() as sts:
        await sts.issue(call())
    assert {asked.key for asked in fake.asked} == {NODE_KEY}


WEB_ROLE = "arn:aws:iam::123456789012:role/metaproxy-agent"


@pytest.fixture
def web_identity(fake: FakeSts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A service account's token in place of keys; it is exchanged at the fake."""
    (tmp_path / "token").write_text("a token")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_ROLE_ARN", WEB_ROLE)
    monkeypatch.setenv("AWS_ROLE_SESSION_NAME", "node-1")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", fake.url)
    monkeypatch.setattr(module, "ROUND", 0.01)


@pytest.mark.parametrize(
    ("minutes", "event"),
    [
        (12, "own credentials are not renewed: those at hand serve on until they end"),
        (8, "own identity is in trouble"),
    ],
)
async def test_a_web_identity_that_is_not_renewed(
    fake: FakeSts, made: Any, web_identity: None, caplog: pytest.LogCaptureFixture, minutes: int, event: str
) -> None:
    """Each failure is one line with its reason and remedy, and no traceback, as long as keys are good and after."""
    fake.script(Step(life=60 * minutes), role=WEB_ROLE)
    fake.settings[WEB_ROLE] = Step(status=400, code="InvalidIdentityToken")
    with capture_logs() as logs:
        async with made() as sts:
            await sts.identity()
            asked = len(fake.asked)
            await until(lambda: len([one for one in fake.asked[asked:] if one.role == WEB_ROLE]) >= 2)
            await until(lambda: any(line["event"] == event for line in logs))
            if minutes > 10:
                await sts.issue(call())
    warned = [line for line in logs if line["log_level"] == "warning"]
    assert {line["event"] for line in warned} == {event}
    for line in warned:
        assert (line["reason"], line["code"]) == ("StsOwnIdentity", "InvalidIdentityToken")
        assert "web identity" in line["remedy"]
    assert caplog.records == []


async def test_what_the_chain_says_otherwise_is_logged(made: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Only failed renewals of this very chain are taken out, and nothing once it is closed."""
    chain = logging.getLogger("aiobotocore.credentials")
    async with made() as sts:
        await sts.identity()
        chain.warning("another thread's", exc_info=ValueError())
        chain.warning("no failure")
    assert [record.getMessage() for record in caplog.records] == ["another thread's", "no failure"]
    assert chain.filters == []


async def test_nobody_is_left_behind_when_opening_is_cut_short() -> None:
    """Whoever ends while the client is made leaves no thread of the chain, and no filter of its log."""
    chain = logging.getLogger("aiobotocore.credentials")
    opening = asyncio.create_task(StsClient.open(Options(region=REGION), None))
    while not chain.filters and not opening.done():  # noqa: ASYNC110  one turn of the loop after the other
        await asyncio.sleep(0)
    if not opening.cancel():
        await opening.result().close()
    await asyncio.gather(opening, return_exceptions=True)
    assert chain.filters == []


# Against trust policies


ACCOUNT = "111122223333"
NODES = f"arn:aws:iam::{ACCOUNT}:role/nodes/demo"
SEPARATE = f"arn:aws:iam::{ACCOUNT}:role/metaproxy"


def trust(principal: Any, **condition: Any) -> dict[str, Any]:
    """A trust policy with one statement."""
    statement = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": principal}, **condition}
    return {"Version": "2012-10-17", "Statement": [statement]}


async def test_node_role_and_separate_role_swap(wall: Wall, monkeypatch: pytest.MonkeyPatch) -> None:
    """A role that trusts the separate role alone is refused to the node and given through the separate role."""
    role = RoleArn.parse(f"arn:aws:iam::{ACCOUNT}:role/shop/orders")
    async with DemoSts() as demo:
        demo.add_role(NODES, trust("*"))
        demo.add_role(SEPARATE, trust(NODES))
        demo.add_role(role.arn, trust(SEPARATE))
        for name, value in (await demo.node_credentials(NODES)).items():
            monkeypatch.setenv(name, value)
        wanted = AssumeRole(role=role, session_name="shop.orders", duration=3600)
        async with running(Sts(Options(region=REGION, endpoint_url=demo.url), clock=wall)) as direct:
            failure = await refused(direct, wanted)
            assert type(failure) is StsDenied
            assert "role/demo" in failure.remedy
            tagged = AssumeRole(role=RoleArn.parse(SEPARATE), session_name="x1", duration=3600, tags=(("a", "b"),))
            assert type(await refused(direct, tagged)) is StsDenied
            unknown = AssumeRole(role=RoleArn.parse(f"{role.arn}2"), session_name="x1", duration=3600)
            assert type(await refused(direct, unknown)) is StsDenied
        hop = RoleArn.parse(SEPARATE)
        async with running(Sts(Options(region=REGION, endpoint_url=demo.url, hop=hop), clock=wall)) as through:
            session = await through.issue(wanted)
            assert (await through.identity()).arn == f"arn:aws:sts::{ACCOUNT}:assumed-role/demo/i-0demo"
            assert session.account == ACCOUNT
            for name, value in (
                ("AWS_ACCESS_KEY_ID", session.access_key_id),
                ("AWS_SECRET_ACCESS_KEY", session.secret_access_key.reveal()),
                ("AWS_SESSION_TOKEN", session.session_token.reveal()),
            ):
                monkeypatch.setenv(name, value)
        async with running(Sts(Options(region=REGION, endpoint_url=demo.url), clock=wall)) as itself:
            assert (await itself.identity()).arn == f"arn:aws:sts::{ACCOUNT}:assumed-role/orders/shop.orders"


async def test_the_embedded_sts_knows_external_ids_and_strangers(wall: Wall, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded STS wants the external id, refuses keys that it did not give, and chained sessions over an hour."""
    role = RoleArn.parse(f"arn:aws:iam::{ACCOUNT}:role/audit")
    async with DemoSts() as demo:
        demo.add_role(NODES, trust("*"))
        demo.add_role(role.arn, trust(NODES, Condition={"StringEquals": {"sts:ExternalId": "x-1"}}))
        async with running(Sts(Options(region=REGION, endpoint_url=demo.url), clock=wall)) as stranger:
            wanted = AssumeRole(role=role, session_name="audit", duration=3600, external_id="x-1")
            failure = await refused(stranger, wanted)
            assert (type(failure), failure.code) == (StsOwnIdentity, "InvalidClientTokenId")
        for name, value in (await demo.node_credentials(NODES)).items():
            monkeypatch.setenv(name, value)
        async with running(Sts(Options(region=REGION, endpoint_url=demo.url), clock=wall)) as sts:
            await sts.issue(wanted)
            assert type(await refused(sts, replace(wanted, external_id=None))) is StsDenied
            assert type(await refused(sts, replace(wanted, external_id="x-2"))) is StsDenied
            assert type(await refused(sts, replace(wanted, duration=7200))) is StsInvalidRequest

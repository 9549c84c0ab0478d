"""The walk of a request, stop by stop, against the metadata contract (its numbers stand at the tests).

Real directory, finder, entitlements, prefetch, broker and explainer; STS and the node's own metadata service are
scripted: they are the network boundary. In virtual time, without any socket.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from metaproxy import tokens
from metaproxy.broker import Broker
from metaproxy.caller import Directory
from metaproxy.carriers import Carrier
from metaproxy.claims import Why
from metaproxy.entitlements import Entitlements
from metaproxy.errors import Reason, StsDenied, StsInvalidRequest, StsThrottled, StsUnreachable, UpstreamUnavailable
from metaproxy.explain import Explainer
from metaproxy.finder import Finder
from metaproxy.imds import NONE, VERSIONS, Answer, Profile, Request
from metaproxy.pods import EXTERNAL_ID, IMDS_TOKENS, PERMITTED, ROLE, Namespace, Pod
from metaproxy.policy import Denial, Grant, Rules
from metaproxy.prefetch import Prefetch
from metaproxy.roles import BaseArn
from metaproxy.server import Server
from metaproxy.status import Address, Place
from metaproxy.telemetry import Metrics
from tests.fakes.issuer import ScriptedIssuer, Wall

pytestmark = pytest.mark.looptime(noop_cycles=2)

KEY = b"k" * tokens.KEY_SIZE
HOLD = 0.9
MOMENT = 0.005
ACCOUNT = "123456789012"
BASE_ARN = BaseArn.parse(f"arn:aws:iam::{ACCOUNT}:role/")
A, B, STRANGER = "10.0.0.1", "10.0.0.2", "10.0.0.99"
ROLES = "/latest/meta-data/iam/security-credentials"
EXTENDED = f"{ROLES}-extended"
INFO = "/latest/meta-data/iam/info"
REGION = "/latest/meta-data/placement/region"


@dataclass(frozen=True)
class Said:
    """What the node's metadata service said."""

    status: int
    body: bytes


class Node:
    """The node's own metadata service: has what it is given, remembers what it was asked."""

    def __init__(self) -> None:
        self.items = {REGION: b"eu-central-1"}
        self.asked: list[str] = []
        self.delay = 0.0
        self.failure: Exception | None = None

    async def get(self, path: str) -> Said:
        """One item."""
        self.asked.append(path)
        await asyncio.sleep(self.delay)
        if self.failure is not None:
            raise self.failure
        return Said(200, self.items[path]) if path in self.items else Said(404, b"<html>nothing</html>")


def now() -> float:
    """The loop's seconds."""
    return asyncio.get_running_loop().time()


def pod(uid: str = "a", *addresses: str, role: str | None = "app", version: int = 1, **more: Any) -> Pod:
    """A pod of the namespace `team`."""
    fields: dict[str, Any] = {
        "uid": uid,
        "namespace": "team",
        "name": uid,
        "workload": "web",
        "version": version,
        "addresses": addresses,
        "annotations": {} if role is None else {ROLE: role},
    }
    return Pod(**{**fields, **more})


def namespace(name: str = "team", version: int = 1, **annotations: str) -> Namespace:
    """A namespace that permits every role, unless told otherwise."""
    return Namespace(
        uid=name,
        name=name,
        version=version,
        annotations={PERMITTED: annotations.get("permitted", ".*")}
        | ({IMDS_TOKENS: annotations["tokens"]} if "tokens" in annotations else {}),
    )


class Bench:
    """The whole walk."""

    def __init__(self, *, tokens_required: bool = False, profile: Profile | None = None, **rules: Any) -> None:
        self.wall = Wall()
        self.sts = ScriptedIssuer(self.wall)
        self.node = Node()
        self.metrics = Metrics()
        self.directory = Directory()
        self.entitlements = Entitlements(
            self.directory, Rules(**{"base": BASE_ARN, **rules}), tokens_required=tokens_required
        )
        self.broker = Broker(self.sts, self.metrics, clock=self.wall, chance=lambda: 0.5)
        self.finder = Finder(self.directory, self.metrics)
        self.prefetch = self.finder.observer = Prefetch(self.directory, self.entitlements, self.broker, self.metrics)
        self.server = Server(
            callers=self.finder,
            rights=self.entitlements,
            sessions=self.broker,
            items=self.node,
            explain=Explainer(self.directory, self.entitlements, self.broker.state, clock=self.wall).by_address,
            metrics=self.metrics,
            key=KEY,
            profile=Profile() if profile is None else profile,
            clock=self.wall,
        )

    async def ask(self, target: str, peer: str = A, method: str = "GET", **more: Any) -> Answer:
        """One request."""
        return await self.server.answer(Request(method=method, target=target, peer=peer, **more))

    async def took(self, target: str, peer: str = A, **more: Any) -> tuple[float, Answer]:
        """One request and how long it was held."""
        begun = now()
        answer = await self.ask(target, peer, **more)
        return now() - begun, answer

    async def token(self, peer: str = A, ttl: int = 21600) -> str:
        """A session token."""
        return (await self.ask("/latest/api/token", peer, "PUT", ttl=str(ttl))).body.decode()

    def value(self, name: str, **labels: str) -> float | None:
        """A metric's sample."""
        return self.metrics.registry.get_sample_value(f"metaproxy_{name}", labels)


@asynccontextmanager
async def bench(*pods: Pod, **options: Any) -> AsyncIterator[Bench]:
    """A bench at work that knows the namespace `team` and these pods, their sessions already fetched."""
    made = Bench(**options)
    tasks = [asyncio.create_task(part.run()) for part in (made.broker, made.finder)]
    try:
        made.finder.replace_namespaces([namespace()], 1)
        made.finder.replace_pods(pods, 1)
        await asyncio.sleep(1)
        yield made
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


def code(answer: Answer) -> str:
    """The reason code of a refusal, whose shape every refusal has (S6, contract 9.1)."""
    assert answer.content_type == "application/json"
    fields = json.loads(answer.body)
    assert list(fields) == ["code", "message"]
    assert fields["message"]
    assert b" " in answer.body, "one client takes a body without a space for a role name"
    assert answer.retry_after == (1 if answer.status == 503 else None)
    assert isinstance(fields["code"], str)
    return fields["code"]


def seconds_of(date: str) -> float:
    """Unix seconds of a date of a document."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", date), "M12: UTC, whole seconds, Z"
    return datetime.strptime(date, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


# Tokens: M1 to M7, M20.


@pytest.mark.parametrize("ttl", ["1", "60", "300", "600", "21600"])
async def test_a_token_is_given_to_anybody_at_once(ttl: str) -> None:
    """M1, M2, M3, M20: the token is the body, header-safe; its life is told as asked; nothing is looked up."""
    async with bench() as b:
        for target in ("/latest/api/token", "/latest/api/token/"):
            seconds, answer = await b.took(target, STRANGER, method="PUT", ttl=ttl)
            assert (seconds, answer.status, answer.ttl, answer.content_type) == (0, 200, int(ttl), "text/plain")
            assert re.fullmatch(r"[A-Za-z0-9_=-]+", answer.body.decode())
        assert b.sts.calls == []


@pytest.mark.parametrize("ttl", [None, "", "0", "21601", "-1", "+60", "6e1", "60.0", "sixty", "٦٠", "1_0", "9" * 400])
async def test_a_token_needs_a_usable_life(ttl: str | None) -> None:
    """M3: a missing, odd or excessive life is 400, the only way to one."""
    async with bench() as b:
        answer = await b.ask("/latest/api/token", method="PUT", ttl=ttl)
        assert (answer.status, code(answer)) == (400, "BadRequest")


async def test_tokens_are_given_by_latest_alone_and_only_to_put() -> None:
    """M6: 403 under another version, 405 for GET and HEAD."""
    async with bench() as b:
        for version in ("2021-03-23", "1.0"):
            answer = await b.ask(f"/{version}/api/token", method="PUT", ttl="60")
            assert (answer.status, code(answer)) == (403, "TokenVersion")
        for method in ("GET", "HEAD", "POST", "DELETE"):
            answer = await b.ask("/latest/api/token", method=method)
            assert (answer.status, code(answer)) == (405, "MethodNotAllowed")


@pytest.mark.parametrize(("method", "target"), [("PUT", "/latest/api/token"), ("GET", f"{ROLES}/"), ("GET", "/")])
async def test_forwarded_requests_are_refused(method: str, target: str) -> None:
    """M6: whatever carries X-Forwarded-For is refused with 403 before anything else is looked at."""
    async with bench(pod("a", A)) as b:
        answer = await b.ask(target, method=method, ttl="60", forwarded=True)
        assert (answer.status, code(answer)) == (403, "ForwardedRequest")


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("target", ["/", f"{ROLES}/", f"{ROLES}/app", f"{EXTENDED}/app", INFO, REGION])
async def test_bad_tokens_are_401_in_both_modes(required: bool, target: str) -> None:
    """M5, M7: invalid, foreign and expired tokens are 401, never 403 or 404; a good one says how long it is good."""
    async with bench(pod("a", A), tokens_required=required) as b:
        good, foreign, short = await b.token(), await b.token(B), await b.token(ttl=1)
        answer = await b.ask(target, token=good)
        assert (answer.status, answer.ttl) == (200, 21600)
        await asyncio.sleep(1)
        for token in ("INVALID", "", "x" * 32, "é" * 32, good[:-1], good[:-1] + "!", foreign):
            answer = await b.ask(target, token=token)
            assert (answer.status, code(answer), answer.ttl) == (401, "TokenInvalid", None)
        answer = await b.ask(target, token=short)
        assert (answer.status, code(answer)) == (401, "TokenExpired")
        assert (await b.ask(target, token=good)).ttl == 21599
        assert b.value("imds_version_total", version="v2") == 10
        assert b.value("imds_version_total", version="v1") == 0


@pytest.mark.parametrize("target", ["/", f"{ROLES}/", f"{ROLES}/app", f"{EXTENDED}/app", INFO, REGION])
async def test_a_missing_token_is_401_only_when_required(target: str) -> None:
    """M5, M7, S12: the operator's word for everybody, a namespace's own word for its pods, read at each request."""
    async with bench(pod("a", A)) as b:
        assert (await b.ask(target)).status == 200
        assert (await b.ask(target)).ttl is None
        b.finder.put_namespace(namespace(version=2, tokens="required"))
        answer = await b.ask(target)
        assert (answer.status, code(answer)) == (401, "TokenMissing")
        assert (await b.ask(target, token=await b.token())).status == 200
        b.finder.put_namespace(namespace(version=3, tokens="optional"))
        assert (await b.ask(target)).status == 200
    async with bench(pod("a", A), tokens_required=True) as b:
        answer = await b.ask(target)
        assert (answer.status, code(answer)) == (401, "TokenMissing")
        b.finder.put_namespace(namespace(version=2, tokens="optional"))
        assert (await b.ask(target)).status == 200


async def test_a_token_outlives_the_agent() -> None:
    """M4: a token made by one agent is good for its successor with the same key."""
    async with bench(pod("a", A)) as before:
        token = await before.token()
    async with bench(pod("a", A)) as after:
        assert (await after.ask(f"{ROLES}/", token=token)).status == 200


# The version list: M7.


async def test_the_root_lists_versions_to_anybody() -> None:
    """M7: `GET /` is 200 without a look-up, 401 when tokens are required of whoever is not known."""
    async with bench() as b:
        seconds, answer = await b.took("/", STRANGER)
        assert (seconds, answer.status, answer.body) == (0, 200, VERSIONS.encode())
        assert b"latest" in answer.body.split(b"\n")
    async with bench(tokens_required=True) as b:
        assert (await b.ask("/", STRANGER)).status == 401


# Role list and credentials: M8 to M14.


@pytest.mark.parametrize("version", ["latest", "1.0", "2016-09-02", "2099-01-01"])
@pytest.mark.parametrize("suffix", ["", "-extended"])
async def test_the_list_is_one_bare_name(version: str, suffix: str) -> None:
    """M8, M9, M17, S14: exactly the name, with and without slash, under every version; nothing before or after it."""
    async with bench(pod("a", A, role="some/path/app")) as b:
        for slash in ("", "/"):
            answer = await b.ask(f"/{version}/meta-data/iam/security-credentials{suffix}{slash}")
            assert (answer.status, answer.body, answer.content_type) == (200, b"app", "text/plain")


async def test_credentials_are_what_every_client_reads() -> None:
    """M11, M12, M13, S2: flat, exactly EC2's seven fields in order, no empty value, told to end a minute early."""
    async with bench(pod("a", A)) as b:
        answer = await b.ask(f"{ROLES}/app")
        assert (answer.status, answer.content_type, answer.retry_after) == (200, "text/plain", None)
        assert answer.body.isascii()
        assert b"\\" not in answer.body
        assert answer.body.endswith(b"}")
        fields = json.loads(answer.body)
        assert list(fields) == [
            "Code",
            "LastUpdated",
            "Type",
            "AccessKeyId",
            "SecretAccessKey",
            "Token",
            "Expiration",
        ]
        assert (fields["Code"], fields["Type"]) == ("Success", "AWS-HMAC")
        assert all(isinstance(value, str) and value and "," not in value for value in fields.values())
        assert b.sts.given[fields["AccessKeyId"]].role.name == "app"
        assert seconds_of(fields["LastUpdated"]) == pytest.approx(b.wall(), abs=2)
        assert seconds_of(fields["Expiration"]) == pytest.approx(b.wall() + 3600 - 60, abs=2)


async def test_extended_credentials_add_the_account() -> None:
    """M17: the same document and `AccountId`, of the role's account."""
    async with bench(pod("a", A, role="arn:aws:iam::999999999999:role/far")) as b:
        plain = json.loads((await b.ask(f"{ROLES}/far")).body)
        extended = json.loads((await b.ask(f"{EXTENDED}/far")).body)
        assert extended == {**plain, "AccountId": "999999999999"}


@pytest.mark.parametrize(
    "spelling",
    [
        "app",
        "app/",
        "some/path/app",
        "some/path/app/",
        "some%2Fpath%2fapp",
        f"arn:aws:iam::{ACCOUNT}:role/some/path/app",
        f"arn%3Aaws%3Aiam%3A%3A{ACCOUNT}%3Arole%2Fsome%2Fpath%2Fapp",
        "%61pp",
    ],
)
async def test_the_role_is_known_in_each_of_its_forms(spelling: str) -> None:
    """M10: bare name, path and name, ARN; raw or percent-encoded; with and without a slash behind it."""
    async with bench(pod("a", A, role="some/path/app")) as b:
        for prefix in (ROLES, EXTENDED):
            assert (await b.ask(f"{prefix}/{spelling}")).status == 200


@pytest.mark.parametrize(
    "spelling",
    ["other", "ap", "appp", "APP", "path/app", "app/app", f"arn:aws:iam::{ACCOUNT}:role/app2", "%2561pp", "app%252F"],
)
async def test_another_role_is_404_at_once(spelling: str) -> None:
    """M10: a name that is not the pod's is 404, so that clients list again; STS is not asked for it."""
    async with bench(pod("a", A)) as b:
        calls = len(b.sts.calls)
        seconds, answer = await b.took(f"{ROLES}/{spelling}")
        assert (seconds, answer.status) == (0, 404)
        assert code(answer) in {"OtherRole", "UnknownPath"}
        assert len(b.sts.calls) == calls


async def test_special_characters_of_names_survive() -> None:
    """M10: one client encodes `+ = , @`, others do not."""
    async with bench(pod("a", A, role="a+b=c,d.e@f-g_h")) as b:
        assert (await b.ask(f"{ROLES}/")).body == b"a+b=c,d.e@f-g_h"
        for spelling in ("a+b=c,d.e@f-g_h", "a%2Bb%3Dc%2Cd.e%40f-g_h"):
            assert (await b.ask(f"{ROLES}/{spelling}")).status == 200


async def test_head_is_answered_like_get() -> None:
    """S11: each GET can be asked by HEAD; the listener leaves the body away."""
    async with bench(pod("a", A)) as b:
        for target in ("/", f"{ROLES}/", f"{ROLES}/app", f"{EXTENDED}/", f"{EXTENDED}/app", INFO, REGION):
            assert await b.ask(target, method="HEAD") == await b.ask(target)


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH", "OPTIONS", "CONNECT", "BREW"])
async def test_other_methods_are_405(method: str) -> None:
    """Only GET and HEAD are for what is read."""
    async with bench(pod("a", A)) as b:
        for target in ("/", f"{ROLES}/", f"{ROLES}/app", INFO, REGION, "/metaproxy/explain"):
            answer = await b.ask(target, method=method, ttl="60")
            assert (answer.status, code(answer)) == (405, "MethodNotAllowed")


async def test_near_their_end_credentials_are_refused() -> None:
    """M14: with less than a minute of life left there is a 503 and not a document that makes clients hang."""
    async with bench(pod("a", A)) as b:
        b.sts.failing = lambda: StsUnreachable("STS cannot be reached", remedy="ask again")
        begun, shortest = now(), 3600.0
        while (answer := await b.ask(f"{ROLES}/app")).status == 200:
            fields = json.loads(answer.body)
            left = seconds_of(fields["Expiration"]) - b.wall()
            shortest = min(shortest, left)
            await asyncio.sleep(1)
        assert (answer.status, code(answer)) == (503, "StsUnreachable")
        assert now() - begun == pytest.approx(3540, abs=5)
        assert shortest >= 58, "never so little that a client hangs or comes back for every call"


# What cannot be had: S4 to S8, contract 9.1.


async def test_a_pod_without_role_is_404() -> None:
    """S5: at the list, at once; and for whatever it asks under iam/."""
    async with bench(pod("a", A, role=None)) as b:
        for target in (f"{ROLES}/", f"{ROLES}/app", f"{EXTENDED}/", INFO):
            seconds, answer = await b.took(target)
            assert (seconds, answer.status, code(answer)) == (0, 404, "NoRole")


@pytest.mark.parametrize(
    ("role", "permitted", "status", "expected"),
    [
        ("app", "other", 403, "NotPermitted"),
        ("app", "(", 403, "NamespaceMalformed"),
        ("no role", ".*", 403, "RoleMalformed"),
        (" ", ".*", 404, "NoRole"),
    ],
)
async def test_denials_are_told_at_the_list(role: str, permitted: str, status: int, expected: str) -> None:
    """S6, 9.1: a denial is decided at the list and the same at the credentials; STS is not asked."""
    async with bench() as b:
        b.finder.put_namespace(namespace(version=2, permitted=permitted))
        b.finder.put_pod(pod("a", A, role=role))
        for target in (f"{ROLES}/", f"{EXTENDED}/", f"{ROLES}/app", INFO):
            seconds, answer = await b.took(target)
            assert (seconds, answer.status, code(answer)) == (0, status, expected)
        assert b.sts.calls == []


@pytest.mark.parametrize(
    ("failure", "status", "expected"),
    [
        (StsDenied("STS refuses the role", remedy="mend", code="AccessDenied"), 403, "StsDenied"),
        (StsInvalidRequest("STS calls it wrong", remedy="mend"), 403, "StsInvalidRequest"),
        (StsThrottled("STS asks for less", remedy="wait"), 503, "StsThrottled"),
        (StsUnreachable("STS is away", remedy="wait"), 503, "StsUnreachable"),
    ],
)
async def test_the_list_fails_in_the_credentials_stead(failure: Any, status: int, expected: str) -> None:
    """9.1, S6, S8: what STS refuses is told at the list; some clients end their process when the credentials fail."""
    async with bench() as b:
        b.sts.failing = lambda: type(failure)(failure.message, remedy=failure.remedy)
        b.finder.put_pod(pod("a", A))
        seconds, answer = await b.took(f"{ROLES}/")
        assert (answer.status, code(answer)) == (status, expected)
        assert seconds <= HOLD + MOMENT
        assert failure.message in json.loads(answer.body)["message"]
        assert failure.remedy in json.loads(answer.body)["message"]


async def test_slow_sts_is_503_at_the_list_and_serves_the_retry() -> None:
    """9.1: STS needs 5 s: the list is held 0.9 s and refused; when the flight is over the retry is answered at once."""
    async with bench() as b:
        b.sts.delay = 5.0
        b.finder.put_pod(pod("a", A))
        seconds, answer = await b.took(f"{ROLES}/")
        assert (answer.status, code(answer)) == (503, "StsPending")
        assert seconds == pytest.approx(HOLD, abs=MOMENT)
        await asyncio.sleep(4.2)
        seconds, answer = await b.took(f"{ROLES}/")
        assert (seconds, answer.status, answer.body) == (0, 200, b"app")
        assert len(b.sts.calls) == 1


async def test_after_a_good_list_the_credentials_are_there() -> None:
    """9.1: a list that answered 200 promises the credentials, whatever STS does in between."""
    async with bench() as b:
        for number in range(1, 21):
            b.finder.put_pod(pod(f"p{number}", f"10.0.1.{number}", role=f"role-{number}"))
            listed = await b.ask(f"{ROLES}/", f"10.0.1.{number}")
            assert listed.status == 200
            b.sts.failing = lambda: StsDenied("no", remedy="mend")
            seconds, answer = await b.took(f"{ROLES}/{listed.body.decode()}", f"10.0.1.{number}")
            assert (seconds, answer.status) == (0, 200)
            b.sts.failing = None


async def test_a_pod_that_comes_300_ms_late_is_served() -> None:
    """S4, P3: the event comes 300 ms after the request, STS takes 100 ms: answered in that very request at 400 ms."""
    async with bench() as b:
        b.sts.delay = 0.1
        task = asyncio.create_task(b.took(f"{ROLES}/"))
        await asyncio.sleep(0.3)
        b.finder.put_pod(pod("a", A))
        seconds, answer = await task
        assert (answer.status, answer.body) == (200, b"app")
        assert seconds == pytest.approx(0.4, abs=MOMENT)


async def test_nobody_known_is_503_never_404() -> None:
    """S4: an address that nobody explains is held for the whole time and then refused as retryable."""
    async with bench() as b:
        for target in (f"{ROLES}/", f"{ROLES}/app", INFO, REGION):
            seconds, answer = await b.took(target, STRANGER)
            assert (answer.status, code(answer)) == (503, "CallerUnknown")
            assert seconds == pytest.approx(HOLD, abs=MOMENT)
        assert b.node.asked == []


@pytest.mark.parametrize("odd", [pod("a", A, host_network=True), pod("a", A, finished=True)])
async def test_who_owns_no_address_gets_nothing(odd: Pod) -> None:
    """P6: a hostNetwork pod's address is the node's and a finished pod's is free: neither has a role here."""
    async with bench(odd) as b:
        answer = await b.ask(f"{ROLES}/app")
        assert (answer.status, code(answer)) == (503, "CallerUnknown")


async def test_two_pods_at_one_address_get_nothing() -> None:
    """P1: while it is not certain who asks nobody is answered."""
    async with bench(pod("a", A), pod("b", A, role="other")) as b:
        answer = await b.ask(f"{ROLES}/app")
        assert (answer.status, code(answer)) == (503, "CallerAmbiguous")


# Held requests and a world that moves.


async def test_an_unknown_namespace_is_waited_for() -> None:
    """The pod is known before its namespace: the request is held until exactly that event."""
    async with bench() as b:
        b.finder.put_pod(pod("a", A, namespace="late"))
        task = asyncio.create_task(b.took(f"{ROLES}/"))
        await asyncio.sleep(0.3)
        b.finder.put_namespace(namespace("late"))
        seconds, answer = await task
        assert (answer.status, answer.body) == (200, b"app")
        assert seconds == pytest.approx(0.35, abs=MOMENT)


async def test_an_unknown_namespace_is_503_in_the_end() -> None:
    """Nothing is granted in a namespace that is not known, and it is retryable."""
    async with bench() as b:
        b.finder.put_pod(pod("a", A, namespace="never"))
        seconds, answer = await b.took(f"{ROLES}/")
        assert (answer.status, code(answer)) == (503, "NamespaceUnknown")
        assert seconds == pytest.approx(HOLD, abs=MOMENT)
        assert b.sts.calls == []


async def test_the_account_is_learned_while_a_request_is_held() -> None:
    """A bare role name waits for the base ARN: learned after 200 ms, the request goes on."""
    async with bench(base=None) as b:
        b.finder.put_pod(pod("a", A))
        task = asyncio.create_task(b.took(f"{ROLES}/"))
        await asyncio.sleep(0.2)
        b.prefetch.set_rules(replace(b.entitlements.rules, base=BASE_ARN))
        b.finder.tell("rules")
        seconds, answer = await task
        assert (answer.status, answer.body) == (200, b"app")
        assert seconds == pytest.approx(0.25, abs=MOMENT)
    async with bench(base=None) as b:
        b.finder.put_pod(pod("a", A))
        answer = await b.ask(f"{ROLES}/")
        assert (answer.status, code(answer)) == (503, "BaseArnUnknown")


async def test_a_pod_replaced_while_held_gets_503() -> None:
    """P1: the address changes hands while the request waits for STS: never the old pod's keys, nor the new one's."""
    async with bench() as b:
        b.sts.delay = 0.5
        b.finder.put_pod(pod("old", A, role="old"))
        task = asyncio.create_task(b.ask(f"{ROLES}/old"))
        await asyncio.sleep(0.2)
        b.finder.delete_pod("old", 2)
        b.finder.put_pod(pod("new", A, role="new", version=3))
        answer = await task
        assert (answer.status, code(answer)) == (503, "CallerChanged")
        assert b"ASIA" not in answer.body


async def test_a_namesake_at_the_address_is_still_another_pod() -> None:
    """P1: the successor has the same role and session: the held request is refused all the same, it is not its own."""
    async with bench() as b:
        b.sts.delay = 0.5
        b.finder.put_pod(pod("old", A))
        task = asyncio.create_task(b.ask(f"{ROLES}/app"))
        await asyncio.sleep(0.2)
        b.finder.delete_pod("old", 2)
        b.finder.put_pod(pod("new", A, version=3))
        assert (await task).status == 503


@pytest.mark.parametrize(
    "annotations", [{ROLE: "other"}, {ROLE: "app", EXTERNAL_ID: "acme"}, {}], ids=["role", "external id", "none"]
)
async def test_a_role_changed_while_held_gets_503(annotations: dict[str, str]) -> None:
    """P1: the annotation changes while the request waits: never the old role's keys; asked anew, the new role's."""
    async with bench() as b:
        b.sts.delay = 0.5
        b.finder.put_pod(pod("a", A))
        held = [asyncio.create_task(b.ask(target)) for target in (f"{ROLES}/", f"{ROLES}/app", f"{EXTENDED}/app")]
        await asyncio.sleep(0.2)
        b.finder.put_pod(pod("a", A, version=2, annotations=annotations))
        for task in held:
            answer = await task
            assert (answer.status, code(answer)) == (503, "CallerChanged")
        await asyncio.sleep(0.5)
        anew = await b.ask(f"{ROLES}/")
        assert anew.body == annotations[ROLE].encode() if annotations else anew.status == 404


async def test_a_permission_revoked_while_held_gets_503() -> None:
    """P1: the namespace forbids the role while the request waits for its keys: they are not handed out."""
    async with bench() as b:
        b.sts.delay = 0.5
        b.finder.put_pod(pod("a", A))
        task = asyncio.create_task(b.ask(f"{ROLES}/app"))
        await asyncio.sleep(0.2)
        b.finder.put_namespace(namespace(version=2, permitted="other"))
        assert code(await task) == "CallerChanged"
        answer = await b.ask(f"{ROLES}/app")
        assert (answer.status, code(answer)) == (403, "NotPermitted")


async def test_a_second_claim_while_held_gets_503() -> None:
    """P1: somebody else claims the address while the request waits: it is not certain who asked, so nobody is told."""
    async with bench() as b:
        b.sts.delay = 0.5
        b.finder.put_pod(pod("a", A))
        task = asyncio.create_task(b.ask(f"{ROLES}/app"))
        await asyncio.sleep(0.2)
        b.finder.put_pod(pod("b", A, version=2))
        assert code(await task) == "CallerChanged"


async def test_a_pod_without_role_that_loses_its_namespace_is_found_anew() -> None:
    """The pod goes while its namespace is waited for: the request waits on for whoever has the address then."""
    async with bench() as b:
        b.finder.put_pod(pod("a", A, namespace="late"))
        task = asyncio.create_task(b.ask(f"{ROLES}/"))
        await asyncio.sleep(0.2)
        b.finder.delete_pod("a", 2)
        b.finder.put_namespace(namespace("late"))
        await asyncio.sleep(0.2)
        b.finder.put_pod(pod("b", A, role="other", version=3))
        answer = await task
        assert (answer.status, answer.body) == (200, b"other")


async def test_each_pod_gets_exactly_its_own() -> None:
    """P1: two pods with one role and two external ids, asking at once, have two sessions and never each other's."""
    async with bench() as b:
        for address, external in ((A, "acme"), (B, "globex")):
            b.finder.put_pod(pod(external, address, annotations={ROLE: "app", EXTERNAL_ID: external}))
        answers = await asyncio.gather(*(b.ask(f"{ROLES}/app", peer) for peer in (A, B) * 50))
        for number, answer in enumerate(answers):
            given = b.sts.given[json.loads(answer.body)["AccessKeyId"]]
            assert given.external_id == ("acme", "globex")[number % 2]
        assert len(b.sts.calls) == 2


# iam/info: M18.


async def test_info_is_of_the_roles_account() -> None:
    """M18: Code Success, a date, an instance profile in the role's own account, no Message; no STS call is needed."""
    async with bench() as b:
        b.sts.delay = 1e6
        b.finder.put_pod(pod("a", A, role="arn:aws-us-gov:iam::999999999999:role/some/far"))
        for target in (INFO, f"{INFO}/", "/2016-09-02/meta-data/iam/info"):
            seconds, answer = await b.took(target)
            assert (seconds, answer.status, answer.content_type) == (0, 200, "text/plain")
            fields = json.loads(answer.body)
            assert list(fields) == ["Code", "LastUpdated", "InstanceProfileArn", "InstanceProfileId"]
            assert fields["Code"] == "Success"
            assert fields["InstanceProfileArn"] == "arn:aws-us-gov:iam::999999999999:instance-profile/some/far"
            assert re.fullmatch(r"AIPA[A-Z2-7]{17}", fields["InstanceProfileId"])
            assert seconds_of(fields["LastUpdated"]) == pytest.approx(b.wall(), abs=2)


# Items of the node: M16, S10.


async def test_items_come_through_the_allow_list() -> None:
    """S10: an allowed item is the node's own answer, under every version and with a slash behind it."""
    async with bench(pod("a", A, role=None)) as b:
        for target in (REGION, f"{REGION}/", "/2016-09-02/meta-data/placement/region", f"{REGION}?x=1"):
            answer = await b.ask(target)
            assert (answer.status, answer.body, answer.content_type) == (200, b"eu-central-1", "text/plain")
        assert set(b.node.asked) == {REGION}, "our canonical path, never the client's"


async def test_items_that_the_node_lacks_or_hides() -> None:
    """The node's 404 is ours with a reason, its silence a 503; nothing of its own page comes through."""
    async with bench(pod("a", A)) as b:
        answer = await b.ask("/latest/meta-data/instance-type")
        assert (answer.status, code(answer)) == (404, "UnknownPath")
        assert b"html" not in answer.body
        b.node.failure = UpstreamUnavailable("the node's metadata service is silent", remedy="ask again")
        answer = await b.ask(REGION)
        assert (answer.status, code(answer)) == (503, "UpstreamUnavailable")


async def test_items_are_held_no_longer_than_anything_else() -> None:
    """P3: a pod that comes late and a node that is slow do not add up to more than a request may be held."""
    async with bench() as b:
        b.node.delay = 0.8
        task = asyncio.create_task(b.took(REGION))
        await asyncio.sleep(0.5)
        b.finder.put_pod(pod("a", A))
        seconds, answer = await task
        assert (answer.status, code(answer)) == (503, "UpstreamUnavailable")
        assert seconds == pytest.approx(HOLD, abs=MOMENT)


@pytest.mark.parametrize(
    "target",
    [
        "/latest/user-data",
        "/latest/meta-data/",
        "/latest/meta-data/iam",
        "/latest/meta-data/iam/",
        "/latest/meta-data/iam/other",
        "/latest/meta-data/iam/security-credentials//app",
        "/latest/meta-data//iam/security-credentials/",
        "/latest/meta-data/./iam/security-credentials/",
        "/latest/meta-data/x/../iam/security-credentials/",
        "/latest/meta-data/%69am/security-credentials/",
        "/latest/meta-data/iam%2Fsecurity-credentials/",
        "/latest/meta-data/IAM/security-credentials/",
        "/latest/meta-data/placement%2Fregion",
        "/latest/meta-data/placement/../iam/info",
        "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
        "/latest/dynamic/instance-identity/pkcs7",
        "/latest/meta-data/public-keys/",
        "/latest/meta-data/tags/instance/",
        "/latest\\meta-data\\iam\\info",
        "//latest/meta-data/iam/security-credentials/",
        "latest/meta-data/iam/info",
        "http://169.254.169.254/latest/meta-data/iam/info",
        "*",
        "",
        "/metaproxy",
        "/favicon.ico",
    ],
)
async def test_everything_else_is_404_and_stays_here(target: str) -> None:
    """M16: closed under iam/ and for whatever a lenient server would read as it; nothing of it is forwarded."""
    wide = Profile(exact=Profile().exact, prefixes=("meta-data/", "dynamic/", "user-data"))
    async with bench(pod("a", A), profile=wide) as b:
        b.node.items[target] = b"the node's own role"
        answer = await b.ask(target)
        if answer.status == 200:
            pytest.fail(f"{target} was answered: {answer.body!r}")
        assert (answer.status, code(answer)) == (404, "UnknownPath")
        assert not any("iam" in path or "user-data" in path for path in b.node.asked)


@pytest.mark.parametrize("version", ["latestt", "1.1", "2016-9-2", "2.0", "LATEST", "2016-09-02x", ".."])
async def test_unknown_versions_are_404(version: str) -> None:
    """S14: no other prefix is a version."""
    async with bench(pod("a", A)) as b:
        for path in ("meta-data/iam/security-credentials/", "meta-data/placement/region", "api/token"):
            answer = await b.ask(f"/{version}/{path}")
            assert (answer.status, code(answer)) == (404, "UnknownPath")


async def test_the_empty_profile_forwards_nothing() -> None:
    """The operator may close the node's items altogether."""
    async with bench(pod("a", A), profile=NONE) as b:
        assert code(await b.ask(REGION)) == "UnknownPath"
        assert b.node.asked == []


# Explain.


async def test_explain_is_about_the_caller_alone() -> None:
    """Each pod reads about itself, whoever else there is; a stranger about nobody; no secret, no token asked for."""
    async with bench(pod("a", A), pod("b", B, role="other"), pod("c", "10.0.0.3", role="no role")) as b:
        secrets = [f"{kind}/of/{number}" for kind in ("secret", "token") for number in range(1, 9)]
        for peer, uid in ((A, "a"), (B, "b")):
            seconds, answer = await b.took("/metaproxy/explain", peer)
            assert (seconds, answer.status, answer.content_type) == (0, 200, "application/json")
            about = json.loads(answer.body)
            assert (about["pod"]["uid"], about["decision"]["allowed"]) == (uid, True)
            assert about["credentials"]["state"] == "held"
            assert about["role"].endswith({"a": "/app", "b": "/other"}[uid])
            assert not any(secret.encode() in answer.body for secret in (*secrets, "ASIA"))
        denied = json.loads((await b.ask("/metaproxy/explain/", "10.0.0.3")).body)
        assert (denied["decision"]["allowed"], denied["decision"]["reason"]) == (False, "RoleMalformed")
        assert denied["decision"]["remedy"]
        stranger = await b.ask("/metaproxy/explain", STRANGER)
        assert json.loads(stranger.body) == {
            "address": STRANGER,
            "pod": None,
            "reason": "CallerUnknown",
            "message": "no live pod of this node has it",
        }


async def test_explain_of_an_address_that_the_kernel_took() -> None:
    """The reason's code is that of the refusal, and nobody is named."""
    async with bench(pod("a", A)) as b:
        b.directory.blind(False)
        b.directory.saw({A: Carrier(link=7, born=1)})
        b.directory.saw({A: None})
        about = json.loads((await b.ask("/metaproxy/explain", A)).body)
        assert (about["pod"], about["reason"]) == (None, "CallerWithdrawn")
        assert "(lost)" in about["message"]


async def test_explain_names_nobody_when_it_is_not_certain() -> None:
    """Two pods at one address: neither may read about the other."""
    async with bench(pod("a", A), pod("b", A)) as b:
        answer = await b.ask("/metaproxy/explain")
        assert json.loads(answer.body) == {
            "address": A,
            "pod": None,
            "reason": "CallerAmbiguous",
            "message": "more than one pod claims it",
        }


async def test_explain_tells_of_failures_and_of_what_is_on_its_way() -> None:
    """What STS said, what to do and when it is asked again; fetching while it is asked."""
    async with bench() as b:
        b.sts.delay = 0.5
        b.sts.failing = lambda: StsDenied("STS refuses the role", remedy="mend its trust policy", code="AccessDenied")
        b.finder.put_pod(pod("a", A))
        await asyncio.sleep(0.1)
        about = json.loads((await b.ask("/metaproxy/explain")).body)
        assert about["credentials"] == {"state": "fetching"}
        await asyncio.sleep(0.5)
        failure = json.loads((await b.ask("/metaproxy/explain")).body)["credentials"]["failure"]
        assert (failure["reason"], failure["code"]) == ("StsDenied", "AccessDenied")
        assert failure["remedy"] == "mend its trust policy"
        assert seconds_of(failure["retry_at"]) == pytest.approx(b.wall() + 5, abs=1.2)


async def test_the_operator_may_ask_by_name() -> None:
    """By namespace and name: also pods that own no address, and why; a live pod before its finished namesake."""
    async with bench(
        pod("old", A, name="web", finished=True),
        pod("new", A, name="web", version=2),
        pod("host", B, host_network=True),
        pod("done", B, finished=True),
    ) as b:
        explainer = Explainer(b.directory, b.entitlements, b.broker.state, clock=b.wall)
        live = explainer.by_name("team", "web")
        assert live is not None
        assert live["pod"]["uid"] == "new"
        assert live["credentials"]["state"] == "held"
        assert seconds_of(live["credentials"]["expires"]) == pytest.approx(b.wall() + 3600, abs=2)
        assert seconds_of(live["credentials"]["renew_at"]) == pytest.approx(b.wall() + 1800, abs=2)
        for name, word in (("host", "node's network"), ("done", "finished")):
            about = explainer.by_name("team", name)
            assert about is not None
            assert word in about["decision"]["message"]
            assert about["decision"]["allowed"] is False
        assert explainer.by_name("team", "nobody") is None
        assert explainer.by_name("other", "web") is None


async def test_all_that_is_known_of_a_node() -> None:
    """Every pod that may ask, or believes to, by name: its decision, session, and where the kernel shows it."""
    async with bench(
        pod("b", B, name="plain", role=None),
        pod("a", A, name="web"),
        pod("c", "10.0.0.3", name="moved"),
        pod("host", "10.0.0.9", name="host", host_network=True),
        pod("done", "10.0.0.8", name="done", finished=True),
    ) as b:
        port = Carrier(link=7, born=1, bridge=3, hardware=bytes.fromhex("020000000001"))
        b.directory.witness()
        b.directory.blind(False)
        b.directory.saw({A: port, "10.0.0.3": Carrier(link=8, born=1)})
        b.directory.saw({"10.0.0.3": None})
        explainer = Explainer(b.directory, b.entitlements, b.broker.state, clock=b.wall)
        refused = {A: (Reason.TOO_MANY_CONNECTIONS, 2)}
        found, unlisted = explainer.all(lambda index: f"device{index}", refused.get)
        assert [about.pod.name for about in found] == ["host", "moved", "plain", "web"]
        assert unlisted == 1
        host, moved, plain, web = found
        assert (host.decision, host.held, host.addresses) == (None, None, ())
        assert isinstance(plain.decision, Denial)
        assert plain.held is None
        assert isinstance(web.decision, Grant)
        assert web.held == b.broker.state(web.decision.call)
        place = Place(device="device7", bridge="device3", hardware="02:00:00:00:00:01")
        assert list(web.addresses) == [
            Address(text=A, owned=True, place=place, refused=(Reason.TOO_MANY_CONNECTIONS, 2))
        ]
        assert list(moved.addresses) == [Address(text="10.0.0.3", owned=False, why=Why.LOST)]


# Seeing it.


async def test_every_answer_is_counted_and_logged_once() -> None:
    """One log record and one count for each answer, labelled by route, method, status and reason; pods are named."""
    async with bench(pod("a", A), pod("b", B, role=None)) as b:
        with capture_logs() as logs:
            await b.ask(f"{ROLES}/app")
            await b.ask(f"{ROLES}/app")
            await b.ask(f"{ROLES}/", B)
            await b.ask("/nothing", method="BREW")
        assert b.value("http_requests_total", route="credentials", method="GET", code="200", reason="") == 2
        assert b.value("http_requests_total", route="list", method="GET", code="404", reason="NoRole") == 1
        assert b.value("http_requests_total", route="none", method="other", code="404", reason="UnknownPath") == 1
        assert b.value("http_request_duration_seconds_count", route="credentials") == 2
        requests = [line for line in logs if line["event"] == "request"]
        assert [line["log_level"] for line in requests] == ["debug", "debug", "info", "info"]
        assert [(line["pod_name"], line["reason"]) for line in requests] == [
            ("a", None),
            ("a", None),
            ("b", "NoRole"),
            (None, "UnknownPath"),
        ]
        assert "secret/of" not in repr(logs)
        assert "token/of" not in repr(logs)


async def test_our_own_mistakes_are_500_without_a_trace() -> None:
    """Whatever breaks inside, the pod gets an answer that tells nothing of it, and the operator gets the trace."""
    async with bench(pod("a", A)) as b:
        b.node.failure = ZeroDivisionError("an inner detail")
        with capture_logs() as logs:
            answer = await b.ask(REGION)
        assert (answer.status, code(answer)) == (500, "Internal")
        assert b"detail" not in answer.body
        assert [line["event"] for line in logs] == ["answering broke", "request"]


async def test_who_hangs_up_is_not_answered_and_hurts_nobody() -> None:
    """A held request is cancelled: the flight goes on and serves the next one."""
    async with bench() as b:
        b.sts.delay = 0.5
        b.finder.put_pod(pod("a", A))
        task = asyncio.create_task(b.ask(f"{ROLES}/"))
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        seconds, answer = await b.took(f"{ROLES}/")
        assert answer.status == 200
        assert seconds == pytest.approx(0.3, abs=MOMENT)
        assert len(b.sts.calls) == 1


async def test_a_pod_that_is_refused_again_and_again_does_not_fill_the_log() -> None:
    """One line for each pod, route and reason in a minute, then how many were left out; the metric counts all."""
    b = Bench()
    b.finder.put_namespace(namespace())
    b.finder.put_pod(pod("a", A, role=None))
    b.finder.put_pod(pod("b", B, role=None))
    with capture_logs() as logs:
        for peer in (A, B):
            for _ in range(100):
                assert (await b.ask(ROLES, peer)).status == 404
        await asyncio.sleep(60)
        await b.ask(ROLES, A)
    lines = [(line["peer"], line["left_out"]) for line in logs if line["event"] == "request"]
    assert lines == [(A, None), (B, None), (A, 99)]
    labels = {"route": "list", "method": "GET", "code": "404", "reason": "NoRole"}
    assert b.metrics.registry.get_sample_value("metaproxy_http_requests_total", labels) == 201

"""What is wanted before anybody asks, and what pods' owners are told: policy first, always."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from metaproxy.broker import Broker
from metaproxy.caller import Directory
from metaproxy.entitlements import Entitlements
from metaproxy.errors import IssueError, StsDenied
from metaproxy.finder import Finder
from metaproxy.pods import ALLOWED_ROLES, EXTERNAL_ID, PERMITTED, ROLE, Namespace, Pod
from metaproxy.policy import Grant, Rules
from metaproxy.prefetch import Prefetch
from metaproxy.roles import AssumeRole, BaseArn
from metaproxy.telemetry import Metrics
from tests.fakes.issuer import ScriptedIssuer, Wall

pytestmark = pytest.mark.looptime(noop_cycles=2)

BASE_ARN = BaseArn.parse("arn:aws:iam::123456789012:role/")


def pod(uid: str = "a", *, role: str | None = "app", namespace: str = "team", **more: Any) -> Pod:
    """A pod as its creation shows it: bound to the node, without address."""
    annotations = {} if role is None else {ROLE: role}
    return Pod(**{"uid": uid, "namespace": namespace, "name": uid, "version": 1, "annotations": annotations, **more})


def team(permitted: str = ".*", version: int = 1) -> Namespace:
    """A namespace that permits roles by an expression."""
    return Namespace(uid="n", name="team", version=version, annotations={PERMITTED: permitted})


class Postbox:
    """Keeps what owners would read on their pods."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def record(self, pod: Pod, reason: str, note: str) -> None:
        """One Event."""
        self.events.append((pod.uid, reason, note))

    @property
    def reasons(self) -> list[tuple[str, str]]:
        """Whom it is about, and the reason."""
        return [(uid, reason) for uid, reason, _ in self.events]


class Bench:
    """The chain from a source's report to the broker's wants, and the Events on the way."""

    def __init__(self, rules: Rules) -> None:
        self.wall = Wall()
        self.sts = ScriptedIssuer(self.wall)
        self.metrics = Metrics()
        self.directory = Directory()
        self.entitlements = Entitlements(self.directory, rules, tokens_required=False)
        self.postbox = Postbox()
        self.broker = Broker(self.sts, self.metrics, clock=self.wall, chance=lambda: 0.5, on_failure=self.failed)
        self.finder = Finder(self.directory, self.metrics)
        self.prefetch = self.finder.observer = Prefetch(
            self.directory, self.entitlements, self.broker, self.metrics, self.postbox
        )

    def failed(self, call: AssumeRole, failure: IssueError) -> None:
        """The broker's failures, as the program leads them."""
        self.prefetch.failed(call, failure)

    def decisions(self, outcome: str, reason: str = "") -> float | None:
        """How many decisions were counted."""
        return self.metrics.registry.get_sample_value(
            "metaproxy_decisions_total", {"outcome": outcome, "reason": reason}
        )

    async def asked(self) -> list[str]:
        """The roles that STS was asked for by now, in order."""
        await asyncio.sleep(0.5)
        return [call.role.name for _, call in self.sts.calls]


@asynccontextmanager
async def bench(**rules: Any) -> AsyncIterator[Bench]:
    """A bench whose broker runs."""
    made = Bench(Rules(**{"base": BASE_ARN, **rules}))
    task = asyncio.create_task(made.broker.run())
    try:
        yield made
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_pod_without_address_is_fetched_for() -> None:
    """Bound to the node is enough: the session is asked for at once, before the pod has an address."""
    async with bench() as b:
        b.finder.put_namespace(team())
        b.finder.put_pod(pod())
        await asyncio.sleep(0.001)
        assert len(b.sts.calls) == 1
        assert await b.asked() == ["app"]
        b.finder.put_pod(pod(version=2, addresses=("10.0.0.1",)))
        assert await b.asked() == ["app"], "the address changes nothing"
        assert b.decisions("granted") == 1
        assert b.postbox.events == []


async def test_policy_comes_before_prefetch() -> None:
    """A role that the namespace forbids is never asked of STS, whoever annotates what (kiam fetched first)."""
    async with bench() as b:
        b.finder.put_namespace(team(permitted="arn:aws:iam::123456789012:role/app"))
        b.finder.put_pod(pod("good"))
        b.finder.put_pod(pod("greedy", role="admin"))
        assert await b.asked() == ["app"]
        assert b.postbox.reasons == [("greedy", "NotPermitted")]
        assert b.decisions("denied", "NotPermitted") == 1


@pytest.mark.parametrize(
    "odd",
    [
        pod(finished=True),
        pod(host_network=True, addresses=("10.0.0.1",)),
        pod(role=None),
        pod(role=" "),
        pod(role="not a role"),
        pod(role="arn:aws:iam::123456789012:user/me"),
        pod(namespace="elsewhere"),
        pod(annotations={ROLE: "app", EXTERNAL_ID: "!"}),
    ],
    ids=["finished", "hostNetwork", "no role", "blank", "malformed", "a user", "namespace unknown", "external id"],
)
async def test_nothing_is_wanted_for_who_may_not(odd: Pod) -> None:
    """Who owns no address, asks for nothing, asks wrongly or is not yet known to be allowed costs no call."""
    async with bench() as b:
        b.finder.put_namespace(team())
        b.finder.put_pod(odd)
        assert await b.asked() == []


async def test_a_finished_pod_is_wanted_for_no_more() -> None:
    """A Job that is done gives its entitlement back; so does a pod that is deleted."""
    async with bench() as b:
        b.finder.put_namespace(team())
        for uid in ("done", "deleted"):
            b.finder.put_pod(pod(uid, addresses=("10.0.0.1",)))
        calls = {uid: _granted(b, uid) for uid in ("done", "deleted")}
        assert [b.broker.wanting(calls[uid]) for uid in calls] == [{"done"}, {"deleted"}]
        b.finder.put_pod(pod("done", version=2, finished=True))
        b.finder.delete_pod("deleted", 3)
        assert [b.broker.wanting(calls[uid]) for uid in calls] == [frozenset(), frozenset()]


def _granted(b: Bench, uid: str) -> AssumeRole:
    known = b.directory.pod(uid)
    assert known is not None
    decision = b.entitlements.of(known)
    assert isinstance(decision, Grant)
    return decision.call


async def test_a_namespace_grants_and_revokes() -> None:
    """The namespace comes late, then forbids, then permits again: wanted follows each time, without the pod's doing."""
    async with bench() as b:
        b.finder.put_pod(pod())
        assert await b.asked() == []
        b.finder.put_namespace(team())
        assert await b.asked() == ["app"]
        call = _granted(b, "a")
        b.finder.put_namespace(team(permitted="nothing", version=2))
        assert b.broker.wanting(call) == frozenset()
        assert b.postbox.reasons == [("a", "NotPermitted")]
        b.finder.put_namespace(team(version=3))
        assert b.broker.wanting(call) == {"a"}
        b.finder.delete_namespace("n", 4)
        assert b.broker.wanting(call) == frozenset()


async def test_another_namespace_is_not_looked_at() -> None:
    """A namespace's change moves its own pods alone: a node's pods are not all decided anew at each change."""
    async with bench() as b:
        b.finder.put_namespace(team())
        b.finder.put_pod(pod())
        call = _granted(b, "a")
        b.directory.put_namespace(team(permitted="nothing", version=2))  # behind its back: only a look would show it
        b.finder.put_namespace(Namespace(uid="m", name="other", version=3))
        assert b.broker.wanting(call) == {"a"}
        b.prefetch.namespaces_changed(frozenset({"team", "other"}))
        assert b.broker.wanting(call) == frozenset()


async def test_the_base_arn_becomes_known() -> None:
    """Bare names wait for the account: when it is learned what waited is wanted; nobody is blamed meanwhile."""
    async with bench(base=None) as b:
        b.finder.put_namespace(team())
        b.finder.put_pod(pod("bare"))
        b.finder.put_pod(pod("full", role="arn:aws:iam::123456789012:role/full"))
        assert await b.asked() == ["full"]
        assert b.decisions("denied", "BaseArnUnknown") == 1
        b.prefetch.set_rules(replace(b.entitlements.rules, base=BASE_ARN))
        assert await b.asked() == ["full", "app"]
        assert b.postbox.events == []
        assert b.decisions("granted") == 2


async def test_each_decision_is_told_once() -> None:
    """A pod's status changes many times, its denial stands once; another denial, or the same anew, is told again."""
    async with bench() as b:
        b.finder.put_namespace(team())
        for version in range(1, 20):
            b.finder.put_pod(pod(role="not a role", version=version, addresses=(f"10.0.0.{version}",)))
            b.prefetch.namespaces_changed(frozenset({"team"}))
        assert b.postbox.reasons == [("a", "RoleMalformed")]
        b.finder.put_namespace(team(permitted="nothing", version=2))
        b.finder.put_pod(pod(version=30))
        b.finder.put_pod(pod(version=31, role="not a role"))
        assert [reason for _, reason in b.postbox.reasons] == ["RoleMalformed", "NotPermitted", "RoleMalformed"]
        assert b.decisions("denied", "RoleMalformed") == 2


async def test_an_event_says_the_rule_and_the_remedy() -> None:
    """What the owner reads names what decided and what to do, and so does the operator's log."""
    async with bench() as b:
        b.finder.put_namespace(Namespace(uid="n", name="team", version=1, annotations={ALLOWED_ROLES: '["other"]'}))
        with capture_logs() as logs:
            b.finder.put_pod(pod())
        ((_, reason, note),) = b.postbox.events
        assert reason == "NotPermitted"
        assert "the namespace team does not permit arn:aws:iam::123456789012:role/app" in note
        assert f"decided by namespace annotation {ALLOWED_ROLES}" in note
        assert f"into {ALLOWED_ROLES} on the namespace" in note
        (line,) = logs
        assert (line["pod_namespace"], line["pod_name"], line["reason"]) == ("team", "a", "NotPermitted")


async def test_what_is_no_mistake_is_not_told() -> None:
    """Most pods have no role, and what is only not known yet is nobody's mistake: counted, but no Event."""
    async with bench() as b:
        b.finder.put_pod(pod("plain", role=None))
        b.finder.put_pod(pod("early"))
        assert b.postbox.events == []
        assert b.decisions("denied", "NoRole") == 1
        assert b.decisions("denied", "NamespaceUnknown") == 1


async def test_failures_are_told_to_every_pod_that_wants_the_session() -> None:
    """STS refuses: the owner of each pod that wants this very session reads it, nobody else does."""
    async with bench() as b:
        b.sts.script.extend([StsDenied("STS refuses the role", remedy="mend its trust policy")])
        b.finder.put_namespace(team())
        for uid in ("one", "two"):
            b.finder.put_pod(pod(uid, workload="web"))
        await asyncio.sleep(0)
        b.finder.put_pod(pod("other", role="other"))
        await b.asked()
        assert sorted(b.postbox.reasons) == [("one", "StsDenied"), ("two", "StsDenied")]
        assert b.postbox.events[0][2] == (
            "arn:aws:iam::123456789012:role/app: STS refuses the role; mend its trust policy"
        )


async def test_a_pod_that_went_meanwhile_is_told_nothing() -> None:
    """The pods that wanted the session are gone when the failure comes: nobody is left to tell."""
    async with bench() as b:
        b.sts.script.extend([StsDenied("no", remedy="mend")])
        b.finder.put_namespace(team())
        b.finder.put_pod(pod())
        await asyncio.sleep(0.01)
        b.finder.delete_pod("a", 2)
        b.broker.want("a stranger", b.sts.calls[0][1])
        await b.asked()
        assert b.postbox.events == []


async def test_without_a_recorder_everything_else_works() -> None:
    """Sources without Events (files): decisions and failures are counted and logged, and nothing breaks."""
    async with bench() as b:
        b.prefetch = b.finder.observer = Prefetch(b.directory, b.entitlements, b.broker, b.metrics)
        b.sts.failing = lambda: StsDenied("no", remedy="mend")
        b.finder.put_namespace(team())
        b.finder.put_pod(pod())
        b.finder.put_pod(pod("odd", role="not a role"))
        assert await b.asked() == ["app"]
        assert b.postbox.events == []
        assert b.decisions("denied", "RoleMalformed") == 1


async def test_a_pod_on_the_nodes_network_is_told_whose_role_it_uses() -> None:
    """Once for each role that it names; counted while it runs."""
    async with bench() as b:
        b.finder.put_namespace(team())

        def counted() -> float | None:
            return b.metrics.registry.get_sample_value("metaproxy_host_network_roles")

        b.finder.put_pod(pod("plain", role=None, host_network=True))
        assert (b.postbox.events, counted()) == ([], 0)
        with capture_logs() as logs:
            for version in (1, 2):
                b.finder.put_pod(pod("agent", host_network=True, version=version, addresses=("10.9.0.1",)))
        assert [line["event"] for line in logs] == ["hostNetwork pod uses the node's role"]
        assert (b.postbox.reasons, counted()) == ([("agent", "HostNetwork")], 1)
        b.finder.put_pod(pod("agent", role="other", host_network=True, version=3))
        b.finder.put_pod(pod("second", host_network=True))
        assert (b.postbox.reasons, counted()) == ([("agent", "HostNetwork")] * 2 + [("second", "HostNetwork")], 2)
        b.finder.put_pod(pod("agent", host_network=True, finished=True, version=4))
        assert counted() == 1
        b.finder.delete_pod("second", 5)
        assert counted() == 0
        assert await b.asked() == []


async def test_an_address_that_the_kernel_takes_is_told() -> None:
    """To the pod's owner, as an Event with the reason, and in the log; without a recorder in the log alone."""
    async with bench() as b:
        for recorder in (b.postbox, None):
            b.prefetch._recorder = recorder
            with capture_logs() as logs:
                b.prefetch.owner_withdrawn(pod(), "10.0.0.1 is withdrawn")
                b.finder.put_pod(pod("host", host_network=True, version=2 if recorder else 3, role=str(recorder)[:3]))
            assert logs[0]["reason"] == "CallerWithdrawn"
        assert b.postbox.events[0] == ("a", "CallerWithdrawn", "10.0.0.1 is withdrawn")
        assert b.postbox.reasons == [("a", "CallerWithdrawn"), ("host", "HostNetwork")]

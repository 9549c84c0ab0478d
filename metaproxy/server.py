"""The walk of a request: what is asked, who asks, may it, its credentials, and is it still the same pod.

Knows: the order of the stops, how long a request may be held, how an outcome becomes an answer and one log record.
Must not know: any HTTP library, Kubernetes, botocore, how a decision is made.

Everything that can fail fails at the role list, which asks for the credentials too: after a list that answered 200 the
credentials answer is 200 (contract §9.1; some clients end their process on a refusal there).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import structlog
from prometheus_client import Counter, Histogram

from metaproxy import imds, tokens
from metaproxy.credentials import Credentials, told_expiry
from metaproxy.eager import in_task
from metaproxy.errors import (
    CallerChanged,
    MetaproxyError,
    Reason,
    Refused,
    RequestError,
    TokenMissing,
    UnknownPath,
    UpstreamUnavailable,
)
from metaproxy.imds import Answer, Profile, Request, Route
from metaproxy.loglimit import LogLimit
from metaproxy.pods import Pod
from metaproxy.policy import Decision, Denial, Grant, is_role
from metaproxy.roles import AssumeRole
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

HOLD = 0.9
"""Seconds for which a request is held at most: nearly every client waits one second (contract §9.1)."""

OK = 200


class Callers(Protocol):
    """Who finds the pod behind an address."""

    async def find(self, address: str, *, deadline: float) -> Pod:
        """The one live pod that owns the address; raises a CallerError."""
        ...

    def owner(self, address: str) -> Pod | None:
        """The one live pod that owns the address, if it is known now."""
        ...

    async def news(self, key: Hashable, *, deadline: float) -> bool:
        """Wait for a change of `("namespace", N)` or `"rules"`."""
        ...


class Rights(Protocol):
    """Who decides."""

    def of(self, pod: Pod) -> Decision:
        """What the pod is entitled to now."""
        ...

    def tokens_required(self, pod: Pod | None) -> bool:
        """Whether the pod's requests need a token."""
        ...


class Sessions(Protocol):
    """Who holds credentials."""

    async def get(self, call: AssumeRole, *, deadline: float) -> Credentials:
        """The session that the call gives; raises an IssueError."""
        ...


class Item(Protocol):
    """An answer of the node's own metadata service."""

    @property
    def status(self) -> int:
        """200 or 404."""
        ...

    @property
    def body(self) -> bytes:
        """What it said."""
        ...


class Items(Protocol):
    """Who asks the node's own metadata service."""

    async def get(self, path: str) -> Item:
        """An approved item; raises UpstreamUnavailable."""
        ...


class Server:
    """Answers requests; see the module. `key` signs tokens, `hold` is in seconds."""

    def __init__(
        self,
        *,
        callers: Callers,
        rights: Rights,
        sessions: Sessions,
        items: Items,
        explain: Callable[[str], dict[str, Any]],
        metrics: Metrics,
        key: bytes,
        profile: Profile,
        hold: float = HOLD,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._callers = callers
        self._rights = rights
        self._sessions = sessions
        self._items = items
        self._explain = explain
        self._metrics = metrics
        self._key = key
        self._profile = profile
        self._hold = hold
        self._clock = clock
        self._series: dict[tuple[str, str, int, str], tuple[Counter, Histogram]] = {}
        # Asked once: making a record only to drop it would cost each cached answer more than its credentials do.
        self._chatty = structlog.get_logger().is_enabled_for(logging.DEBUG)
        self._limit = LogLimit()
        self._v1, self._v2 = (metrics.counter("imds_version_total", version=version) for version in ("v1", "v2"))

    async def answer(self, request: Request) -> Answer:
        """The answer to a request: always one, whatever goes wrong."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        label, pod, reason = "none", None, ""
        try:
            route = imds.parse(request, self._profile)
            label = route.label
            answer, pod = await self._walk(request, route, begun + self._hold)
        except MetaproxyError as refusal:
            reason = refusal.reason.value
            answer = _refused(refusal)
            if not isinstance(refusal, RequestError):
                pod = self._callers.owner(request.peer)
        except Exception:
            # A mistake of ours: the pod gets an answer without a trace of it, the operator gets the trace.
            reason = Reason.INTERNAL.value
            if (left_out := self._limit.left_out((request.peer, label, "trace"), loop.time())) is not None:
                log.exception("answering broke", route=label, peer=request.peer, left_out=left_out or None)
            answer = Answer(
                status=500,
                body=imds.error_document(reason, ["the agent made a mistake", "tell the operator"]),
                content_type=imds.JSON,
            )
        self._record(request, label, answer, reason, pod, begun, loop.time())
        return answer

    async def _walk(self, request: Request, route: Route, deadline: float) -> tuple[Answer, Pod | None]:
        if isinstance(route, imds.TokenRoute):
            # No look-up of any kind: clients fall back to v1 for good when this one is slow or fails (contract M20).
            ttl = tokens.ttl_of(request.ttl)
            token = tokens.make(self._key, ttl=ttl, address=request.peer, now=self._clock())
            return Answer(status=OK, body=token.encode(), ttl=ttl), None
        ttl_left = self._checked_token(request)
        if isinstance(route, imds.VersionsRoute):
            pod = self._callers.owner(request.peer)
            self._demand_token(request, pod)
            return Answer(status=OK, body=imds.VERSIONS.encode(), ttl=ttl_left), pod
        if isinstance(route, imds.ExplainRoute):
            pod = self._callers.owner(request.peer)
            return Answer(
                status=OK, body=imds.json_document(self._explain(request.peer)), content_type=imds.JSON, ttl=ttl_left
            ), pod
        pod = await self._callers.find(request.peer, deadline=deadline)
        self._demand_token(request, pod)
        if isinstance(route, imds.ItemRoute):
            return Answer(status=OK, body=await self._item(route.path, deadline), ttl=ttl_left), pod
        pod, grant = await self._granted(request.peer, pod, deadline)
        return Answer(status=OK, body=await self._body(request.peer, route, pod, grant, deadline), ttl=ttl_left), pod

    async def _item(self, path: str, deadline: float) -> bytes:
        """An item of the node's; whoever asks it has limits of its own, but looking for the pod took time already."""
        await in_task()
        try:
            async with asyncio.timeout_at(deadline):
                item = await self._items.get(path)
        except TimeoutError:
            raise UpstreamUnavailable(
                "the node's metadata service has not answered yet", remedy="ask again: the answer is kept"
            ) from None
        if item.status != OK:
            raise UnknownPath("the node's metadata service does not have it", remedy="ask for something else")
        return item.body

    async def _body(self, peer: str, route: Route, pod: Pod, grant: Grant, deadline: float) -> bytes:
        role = grant.call.role
        if isinstance(route, imds.InfoRoute):
            return imds.info_document(role, now=self._clock())
        if isinstance(route, imds.CredentialsRoute) and not is_role(route.role, role):
            raise Refused(
                "this is not the role of your pod",
                remedy="ask for the role list first: the pod's role may have changed",
                reason=Reason.OTHER_ROLE,
                status=404,
                retryable=False,
            )
        credentials = await self._sessions.get(grant.call, deadline=deadline)
        self._still_the_same(peer, pod, grant)
        if isinstance(route, imds.CredentialsRoute):
            expiry = int(told_expiry(credentials, self._clock()))
            return imds.credentials_document(credentials, expiry=expiry, extended=route.extended)
        return role.name.encode()

    async def _granted(self, peer: str, pod: Pod, deadline: float) -> tuple[Pod, Grant]:
        """The pod at the address and its grant, waiting for what is only not known yet."""
        while True:
            decision = self._rights.of(pod)
            if isinstance(decision, Grant):
                return pod, decision
            await in_task()
            key = ("namespace", pod.namespace) if decision.reason is Reason.NAMESPACE_UNKNOWN else "rules"
            if not decision.retryable or not await self._callers.news(key, deadline=deadline):
                raise _denied(decision)
            pod = await self._callers.find(peer, deadline=deadline)

    def _still_the_same(self, peer: str, pod: Pod, grant: Grant) -> None:
        """Whoever asked may have gone while it was held: nobody gets what another was granted (kiam#499)."""
        owner = self._callers.owner(peer)
        decision = self._rights.of(owner) if owner is not None and owner.uid == pod.uid else None
        if not isinstance(decision, Grant) or decision.call != grant.call:
            raise CallerChanged("your address or role changed while you waited", remedy="ask again")

    def _checked_token(self, request: Request) -> int | None:
        """The seconds that the request's token is still good for; None without a token. A bad one is refused always."""
        if request.token is None:
            self._v1.inc()
            return None
        self._v2.inc()
        return tokens.check(self._key, request.token, address=request.peer, now=self._clock())

    def _demand_token(self, request: Request, pod: Pod | None) -> None:
        if request.token is None and self._rights.tokens_required(pod):
            raise TokenMissing(
                "a session token is required here", remedy="use IMDSv2: PUT /latest/api/token, then send the token"
            )

    def _record(
        self, request: Request, label: str, answer: Answer, reason: str, pod: Pod | None, begun: float, now: float
    ) -> None:
        method = request.method if request.method in {"GET", "HEAD", "PUT"} else "other"
        key = (label, method, answer.status, reason)
        known = self._series.get(key)
        if known is None:
            counter = self._metrics.counter(
                "http_requests_total", route=label, method=method, code=str(answer.status), reason=reason
            )
            histogram = self._metrics.histogram("http_request_duration_seconds", route=label)
            known = self._series[key] = counter, histogram
        known[0].inc()
        known[1].observe(now - begun)
        if answer.status == OK and not self._chatty:
            return
        left_out = 0 if answer.status == OK else self._limit.left_out((request.peer, label, reason), now)
        if left_out is None:
            return
        (log.debug if answer.status == OK else log.info)(
            "request",
            route=label,
            method=method,
            status=answer.status,
            reason=reason or None,
            peer=request.peer,
            pod_namespace=pod.namespace if pod else None,
            pod_name=pod.name if pod else None,
            duration_seconds=round(now - begun, 4),
            left_out=left_out or None,
        )


def _denied(denial: Denial) -> Refused:
    return Refused(
        denial.message, remedy=denial.remedy, reason=denial.reason, status=denial.status, retryable=denial.retryable
    )


def _refused(refusal: MetaproxyError) -> Answer:
    return Answer(
        status=refusal.status,
        body=imds.error_document(refusal.reason.value, [refusal.message, refusal.remedy]),
        content_type=imds.JSON,
        retry_after=1 if refusal.status == 503 else None,  # noqa: PLR2004  contract S8
    )

"""What one process hands to the next, as bytes and back.

Knows: what is handed over, under which terms a part of it may be used, and how each part can be wrong.
Must not know: sockets, the clock, the event loop, how any part is made or used. Times are relative, in seconds, unless
they are Unix seconds of wall time: the loops of two processes share no clock.

The reader trusts nothing: every value has its type, every name its grammar, every index a partner. A state that is
wrong in one place is refused as a whole, because what else is wrong with it nobody knows.
"""

import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from metaproxy.caller import Memory
from metaproxy.carriers import Carrier, Lives
from metaproxy.credentials import KEY_LIMIT, READABLE, TOKEN_LIMIT, Credentials, Keys, Secret
from metaproxy.errors import (
    IssueError,
    StsDenied,
    StsInvalidRequest,
    StsOwnIdentity,
    StsPending,
    StsRegionDisabled,
    StsThrottled,
    StsUnreachable,
)
from metaproxy.objects import canonical_address
from metaproxy.pods import NAMESPACE_ANNOTATIONS, POD_ANNOTATIONS, Pod
from metaproxy.roles import AssumeRole, RoleArn, RoleSyntaxError, external_id, session_name
from metaproxy.ties import Memory as TiesMemory
from metaproxy.tokens import KEY_SIZE
from metaproxy.typedjson import MisfitError, Special, dump, parse

__all__ = ["Failure", "Held", "MisfitError", "State", "Terms", "failure_of", "read", "write"]

FORMAT = 2
"""Of the state. Another one is not read: what its parts mean to each other is known to nobody here."""

DURATIONS = (900, 43_200)
"""Seconds that a session may live, as STS has it."""

LIFE_SLACK = 60.0
"""Seconds by which a session may seem to live longer: its begin is told by our clock, its end by that of STS."""

LONGEST_PAUSE = 3600.0
"""Seconds for which a failure can keep anybody from asking again: more than any pause there is."""


NODE_ROLE = "iam-role"
"""What botocore calls it when keys come from the node's metadata service."""

_PRINTED = re.compile(r"[!-~]{1,2048}", re.ASCII)
"""What says who we are: an ARN has 2048 characters at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Who a process is: what decides which parts of its state another one may go on with.

    `source` says whose pods they are (the node, and where they are learnt), `network` which kernel's word it is, and
    `issuer` how sessions are asked for: the separate role, the endpoint, the region. `principal` is the role that STS
    sees, empty while it is not known. `keys` is all that a pod's AssumeRole call is made of besides the pod.
    """

    source: str
    network: str
    issuer: str
    principal: str
    keys: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why STS gave no session; `reason` is its code."""

    reason: str
    message: str
    remedy: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What is held of a call: a session, a remembered failure, or both.

    Seconds from now: `renew_in` until the session is to be renewed, `serve_in` until it is served no more, `retry_in`
    until STS may be asked again after the `failures` failures in a row. `failing`: since how long they go on.
    """

    call: AssumeRole
    credentials: Credentials | None
    renew_in: float
    serve_in: float
    failure: Failure | None = None
    failures: int = 0
    failing: float = 0.0
    retry_in: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """Who a process is to STS, which has told it so, or one before it: the `arn` of its identity.

    Its own keys at that time: `access_key_id` of them, and by which `method` of botocore's chain they were found.
    `separate`: the session of the separate role that it has by them; None when there is none. `away`: STS answers
    nobody now, so that this is to be believed; else STS is to be asked.
    """

    away: bool
    arn: str
    access_key_id: str
    method: str
    separate: Held | None

    def has(self, keys: Keys) -> bool:
        """Whether who has these keys, on the same node, is the same.

        The node's role gives others every hour: a process believes that of itself, too, when its keys are renewed.
        """
        return keys.access_key_id == self.access_key_id or keys.method == self.method == NODE_ROLE


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All that is handed over.

    `key` signs tokens, as hexadecimal text; None when it is in a file. `own` is None where that is not known.
    `newest` are the newest versions that were seen of pods and namespaces. `lives` are the kernel's devices that
    `directory.ties` speaks of.
    """

    terms: Terms
    key: Secret | None
    own: Own | None
    sessions: tuple[Held, ...]
    directory: Memory
    newest: tuple[int, int]
    lives: Lives | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    format: int
    state: State


_SPECIALS = {Secret: Special(Secret.reveal, Secret)}

_FAILURES: dict[str, type[IssueError]] = {
    kind.reason.value: kind
    for kind in (
        StsDenied,
        StsInvalidRequest,
        StsOwnIdentity,
        StsPending,
        StsRegionDisabled,
        StsThrottled,
        StsUnreachable,
    )
}


def write(state: State) -> bytes:
    """The state as bytes. They carry secrets."""
    return dump(_Document(format=FORMAT, state=state), _SPECIALS)


def read(document: bytes) -> State:
    """The state that bytes carry.

    Raises:
        MisfitError: it is of another format, or wrong somewhere. Total: whatever the bytes.
    """
    state = parse(_Document, document, _SPECIALS)
    if state.format != FORMAT:
        raise MisfitError(f"its format is {state.format} and not {FORMAT}")
    _check(state.state)
    return state.state


def failure_of(failure: Failure) -> IssueError:
    """The failure as an exception."""
    return _FAILURES[failure.reason](failure.message, remedy=failure.remedy, code=failure.code)


def _check(state: State) -> None:
    if state.key is not None:
        _demand(_is_key(state.key.reveal()), "the token key")
    if state.own is not None:
        texts = (state.own.arn, state.own.access_key_id, state.own.method)
        _demand(all(map(_PRINTED.fullmatch, texts)), "an identity")
        if state.own.separate is not None:
            _check_held(state.own.separate)
    for held in state.sessions:
        _check_held(held)
    _distinct((held.call for held in state.sessions), "a call")
    _check_directory(state.directory)
    _demand(min(state.newest) >= 0, "a version")
    if state.lives is not None:
        _distinct((link.index for link, _ in state.lives.devices), "a device")
        _demand(all(0 < born <= state.lives.births for _, born in state.lives.devices), "a device's life")


def _is_key(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) == KEY_SIZE
    except ValueError:
        return False


def _check_held(held: Held) -> None:
    _check_call(held.call)
    if held.credentials is not None:
        _check_credentials(held.credentials, held.call)
    if held.failure is not None:
        _demand(held.failure.reason in _FAILURES and held.failures > 0, "a failure")
    _demand(held.failures >= 0 and held.failing >= 0 and 0 <= held.retry_in <= LONGEST_PAUSE, "a pause")


def _check_call(call: AssumeRole) -> None:
    try:
        legal = RoleArn.parse(call.role.arn) == call.role and external_id(call.external_id or "none") != ""
    except RoleSyntaxError:
        legal = False
    shortest, longest = DURATIONS
    names = [call.session_name, *([] if call.source_identity is None else [call.source_identity])]
    _demand(
        legal and shortest <= call.duration <= longest and all(session_name(name) == name for name in names), "a call"
    )


def _check_credentials(held: Credentials, call: AssumeRole) -> None:
    texts = (
        (held.access_key_id, KEY_LIMIT),
        (held.secret_access_key.reveal(), KEY_LIMIT),
        (held.session_token.reveal(), TOKEN_LIMIT),
    )
    readable = all(len(text) <= limit and READABLE.fullmatch(text) for text, limit in texts)
    lives = 0 < held.issued < held.expires <= held.issued + call.duration + LIFE_SLACK
    _demand(bool(readable) and lives and held.account == call.role.account, "a session")


def _check_directory(memory: Memory) -> None:
    for pod in memory.pods:
        canonical = all(canonical_address(address) == address for address in pod.addresses)
        named = bool(pod.uid and pod.namespace and pod.name)
        _demand(canonical and named and pod.version >= 0 and pod.annotations.keys() <= POD_ANNOTATIONS, "a pod")
    for namespace in memory.namespaces:
        named = bool(namespace.uid and namespace.name)
        known = namespace.annotations.keys() <= NAMESPACE_ANNOTATIONS
        _demand(named and namespace.version >= 0 and known, "a namespace")
    for uids in (memory.pods, memory.namespaces):
        _distinct((item.uid for item in uids), "a uid")
    for gone in (memory.gone_pods, memory.gone_namespaces):
        _distinct(gone, "a uid")
    _demand(not {pod.uid for pod in memory.pods} & {*memory.gone_pods}, "a pod that is gone")
    _demand(min(memory.listed_pods, memory.listed_namespaces) >= 0, "a version")
    if memory.ties is not None:
        _check_ties(memory.ties, memory.pods)


def _check_ties(ties: TiesMemory, pods: Iterable[Pod]) -> None:
    claimed = {address for pod in pods if pod.live for address in pod.addresses}
    _demand(claimed <= ties.points.keys(), "an address without a point")
    for address, point in ties.points.items():
        _demand(canonical_address(address) == address, "an address")
        for carrier in (point.sight, point.last, point.tied):
            _demand(carrier is None or _is_carrier(carrier), "a carrier")
        _demand(0 <= point.loss <= ties.losses and (point.fence is None or point.fence >= 0), "a loss")
    for key, port in ties.ports.items():
        tenant = ties.tenants.get(port.device) if port.device is not None else None
        mine = tenant is not None and (tenant.uid, tenant.bridge) == key and not tenant.over
        _demand(port.device is None or mine, "a port without its tenant")


def _is_carrier(carrier: Carrier) -> bool:
    return min(carrier.link, carrier.born, carrier.bridge) >= 0 and bool(carrier.link or carrier.bridge)


def _distinct(keys: Iterable[Hashable], what: str) -> None:
    seen: set[Hashable] = set()
    for key in keys:
        _demand(key not in seen, f"{what} that is there twice")
        seen.add(key)


def _demand(right: bool, what: str) -> None:
    if not right:
        raise MisfitError(f"it has {what} that cannot be")

"""How the pieces are built, started, watched and stopped: the only place where concrete classes meet.

Knows: every class. Must not know: HTTP paths, policy rules, STS.
"""

import asyncio
import gc
import os
import random
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import structlog
import uvloop

from metaproxy import __version__, descriptors, keyfile, listener, sockets, status, tokens
from metaproxy.admin import BACKLOG, Admin
from metaproxy.broker import Broker
from metaproxy.caller import Directory
from metaproxy.claims import Why
from metaproxy.entitlements import Entitlements
from metaproxy.errors import IssueError, MetaproxyError
from metaproxy.events import EventRecorder
from metaproxy.explain import Explainer
from metaproxy.finder import Finder
from metaproxy.handoverstate import Terms
from metaproxy.imds import BASIC, Profile
from metaproxy.kube import KubeSource
from metaproxy.kubeclient import KubeClient
from metaproxy.listener import Listener
from metaproxy.manifests import ManifestSource
from metaproxy.objects import canonical_address
from metaproxy.passthrough import Upstream
from metaproxy.policy import Rules
from metaproxy.prefetch import Prefetch
from metaproxy.roles import AssumeRole, BaseArn, RoleArn
from metaproxy.server import Server
from metaproxy.settings import Settings
from metaproxy.settingvalues import join_address
from metaproxy.sts import Options, Sts
from metaproxy.succession import HANDOVER, Succession
from metaproxy.taint import StartupTaint
from metaproxy.telemetry import Metrics, configure_logging, measure_lag
from metaproxy.unixsocket import UnixSocket
from metaproxy.witness import Witness

log = structlog.get_logger()

DETECT_PAUSE = (0.5, 30.0)
"""Seconds between two tries to learn who we are: from, and growing to."""


class Agent:
    """The whole program, once for each set of settings; `run` is its life."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._started = clock()
        self._network = ""
        self._admin_socket: socket.socket | None = None
        self.metrics = Metrics()
        directory = Directory()
        self._rules = rules_of(settings)
        self._entitlements = Entitlements(directory, self._rules, tokens_required=settings.tokens.mode == "required")
        self._finder = Finder(directory, self.metrics, is_own=sockets.is_own)
        self._upstream = Upstream(settings.upstream.url, metrics=self.metrics, paths=self._ahead())
        self._sts = Sts(sts_options(settings), find_region=self._upstream.region, clock=clock)
        self._broker = Broker(
            self._sts,
            self.metrics,
            concurrency=settings.sts.concurrency,
            rate=settings.sts.rate,
            burst=settings.sts.burst,
            clock=clock,
            on_failure=self._told_failure,
        )
        self._kube: KubeClient | None = None
        self._events: EventRecorder | None = None
        self._source: KubeSource | ManifestSource
        if settings.source.manifests:
            self._source = ManifestSource(self._finder, settings.source.manifests, metrics=self.metrics)
        else:
            self._kube = KubeClient(settings.source.kubeconfig)
            self._source = KubeSource(self._finder, self._kube, settings.node_name, metrics=self.metrics)
            self._finder.reader = self._source
            if settings.events.enabled:
                self._events = EventRecorder(self._kube, settings.node_name, metrics=self.metrics)
        self._taint: StartupTaint | None = None
        if self._kube is not None and settings.node.remove_startup_taint:
            self._taint = StartupTaint(self._kube, settings.node_name, ready=lambda: self.admin.ready)
        self._witness: Witness | None = None
        if settings.caller.witness == "on":
            directory.witness()
            self._witness = self._finder.lookout = Witness(self._finder, self.metrics)
        self._prefetch = Prefetch(directory, self._entitlements, self._broker, self.metrics, self._events)
        self._finder.observer = self._prefetch
        self._explainer = Explainer(
            directory, self._entitlements, self._broker.state, is_own=sockets.is_own, clock=clock
        )
        self._listener: Listener
        self._succession: Succession | None = None
        if settings.handover.socket is not None:
            self._succession = Succession(
                settings.handover.socket,
                terms=self._terms,
                sessions=self._broker,
                callers=self._finder,
                kernel=self._witness,
                source=self._source if isinstance(self._source, KubeSource) else None,
                on_retired=self._retire,
            )
        self.listening = asyncio.Event()
        self.admin = Admin(
            metrics=self.metrics,
            checks={
                "pods": lambda: None if self._finder.pods_synced else f"no list yet: {self._source.status()}",
                "namespaces": lambda: None if self._finder.namespaces_synced else "no list yet",
                "identity": self._sts.trouble,
                "witness": lambda: None if self._witness is None else self._witness.deaf(),
                "listener": self._listener_trouble,
            },
            details=self._details,
            explain=self._explain,
            status=self._status,
        )

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where pods are answered; empty before the listener is up."""
        return self._listener.addresses if hasattr(self, "_listener") else []

    async def run(self, stop: asyncio.Event) -> None:
        """Live until `stop`, then let held requests end.

        Raises:
            OSError: an address cannot be had. KeyFileError: the token key cannot be used.
            ExceptionGroup: a task that should never end did.
        """
        settings, succession = self._settings, self._succession
        async with AsyncExitStack() as stack:
            # First what lets people see us, then what can get stuck.
            stack.push_async_callback(self.admin.close)
            await self._open_admin_socket(stack)
            if succession is not None:
                stack.callback(succession.close)
                self._network = await asyncio.to_thread(os.readlink, "/proc/self/ns/net")
                await succession.begin(self._bound, stop)
                if stop.is_set():
                    return
                succession.adopt()
            if succession is None or not succession.follows:
                await self._open_admin()
            for resource in (self._upstream, self._sts, self._kube):
                if resource is not None:
                    await stack.enter_async_context(resource)
            key = _token_key(settings, succession.key if succession is not None else None)
            limit = descriptors.limit()
            self.metrics.gauge("descriptors_limit").set(limit)
            self._listener = Listener(
                self._server(key).answer,
                self.metrics,
                connections=min(settings.server.connections, descriptors.room(limit)),
                connections_per_address=settings.server.connections_per_address,
                accept_direct=settings.server.accept_direct,
                farewell=settings.handover.drain,
            )
            self._finder.on_moved = self._listener.reset
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_eternal(name, run()), name=name) for name, run in self._duties().items()]
                tasks.append(group.create_task(self._detect(), name="detect base ARN"))
                if succession is not None:
                    await succession.warm(self._lacking, stop)
                giving = await self._open(group, key) if not stop.is_set() else None
                await stop.wait()
                self.admin.stopping = True
                log.info("stopping")
                if giving is not None:
                    giving.cancel()  # first: whoever warms up serves at once
                await self._listener.close()
                for task in tasks:
                    task.cancel()

    async def _open(self, group: asyncio.TaskGroup, key: bytes) -> asyncio.Task[None] | None:
        """Begin to serve; the task that gives all of it to a successor one day."""
        settings, succession = self._settings, self._succession
        if succession is not None and succession.follows:
            await succession.take()
            await self._open_admin()
        given: dict[str, socket.socket] = {} if succession is None else succession.given
        ready = {each: given.pop(name) for each in settings.server.listen if (name := _pods(each)) in given}
        await self._listener.accept(
            ready | listener.bound(each for each in settings.server.listen if each not in ready)
        )
        log.info("listening", addresses=[f"{host}:{port}" for host, port in self.addresses], version=__version__)
        giving = None
        if succession is not None:
            asked = given.pop(HANDOVER)
            await succession.done()
            sockets = {_pods(each): made for each, made in self._listener.sockets.items()}
            if settings.admin.listen is not None and self._admin_socket is not None:
                sockets[_admin(settings.admin.listen)] = self._admin_socket
            serve = succession.serve(asked, sockets, None if settings.tokens.key_file else key)
            giving = group.create_task(_eternal(HANDOVER, serve), name=HANDOVER)
        self.listening.set()
        # What is alive now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        return giving

    async def _open_admin_socket(self, stack: AsyncExitStack) -> None:
        """Answer who asks this very process, until the stack is left."""
        if (path := self._settings.admin.socket) is not None:
            # In a thread: it looks at files, and another process may be looking at the same.
            own = await asyncio.to_thread(UnixSocket, path, backlog=BACKLOG)
            stack.push_async_callback(asyncio.to_thread, own.remove)
            await self.admin.open([own.socket])

    async def _open_admin(self) -> None:
        """Answer who asks the agent of this node, whichever process it is."""
        if (address := self._settings.admin.listen) is None:
            return
        given = self._succession.given.pop(_admin(address), None) if self._succession is not None else None
        self._admin_socket = given or sockets.listening(*address, backlog=BACKLOG, free=False)
        await self.admin.open([self._admin_socket])

    def _bound(self) -> dict[str, socket.socket]:
        """Every listening socket by its name, when there is nobody to take them over from."""
        made = {_pods(each): one for each, one in listener.bound(self._settings.server.listen).items()}
        if (address := self._settings.admin.listen) is not None:
            try:
                made[_admin(address)] = sockets.listening(*address, backlog=BACKLOG, free=False)
            except OSError:
                for each in made.values():
                    each.close()
                raise
        return made

    def _lacking(self) -> list[str]:
        """What is not there yet of that which the predecessor has."""
        lacking = [name for name, trouble in self.admin.troubles().items() if trouble and name != "listener"]
        if self._entitlements.rules.base is None:
            lacking.append("base ARN")
        if not self._broker.resting and not self._broker.settled:
            lacking.append("sessions")
        return lacking

    async def _retire(self) -> None:
        """Another process serves now; this one goes on for those who are connected yet."""
        self._listener.retire()
        self._finder.observer = None
        await self.admin.retire()

    def _listener_trouble(self) -> str | None:
        if not self.addresses:
            return "not listening yet"
        return "another process has taken over" if self._listener.retired else None

    def _terms(self) -> Terms:
        settings = self._settings
        cluster = settings.source.kubeconfig or os.environ.get("KUBERNETES_SERVICE_HOST", "")
        where = [str(each) for each in settings.source.manifests] or [str(cluster)]
        sts = settings.sts
        options = sts_options(settings)
        return Terms(
            source=repr((settings.node_name, where)),
            network=self._network,
            issuer=repr((settings.assume_role_arn, options.endpoint_url, options.region)),
            principal=self._sts.principal,
            keys=repr(
                (
                    *(settings.node_name, settings.cluster_name, settings.role_base_arn, settings.policy),
                    *(sts.session_name, sts.session_tags, sts.source_identity, sts.session_duration),
                )
            ),
        )

    def _duties(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        tasks: dict[str, Callable[[], Awaitable[None]]] = {
            "source of pods": self._source.run,
            "finder": self._finder.run,
            "broker": self._broker.run,
            "own identity": self._sts.run,
            "upstream": self._upstream.run,
            "loop lag": lambda: measure_lag(self.metrics),
        }
        if self._witness is not None:
            tasks["witness"] = self._witness.run
        if self._events is not None:
            tasks["events"] = self._events.run
        if self._taint is not None:
            tasks["startup taint"] = self._taint.run
        return tasks

    def _server(self, key: bytes) -> Server:
        settings = self._settings
        profile = Profile(
            exact=(BASIC if settings.upstream.profile == "basic" else frozenset())
            | {path for path in settings.upstream.allow if not path.endswith("/")},
            prefixes=tuple(path for path in settings.upstream.allow if path.endswith("/")),
        )
        return Server(
            callers=self._finder,
            rights=self._entitlements,
            sessions=self._broker,
            items=self._upstream,
            explain=self._explainer.by_address,
            metrics=self.metrics,
            key=key,
            profile=profile,
            hold=settings.server.hold,
            clock=self._clock,
        )

    def _ahead(self) -> tuple[str, ...]:
        """The items that are fetched before anybody asks: those that SDKs ask for, if pods may have them."""
        return tuple(f"/latest/{path}" for path in sorted(BASIC)) if self._settings.upstream.profile == "basic" else ()

    async def _detect(self) -> None:
        """Learn what bare role names stand on, if nobody said; ends when it is known."""
        if self._rules.base is not None:
            return
        pause, longest = DETECT_PAUSE
        while True:
            try:
                identity = await self._sts.identity()
                base = BaseArn(partition=identity.partition, account=identity.account)
                break
            except MetaproxyError as failure:
                log.warning(
                    "own identity is not known yet",
                    reason=failure.reason,
                    message=failure.message,
                    remedy=failure.remedy,
                )
            await asyncio.sleep(pause * (0.75 + 0.5 * random.random()))  # noqa: S311  spreads load, guards nothing
            pause = min(2 * pause, longest)
        log.info("base ARN detected", base=base.arn)
        self._prefetch.set_rules(replace(self._rules, base=base))
        self._finder.tell("rules")

    def _told_failure(self, call: AssumeRole, failure: IssueError) -> None:
        # Not a bound method of the prefetch: each of the two needs the other, and the broker is built first.
        self._prefetch.failed(call, failure)

    def _details(self) -> Mapping[str, Any]:
        base = self._entitlements.rules.base
        details: dict[str, Any] = {
            "version": __version__,
            "source": self._source.status(),
            "base ARN": base.arn if base else "not known yet",
            "own identity": self._sts.status(),
            "upstream": self._upstream.status(),
        }
        details["witness"] = "off" if self._witness is None else self._witness_status(self._witness)
        if self._events is not None:
            details["events"] = self._events.status()
        if self._taint is not None:
            details["startup taint"] = self._taint.status()
        return details

    def _status(self) -> Mapping[str, Any]:
        pods, unlisted = self._explainer.all(
            sockets.device_name,
            lambda address: self._listener.refusal(address) if hasattr(self, "_listener") else None,
        )
        base = self._entitlements.rules.base
        return status.document(
            status.Agent(
                version=__version__,
                node=self._settings.node_name or socket.gethostname(),
                started=self._started,
                identity=self._sts.status(),
                base_arn=base.arn if base else "",
                source=self._source.status(),
                witness="off" if self._witness is None else self._witness_status(self._witness),
            ),
            checks=self.admin.troubles(),
            watches=self._source.watches() if isinstance(self._source, KubeSource) else (),
            spending=self._broker.spending(),
            pods=pods,
            unlisted=unlisted,
            now=self._clock(),
        )

    def _witness_status(self, witness: Witness) -> str:
        states = self._finder.directory.witness().states()
        parts = [witness.status(), f"{states['tied']} addresses tied", f"{states['withdrawn']} withdrawn"]
        if states["unseen"]:
            parts.append(f"{states['unseen']} without a carrier of their own: the API server's word alone counts there")
        return ", ".join(parts)

    def _explain(self, key: str, value: str) -> Mapping[str, Any] | None:
        if key == "ip":
            address = canonical_address(value) or value
            about = self._explainer.by_address(address)
            refused = self._listener.refusal(address) if hasattr(self, "_listener") else None
            if refused is not None:
                about["connections_refused"] = {"reason": refused[0].value, "number": refused[1]}
            directory = self._finder.directory
            if directory.withdrawn(address) is Why.UNSETTLED:
                # Here and not in the explainer, whose words pods read too.
                about["waits_for"] = [f"{pod.namespace}/{pod.name}" for pod in directory.awaited(address)]
            return about
        namespace, _, name = value.partition("/")
        return self._explainer.by_name(namespace, name)


def run(settings: Settings) -> int:
    """The command: 0 after SIGTERM or SIGINT, 1 when something that should never end did, 2 when it cannot begin."""
    configure_logging(json=settings.log.format == "json", level=settings.log.level)
    descriptors.lift()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_signal(settings))


async def _until_signal(settings: Settings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await Agent(settings).run(stop)
    except keyfile.KeyFileError as error:
        log.error("cannot begin", error=str(error))  # noqa: TRY400  a trace would help nobody
        return 2
    except Exception:
        log.exception("ended by a failure")
        return 1
    return 0


async def _eternal(name: str, work: Awaitable[None]) -> None:
    """Await what never ends: that it ends, however cleanly, is a failure of the whole."""
    await work
    raise RuntimeError(f"the task {name!r} ended by itself")


def rules_of(settings: Settings) -> Rules:
    """What the operator decided about who may have what."""
    return Rules(
        base=BaseArn.parse(settings.role_base_arn) if settings.role_base_arn else None,
        default_role=settings.policy.default_role,
        namespace_required=settings.policy.namespace_policy == "required",
        allow=tuple(settings.policy.allow),
        session_name=settings.sts.session_name,
        tags=tuple(settings.sts.session_tags.items()),
        source_identity=settings.sts.source_identity,
        duration=settings.sts.session_duration,
        node=settings.node_name,
        cluster=settings.cluster_name,
    )


def sts_options(settings: Settings) -> Options:
    """How STS is reached, and as whom."""
    return Options(
        region=settings.sts.region or os.environ.get("AWS_REGION", "") or os.environ.get("AWS_DEFAULT_REGION", ""),
        endpoint_url=settings.sts.endpoint_url,
        # The default chain asks where we ask, so that both mean the same node.
        metadata_url="" if "AWS_EC2_METADATA_SERVICE_ENDPOINT" in os.environ else settings.upstream.url,
        hop=RoleArn.parse(settings.assume_role_arn) if settings.assume_role_arn else None,
        hop_session_name=f"metaproxy-{settings.node_name}" if settings.node_name else "metaproxy",
        connections=settings.sts.concurrency,
    )


def _pods(address: tuple[str, int]) -> str:
    """The name of a socket at which pods are answered."""
    return f"pods at {join_address(address)}"


def _admin(address: tuple[str, int]) -> str:
    return f"admin at {join_address(address)}"


def _token_key(settings: Settings, handed: bytes | None) -> bytes:
    if settings.tokens.key_file:
        return keyfile.load(settings.tokens.key_file, size=tokens.KEY_SIZE)
    if handed is not None:
        return handed
    log.warning("tokens will not outlive this process", remedy="name a file in --tokens.key-file")
    return secrets.token_bytes(tokens.KEY_SIZE)

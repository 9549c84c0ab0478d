"""How the pieces are built, started, watched and stopped: the only place where concrete classes meet.

Knows: every class. Must not know: HTTP paths, policy rules, STS.
"""

import asyncio
import gc
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace

import structlog

from metaproxy import __version__, descriptors, sockets
from metaproxy.admin import Admin
from metaproxy.arrival import HANDOVER
from metaproxy.broker import Broker
from metaproxy.caller import Directory
from metaproxy.doors import Doors
from metaproxy.entitlements import Entitlements
from metaproxy.errors import IssueError
from metaproxy.events import EventRecorder
from metaproxy.finder import Finder
from metaproxy.inheritance import Inheritance
from metaproxy.kube import KubeSource
from metaproxy.kubeclient import KubeClient
from metaproxy.listener import Listener
from metaproxy.manifests import ManifestSource
from metaproxy.passthrough import Upstream
from metaproxy.prefetch import Prefetch
from metaproxy.reception import Reception
from metaproxy.roles import AssumeRole
from metaproxy.selfview import Selfview
from metaproxy.server import Server
from metaproxy.settings import Settings
from metaproxy.sts import Sts
from metaproxy.succession import Succession
from metaproxy.taint import StartupTaint
from metaproxy.telemetry import Metrics, measure_lag
from metaproxy.wiring import detected_base, items_ahead, profile_of, rules_of, sts_options, terms_of, token_key
from metaproxy.witness import Witness

log = structlog.get_logger()

FORMER_QUIET = 600.0
"""Seconds without a connection after which a former port is given up: the redirect moves within seconds."""


class Agent:
    """The whole program, once for each set of settings; `run` is its life."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._network = ""
        self.metrics = Metrics()
        directory = Directory()
        self._rules = rules_of(settings)
        self._entitlements = Entitlements(directory, self._rules, tokens_required=settings.tokens.mode == "required")
        self._finder = Finder(directory, self.metrics, is_own=sockets.is_own)
        self._upstream = Upstream(settings.upstream.url, metrics=self.metrics, paths=items_ahead(settings))
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
        view = self._view = Selfview(
            settings.node_name,
            entitlements=self._entitlements,
            finder=self._finder,
            source=self._source,
            sts=self._sts,
            broker=self._broker,
            upstream=self._upstream,
            witness=self._witness,
            refusal=lambda address: None if self._listener is None else self._listener.refusal(address),
            more={
                **({} if self._events is None else {"events": self._events.status}),
                **({} if self._taint is None else {"startup taint": self._taint.status}),
                "admin address": lambda: self._doors.trouble or "as it should be",
                "place": self._place,
            },
            clock=clock,
        )
        self._listener: Listener | None = None
        self._doors = Doors(settings.server.listen, settings.admin.listen, shared=settings.handover.socket is not None)
        self._succession: Succession | None = None
        if settings.handover.socket is not None:
            self._succession = Succession(
                settings.handover.socket,
                doors=self._doors,
                inheritance=Inheritance(
                    terms=lambda: terms_of(settings, network=self._network, principal=self._sts.principal),
                    identity=self._sts,
                    sessions=self._broker,
                    callers=self._finder,
                    kernel=self._witness,
                    source=self._source if isinstance(self._source, KubeSource) else None,
                ),
                on_retired=self._retire,
                metrics=self.metrics,
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
            details=view.details,
            explain=view.explain,
            status=lambda: view.status(self.admin.troubles()),
        )
        self._reception = Reception(self.admin, self._doors)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where pods are answered; empty before the listener is up."""
        return [] if self._listener is None else self._listener.addresses

    async def run(self, stop: asyncio.Event) -> None:
        """Live until `stop`, then let held requests end.

        Raises:
            AddressTakenError: an address is somebody else's. OSError: one cannot be had at all.
            KeyFileError: the token key cannot be used.
            ExceptionGroup: a task that should never end did.
        """
        settings, succession = self._settings, self._succession
        async with AsyncExitStack() as stack:
            # First what lets people see us, then what can get stuck.
            stack.push_async_callback(self.admin.close)
            if settings.admin.socket is not None:
                await self._reception.open_own(settings.admin.socket, stack)
            if succession is not None:
                stack.callback(succession.close)
                self._network = await asyncio.to_thread(os.readlink, "/proc/self/ns/net")
                await succession.begin(stop)
                if stop.is_set():
                    return
                succession.adopt()
            if succession is None or not succession.follows:
                await self._reception.open(self._given)
            for resource in (self._upstream, self._sts, self._kube):
                if resource is not None:
                    await stack.enter_async_context(resource)
            key = token_key(settings, succession.key if succession is not None else None)
            limit = descriptors.limit()
            self.metrics.gauge("descriptors_limit").set(limit)
            listener = self._listener = Listener(
                self._server(key).answer,
                self.metrics,
                connections=min(settings.server.connections, descriptors.room(limit)),
                connections_per_address=settings.server.connections_per_address,
                accept_direct=settings.server.accept_direct,
                farewell=settings.handover.drain,
            )
            self._finder.on_moved = listener.reset
            async with asyncio.TaskGroup() as group:
                duties = self._duties(listener)
                tasks = [group.create_task(_eternal(name, run()), name=name) for name, run in duties.items()]
                tasks.append(group.create_task(self._detect(), name="detect base ARN"))
                if succession is not None:
                    await succession.warm(self._lacking, stop)
                giving = await self._open(listener, group, key) if not stop.is_set() else None
                await stop.wait()
                self.admin.stopping = True
                log.info("stopping")
                if giving is not None:
                    giving.cancel()  # first: whoever warms up serves at once
                await listener.close()
                for task in tasks:
                    task.cancel()

    async def _open(self, listener: Listener, group: asyncio.TaskGroup, key: bytes) -> asyncio.Task[None] | None:
        """Begin to serve; the task that gives all of it to a successor one day."""
        succession = self._succession
        if succession is not None and succession.follows:
            await succession.take()
            await self._reception.open(self._given)
        await listener.accept(await asyncio.to_thread(self._doors.of_pods, self._given))
        await listener.accept(self._doors.former(self._given), quiet=FORMER_QUIET)
        log.info("listening", addresses=[f"{host}:{port}" for host, port in listener.addresses], version=__version__)
        giving = None
        if succession is not None:
            serve = succession.serve(
                await succession.done(),
                lambda: self._doors.named(listener.sockets, self._reception.at),
                None if self._settings.tokens.key_file else key,
            )
            giving = group.create_task(_eternal(HANDOVER, serve), name=HANDOVER)
        self.listening.set()
        # What is alive now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        return giving

    @property
    def _given(self) -> dict[str, socket.socket]:
        return {} if self._succession is None else self._succession.given

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
        assert self._listener is not None  # noqa: S101  who does not serve is followed by nobody
        self._listener.retire()
        self._finder.observer = None
        await self.admin.retire()

    def _listener_trouble(self) -> str | None:
        # Who has retired is as ready as before: another process serves, and when none does this one fails. A DaemonSet
        # ends an old pod that is not ready, and goes to the next node, however the new one is.
        return None if self.addresses else "not listening yet"

    def _place(self) -> str:
        if self._listener is None or not self._listener.addresses:
            return "not serving yet"
        return "another process has taken over" if self._listener.retired else "serving"

    def _duties(self, listener: Listener) -> Mapping[str, Callable[[], Awaitable[None]]]:
        tasks: dict[str, Callable[[], Awaitable[None]]] = {
            "source of pods": self._source.run,
            "finder": self._finder.run,
            "broker": self._broker.run,
            "own identity": self._sts.run,
            "upstream": self._upstream.run,
            "loop lag": lambda: measure_lag(self.metrics),
            "admin address": lambda: self._reception.keep(self.listening, lambda: listener.retired),
        }
        for name, part in (("witness", self._witness), ("events", self._events), ("startup taint", self._taint)):
            if part is not None:
                tasks[name] = part.run
        return tasks

    def _server(self, key: bytes) -> Server:
        settings = self._settings
        return Server(
            callers=self._finder,
            rights=self._entitlements,
            sessions=self._broker,
            items=self._upstream,
            explain=self._view.explainer.by_address,
            metrics=self.metrics,
            key=key,
            profile=profile_of(settings),
            hold=settings.server.hold,
            clock=self._clock,
        )

    async def _detect(self) -> None:
        """Learn what bare role names stand on, if nobody said; ends when it is known."""
        if self._rules.base is None:
            self._prefetch.set_rules(replace(self._rules, base=await detected_base(self._sts)))
            self._finder.tell("rules")

    def _told_failure(self, call: AssumeRole, failure: IssueError) -> None:
        # Not a bound method of the prefetch: each of the two needs the other, and the broker is built first.
        self._prefetch.failed(call, failure)


async def _eternal(name: str, work: Awaitable[None]) -> None:
    """Await what never ends: that it ends, however cleanly, is a failure of the whole."""
    await work
    raise RuntimeError(f"the task {name!r} ended by itself")

"""A Kubernetes API server of pods, namespaces and Events in memory, as measured on a real one, and breakable at will.

Knows: the wire of lists, watches and events.k8s.io as the real server speaks it (a suite in `tests/cluster` asks both).
Must not know: the code under test.

Writers are synchronous methods with the names and arguments of `tests.cluster.actors.Actors`; call them on the loop.
"""

import asyncio
import copy
import json
import re
import ssl
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web

Json = dict[str, Any]
Verb = Literal["list", "watch", "get", "create", "patch"]

CUT = 2_048
"""Bytes after which a burst of events is cut into another chunk, in mid-event or not."""

SELECTABLE = {
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "spec.hostNetwork",
    "status.podIP",
    "status.podIPs",
}
SELECTABLE |= {"status.phase"}
_EVENT_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    verb: Verb
    resource: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens instead of an answer.

    `status`: this answer; with `text` (else a Status) and `headers`. Without a status: `hang` says nothing at all,
    `open` answers 200 and then nothing, `abort` breaks the connection off, `raw` sends these bytes and closes.
    """

    status: int = 0
    reason: str = ""
    text: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    open: bool = False
    abort: bool = False
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class _Change:
    version: int
    resource: str
    before: Json | None
    after: Json | None


class _Watch:
    """An open watch, as its handler and the test's knobs share it."""

    def __init__(self, resource: str, request: web.BaseRequest, cursor: int) -> None:
        self.resource = resource
        self.request = request
        self.cursor = cursor
        self.wake = asyncio.Event()
        self.raw: list[bytes] = []
        self.ending = False
        self.bookmarks = request.query.get("allowWatchBookmarks") in {"1", "true"}


def status_of(code: int, reason: str, message: str, **details: Any) -> Json:
    """A Kubernetes Status."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
        **({"details": details} if details else {}),
    }


class FakeKubeApi:
    """One API server on a port of its own; an async context manager.

    Attributes:
        url: where it listens.
        token: the only bearer token that is accepted; None accepts everybody.
        forbidden: pairs of verb and resource that are refused with 403.
        seen: every request that came.
        faults: pairs of a test of a request and a fault; the first that matches strikes, once.
        etcd_down: reads without a version hang, watches say nothing.
        silent: watches say nothing, and do not end in time.
        endless: watches do not end in time.
        memory: what lists of version 0 are answered with, if not with the present.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, version: int = 100) -> None:
        self.url = ""
        self.token: str | None = None
        self.forbidden: set[tuple[str, str]] = set()
        self.seen: list[Seen] = []
        self.faults: list[tuple[Callable[[Seen], bool], Fault]] = []
        self.etcd_down = False
        self.silent = False
        self.endless = False
        self.memory: tuple[dict[str, dict[str, Json]], int] | None = None
        self.version = version
        self.oldest = version
        self.objects: dict[str, dict[str, Json]] = {"pods": {}, "namespaces": {}, "events": {}}
        self.watches: list[_Watch] = []
        self._history: list[_Change] = []
        self._tls = tls
        self._runner: web.ServerRunner | None = None
        self._closing = asyncio.Event()
        self._came = asyncio.Event()
        self._port = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen: on any port at first, then always on the same."""
        self._closing = asyncio.Event()
        runner = web.ServerRunner(
            web.Server(self._answer, access_log=None, handler_cancellation=True), shutdown_timeout=0.2
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self._port, ssl_context=self._tls)
        await site.start()
        self._runner = runner
        self._port = runner.addresses[0][1]
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        """End as if killed: every connection breaks off."""
        self._closing.set()
        self.drop_watches()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # ---- what tests look at

    def asked(self, verb: Verb, resource: str) -> list[Seen]:
        """The requests of this kind that came."""
        return [seen for seen in self.seen if (seen.verb, seen.resource) == (verb, resource)]

    async def until(self, condition: Callable[[], object], within: float = 20.0) -> None:
        """Wait until it is so; looked at whenever a request came or a watch moved."""
        async with asyncio.timeout(within):
            while not condition():
                self._came.clear()
                await self._came.wait()

    async def until_watching(self, *resources: str) -> None:
        """Wait until each of these is watched."""
        await self.until(lambda: {watch.resource for watch in self.watches} >= set(resources))

    # ---- what tests break

    def fail(self, verb: Verb, resource: str, fault: Fault, *, times: int = 1) -> None:
        """The next requests of this kind meet a fault."""
        for _ in range(times):
            self.faults.append((lambda seen: (seen.verb, seen.resource) == (verb, resource), fault))

    def drop_watches(self) -> None:
        """Break every watch off: the connection ends without a last chunk."""
        for watch in self.watches:
            if watch.request.transport is not None:
                watch.request.transport.abort()

    def end_watches(self) -> None:
        """End every watch cleanly."""
        for watch in self.watches:
            watch.ending = True
            watch.wake.set()

    def bookmark(self) -> None:
        """Tell every watch that asked for bookmarks which version it is at."""
        for watch in self.watches:
            if watch.bookmarks:
                kind = {"pods": "Pod", "namespaces": "Namespace"}[watch.resource]
                obj = {"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": str(self.version)}}
                if kind == "Pod":
                    obj |= {"spec": {"containers": None}, "status": {}}
                self.say(_line("BOOKMARK", obj), watch)

    def say(self, raw: bytes, *watches: _Watch) -> None:
        """Send bytes as they are to these watches, or to all."""
        for watch in watches or self.watches:
            watch.raw.append(raw)
            watch.wake.set()

    def expire_versions(self) -> None:
        """Make every version up to now too old to watch from; open watches break off."""
        self.version += 1
        self.oldest = self.version
        self._history.clear()
        self.drop_watches()

    def freeze_memory(self) -> None:
        """Lists of version 0 show the present from now on for ever, as a server that lags would."""
        self.memory = (copy.deepcopy(self.objects), self.version)

    # ---- what actors do

    def create_namespace(self, name: str, annotations: Mapping[str, str] | None = None) -> Json:
        """Create a namespace."""
        return self._create("namespaces", "", name, {"metadata": {"annotations": dict(annotations or {})}})

    def annotate_namespace(self, name: str, annotations: Mapping[str, str | None]) -> Json:
        """Set annotations; None removes one."""
        return self._merge("namespaces", name, {"metadata": {"annotations": dict(annotations)}})

    def delete_namespace(self, name: str) -> None:
        """Delete a namespace with its pods."""
        for key in [key for key in self.objects["pods"] if key.startswith(f"{name}/")]:
            self._remove("pods", key)
        self._remove("namespaces", name)

    def create_pod(
        self,
        namespace: str,
        name: str,
        *,
        node: str | None = None,
        annotations: Mapping[str, str] | None = None,
        metadata: Mapping[str, object] | None = None,
        spec: Mapping[str, object] | None = None,
    ) -> Json:
        """Create a pod, bound when `node` is given."""
        body: Json = {
            "metadata": {"annotations": dict(annotations or {}), **(metadata or {})},
            "spec": {
                "containers": [{"name": "main", "image": "none"}],
                "serviceAccountName": "default",
                **(spec or {}),
            },
            "status": {"phase": "Pending", "qosClass": "BestEffort"},
        }
        if node is not None:
            body["spec"]["nodeName"] = node
        return self._create("pods", namespace, name, body)

    def bind_pod(self, namespace: str, name: str, node: str) -> None:
        """Bind an unbound pod."""
        self._merge("pods", f"{namespace}/{name}", {"spec": {"nodeName": node}})

    def get_pod(self, namespace: str, name: str) -> Json:
        """The pod as it is."""
        return copy.deepcopy(self.objects["pods"][f"{namespace}/{name}"])

    def patch_pod(self, namespace: str, name: str, metadata: Mapping[str, object]) -> Json:
        """Merge `metadata` into the pod's."""
        return self._merge("pods", f"{namespace}/{name}", {"metadata": dict(metadata)})

    def set_pod_status(self, namespace: str, name: str, addresses: Sequence[str], *, phase: str = "Running") -> Json:
        """Phase, podIP and podIPs; no address removes both."""
        status = {
            "phase": phase,
            "podIP": addresses[0] if addresses else None,
            "podIPs": [{"ip": address} for address in addresses] or None,
        }
        return self._merge("pods", f"{namespace}/{name}", {"status": status})

    def delete_pod(self, namespace: str, name: str, *, grace_seconds: int = 0) -> None:
        """Delete a pod at once, or mark it first."""
        key = f"{namespace}/{name}"
        if grace_seconds and "nodeName" in self.objects["pods"][key]["spec"]:
            self._merge("pods", key, {"metadata": {"deletionTimestamp": "2026-01-02T03:04:05Z"}})
        else:
            self._remove("pods", key)

    def list_events(self, namespace: str) -> list[Json]:
        """The Events of a namespace."""
        return [obj for key, obj in self.objects["events"].items() if key.startswith(f"{namespace}/")]

    # ---- the store

    def _create(self, resource: str, namespace: str, name: str, body: Json) -> Json:
        key = f"{namespace}/{name}" if namespace else name
        assert key not in self.objects[resource], f"{key} exists"
        obj = copy.deepcopy(body)
        obj["metadata"] = {"name": name, "uid": str(uuid.uuid4()), "managedFields": [{"manager": "test"}]} | obj[
            "metadata"
        ]
        if namespace:
            obj["metadata"]["namespace"] = namespace
        return self._change(resource, key, obj)

    def _merge(self, resource: str, key: str, patch: Json) -> Json:
        return self._change(resource, key, _merged(self.objects[resource][key], patch))

    def _remove(self, resource: str, key: str) -> None:
        self._change(resource, key, None)

    def _change(self, resource: str, key: str, after: Json | None) -> Json:
        self.version += 1
        before = self.objects[resource].pop(key, None)
        if after is not None:
            after = copy.deepcopy(after)
            after["metadata"]["resourceVersion"] = str(self.version)
            self.objects[resource][key] = after
        self._history.append(_Change(self.version, resource, before, after))
        for watch in self.watches:
            watch.wake.set()
        return copy.deepcopy(after or {})

    # ---- the wire

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        place = _place(request.path)
        if place is None:
            return _refused(404, "NotFound", "the server could not find the requested resource")
        namespace, resource, name = place
        watching = request.query.get("watch") in {"1", "true"}
        verb: Verb = "get" if name else "watch" if watching else "list"
        if request.method != "GET":
            verb = "create" if request.method == "POST" else "patch"
        seen = Seen(
            method=request.method,
            path=request.path,
            verb=verb,
            resource=resource,
            query=dict(request.query),
            headers=dict(request.headers.items()),
            body=await request.read(),
        )
        self.seen.append(seen)
        self._came.set()
        for pair in self.faults:
            if pair[0](seen):
                self.faults.remove(pair)
                return await self._fault(request, pair[1])
        if (refusal := self._refusal(seen)) is not None:
            return refusal
        if resource in {"events", "selfsubjectaccessreviews"}:
            return self._write_event(seen, namespace, name) if resource == "events" else self._review(seen)
        if verb == "watch":
            return await self._watch(request, resource, namespace)
        if verb == "list":
            return await self._list(seen, namespace)
        if (obj := self.objects[resource].get(f"{namespace}/{name}" if namespace else name)) is None:
            return _refused(404, "NotFound", f'{resource} "{name}" not found')
        return web.json_response(obj)

    def _refusal(self, seen: Seen) -> web.Response | None:
        given = seen.headers.get("Authorization")
        if self.token is not None and given is None:
            return _refused(403, "Forbidden", f'User "system:anonymous" cannot {seen.verb} resource "{seen.resource}"')
        if self.token is not None and given != f"Bearer {self.token}":
            return _refused(401, "Unauthorized", "Unauthorized")
        if (seen.verb, seen.resource) in self.forbidden:
            return _refused(
                403, "Forbidden", f'User "agent" cannot {seen.verb} resource "{seen.resource}" at the cluster scope'
            )
        return None

    def _review(self, seen: Seen) -> web.Response:
        """What may be done, by what is forbidden."""
        review = json.loads(seen.body)
        asked = review["spec"]["resourceAttributes"]
        allowed = (asked["verb"], asked["resource"]) not in self.forbidden
        return web.json_response({**review, "status": {"allowed": allowed}}, status=201)

    async def _fault(self, request: web.BaseRequest, fault: Fault) -> web.StreamResponse:
        if fault.status:
            if fault.text is not None:
                return web.Response(status=fault.status, headers=fault.headers, text=fault.text)
            body = status_of(fault.status, fault.reason, f"made to fail with {fault.status}")
            return web.json_response(body, status=fault.status, headers=fault.headers)
        assert request.transport is not None
        if fault.open:
            response = web.StreamResponse()
            response.enable_chunked_encoding()
            await response.prepare(request)
        if fault.raw:
            request.transport.write(fault.raw)
            request.transport.close()
        if fault.hang or fault.open:
            await self._closing.wait()
        request.transport.abort()
        return web.Response()

    async def _list(self, seen: Seen, namespace: str) -> web.Response:
        wanted = seen.query.get("resourceVersion", "")
        if wanted and not wanted.isdigit():
            return _refused(400, "BadRequest", f"invalid resource version {wanted!r}")
        if not wanted and self.etcd_down:
            await self._closing.wait()
        if wanted and int(wanted) > self.version:
            cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
            status = status_of(
                504, "Timeout", f"Too large resource version: {wanted}", causes=[cause], retryAfterSeconds=1
            )
            return web.json_response(status, status=504)
        if "limit" in seen.query and 0 < int(wanted or 0) < self.oldest:
            return _refused(410, "Expired", f"The resourceVersion for the provided list is too old: {wanted}")
        accept = seen.headers.get("Accept", "")
        if "as=" in accept and "as=PartialObjectMetadataList;" not in accept:
            return _refused(406, "NotAcceptable", "only the following media types are accepted: application/json")
        metadata_only = "as=PartialObjectMetadataList;" in accept
        objects, version = self.memory if wanted == "0" and self.memory else (self.objects, self.version)
        try:
            matches = _selector(seen.query.get("fieldSelector", ""), namespace)
        except ValueError as error:
            return _refused(400, "BadRequest", str(error))
        items = [obj for obj in objects[seen.resource].values() if matches(obj)]
        items, following = _page(items, seen.query)
        kind = {"pods": "PodList", "namespaces": "NamespaceList"}[seen.resource]
        metadata = {"resourceVersion": str(version), **({"continue": following} if following else {})}
        body: Json = {"kind": kind, "apiVersion": "v1", "metadata": metadata, "items": items}
        if metadata_only:
            body |= {
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "items": [*map(_metadata, items)],
            }
        return web.json_response(body)

    async def _watch(self, request: web.BaseRequest, resource: str, namespace: str) -> web.StreamResponse:
        wanted = request.query.get("resourceVersion", "")
        if wanted and not wanted.isdigit():
            return _refused(500, "InternalError", f"invalid resource version {wanted!r}")
        try:
            matches = _selector(request.query.get("fieldSelector", ""), namespace)
        except ValueError as error:
            return _refused(400, "BadRequest", str(error))
        accept = request.headers.get("Accept", "")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        watch = _Watch(resource, request, int(wanted or 0))
        if int(wanted or 0):
            if watch.cursor < self.oldest:
                text = f"too old resource version: {wanted} ({self.oldest})"
                await self._write(response, _line("ERROR", status_of(410, "Expired", text)))
                await response.write_eof()
                return response
        else:
            watch.cursor = self.version
            present = (obj for obj in self.objects[resource].values() if matches(obj))
            watch.raw = [_line("ADDED", _typed(resource, obj, accept)) for obj in present]
            watch.wake.set()
        loop = asyncio.get_running_loop()
        end = loop.time() + float(request.query.get("timeoutSeconds", "1800"))
        self.watches.append(watch)
        self._came.set()
        try:
            while not self._closing.is_set():
                # Before looking: what is said while this is written must wake it again.
                watch.wake.clear()
                pending, swallowed = self._pending(watch, matches, accept)
                await self._write(response, pending)
                if swallowed or watch.ending:
                    break
                try:
                    async with asyncio.timeout_at(None if self.silent or self.endless else end):
                        await watch.wake.wait()
                except TimeoutError:
                    if not (self.silent or self.endless):
                        break
            await response.write_eof()
        except ConnectionError:
            pass
        finally:
            self.watches.remove(watch)
            self._came.set()
        return response

    def _pending(self, watch: _Watch, matches: Callable[[Json], bool], accept: str) -> tuple[bytes, bool]:
        """What a watch has still to be told; and whether it was swallowed, with the rest of the watch."""
        if self.silent or self.etcd_down:
            return b"", False
        lines, watch.raw = watch.raw, []
        for change in self._history:
            if change.resource != watch.resource or change.version <= watch.cursor:
                continue
            watch.cursor = change.version
            was = change.before is not None and matches(change.before)
            shown = change.after
            kind = "MODIFIED" if was else "ADDED"
            if shown is None or not matches(shown):
                if not was:
                    continue
                assert change.before is not None
                kind, shown = "DELETED", copy.deepcopy(change.before)
                shown["metadata"]["resourceVersion"] = str(change.version)
            if "as=PartialObjectMetadataList;" in accept:
                return b"", True
            lines.append(_line(kind, _typed(watch.resource, shown, accept)))
        return b"".join(lines), False

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        for at in range(0, len(data), CUT):
            await response.write(data[at : at + CUT])
            await asyncio.sleep(0)

    # ---- Events

    def _write_event(self, seen: Seen, namespace: str, name: str) -> web.Response:
        body = json.loads(seen.body)
        if seen.verb == "create":
            return self._create_event(body, namespace)
        if seen.verb != "patch":
            return _refused(405, "MethodNotAllowed", "not known here")
        if not seen.headers.get("Content-Type", "").endswith("patch+json"):
            return _refused(415, "UnsupportedMediaType", "the body of the request was in an unknown format")
        before = self.objects["events"].get(f"{namespace}/{name}")
        if before is None:
            return _refused(404, "NotFound", f'events.events.k8s.io "{name}" not found')
        after = _merged(before, body)
        changed = [
            key
            for key in ("note", "reason", "action", "regarding", "type", "eventTime")
            if after.get(key) != before.get(key)
        ]
        if changed or (trouble := _event_trouble(after)):
            wrong = changed[0] if changed else trouble
            return _refused(422, "Invalid", f"{wrong}: field is immutable or invalid")
        return web.json_response(self._change("events", f"{namespace}/{name}", after))

    def _create_event(self, body: Json, namespace: str) -> web.Response:
        metadata = body.get("metadata", {})
        name = metadata.get("name", "")
        time = body.get("eventTime")
        if time is not None and not _EVENT_TIME.fullmatch(time):
            return _refused(400, "BadRequest", "Event in version v1 cannot be handled: parsing time")
        if metadata.get("namespace", namespace) != namespace:
            return _refused(
                400, "BadRequest", "the namespace of the object does not match the namespace on the request"
            )
        if not name or (trouble := _event_trouble(body)):
            return _refused(422, "Invalid", f"{'metadata.name' if not name else trouble}: invalid")
        if f"{namespace}/{name}" in self.objects["events"]:
            return _refused(409, "AlreadyExists", f'events.events.k8s.io "{name}" already exists')
        return web.json_response(self._create("events", namespace, name, body), status=201)


def _place(path: str) -> tuple[str, str, str] | None:
    """Namespace, resource and name that a path leads to."""
    parts = path.strip("/").split("/")
    if parts[:2] == ["api", "v1"]:
        parts = parts[2:]
    elif parts[:3] in (["apis", "events.k8s.io", "v1"], ["apis", "authorization.k8s.io", "v1"]):
        parts = parts[3:]
    else:
        return None
    namespace = ""
    if len(parts) > 2 and parts[0] == "namespaces":
        namespace, parts = parts[1], parts[2:]
    return namespace, parts[0], parts[1] if len(parts) > 1 else ""


def _page(items: list[Json], query: Mapping[str, str]) -> tuple[list[Json], str]:
    """The page that was asked for, and what leads to the next; empty at the last."""
    begin, limit = int(query.get("continue", "0")), int(query.get("limit", "0")) or len(items)
    return items[begin : begin + limit], str(begin + limit) if begin + limit < len(items) else ""


def _event_trouble(event: Json) -> str:
    """The first field of an Event that the API server refuses."""
    if event.get("eventTime") is None:
        return "eventTime"
    for key, limit in (("action", 128), ("reason", 128), ("reportingController", 253), ("reportingInstance", 128)):
        if not event.get(key) or len(event[key]) > limit:
            return key
    if len(event.get("note", "")) > 1_024:
        return "note"
    if event.get("type") not in {"Normal", "Warning"}:
        return "type"
    series = event.get("series")
    if series is not None and (
        series.get("count", 0) < 2 or not _EVENT_TIME.fullmatch(series.get("lastObservedTime", ""))
    ):
        return "series"
    return ""


def _line(kind: str, obj: Json) -> bytes:
    return json.dumps({"type": kind, "object": obj}, separators=(",", ":")).encode() + b"\n"


def _typed(resource: str, obj: Json, accept: str) -> Json:
    """An object as a watch shows it."""
    if "as=PartialObjectMetadata" in accept:
        return _metadata(obj)
    return {"kind": {"pods": "Pod", "namespaces": "Namespace"}[resource], "apiVersion": "v1", **obj}


def _metadata(obj: Json) -> Json:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def _refused(code: int, reason: str, message: str) -> web.Response:
    return web.json_response(status_of(code, reason, message), status=code)


def _merged(obj: Json, patch: Json) -> Json:
    """JSON merge patch."""
    result = dict(obj)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _merged(result[key], value)
        else:
            result[key] = value
    return result


def _selector(text: str, namespace: str) -> Callable[[Json], bool]:
    """A field selector as a test of objects; ValueError for a field that cannot be selected by."""
    terms: list[tuple[str, bool, str]] = []
    for term in filter(None, text.split(",")):
        name, equal, value = re.fullmatch(r"([^!=]+)(==?|!=)(.*)", term).groups()  # type: ignore[union-attr]
        if name not in SELECTABLE:
            raise ValueError(f"field label not supported: {name}")
        terms.append((name, equal != "!=", value))

    def matches(obj: Json) -> bool:
        if namespace and obj["metadata"].get("namespace") != namespace:
            return False
        for name, equal, value in terms:
            part, _, key = name.partition(".")
            # A list of addresses can be named and matches nothing.
            has = "" if name == "status.podIPs" else str(obj.get(part, {}).get(key, ""))
            if name == "spec.hostNetwork":
                has = "true" if has == "True" else "false"
            if (has == value) is not equal:
                return False
        return True

    return matches

"""From the bytes of a YAML or JSON file to the pods and namespaces that it declares.

Knows: how manifests are written, what the API server would add to them, and how a document can be wrong or harmful.
Must not know: files, folders, or when they change.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from metaproxy.objects import ObjectError, namespace_from, pod_from
from metaproxy.pods import NAMESPACE_ANNOTATIONS, POD_ANNOTATIONS, Namespace, Pod

DEPTH_LIMIT = 64
"""How deep a document may nest: libyaml's composer recurses in C, some tens of thousands of levels end the process."""

NODE_LIMIT = 2_000_000
"""How many values a file may have with its aliases written out: nine lines of aliases can mean a billion."""

_BULK = frozenset(
    {
        *("managedFields", "volumes", "tolerations", "conditions"),
        *("containers", "initContainers", "ephemeralContainers"),
        *("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"),
    }
)
"""Keys of lists that nobody here reads and that dumped pods mostly consist of: building them takes most of the time."""

_DOCUMENT = re.compile(rb"^(?=---(?:\s|$))", re.MULTILINE)
_DIRECTIVE = re.compile(rb"^%", re.MULTILINE)
_KNOWN = POD_ANNOTATIONS | NAMESPACE_ANNOTATIONS
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ManifestError(ValueError):
    """A file that cannot be read as manifests: says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a file says; `skipped` tells of objects that cannot be what they should be."""

    pods: tuple[Pod, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    skipped: tuple[str, ...] = ()


def parse(data: bytes) -> Contents:
    """The pods and namespaces of a file of YAML or JSON documents. Other kinds are left alone.

    Raises:
        ManifestError: it is no YAML, or so deep or wide that reading it would hurt.
    """
    # A directive belongs to the document after it; nothing else does, so documents are read one by one.
    parts = [data] if _DIRECTIVE.search(data) else _DOCUMENT.split(data)
    read = [_document(part) for part in parts]
    if sum(values for values, _ in read) > NODE_LIMIT:
        raise _too_many()
    return Contents(
        pods=tuple(pod for _, one in read for pod in one.pods),
        namespaces=tuple(namespace for _, one in read for namespace in one.namespaces),
        skipped=tuple(reason for _, one in read for reason in one.skipped),
    )


@lru_cache(maxsize=512)  # one pod of a node changes at a time, and reading YAML is slow
def _document(data: bytes) -> tuple[int, Contents]:
    """How many values it has, and what they say."""
    try:
        values, events = _skimmed(data)
        documents = list(_built(events))
    except ManifestError:
        raise
    except Exception as error:  # PyYAML's constructors raise whatever they meet: KeyError, IndexError, AttributeError
        raise ManifestError(f"no YAML: {' '.join(str(error).split())[:300]}") from error
    pods: list[Pod] = []
    namespaces: list[Namespace] = []
    skipped: list[str] = []
    for obj in _objects(documents):
        try:
            match _kind(obj):
                case "Pod":
                    # No kubelet writes files: their word is their author's, as a whole.
                    pods.append(replace(pod_from(_completed(obj, namespaced=True)), version=0, observed=""))
                case "Namespace":
                    namespaces.append(replace(namespace_from(_completed(obj, namespaced=False)), version=0))
        except ObjectError as error:
            skipped.append(str(error))
    return values, Contents(pods=tuple(pods), namespaces=tuple(namespaces), skipped=tuple(skipped))


def _skimmed(data: bytes) -> tuple[int, list[yaml.Event]]:  # noqa: C901  one pass, because passes are what costs
    """The number of values, and the events to build from. Refuses what must not be built.

    A flat stream of events cannot hurt, however deep or wide what it means is.
    """
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    # Of each open collection: whether its next node is a key, None in a list.
    key_next: list[bool | None] = []
    kept: list[yaml.Event] = []
    total = 0
    leave_out = b"&" not in data  # what has no name can be missed by nobody
    left_out_below = 0
    for event in yaml.parse(data, Loader=_Loader):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            key_next.pop()
            if anchor:
                sizes[anchor] = total - before
            if not left_out_below:
                kept.append(event)
            elif len(open_nodes) < left_out_below:
                left_out_below = 0
            continue
        if isinstance(event, yaml.NodeEvent):
            if key_next and key_next[-1] is not None:
                key_next[-1] = not key_next[-1]
            total += sizes.get(str(event.anchor), 0) if isinstance(event, yaml.AliasEvent) else 1
        if isinstance(event, yaml.CollectionStartEvent):
            is_value = bool(key_next) and key_next[-1] is True
            open_nodes.append((event.anchor, total - 1))
            key_next.append(True if isinstance(event, yaml.MappingStartEvent) else None)
            if leave_out and not left_out_below and is_value and _is_bulk(kept[-1], event):
                kept.pop()
                left_out_below = len(open_nodes)
        if not left_out_below:
            kept.append(event)
        if len(open_nodes) > DEPTH_LIMIT:
            raise ManifestError(f"nested deeper than {DEPTH_LIMIT} levels")
        if total > NODE_LIMIT:
            raise _too_many()
    return total, kept


def _is_bulk(key: yaml.Event, value: yaml.Event) -> bool:
    return isinstance(value, yaml.SequenceStartEvent) and isinstance(key, yaml.ScalarEvent) and key.value in _BULK


class _Builder(Composer, SafeConstructor, Resolver):
    """PyYAML's own composer and constructor, over events that were looked at before."""

    def __init__(self, events: Sequence[yaml.Event]) -> None:
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self._events = events
        self._at = 0

    def check_event(self, *kinds: type[yaml.Event]) -> bool:
        """Whether the next event is one of these."""
        return isinstance(self._events[self._at], kinds)

    def peek_event(self) -> yaml.Event:
        """The next event."""
        return self._events[self._at]

    def get_event(self) -> yaml.Event:
        """The next event, taken."""
        self._at += 1
        return self._events[self._at - 1]


def _built(events: Sequence[yaml.Event]) -> Iterator[Any]:
    builder = _Builder(events)
    while builder.check_data():  # type: ignore[no-untyped-call]
        yield builder.get_data()


def _too_many() -> ManifestError:
    return ManifestError(f"more than {NODE_LIMIT} values with aliases written out")


def _objects(documents: Iterable[Any]) -> Iterable[Any]:
    """The documents, lists taken apart. Items of a typed list carry no kind of their own (PodList), others do."""
    for document in documents:
        kind = document.get("kind") if isinstance(document, dict) else None
        items = document.get("items") if kind in {"List", "PodList", "NamespaceList"} else None
        if isinstance(items, list):
            for item in items:
                typed = {"apiVersion": "v1", "kind": str(kind).removesuffix("List")} if kind != "List" else {}
                yield {**typed, **item} if isinstance(item, dict) else item
        elif document is not None:
            yield document


def _kind(obj: Any) -> str:
    if not isinstance(obj, dict) or not isinstance(obj.get("kind"), str):
        raise ObjectError(f"no Kubernetes object: {ascii(obj)[:80] if isinstance(obj, str) else type(obj).__name__}")
    # A `kind: Namespace` of another group is something else.
    return obj["kind"] if obj.get("apiVersion", "v1") == "v1" else ""


def _completed(obj: Mapping[str, Any], *, namespaced: bool) -> Mapping[str, Any]:
    """The object with what the API server would add: namespace and uid.

    Raises:
        ObjectError: it has what the API server would refuse and we could misread. `external-id: 012` is the number ten.
    """
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict):
        raise ObjectError(f"a {obj['kind']} without metadata")
    name = metadata.get("name")
    annotations = metadata.get("annotations")
    if not isinstance(annotations, dict | None):
        raise ObjectError(f"{obj['kind']} {name!a}: its annotations are no mapping")
    for key in _KNOWN & (annotations or {}).keys():
        if not isinstance((annotations or {})[key], str):
            raise ObjectError(f"{obj['kind']} {name!a}: annotation {key} is no text: put it in quotes")
    known = {key: value for key, value in metadata.items() if value is not None}
    if namespaced:
        known.setdefault("namespace", "default")
    known.setdefault("uid", f"{known.get('namespace')}/{name}" if namespaced else name)
    return {**obj, "metadata": known}

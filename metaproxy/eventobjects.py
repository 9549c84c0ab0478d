"""The form of Kubernetes Events about pods (events.k8s.io/v1).

Knows: what the API server demands of an Event, measured against a real one.
Must not know: the clock, the network, why anything was refused.
"""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from metaproxy.pods import Pod

CONTROLLER = "metaproxy.dev/agent"
ACTION = "AssumeRole"

NOTE_LIMIT = 1024
SHORT_LIMIT = 128
NAME_LIMIT = 253
"""What the API server takes, in bytes of UTF-8: note; reason and reporting instance; name."""

Key = tuple[str, str, str]
"""What is one and the same report: the pod's uid, the reason, the note."""


def micro_time(now: float) -> str:
    """Unix seconds as a MicroTime: exactly six fraction digits, the API server takes nothing else."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def cut(text: str, limit: int) -> str:
    """The text in at most `limit` bytes of UTF-8, never in the middle of a character."""
    data = text.encode("utf-8", "replace")
    return data.decode() if len(data) <= limit else f"{data[: limit - 3].decode('utf-8', 'ignore')}…"


def event_name(pod: str, key: Key, first: float) -> str:
    """A name that is the same when the same report is sent again, so that a lost answer makes no second Event."""
    digest = hashlib.sha256(json.dumps([*key, first]).encode()).hexdigest()[:16]
    return f"{pod[: NAME_LIMIT - 1 - len(digest)].rstrip('-.')}.{digest}"


def event(pod: Pod, *, name: str, reason: str, note: str, first: float, instance: str) -> dict[str, Any]:
    """The Event, in the pod's own namespace: the API server would take it in any."""
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": pod.namespace},
        "eventTime": micro_time(first),
        "reportingController": CONTROLLER,
        "reportingInstance": instance,
        "action": ACTION,
        "reason": reason,
        "regarding": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
        },
        "note": note,
        "type": "Warning",
    }


def series(count: int, last: float) -> dict[str, Any]:
    """The patch that says how often it has happened by now; all else of an Event is immutable."""
    return {"series": {"count": max(2, count), "lastObservedTime": micro_time(last)}}

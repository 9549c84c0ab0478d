"""The names, labels and meaning of every metric.

Knows: how metaproxy is measured from outside.
Must not know: who measures, with which library.

Labels are bounded: never a role, pod, namespace or address (kube2iam's `role_arn` label grew without end).
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric: its name, kind, meaning, and labels with what they can be."""

    name: str
    kind: Kind
    help: str
    labels: tuple[tuple[str, str], ...] = ()
    buckets: tuple[float, ...] = ()


_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.9, 1.5)
_ROUTE = ("route", "token, versions, list, credentials, info, item, explain, or none")
_REASON = ("reason", "a reason code as in bodies and logs")
_RESOURCE = ("resource", "pods or namespaces")

_BUILD = Spec("metaproxy_build_info", "gauge", "Always 1.", (("version", "the program's version"),))


def _of_a_listener(prefix: str, meaning: str, refused: str) -> tuple[Spec, ...]:
    """What each listener counts."""
    return (
        Spec(f"{prefix}_connections", "gauge", meaning),
        Spec(
            f"{prefix}_connections_refused_total",
            "counter",
            refused,
            (("reason", "TooManyConnections, CrowdedOut or NotRedirected"),),
        ),
        Spec(
            f"{prefix}_accept_failures_total",
            "counter",
            "Times that accepting paused, because the process (EMFILE) or the node had nothing left for a connection.",
            (("reason", "EMFILE, ENFILE, ENOBUFS, ENOMEM or other"),),
        ),
    )


_ADMIN_CONNECTIONS = _of_a_listener(
    "metaproxy_admin",
    "Open connections of the operator, at the address and the socket.",
    "Connections of the operator's listener that were closed, because their address holds too many.",
)

METRICS = (
    Spec(
        "metaproxy_http_requests_total",
        "counter",
        "Answers to pods.",
        (_ROUTE, ("method", "GET, HEAD, PUT or other"), ("code", "the HTTP status"), _REASON),
    ),
    Spec(
        "metaproxy_http_request_duration_seconds",
        "histogram",
        "Time from a request to its answer, holding included.",
        (_ROUTE,),
        _SECONDS,
    ),
    *_of_a_listener(
        "metaproxy_http",
        "Open connections of pods.",
        "Connections closed: their address holds too many (of all, when all places are taken), or the redirect has not "
        "led them here.",
    ),
    *_ADMIN_CONNECTIONS,
    Spec(
        "metaproxy_imds_version_total",
        "counter",
        "Requests other than for a token, by the version of the protocol that they spoke.",
        (("version", "v1 or v2"),),
    ),
    Spec(
        "metaproxy_decisions_total",
        "counter",
        "Decisions about pods when they, or what decides, changed.",
        (("outcome", "granted or denied"), _REASON),
    ),
    Spec(
        "metaproxy_caller_wait_seconds",
        "histogram",
        "How long requests waited for the pod behind their address.",
        (("outcome", "found or unknown"),),
        _SECONDS,
    ),
    Spec(
        "metaproxy_caller_reads_total",
        "counter",
        "Reads of the API server for an address that the watch did not explain.",
        (("outcome", "done or failed"),),
    ),
    Spec(
        "metaproxy_caller_withdrawn_total",
        "counter",
        "Addresses taken from their pod, because the kernel shows them elsewhere.",
        (("why", "lost, unresolved, shared, unsettled or blind"),),
    ),
    Spec(
        "metaproxy_witness_addresses",
        "gauge",
        "Addresses of pods by what the kernel shows of them.",
        (("state", "tied, withdrawn or unseen"),),
    ),
    Spec(
        "metaproxy_witness_dumps_total",
        "counter",
        "Times that everything was asked of the kernel anew.",
        (("reason", "start, overrun, broken or audit"),),
    ),
    Spec("metaproxy_host_network_roles", "gauge", "hostNetwork pods that ask for a role and use the node's."),
    Spec(
        "metaproxy_credentials_requests_total",
        "counter",
        "Requests for credentials by where these came from.",
        (("result", "cached, waited, stale or failed"),),
    ),
    Spec("metaproxy_credentials_cached", "gauge", "Sessions that are held and may be served."),
    Spec("metaproxy_credentials_wanted", "gauge", "Sessions that live pods of this node are entitled to."),
    Spec(
        "metaproxy_credentials_shortest_life_seconds",
        "gauge",
        "The shortest life left among sessions that are held and wanted.",
    ),
    Spec(
        "metaproxy_sts_request_duration_seconds",
        "histogram",
        "AssumeRole calls by outcome.",
        (("outcome", "ok, or a reason code as in bodies and logs"),),
        (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    ),
    Spec("metaproxy_sts_queue", "gauge", "AssumeRole calls that wait for the budget."),
    Spec("metaproxy_directory_pods", "gauge", "Pods of this node that are known."),
    Spec("metaproxy_directory_namespaces", "gauge", "Namespaces that are known."),
    Spec("metaproxy_synced", "gauge", "Whether a full list has been seen.", (_RESOURCE,)),
    Spec(
        "metaproxy_watch_restarts_total",
        "counter",
        "Watches begun anew, by why the last one ended.",
        (_RESOURCE, ("reason", "end, silence, expired, error, lost or refused")),
    ),
    Spec(
        "metaproxy_watch_last_event_timestamp_seconds",
        "gauge",
        "When the last event of a watch came, in Unix seconds.",
        (_RESOURCE,),
    ),
    Spec("metaproxy_manifest_errors", "gauge", "Manifest files whose last good state is used because they are broken."),
    Spec(
        "metaproxy_upstream_requests_total",
        "counter",
        "Requests to the node's own metadata service.",
        (("outcome", "ok, missing or failed"),),
    ),
    Spec(
        "metaproxy_events_total",
        "counter",
        "Kubernetes Events about pods.",
        (("outcome", "sent, repeated, dropped or failed"),),
    ),
    Spec("metaproxy_descriptors_limit", "gauge", "Files and sockets that the process may have open."),
    Spec(
        "metaproxy_handover_starts_total",
        "counter",
        "Starts of this process with a handover's socket, by how it found its place.",
        (("how", "followed, first or beside"),),
    ),
    Spec(
        "metaproxy_handover_strangers",
        "gauge",
        "Sockets of other processes at our addresses: of one that hangs, or of a stranger who runs as our user.",
    ),
    Spec("metaproxy_event_loop_lag_seconds", "gauge", "How late the event loop was when last looked at."),
    _BUILD,
)


REDIRECT_METRICS = (
    *_ADMIN_CONNECTIONS,
    Spec("metaproxy_redirect_in_place", "gauge", "Whether the redirect was in place when last looked at, or repaired."),
    Spec(
        "metaproxy_redirect_looks_total",
        "counter",
        "Looks at the redirect; a repair is counted and then what came of it.",
        (("outcome", "in_place, repaired or failed"),),
    ),
    Spec(
        "metaproxy_redirect_repairs_total",
        "counter",
        "Repairs, by the layer that differed.",
        (("part", "addresses, routes, guard or rules"),),
    ),
    Spec(
        "metaproxy_redirect_neighbours_asked_total",
        "counter",
        "IPv6 neighbours on bridges that were forgotten so that the kernel asks anew who has the address.",
    ),
    _BUILD,
)
"""Those of `metaproxy redirect watch`."""

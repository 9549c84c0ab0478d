"""What kiam's and kube2iam's flags mean here: our settings, and for each flag that has no counterpart the reason.

Knows: both peers' flags, how they are written, and what their defaults mean.
Must not know: how settings are read or printed.

Sources: kiam 4.2 (cmd/kiam), kube2iam 0.12 (cmd/main.go).
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Peer = Literal["kiam", "kube2iam"]
PEERS: tuple[Peer, ...] = ("kiam", "kube2iam")

_COMMANDS = frozenset({"agent", "server"})
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_SHORTEST = 3600

_REDIRECT = "metaproxy redirect leads pods here, as a process of its own; ending it removes nothing"
_NO_SERVER = "there is no server and no gRPC: each agent asks STS itself"
_FIXED_KEY = "the annotation's key is fixed: iam.amazonaws.com/"
_ALWAYS = "always so"
_KEPT = "sessions live 3600 s and are renewed at half their life, whatever is asked for"


class MigrationError(ValueError):
    """Words that are no flags of the peer, or lack their value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """`settings`, by group; and `notes`: each flag that is not among them, with the reason.

    `unknown`: words that mean nothing to the peer as we know it, with why.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)
    unknown: list[tuple[str, str]] = field(default_factory=list)

    def put(self, key: str, value: Any) -> None:
        """A setting, by its file key."""
        group, _, name = key.rpartition(".")
        (self.settings.setdefault(group, {}) if group else self.settings)[name] = value


Act = Callable[[Migrated, str, str], None]
"""What a flag does: with the settings so far, its name and value."""


def _to(key: str) -> Act:
    return lambda found, _flag, value: found.put(key, value)


def _not(why: str) -> Act:
    return lambda found, flag, _value: found.notes.append((flag, why))


def _level(found: Migrated, flag: str, value: str) -> None:
    level = {"warn": "warning", "panic": "error", "fatal": "error", "trace": "debug"}.get(value, value)
    if level in {"debug", "info", "warning", "error"}:
        found.put("log.level", level)
    else:
        found.notes.append((flag, f"there is no level {value!a}"))


def _duration(found: Migrated, flag: str, value: str) -> None:
    match = _DURATION.fullmatch(value)
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match and value else (0, 0, 0)
    if (total := 3600 * hours + 60 * minutes + seconds) > _SHORTEST:
        found.put("sts.session_duration", total)
    else:
        found.notes.append((flag, f"{_KEPT}: shorter ones run out while STS is down, and some SDKs refuse them"))


def _interface(found: Migrated, flag: str, value: str) -> None:
    if value.startswith("!"):
        found.notes.append((flag, "rules go by destination: nothing has to be left out so that pods are found"))
    else:
        found.put("redirect.include_interface", [value])


def _routes(found: Migrated, flag: str, value: str) -> None:
    if value in {"", "^$"}:
        found.put("upstream.profile", "none")
    else:
        found.notes.append((flag, f"expressions are not taken; write what {value!a} is for as paths of upstream.allow"))


def _listen(key: str) -> Act:
    def act(found: Migrated, _flag: str, value: str) -> None:
        host, _, port = value.rpartition(":")
        found.put(key, f"{host or '0.0.0.0'}:{port}")

    return act


def _namespaces(found: Migrated, _flag: str, value: str) -> None:
    found.put("policy.namespace_policy", "required" if value == "true" else "optional")


def _format(found: Migrated, flag: str, value: str) -> None:
    if value != "glob":
        found.notes.append((flag, "kube2iam's expressions match any part of an ARN; write iam.amazonaws.com/permitted"))


def _unless(default: str, why: str) -> Act:
    def act(found: Migrated, flag: str, value: str) -> None:
        if value != default:
            found.notes.append((flag, why))

    return act


_SWITCHES: Mapping[Peer, Mapping[str, Act]] = {
    "kiam": {
        "allow-ip-query": _not("there is no such thing: whoever may write an address into the query may be anybody"),
        "iptables": _not(_REDIRECT),
        "iptables-remove": _not(_REDIRECT),
        "json-log": lambda found, _flag, value: found.put("log.format", "json" if value == "true" else "console"),
        "role-base-arn-autodetect": _not(
            "the default: the account of the agent's own identity, without its role's path"
        ),
        "disable-strict-namespace-regexp": _not(
            "an expression must match the whole ARN; make those that do not do so, with .* where it is meant"
        ),
        "grpc-keepalive-permit-without-stream": _not(_NO_SERVER),
    },
    "kube2iam": {
        "auto-discover-base-arn": _not("the default: the account of the agent's own identity, without its role's path"),
        "auto-discover-default-role": _not("it would give the node's role to every pod without an annotation"),
        "namespace-restrictions": _namespaces,
        "iptables": _not(_REDIRECT),
        "resolve-duplicate-cache-ips": _not(_ALWAYS),
        "use-regional-sts-endpoint": _not(_ALWAYS),
        "insecure": _not("the API server's certificate is always checked; name its CA in a kubeconfig"),
        "debug": _not("explanations are at metaproxy explain; pods are told of themselves alone"),
        "verbose": lambda found, _flag, value: found.put("log.level", "debug") if value == "true" else None,
        "version": _not("metaproxy --version"),
    },
}

_VALUES: Mapping[Peer, Mapping[str, Act]] = {
    "kiam": {
        "port": _not("the redirect leads to the agent's own address; its port is redirect.port"),
        "allow-route-regexp": _routes,
        "whitelist-route-regexp": _routes,  # its name in older versions
        **dict.fromkeys(("statsd", "statsd-prefix", "statsd-interval"), _not("metrics are for Prometheus alone")),
        "host": _not(_REDIRECT),
        "host-interface": _interface,
        **dict.fromkeys(("cert", "key", "ca", "server-address", "server-address-refresh", "bind"), _not(_NO_SERVER)),
        **dict.fromkeys(
            (
                "gateway-timeout-creation",
                "grpc-keepalive-time-duration",
                "grpc-keepalive-timeout-duration",
                "grpc-max-connection-idle-duration",
                "grpc-max-connection-age-duration",
                "grpc-max-connection-age-grace-duration",
            ),
            _not(_NO_SERVER),
        ),
        "level": _level,
        "prometheus-listen-addr": _listen("admin.listen"),
        "prometheus-sync-interval": _not("metrics are always what they are now"),
        "pprof-listen-addr": _not("there is no profiling listener"),
        "kubeconfig": _to("source.kubeconfig"),
        "sync": _not("the watch is followed, and listed anew when it breaks"),
        "fetchers": _not("calls to STS are bounded by sts.concurrency and sts.rate"),
        "prefetch-buffer-size": _not("nothing is dropped: what pods are entitled to is kept ready"),
        "role-base-arn": _to("role_base_arn"),
        "session": lambda found, _flag, value: found.put("sts.session_name", f"kiam-{value}"),
        "session-duration": _duration,
        "session-refresh": _not(_KEPT),
        "assume-role-arn": _to("assume_role_arn"),
        "region": _to("sts.region"),
    },
    "kube2iam": {
        "app-port": _not("the redirect leads to the agent's own address; its port is redirect.port"),
        "metrics-port": lambda found, _flag, value: found.put("admin.listen", f"0.0.0.0:{value}"),
        "metadata-addr": lambda found, _flag, value: found.put("upstream.url", f"http://{value}"),
        "base-role-arn": _to("role_base_arn"),
        "default-role": _to("policy.default_role"),
        "iam-role-key": _unless("iam.amazonaws.com/role", f"{_FIXED_KEY}role"),
        "iam-external-id": _unless("iam.amazonaws.com/external-id", f"{_FIXED_KEY}external-id"),
        "namespace-key": _unless("iam.amazonaws.com/allowed-roles", f"{_FIXED_KEY}allowed-roles"),
        "namespace-restriction-format": _format,
        "iam-role-session-ttl": _not(_KEPT),
        "iam-role-error-ttl": _not("failures are remembered by their class, and forgotten when annotations change"),
        "host-ip": _not(_REDIRECT),
        "host-interface": _interface,
        "node": _to("node_name"),
        "cache-resync-period": _not("the watch is followed, and listed anew when it breaks"),
        "backoff-max-interval": _not("a request is woken by the event of its pod"),
        "backoff-max-elapsed-time": _not("a request is held server.hold seconds at most, which SDKs wait for"),
        "kubeconfig": _to("source.kubeconfig"),
        "api-server": _not("write a kubeconfig and name it in source.kubeconfig"),
        "api-token": _not("write a kubeconfig and name it in source.kubeconfig"),
        "log-format": lambda found, _flag, value: found.put("log.format", "json" if value == "json" else "console"),
        "log-level": _level,
    },
}


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of the peer as it was given: its name without dashes, its value."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A word that means nothing to the peer as we know it, and why."""

    word: str
    why: str


def migrated(peer: Peer, words: Iterable[str]) -> Migrated:
    """What the flags of a peer come to. Total: what is no flag of it is told of, and the others go on."""
    found = Migrated()
    for each in read(peer, words):
        if isinstance(each, Unknown):
            found.unknown.append((each.word, each.why))
        else:
            act = _SWITCHES[peer].get(each.name) or _VALUES[peer][each.name]
            act(found, f"--{each.name}", each.value)
    if peer == "kube2iam" and "namespace_policy" not in found.settings.get("policy", {}):
        _namespaces(found, "", "false")
        found.notes.append(
            ("(no --namespace-restrictions)", "whoever may annotate a pod may take any role: turn it on")
        )
    return found


def flags_in(peer: Peer, words: Iterable[str]) -> Iterator[Flag]:
    """A peer's flags.

    Raises:
        MigrationError: a word is no flag of the peer, or lacks its value.
    """
    for each in read(peer, words):
        if isinstance(each, Unknown):
            raise MigrationError(f"{each.word!a}: {each.why}")
        yield each


def read(peer: Peer, words: Iterable[str]) -> Iterator[Flag | Unknown]:
    """The words as the peer reads them; kiam's commands (`agent`, `server`) are passed over.

    What follows an unknown flag is taken for its value, unless it looks like a flag: a value that begins with a dash
    is then another unknown flag, which is told as well.
    """
    rest = deque(words)
    while rest:
        word = rest.popleft()
        name, equals, value = word.removeprefix("--").removeprefix("-").partition("=")
        plain = name.removeprefix("no-")
        if not word.startswith("-"):
            if peer != "kiam" or word not in _COMMANDS:
                yield Unknown(word, "is no flag")
        elif name in _SWITCHES[peer]:
            yield Flag(name, value if equals else "true")
        elif peer == "kiam" and plain != name and plain in _SWITCHES[peer]:
            yield Flag(plain, "false")
        elif name in _VALUES[peer]:
            if not equals and not rest:
                yield Unknown(word, "lacks its value")
            else:
                yield Flag(name, value if equals else rest.popleft())
        else:
            if not equals and rest and not rest[0].startswith("-"):
                word = f"{word} {rest.popleft()}"
            yield Unknown(word, f"is no flag of {peer} that is known here; see what it is for")

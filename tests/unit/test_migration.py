"""The flags of kiam and kube2iam: each is known, each is answered, and what comes out are settings of ours."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metaproxy.__main__ import main
from metaproxy.migration import _SWITCHES, _VALUES, PEERS, MigrationError, Peer, flags_in, migrated
from metaproxy.settings import Settings
from metaproxy.settingsources import load

ARN = "arn:aws:iam::111122223333:role/"


def settings(peer: Peer, *flags: str) -> dict[str, Any]:
    """What comes of the flags."""
    return migrated(peer, flags).settings


def notes(peer: Peer, *flags: str) -> dict[str, str]:
    """What is said of them."""
    return dict(migrated(peer, flags).notes)


def test_a_kiam_set_up() -> None:
    """As its chart starts agent and server."""
    flags = [
        *("agent", "--iptables", "--no-iptables-remove", "--host-interface=cali+", "--json-log", "--level=warn"),
        *("--port=8181", "--cert=/etc/kiam/tls/tls.crt", "--key", "/k", "--ca=/c", "--server-address=kiam-server:443"),
        *("--prometheus-listen-addr=0.0.0.0:9620", "--gateway-timeout-creation=1s", "--allow-route-regexp=^$"),
    ]
    found = migrated("kiam", flags)
    assert found.settings == {
        "redirect": {"include_interface": ["cali+"]},
        "log": {"format": "json", "level": "warning"},
        "admin": {"listen": "0.0.0.0:9620"},
        "upstream": {"profile": "none"},
    }
    assert {flag for flag, _ in found.notes} == {
        *("--iptables", "--iptables-remove", "--port", "--cert", "--key", "--ca", "--server-address"),
        "--gateway-timeout-creation",
    }
    assert settings("kiam", "server", "--role-base-arn", ARN, "--region=eu-west-1", f"--assume-role-arn={ARN}k") == {
        "role_base_arn": ARN,
        "sts": {"region": "eu-west-1"},
        "assume_role_arn": f"{ARN}k",
    }


def test_a_kube2iam_set_up() -> None:
    """As its chart starts it; that its restrictions are off by default is a setting here, and said."""
    found = migrated("kube2iam", [f"--base-role-arn={ARN}", "--node=n1", "--host-interface=!eth0", "--verbose"])
    assert found.settings == {
        "role_base_arn": ARN,
        "node_name": "n1",
        "log": {"level": "debug"},
        "policy": {"namespace_policy": "optional"},
    }
    assert dict(found.notes).keys() == {"--host-interface", "(no --namespace-restrictions)"}
    assert settings("kube2iam", "--namespace-restrictions")["policy"] == {"namespace_policy": "required"}
    assert settings("kube2iam", "--namespace-restrictions=false")["policy"] == {"namespace_policy": "optional"}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("15m", None), ("60m", None), ("1h", None), ("2h", 7200), ("1h0m1s", 3601), ("x", None), ("", None)],
)
def test_session_durations(value: str, seconds: int | None) -> None:
    """None becomes shorter than an hour, whatever kiam did."""
    if seconds is None:
        assert "--session-duration" in notes("kiam", f"--session-duration={value}")
    else:
        assert settings("kiam", f"--session-duration={value}") == {"sts": {"session_duration": seconds}}


@pytest.mark.parametrize(
    ("peer", "flag", "said"),
    [
        ("kiam", "--allow-route-regexp=/latest/.*", "write what '/latest/.*' is for as paths of upstream.allow"),
        ("kiam", "--whitelist-route-regexp=/latest/.*", "write what '/latest/.*' is for as paths of upstream.allow"),
        ("kiam", "--statsd=127.0.0.1:8125", "Prometheus"),
        ("kiam", "--disable-strict-namespace-regexp", "must match the whole ARN"),
        ("kiam", "--level=loud", "there is no level 'loud'"),
        ("kube2iam", "--auto-discover-default-role", "the node's role to every pod"),
        ("kube2iam", "--iam-role-key=x/role", "iam.amazonaws.com/role"),
        ("kube2iam", "--namespace-restriction-format=regexp", "any part of an ARN"),
    ],
)
def test_reasons(peer: Peer, flag: str, said: str) -> None:
    """What has no place here is told with what to do."""
    assert said in notes(peer, flag)[flag.partition("=")[0]]


def test_switches_that_are_off() -> None:
    """In each peer's own way."""
    assert "log" not in migrated("kube2iam", ["--verbose=false"]).settings
    assert migrated("kube2iam", ["--verbose"]).settings["log"] == {"level": "debug"}
    on, off = (migrated("kiam", [f"--{word}"]).settings for word in ("json-log", "no-json-log"))
    assert on != off


def test_defaults_of_the_peer_are_nothing_to_say() -> None:
    """An annotation's key that is the same here."""
    flags = ["--iam-role-key=iam.amazonaws.com/role", "--namespace-restriction-format=glob", "--verbose=false"]
    assert notes("kube2iam", *flags, "--namespace-restrictions") == {}


VALUES = {
    "prometheus-listen-addr": ":9620",
    "role-base-arn": ARN,
    "base-role-arn": ARN,
    "assume-role-arn": f"{ARN}k",
    "region": "eu-west-1",
    "metrics-port": "9000",
    "metadata-addr": "169.254.169.254:80",
    "level": "info",
    "log-level": "fatal",
    "host-interface": "cali+",
    "session-duration": "90m",
    "default-role": "fallback",
}


@pytest.mark.parametrize(
    ("peer", "flag"), [(peer, flag) for peer in PEERS for flag in (*_SWITCHES[peer], *_VALUES[peer])]
)
def test_every_flag_is_answered_and_what_comes_out_is_taken(peer: Peer, flag: str) -> None:
    """Each is a setting that our own reading accepts, or a note, or the peer's default."""
    words = [f"--{flag}"] if flag in _SWITCHES[peer] else [f"--{flag}={VALUES.get(flag, 'x')}"]
    found = migrated(peer, words)
    told = found.settings.keys() - {"policy"} or dict(found.notes).keys() & {words[0].partition("=")[0]}
    assert told or flag in {"namespace-restrictions", "default-role"}
    flags: dict[str, Any] = {"node_name": "n1", **found.settings}
    if "kubeconfig" not in flags.get("source", {}):
        flags["source"] = {"manifests": ["x"]}
    load(Settings, flags)


@pytest.mark.parametrize(
    ("peer", "words", "told"),
    [
        ("kiam", ["--node=n1"], ["--node=n1"]),
        ("kiam", ["--node", "n1"], ["--node n1"]),
        ("kiam", ["--node", "--sync=1m"], ["--node"]),
        ("kiam", ["--node"], ["--node"]),
        ("kiam", ["--first", "--second", "x", "y"], ["--first", "--second x", "y"]),
        ("kube2iam", ["--no-iptables"], ["--no-iptables"]),
        ("kiam", ["--no-region", "x"], ["--no-region x"]),
        ("kiam", ["extra"], ["extra"]),
        ("kube2iam", ["agent"], ["agent"]),
    ],
)
def test_words_that_mean_nothing(peer: Peer, words: list[str], told: list[str]) -> None:
    """Each is named with what is taken for its value, and the others go on, before it and behind it."""
    flag = "--region" if peer == "kiam" else "--default-role"
    found = migrated(peer, [f"{flag}=a", *words, flag, "b"])
    assert [word for word, _ in found.unknown] == told
    assert (found.settings["sts"]["region"] if peer == "kiam" else found.settings["policy"]["default_role"]) == "b"


def test_a_value_that_is_missing() -> None:
    """It can only be the last."""
    assert migrated("kiam", ["--sync=1m", "--region"]).unknown == [("--region", "lacks its value")]


def test_the_doctor_takes_no_unknown_flag() -> None:
    """By it a pod might be decided otherwise: nothing is compared then."""
    with pytest.raises(MigrationError, match="--nonsense"):
        list(flags_in("kiam", ["--region=x", "--nonsense"]))


@given(
    st.sampled_from(PEERS), st.lists(st.text(max_size=12) | st.sampled_from(["--level", "--region=", "--"]), max_size=4)
)
def test_anything_is_answered(peer: Peer, words: list[str]) -> None:
    """Total."""
    migrated(peer, words)


def test_a_word_stays_in_its_comment(capsys: pytest.CaptureFixture[str]) -> None:
    """What is written is a settings file, whatever was given."""
    assert main(["config", "--from", "kiam", "--", "--x\nnode_name: thief", "--region=eu-west-1"]) == 1
    assert yaml.safe_load(capsys.readouterr().out) == {"sts": {"region": "eu-west-1"}}


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """YAML that can be given back, a comment for each flag that is not in it; peer and flags are checked."""
    assert main(["config", "--from", "kiam", "--", "server", "--region=eu-west-1", "--fetchers=8"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed) == {"sts": {"region": "eu-west-1"}}
    assert "# --fetchers: calls to STS are bounded by sts.concurrency and sts.rate\n" in printed
    assert main(["config", "--from=kiam"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["config", "--from=kiam", "--", "--nonsense", "7", "--region=eu-west-1"]) == 1
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed) == {"sts": {"region": "eu-west-1"}}
    assert "# unknown: '--nonsense 7' is no flag of kiam" in printed
    for words, told in (
        (["--from=kiam2", "--"], "--from: one of kiam, kube2iam"),
        (["--source.manifests=x", "--", "--region=x"], "flags after -- are a peer's"),
    ):
        assert main(["config", *words]) == 2
        assert told in capsys.readouterr().err

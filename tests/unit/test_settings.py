"""Settings: which source wins, what is refused and how that is told, and that documents say what the code says."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from metaproxy.knobs import Knob, help_text, knobs, titles
from metaproxy.podsettings import Policy, Source, Sts
from metaproxy.settings import Settings, SettingsError
from metaproxy.settingsources import Loaded, Parser, as_yaml, load, load_group, redacted
from scripts import generate_docs

ARN = "arn:aws:iam::111122223333:role/"
LOCAL = ["--source.manifests=pods.yaml"]
KNOBS = {one.key: one for one in knobs(Settings)}


def loaded(*flags: str) -> Loaded[Settings]:
    """What these flags, the environment and a file add up to."""
    return load(Settings, Parser("metaproxy run", Settings).read(flags)[1])


def refused(*flags: str) -> list[str]:
    """The lines with which the settings are refused."""
    with pytest.raises(SettingsError) as caught:
        loaded(*flags)
    return list(caught.value.lines)


def written(folder: Path, content: object) -> str:
    """A settings file; its path."""
    path = folder / "settings.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def value_of(settings: Settings, one: Knob) -> Any:
    """The value of a setting."""
    return getattr(getattr(settings, one.group), one.name) if one.group else getattr(settings, one.name)


# For each setting: what is written in a variable, the flags that say the same, the same in a file, and what it means.
SAMPLES: Mapping[str, tuple[str, list[str], Any, Any]] = {
    "node_name": ("n1", ["n1"], "n1", "n1"),
    "cluster_name": ("prod.example", ["prod.example"], "prod.example", "prod.example"),
    "assume_role_arn": (f"{ARN}a/b", [f"{ARN}a/b"], f"{ARN}a/b", f"{ARN}a/b"),
    "role_base_arn": (ARN[:-1], [ARN], ARN, ARN),
    "server.listen": (
        "10.0.0.1:1,[::1]:2",
        ["10.0.0.1:1", "[0:0::1]:2"],
        ["10.0.0.1:1", "[::1]:2"],
        [("10.0.0.1", 1), ("::1", 2)],
    ),
    "server.hold": ("0.5", ["0.5"], 0.5, 0.5),
    "server.connections": ("7", ["7"], 7, 7),
    "server.connections_per_address": ("7", ["7"], 7, 7),
    "handover.socket": ("/run/x.sock", ["/run/x.sock"], "/run/x.sock", Path("/run/x.sock")),
    "handover.drain": ("7", ["7"], 7, 7.0),
    "admin.listen": ("[::]:9", ["[::]:9"], "[::]:9", ("::", 9)),
    "admin.socket": ("/run/admin", ["/run/admin"], "/run/admin", Path("/run/admin")),
    "server.accept_direct": ("false", ["false"], False, False),
    "node.remove_startup_taint": ("true", ["true"], True, True),
    "redirect.device": ("eth0", ["eth0"], "eth0", "eth0"),
    "redirect.port": ("80", ["80"], 80, 80),
    "redirect.backend": ("iptables-nft", ["iptables-nft"], "iptables-nft", "iptables-nft"),
    "redirect.include_interface": ("cali+,eni1", ["cali+", "eni1"], ["cali+", "eni1"], ["cali+", "eni1"]),
    "redirect.exclude_interface": ("docker0", ["docker0"], ["docker0"], ["docker0"]),
    "redirect.exclude_source": (
        "10.1.0.0/16,fd01::1",
        ["10.1.0.0/16", "fd01::1"],
        ["10.1.0.0/16", "fd01::1/128"],
        ["10.1.0.0/16", "fd01::1/128"],
    ),
    "redirect.listen": ("[::]:9", ["[::]:9"], "[::]:9", ("::", 9)),
    "redirect.socket": ("/run/w.sock", ["/run/w.sock"], "/run/w.sock", Path("/run/w.sock")),
    "source.manifests": ('["a,b", "c"]', ["a,b", "c"], ["a,b", "c"], [Path("a,b"), Path("c")]),
    "source.kubeconfig": ("/k", ["/k"], "/k", Path("/k")),
    "caller.witness": ("off", ["off"], "off", "off"),
    "sts.endpoint_url": ("http://h:1/", ["http://h:1"], "http://h:1", "http://h:1"),
    "sts.region": ("us-east-1", ["us-east-1"], "us-east-1", "us-east-1"),
    "sts.session_duration": ("7200", ["7200"], 7200, 7200),
    "sts.force_session_duration": ("yes", ["true"], True, True),
    "sts.session_name": ("{pod}", ["{pod}"], "{pod}", "{pod}"),
    "sts.session_tags": (
        "pod={pod}, team=a=b",
        ["pod={pod}", "team=a=b"],
        {"pod": "{pod}", "team": "a=b"},
        {"pod": "{pod}", "team": "a=b"},
    ),
    "sts.source_identity": ("{workload}", ["{workload}"], "{workload}", "{workload}"),
    "sts.concurrency": ("3", ["3"], 3, 3),
    "sts.rate": ("1.5", ["1.5"], 1.5, 1.5),
    "sts.burst": ("4", ["4"], 4, 4),
    "upstream.url": ("https://h", ["https://h/"], "https://h", "https://h"),
    "upstream.profile": ("none", ["none"], "none", "none"),
    "upstream.allow": (
        "/latest/meta-data/mac,meta-data/network/",
        ["meta-data/mac", "/meta-data/network/"],
        ["meta-data/mac", "meta-data/network/"],
        ["meta-data/mac", "meta-data/network/"],
    ),
    "tokens.mode": ("required", ["required"], "required", "required"),
    "tokens.key_file": ("/key", ["/key"], "/key", Path("/key")),
    "policy.namespace_policy": ("optional", ["optional"], "optional", "optional"),
    "policy.default_role": ("a/b", ["a/b"], "a/b", "a/b"),
    "policy.allow": (f"{ARN}a-*,{ARN}b", [f"{ARN}a-*", f"{ARN}b"], [f"{ARN}a-*", f"{ARN}b"], [f"{ARN}a-*", f"{ARN}b"]),
    "events.enabled": ("false", ["false"], False, False),
    "log.format": ("console", ["console"], "console", "console"),
    "log.level": ("debug", ["debug"], "debug", "debug"),
}

COMPANIONS = {
    "source.kubeconfig": ["--node-name=n"],
    "source.manifests": [],
    "node.remove_startup_taint": ["--node-name=n", "--source.kubeconfig=/k"],
}
"""What makes settings around a sample work; otherwise there are manifests."""


def test_every_setting_has_a_sample() -> None:
    """The table above leaves no setting out, so that none has three spellings that nobody tried."""
    assert SAMPLES.keys() == KNOBS.keys() - {"config"}


@pytest.mark.parametrize("key", SAMPLES)
def test_one_name_in_three_spellings(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag, a variable and a file key of one name mean the same, and each is told as the origin."""
    variable, flags, in_file, meaning = SAMPLES[key]
    one = KNOBS[key]
    others = COMPANIONS.get(key, LOCAL)
    by_flag = loaded(*others, *(f"{one.flag}={text}" for text in flags))
    content = {one.group: {one.name: in_file}} if one.group else {one.name: in_file}
    path = written(tmp_path, content)
    by_file = loaded(*others, "--config", path)
    monkeypatch.setenv(one.variable, variable)
    by_variable = loaded(*others)
    for got, origin in ((by_flag, f"flag {one.flag}"), (by_file, f"file {path}"), (by_variable, None)):
        assert value_of(got.settings, one) == meaning
        assert got.origins[key] == (origin or f"environment {one.variable}")


def test_flag_over_environment_over_file_over_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources are merged setting by setting; the stronger one wins."""
    path = written(tmp_path, {"sts": {"rate": 1, "burst": 1, "concurrency": 1}, "server": {"listen": ["127.0.0.1:1"]}})
    monkeypatch.setenv("METAPROXY_CONFIG", path)
    monkeypatch.setenv("METAPROXY_STS__RATE", "2")
    monkeypatch.setenv("METAPROXY_STS__BURST", "2")
    got = loaded(*LOCAL, "--sts.rate=3", "--server.listen=127.0.0.1:3")
    assert (got.settings.sts.rate, got.settings.sts.burst, got.settings.sts.concurrency) == (3, 2, 1)
    assert got.settings.sts.session_duration == 3600
    assert got.settings.server.listen == [("127.0.0.1", 3)]
    assert "sts.session_duration" not in got.origins


def test_mapping_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Tags given by flag are all there are: a file's tags do not shine through."""
    path = written(tmp_path, {"sts": {"session_tags": {"a": "1"}}})
    got = loaded(*LOCAL, "--config", path, "--sts.session-tags=b=2")
    assert got.settings.sts.session_tags == {"b": "2"}


def test_empty_is_unset_in_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty value lets the weaker source speak, whether it is a text, a list or nothing (kiam#491)."""
    path = written(tmp_path, "sts: {region: eu-west-1, endpoint_url: '', session_tags: {}}\npolicy:\ntokens: {}\n")
    monkeypatch.setenv("METAPROXY_STS__REGION", " ")
    monkeypatch.setenv("METAPROXY_ASSUME_ROLE_ARN", "")
    got = loaded(*LOCAL, f"--config={path}", "--sts.region=", "--server.listen=", "--node-name=")
    assert got.settings.sts.region == "eu-west-1"
    assert got.settings.assume_role_arn == ""
    assert got.settings.server.listen == [("127.0.0.1", 8181)]
    assert set(got.origins) == {"config", "source.manifests", "sts.region"}


def test_empty_is_unset_in_code() -> None:
    """Settings made in code take empty texts for nothing too."""
    sts = Sts(region="", endpoint_url="", source_identity="", session_tags={})
    made = Settings(source=Source(manifests=[Path("a")]), sts=sts, assume_role_arn="", role_base_arn="", node_name="")
    assert Settings.model_validate({**made.model_dump(), "cluster_name": "", "policy": Policy(default_role="")}) == made


def test_empty_file(tmp_path: Path) -> None:
    """A file that says nothing changes nothing."""
    assert loaded(*LOCAL, "--config", written(tmp_path, "")).settings.sts.rate == 20


def test_switch_without_a_value() -> None:
    """A flag that is either on or off is on when it stands alone."""
    assert loaded(*LOCAL, "--sts.force-session-duration", "--sts.session-duration=900").settings.sts.session_duration


def test_load_with_arguments() -> None:
    """Settings.load takes arguments as a command does."""
    assert Settings.load([*LOCAL, "--server.hold=0.2"]).server.hold == 0.2


def test_made_directly_nothing_else_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings made in code do not look at the environment."""
    monkeypatch.setenv("METAPROXY_STS__RATE", "5")
    assert Settings(source=Source(manifests=[Path("a")])).sts.rate == 20


@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        (["--sts.regoin=x"], ["--sts.regoin is unknown; the closest known one is --sts.region"]),
        (["--sts.regoin", "x"], ["--sts.regoin is unknown; the closest known one is --sts.region"]),
        (["--sts.reg=x"], ["--sts.reg is unknown; the closest known one is --sts.region"]),
        (
            ["--node_name=x", "--hold=1"],
            [
                "--node_name is unknown; the closest known one is --node-name",
                "--hold is unknown; the closest known one is --server.hold",
            ],
        ),
        (["stray"], ["'stray' is not expected"]),
        (["--log.level"], ["argument --log.level: expected one argument", "see metaproxy run --help"]),
    ],
)
def test_unknown_flags(flags: list[str], lines: list[str]) -> None:
    """An unknown flag, an abbreviation or a stray word is refused, with the closest flag named."""
    assert refused(*LOCAL, *flags) == lines


def test_unknown_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable with our prefix that sets nothing is refused with the closest one; a group is no setting."""
    monkeypatch.setenv("METAPROXY_STS__SESION_DURATION", "3600")
    monkeypatch.setenv("METAPROXY_ADMIN__PORT", "1")
    monkeypatch.setenv("METAPROXY_STS", "{}")
    lines = refused(*LOCAL)
    assert [line.partition(" ")[0] for line in lines] == [
        "METAPROXY_ADMIN__PORT",
        "METAPROXY_STS",
        "METAPROXY_STS__SESION_DURATION",
    ]
    assert lines[2].endswith("is unknown; the closest known one is METAPROXY_STS__SESSION_DURATION")


def test_variables_of_services_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Kubernetes sets in pods beside a Service named metaproxy, or metaproxy-metrics, does not end the agent."""
    for name in (
        "METAPROXY_SERVICE_HOST",
        "METAPROXY_SERVICE_PORT",
        "METAPROXY_METRICS_SERVICE_PORT_HTTP",
        "METAPROXY_PORT",
        "METAPROXY_METRICS_PORT_9181_TCP",
        "METAPROXY_METRICS_PORT_9181_TCP_ADDR",
    ):
        monkeypatch.setenv(name, "10.0.0.1")
    assert loaded(*LOCAL).settings.sts.rate == 20


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("sts: {regoin: x}", "{path}: sts.regoin is unknown; the closest known one is sts.region"),
        ("stss: {region: x}", "{path}: stss is unknown; the closest known one is "),
        ("sts.region: x", "{path}: sts.region is a key of the group sts: write region below sts"),
        ("nodename: x", "{path}: nodename is unknown; the closest known one is node_name"),
        ("config: /other", "{path}: config is unknown; the closest known one is "),
        ("sts: fast", "{path}: sts is a group of settings: write them below it"),
        ("- a", "--config: {path} is no mapping of settings"),
        ("a: [", "--config: {path} is no YAML: "),
        ("a: !!timestamp x", "--config: {path} is no YAML: "),
    ],
)
def test_file_that_cannot_be_used(content: str, line: str, tmp_path: Path) -> None:
    """Unknown keys, and files that are no settings, are refused with the file's name."""
    path = written(tmp_path, content)
    lines = refused(*LOCAL, "--config", path)
    assert lines[0].startswith(line.format(path=path))


def test_file_that_is_not_there(tmp_path: Path) -> None:
    """A file that was named and cannot be read is refused: silence would run with other settings."""
    assert refused(*LOCAL, f"--config={tmp_path}/none") == [f"--config: {tmp_path}/none: No such file or directory"]


def test_all_mistakes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown variables and unknown file keys are told together; so are all malformed values."""
    monkeypatch.setenv("METAPROXY_STS__BURTS", "1")
    assert len(refused(*LOCAL, "--config", written(tmp_path, "sts: {burts: 1}"))) == 2
    monkeypatch.delenv("METAPROXY_STS__BURTS")
    assert len(refused(*LOCAL, "--sts.burst=0", "--sts.rate=x", "--log.level=loud")) == 3


@pytest.mark.parametrize(
    "flag",
    [
        *(f"--server.listen={text}" for text in ("8181", ":8181", "::1:8181", "[127.0.0.1]:1", "host:1", "127.0.0.1:")),
        *(
            f"--admin.listen={text}"
            for text in ("127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:1 2", "127.0.0.1:\uff11")
        ),
        "--server.hold=-1",
        "--server.hold=nan",
        "--server.hold=inf",
        "--server.connections-per-address=0",
        "--node-name=Node_1",
        "--cluster-name=a b",
        "--assume-role-arn=metaproxy",
        "--assume-role-arn=arn:aws:iam::123:role/a",
        f"--role-base-arn={ARN}../",
        "--role-base-arn=arn:aws:iam::111122223333:user/",
        "--sts.region=everywhere",
        "--sts.endpoint-url=sts.amazonaws.com",
        "--sts.endpoint-url=http://h:99999",
        "--sts.endpoint-url=http://h/?a=b",
        "--sts.endpoint-url=http://h/#a",
        "--sts.endpoint-url=http://user:password@h/",
        "--upstream.url=ftp://h",
        "--upstream.url=http://[::1",
        "--upstream.url=http://a b",
        "--upstream.profile=all",
        *(f"--upstream.allow={text}" for text in ("/", "..", "a//b", "meta-data/../iam", "user-data", "a/./b")),
        *(f"--upstream.allow=meta-data/{text}" for text in ("iam/", "IAM/info", "tags/", "public-keys/0")),
        "--sts.session-duration=899",
        "--sts.session-duration=43201",
        "--sts.session-name={role}",
        "--sts.session-name={namespace",
        "--sts.session-name={}",
        "--sts.session-name={pod.__class__}",
        "--sts.source-identity={x}",
        "--sts.session-tags=pod",
        "--sts.session-tags==x",
        "--sts.session-tags=aws:x=1",
        "--sts.session-tags=AWS:x=1",
        "--sts.session-tags=a={x}",
        f"--sts.session-tags={'k' * 129}=1",
        "--policy.default-role=a b",
        "--policy.allow=*",
        "--policy.allow=arn:aws:iam::*:role/a",
        f"--policy.allow={ARN}{'x' * 5000}",
        "--policy.namespace-policy=maybe",
        "--tokens.mode=never",
        "--events.enabled=perhaps",
        "--log.format=xml",
    ],
)
def test_malformed_values(flag: str) -> None:
    """A malformed value is refused by one line that names its flag and tells its origin."""
    name = flag.partition("=")[0]
    lines = refused(*LOCAL, flag)
    assert len(lines) == 1
    assert lines[0].startswith(f"{name}: ")
    assert lines[0].endswith(f" from flag {name}")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SERVER__LISTEN", "[127.0.0.1:1"),
        ("STS__SESSION_TAGS", '{"a": '),
        ("STS__SESSION_TAGS", '{"a": 1}'),
        ("STS__SESSION_TAGS", '["a=1", "b"]'),
        ("STS__SESSION_TAGS", "a=1,a=2"),
        ("STS__SESSION_TAGS", "a=1,A=2"),
        ("STS__SESSION_TAGS", ",".join(f"k{number}=1" for number in range(51))),
        ("SOURCE__MANIFESTS", "[1]"),
    ],
)
def test_malformed_variables(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists and mappings in variables are refused under the flag's name, with the variable as origin."""
    monkeypatch.setenv(f"METAPROXY_{variable}", value)
    (line,) = refused(*([] if "MANIFESTS" in variable else LOCAL))
    assert line.startswith("--" + variable.lower().replace("__", ".").replace("_", "-"))
    assert line.endswith(f" from environment METAPROXY_{variable}")


def test_tags_from_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tags in a variable may be a JSON object: templates may then have commas."""
    monkeypatch.setenv("METAPROXY_STS__SESSION_TAGS", '{"a": "x,{pod}"}')
    assert loaded(*LOCAL).settings.sts.session_tags == {"a": "x,{pod}"}


@pytest.mark.parametrize("content", ["sts: {session_tags: [1, 2]}", "sts: {session_tags: 1}", "admin: {listen: 9181}"])
def test_wrong_types_in_a_file(content: str, tmp_path: Path) -> None:
    """A file's value of a wrong type is refused, not guessed at."""
    (line,) = refused(*LOCAL, "--config", written(tmp_path, content))
    assert line.startswith("--")
    assert " from file " in line


GOV = "arn:aws-us-gov:iam::111122223333:role/"


@pytest.mark.parametrize(
    ("flags", "beginning"),
    [
        ([], "--source.manifests: there is no source of pods"),
        (["--node-name=n"], "--source.manifests: there is no source of pods"),
        (["--source.kubeconfig=/k"], "--node-name: the Kubernetes source"),
        ([*LOCAL, "--source.kubeconfig=/k"], "--source.manifests and --source.kubeconfig:"),
        ([*LOCAL, "--node.remove-startup-taint"], "--node.remove-startup-taint: with --source.manifests there is no"),
        ([*LOCAL, "--sts.session-duration=3599"], "--sts.session-duration: 3599 s leave too little"),
        (
            [*LOCAL, "--sts.session-duration=3601", f"--assume-role-arn={ARN}m"],
            "--sts.session-duration: 3601 s and --assume-role-arn",
        ),
        ([*LOCAL, "--sts.session-name={cluster}.{pod}"], "--sts.session-name: {cluster} is used and --cluster-name"),
        ([*LOCAL, "--sts.session-tags=n={node}"], "--sts.session-tags: {node} is used and --node-name"),
        ([*LOCAL, "--sts.source-identity=c-{cluster}"], "--sts.source-identity: {cluster} is used"),
        ([*LOCAL, f"--assume-role-arn={GOV}m", f"--role-base-arn={ARN}"], "--role-base-arn: it is in partition aws,"),
        ([*LOCAL, "--sts.region=us-gov-west-1", f"--role-base-arn={ARN}"], "--role-base-arn: it is in partition aws,"),
        ([*LOCAL, "--sts.region=us-east-1", f"--policy.default-role={GOV}r"], "--policy.default-role: it is in"),
        (
            [*LOCAL, f"--handover.socket=/{'x' * 103}"],
            "--handover.socket: the path of a unix socket has at most 103 bytes",
        ),
        ([*LOCAL, "--admin.listen=127.0.0.1:8181"], "--admin.listen: 127.0.0.1:8181 and 127.0.0.1:8181 cannot both"),
        (
            [*LOCAL, "--admin.listen=none"],
            "--admin.listen: with none nobody could ask the agent how it is; give --admin",
        ),
        (
            [*LOCAL, "--server.listen=[::]:9181", "--admin.listen=[::1]:9181"],
            "--admin.listen: [::1]:9181 and [::]:9181",
        ),
        (
            [*LOCAL, "--server.listen=127.0.0.1:1", "--server.listen=127.0.0.1:1"],
            "--server.listen: 127.0.0.1:1 and 127.0.0.1:1 cannot both",
        ),
        ([*LOCAL, "--upstream.url=http://127.0.0.1:8181/"], "--upstream.url: that is where the agent itself listens"),
        ([*LOCAL, "--upstream.url=http://localhost", "--server.listen=0.0.0.0:80"], "--upstream.url: that is where"),
        ([*LOCAL, "--upstream.url=https://[::1]", "--server.listen=[::]:443"], "--upstream.url: that is where"),
        ([*LOCAL, "--sts.endpoint-url=http://localhost:9181"], "--sts.endpoint-url: that is where the agent itself"),
    ],
)
def test_combinations_that_cannot_work(flags: list[str], beginning: str) -> None:
    """Each combination that cannot work is refused, naming a flag that is to be changed."""
    assert refused(*flags)[0].startswith(beginning)


@pytest.mark.parametrize(
    "flags",
    [
        ["--sts.session-duration=900", "--sts.force-session-duration"],
        ["--sts.session-duration=3600", f"--assume-role-arn={ARN}m"],
        ["--sts.session-duration=43200"],
        ["--sts.session-name={cluster}.{node}", "--cluster-name=c", "--node-name=n"],
        ["--sts.region=us-gov-west-1", f"--assume-role-arn={GOV}m", "--policy.default-role=plain"],
        ["--sts.region=cn-north-1", "--role-base-arn=arn:aws-cn:iam::111122223333:role/p/"],
        ["--server.listen=127.0.0.1:0", "--admin.listen=127.0.0.1:0", "--server.listen=127.0.0.1:0"],
        ["--server.listen=127.0.0.1:81", "--server.listen=[::1]:81", "--admin.listen=127.0.0.2:81"],
        ["--admin.listen=none", "--admin.socket=/run/admin"],
        ["--server.listen=0.0.0.0:80"],
        ["--upstream.url=http://imds.example:8181"],
    ],
)
def test_combinations_that_work(flags: list[str]) -> None:
    """What is near to the refused combinations and works is taken."""
    loaded(*LOCAL, *flags)


def test_in_a_pod_no_source_need_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kubelet tells of the API server, the pod's service account is the source; the node must be named."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert loaded("--node-name=n").settings.source.kubeconfig is None
    assert refused() == ["--node-name: the Kubernetes source watches the pods of one node; name it"]


def test_the_agent_listens_where_the_redirect_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the redirect's port, whoever changes it, unless the operator names other addresses."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    flags = ("--node-name=n", "--redirect.port=8282")
    assert loaded(*flags).settings.server.listen == [("169.254.170.254", 8282), ("fd00:a9fe:170::254", 8282)]
    assert loaded(*flags, "--server.listen=127.0.0.1:9").settings.server.listen == [("127.0.0.1", 9)]
    assert any(line.startswith("--redirect.port: ") for line in refused("--node-name=n", "--redirect.port=x"))


def test_one_group_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe reads its one group although the rest could not work; unknown and malformed are refused all the same."""
    monkeypatch.setenv("METAPROXY_ADMIN__LISTEN", "10.0.0.1:9")
    assert load_group(Settings, {}, "admin").listen == ("10.0.0.1", 9)
    assert load_group(Settings, {"admin": {"listen": "[::1]:9"}}, "admin").listen == ("::1", 9)
    with pytest.raises(SettingsError, match=r"^--admin.listen: write ADDR:PORT.*from flag --admin.listen$"):
        load_group(Settings, {"admin": {"listen": "x"}}, "admin")
    monkeypatch.setenv("METAPROXY_ADMIN__LISTNE", "10.0.0.1:9")
    with pytest.raises(SettingsError, match="METAPROXY_ADMIN__LISTEN"):
        load_group(Settings, {}, "admin")


def test_effective_settings_can_be_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `config` shows is YAML with every setting, which as a file means the same."""
    monkeypatch.setenv("METAPROXY_STS__SESSION_TAGS", "pod={pod}")
    first = loaded(*LOCAL, "--server.listen=[::1]:1", "--tokens.key-file=/k", "--log.format=console")
    text = as_yaml(first)
    assert text.startswith("# file: none\n")
    assert '  session_tags: {"pod": "{pod}"}  # environment METAPROXY_STS__SESSION_TAGS\n' in text
    assert '  listen: ["[::1]:1"]  # flag --server.listen\n' in text
    assert "  rate: 20.0  # default\n" in text
    monkeypatch.delenv("METAPROXY_STS__SESSION_TAGS")
    path = written(tmp_path, text)
    second = loaded("--config", path)
    assert second.settings.model_dump(exclude={"config"}) == first.settings.model_dump(exclude={"config"})
    assert as_yaml(second).startswith(f"# file: {path}\n")


PASSWORDS = [
    "http://user:hunter2@host",
    "http://hunter2@host:1/a@b",
    "http://user:hun/ter2@host/",
    "https://u:hunter2@h?q",
]


@pytest.mark.parametrize("url", PASSWORDS)
def test_passwords_are_not_shown(url: str) -> None:
    """No part of a URL's password is shown, whether the URL is taken or refused."""
    for flag in ("--upstream.url", "--sts.endpoint-url", "--sts.region", "--policy.allow", f"--{url}"):
        try:
            shown = as_yaml(loaded(*LOCAL, f"{flag}={url}"))
        except SettingsError as error:
            shown = str(error)
        assert "ter2" not in shown
        assert "***@" in shown


def test_redaction_leaves_the_rest() -> None:
    """A URL without a password is shown as it is."""
    assert redacted("http://host:1/path") == "http://host:1/path"


def test_long_values_are_cut() -> None:
    """A message stays a line that a person can read, however long the value."""
    (line,) = refused(*LOCAL, f"--sts.region={'x' * 10_000}")
    assert len(line) < 250


def test_every_setting_says_what_it_is() -> None:
    """Meaning, reason and what is written for it are told of each setting, numbers have a unit."""
    for one in KNOBS.values():
        assert one.meaning.endswith(".")
        assert one.reason.endswith(".")
        assert one.metavar
        assert one.default
        assert one.unit or one.metavar not in {"NUMBER", "SECONDS"}


def test_names_that_stay() -> None:
    """Documents and charts outside use these flags: they stay."""
    assert {one.flag for one in KNOBS.values()} >= {
        "--server.listen",
        "--admin.listen",
        "--node-name",
        "--source.manifests",
        "--source.kubeconfig",
        "--assume-role-arn",
        "--role-base-arn",
        "--sts.endpoint-url",
        "--sts.region",
        "--sts.session-duration",
        "--upstream.url",
        "--tokens.mode",
        "--tokens.key-file",
        "--policy.namespace-policy",
        "--policy.default-role",
        "--log.format",
    }
    assert KNOBS["sts.session_duration"].variable == "METAPROXY_STS__SESSION_DURATION"


def test_help_names_every_flag_in_its_group() -> None:
    """The help text has each group once, and each flag below its own."""
    text = help_text(Settings)
    positions = [text.index(f"\n  {one.flag} ") for one in knobs(Settings)]
    assert positions == sorted(positions)
    for group, title in titles(Settings).items():
        assert text.count(f"{group}: {title}" if group else f"{title}:") == 1
    assert help_text(Settings, ["log"]).startswith("log: ")


def test_log_format_follows_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person at a terminal reads columns, everything else JSON."""
    assert loaded(*LOCAL).settings.log.format == "json"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert loaded(*LOCAL).settings.log.format == "console"


def test_documents_are_what_the_code_says() -> None:
    """The generated documents in the tree have not drifted."""
    assert generate_docs.drifted(generate_docs.DOCS) == []


def test_drift_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing or changed document fails the check by its name; writing them mends it."""
    folder = tmp_path / "docs"
    assert generate_docs.main(["--check"], folder) == 1
    assert generate_docs.main([], folder) == 0
    assert generate_docs.main(["--check"], folder) == 0
    (folder / "metrics.md").write_text("old")
    capsys.readouterr()
    assert generate_docs.main(["--check"], folder) == 1
    assert capsys.readouterr().err == f"{folder / 'metrics.md'} is not what the code says: run make docs\n"


def test_settings_are_json_too() -> None:
    """Every value has a plain form, so that it can be shown."""
    assert json.loads(loaded(*LOCAL).settings.model_dump_json())["admin"]["listen"] == "127.0.0.1:9181"
    shown = json.loads(loaded(*LOCAL, "--admin.listen=none", "--admin.socket=/run/admin").settings.model_dump_json())
    assert shown["admin"] == {"listen": "none", "socket": "/run/admin"}

"""The doctor against an API server and an STS that do as told: what it asks, how often, what it makes of answers."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import yaml

from metaproxy.clusterfacts import NETWORKS
from metaproxy.doctor import GROUPS, NODE_GROUPS, examined, node_examined
from metaproxy.doctorcluster import PAGE
from metaproxy.findings import Finding, Verdict, as_document, as_lines
from metaproxy.peers import PeerRules
from metaproxy.pods import EXTERNAL_ID, PERMITTED, ROLE
from metaproxy.settings import Settings
from metaproxy.settingsources import Parser, load_some
from metaproxy.trust import trusted
from tests.fakes.kube_api import FakeKubeApi, Fault
from tests.fakes.sts import NODE_KEY, FakeSts, Step

ACCOUNT = "arn:aws:iam::123456789012:role/"
NODE, HOP = f"{ACCOUNT}node", f"{ACCOUNT}metaproxy"
ON_NODE = {"redirect", "leftover-rules", "source-route", "net-raw", "second-networks"}
"""Checks of a node: no test here is one."""

REFUSED = Step(code="AccessDenied", message="is not authorized to perform: sts:AssumeRole", status=403)


@pytest.fixture(autouse=True)
def node_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node's own keys, in the environment; no metadata service."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", NODE_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "own-secret-of-the-node")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
async def api() -> AsyncIterator[FakeKubeApi]:
    """An API server with a namespace that permits everything."""
    async with FakeKubeApi() as api:
        api.create_namespace("shop", {PERMITTED: ".*"})
        yield api


@pytest.fixture
async def sts() -> AsyncIterator[FakeSts]:
    """An STS that refuses nobody."""
    async with FakeSts() as sts:
        yield sts


def kubeconfig(folder: Path, url: str) -> str:
    """A file that leads to the server."""
    path = folder / "kubeconfig"
    named = {"name": "it"}
    path.write_text(
        yaml.safe_dump(
            {
                "clusters": [named | {"cluster": {"server": url}}],
                "users": [named | {"user": {}}],
                "contexts": [named | {"context": {"cluster": "it", "user": "it"}}],
                "current-context": "it",
            }
        )
    )
    return str(path)


class Doctor:
    """The doctor with its settings."""

    def __init__(self, *flags: str) -> None:
        self._flags = flags

    def _settings(self, groups: tuple[str, ...], *flags: str) -> Any:
        """As the command loads them, before there is a loop."""
        _, given = Parser("metaproxy doctor", Settings).read([*self._flags, *flags])
        return load_some(Settings, given, *groups)

    async def __call__(self, *flags: str, peer: PeerRules | None = None) -> dict[str, list[Finding]]:
        """What it finds, by check."""
        return by_check(await examined(await asyncio.to_thread(self._settings, GROUPS, *flags), peer))

    async def node(self, *flags: str) -> dict[str, list[Finding]]:
        """What it finds of the node alone."""
        return by_check(await node_examined(await asyncio.to_thread(self._settings, NODE_GROUPS, *flags)))


def by_check(findings: list[Finding]) -> dict[str, list[Finding]]:
    """The findings of each check."""
    found: dict[str, list[Finding]] = {}
    for finding in findings:
        found.setdefault(finding.check, []).append(finding)
    return found


@pytest.fixture
def doctor(api: FakeKubeApi, sts: FakeSts, tmp_path: Path) -> Doctor:
    """With both to ask, and no node."""
    config = kubeconfig(tmp_path, api.url)
    where = f"--sts.endpoint-url={sts.url}", "--sts.region=eu-west-1", "--upstream.url=http://127.0.0.1:9"
    return Doctor(f"--source.kubeconfig={config}", *where)


def verdicts(found: dict[str, list[Finding]]) -> dict[str, list[str]]:
    """Of what is not ok, but for the checks of a node."""
    told = {
        check: [each.verdict.value for each in findings if each.verdict is not Verdict.OK]
        for check, findings in found.items()
        if check not in ON_NODE
    }
    return {check: words for check, words in told.items() if words}


async def test_all_is_well(doctor: Doctor, api: FakeKubeApi, sts: FakeSts) -> None:
    """Every check is told; replicas' roles are asked for once, with exactly what the agent would send."""
    for number in range(3):
        owner = {"controller": True, "kind": "ReplicaSet", "name": "web-5d4f8b9c7", "uid": "r", "apiVersion": "apps/v1"}
        api.create_pod("shop", f"web-{number}", annotations={ROLE: "web"}, metadata={"ownerReferences": [owner]})
    api.create_pod("shop", "other", annotations={ROLE: f"{ACCOUNT}team/other", EXTERNAL_ID: "id-1"})
    found = await doctor()
    assert verdicts(found) == {}
    assert set(found) >= ON_NODE
    assert {call.role: call.parameters.get("ExternalId") for call in sts.calls()} == {
        f"{ACCOUNT}web": None,
        f"{ACCOUNT}team/other": "id-1",
    }
    assert len(sts.calls()) == 2
    assert {call.parameters["RoleSessionName"] for call in sts.calls()} == {"shop.web", "shop.other"}
    assert {call.parameters["DurationSeconds"] for call in sts.calls()} == {"3600"}
    assert found["base-arn"][0].found.startswith(ACCOUNT)


async def test_no_secret_is_told(doctor: Doctor, api: FakeKubeApi) -> None:
    """Sessions come and are thrown away."""
    api.create_pod("shop", "web", annotations={ROLE: "web"})
    findings = [each for told in (await doctor()).values() for each in told]
    text = "\n".join([*as_lines(findings), json.dumps(as_document(findings))])
    assert "own-secret" not in text
    assert "secret/of" not in text
    assert "token/of" not in text


async def test_a_role_that_refuses(doctor: Doctor, api: FakeKubeApi, sts: FakeSts) -> None:
    """With the trust policy that it lacks, for the node's role; the others are tried all the same."""
    for name in ("a", "b"):
        api.create_pod("shop", name, annotations={ROLE: name})
    sts.settings[f"{ACCOUNT}a"] = REFUSED
    found = await doctor("--sts.session-tags=team={namespace}")
    assert verdicts(found) == {"roles": ["problem"]}
    [row] = found["roles"]
    assert row.subjects == ("shop/a",)
    assert trusted(row.document, principal=NODE, actions=("sts:AssumeRole", "sts:TagSession"))
    assert len(sts.calls(f"{ACCOUNT}b")) == 1


async def test_a_role_whose_sessions_are_too_short(doctor: Doctor, api: FakeKubeApi, sts: FakeSts) -> None:
    """As STS words it."""
    api.create_pod("shop", "a", annotations={ROLE: "a"})
    words = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
    sts.settings[f"{ACCOUNT}a"] = Step(code="ValidationError", message=words, status=400)
    found = await doctor("--sts.session-duration=7200")
    assert verdicts(found) == {"roles": ["not checked"], "session-duration": ["problem"]}


async def test_sts_throttles(doctor: Doctor, api: FakeKubeApi, sts: FakeSts) -> None:
    """Nothing is known of the role, and nothing is claimed."""
    api.create_pod("shop", "a", annotations={ROLE: "a"})
    sts.settings[f"{ACCOUNT}a"] = Step(code="Throttling", status=400)
    assert verdicts(await doctor()) == {"roles": ["not checked"], "session-duration": ["not checked"]}


async def test_the_rate(doctor: Doctor, api: FakeKubeApi, sts: FakeSts) -> None:
    """No more calls a second than the node's own budget has."""
    times: list[float] = []

    def clock() -> float:
        times.append(time.time())
        return times[-1]

    sts.clock = clock  # asked once for each session
    for number in range(6):
        api.create_pod("shop", f"p{number}", annotations={ROLE: f"r{number}"})
    await doctor("--sts.rate=4")
    assert len(sts.calls()) == len(times) == 6
    # Five pauses of a quarter of a second; the first call may be slow. All at once would take milliseconds.
    assert times[-1] - times[0] >= 5 / 4 / 2


async def test_the_separate_role(doctor: Doctor, api: FakeKubeApi, sts: FakeSts) -> None:
    """It is what application roles must trust, and it must trust us."""
    api.create_pod("shop", "a", annotations={ROLE: "a"})
    sts.settings[f"{ACCOUNT}a"] = REFUSED
    found = await doctor(f"--assume-role-arn={HOP}")
    assert verdicts(found) == {"roles": ["problem"], "session-duration": ["not checked"]}
    assert trusted(found["roles"][0].document, principal=HOP)
    sts.settings[HOP] = REFUSED
    asked = len(sts.calls(f"{ACCOUNT}a"))
    found = await doctor(f"--assume-role-arn={HOP}")
    assert verdicts(found) == {
        "separate-role": ["problem"],
        "roles": ["not checked"],
        "session-duration": ["not checked"],
    }
    assert trusted(found["separate-role"][0].document, principal=NODE)
    assert len(sts.calls(f"{ACCOUNT}a")) == asked


async def test_no_identity(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else is looked at all the same."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert verdicts(await doctor()) == {
        "own-identity": ["problem"],
        "base-arn": ["not checked"],
        "roles": ["not checked"],
        "session-duration": ["not checked"],
    }


@pytest.mark.parametrize("code", ["", "SignatureDoesNotMatch"])
async def test_a_clock_that_is_wrong(doctor: Doctor, sts: FakeSts, code: str) -> None:
    """By the date of STS's answer, even of one that refuses for that reason."""
    date = formatdate(time.time() + 400, usegmt=True)
    sts.settings["GetCallerIdentity"] = Step(date=date, code=code, status=403 if code else 200)
    found = await doctor("--role-base-arn=arn:aws:iam::123456789012:role/")
    [row] = found["clock"]
    seconds = int("".join(filter(str.isdigit, row.found)))
    assert (row.verdict, row.found) == (Verdict.PROBLEM, f"this machine's clock is {seconds} s behind STS's")
    assert 395 <= seconds <= 401


async def test_the_node_alone(doctor: Doctor, api: FakeKubeApi, sts: FakeSts, monkeypatch: pytest.MonkeyPatch) -> None:
    """No API server is asked, and of STS nothing but the time, whoever asks."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    sts.settings["GetCallerIdentity"] = Step(
        code="InvalidClientTokenId", status=403, date=formatdate(time.time() - 100, usegmt=True)
    )
    found = await doctor.node()
    assert set(found) == ON_NODE | {"clock"}
    assert found["clock"][0].verdict is Verdict.WARNING
    assert found["clock"][0].found.endswith("ahead of STS's")
    assert api.seen == []
    assert [asked.action for asked in sts.asked] == ["GetCallerIdentity"]


async def test_the_node_alone_without_sts(doctor: Doctor) -> None:
    """The time is not known; the rest is looked at all the same."""
    found = await doctor.node("--sts.endpoint-url=http://127.0.0.1:9")
    assert found["clock"][0].verdict is Verdict.NOT_CHECKED
    assert set(found) == ON_NODE | {"clock"}
    found = await doctor.node("--sts.region=")
    assert found["clock"][0].verdict is Verdict.NOT_CHECKED


async def test_pages(doctor: Doctor, api: FakeKubeApi, sts: FakeSts) -> None:
    """A large cluster comes page by page, to the last pod."""
    for number in range(2 * PAGE + 1):
        api.create_pod("shop", f"p{number:05}")
    api.create_pod("shop", "the-last", annotations={ROLE: "last"})
    await doctor()
    assert len(sts.calls(f"{ACCOUNT}last")) == 1
    assert [seen.query.get("continue") for seen in api.asked("list", "pods")] == [None, str(PAGE), str(2 * PAGE)]


async def test_pages_that_expire(doctor: Doctor, api: FakeKubeApi) -> None:
    """The list is begun anew; not for ever."""
    gone = Fault(status=410, reason="Expired")
    api.fail("list", "pods", gone)
    assert verdicts(await doctor()) == {}
    api.fail("list", "pods", gone, times=3)
    found = await doctor()
    assert {check for check, words in verdicts(found).items() if words == ["not checked"]} >= {"namespace-policy"}
    assert "roles" in verdicts(found)


@pytest.mark.parametrize("resource", ["pods", "namespaces"])
async def test_lists_that_are_refused(doctor: Doctor, api: FakeKubeApi, resource: str) -> None:
    """Nothing of pods is claimed, not even of node's links; the missing right is named."""
    api.create_pod("shop", "web", annotations={ROLE: "web"})
    api.forbidden = {("list", resource)}
    found = await doctor(peer=PeerRules(peer="kiam"))
    unlisted = ["namespace-policy", "annotations", "host-network", "roles", "session-duration", "compat"]
    assert verdicts(found) == {"api-permissions": ["problem"]} | {check: ["not checked"] for check in unlisted}
    assert found["api-permissions"][0].document == [{"apiGroups": [""], "resources": [resource], "verbs": ["list"]}]
    assert {each.verdict for check in ON_NODE for each in found[check]} == {Verdict.NOT_CHECKED}


async def test_rights_by_settings(doctor: Doctor, api: FakeKubeApi) -> None:
    """Of Events and nodes only where they are wanted."""
    api.forbidden = {("create", "events"), ("patch", "nodes")}
    assert verdicts(await doctor("--events.enabled=false")) == {}
    found = await doctor("--node.remove-startup-taint=true")
    assert [rule["resources"] for rule in found["api-permissions"][0].document] == [["events"], ["nodes"]]


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(abort=True), Fault(raw=b"HTTP/1.1 200 OK\r\n\r\n[")])
async def test_an_api_server_that_answers_oddly(doctor: Doctor, api: FakeKubeApi, fault: Fault) -> None:
    """What could not be asked is not checked."""
    api.fail("create", "selfsubjectaccessreviews", fault)
    api.fail("list", "pods", fault, times=2)  # a connection that breaks off is tried once more
    found = verdicts(await doctor())
    assert found["api-permissions"] == found["roles"] == ["not checked"]


async def test_no_api_server(sts: FakeSts, tmp_path: Path) -> None:
    """AWS is looked at all the same."""
    config = kubeconfig(tmp_path, "http://127.0.0.1:9")
    flags = f"--sts.endpoint-url={sts.url}", "--sts.region=eu-west-1", "--upstream.url=http://127.0.0.1:9"
    found = await Doctor(f"--source.kubeconfig={config}", *flags)()
    assert found["own-identity"][0].verdict is Verdict.OK
    assert verdicts(found)["api-permissions"] == ["not checked"]


async def test_pods_of_every_kind(doctor: Doctor, api: FakeKubeApi, sts: FakeSts) -> None:
    """What is wrong with each is told by its own check, and nobody else's role is asked for."""
    api.create_namespace("silent")
    api.create_namespace("broken", {PERMITTED: "("})
    api.create_pod("silent", "a", annotations={ROLE: "a"})
    api.create_pod("shop", "host", annotations={ROLE: "host"}, spec={"hostNetwork": True})
    api.create_pod("shop", "odd", annotations={ROLE: "\x1b[31m red"})
    api.create_pod("shop", "multus", annotations={NETWORKS: "lan"})
    api.create_pod("shop", "nameless", metadata={"uid": ""})
    found = await doctor()
    assert verdicts(found) == {
        "namespace-policy": ["problem"],
        "host-network": ["warning"],
        "annotations": ["problem", "problem", "warning"],
    }
    assert found["second-networks"][0].subjects == ("shop/multus",)
    assert sts.calls() == []


async def test_a_peer(doctor: Doctor, api: FakeKubeApi) -> None:
    """By keys of its own, too."""
    api.create_pod("shop", "web", annotations={"example.com/role": "web"})
    found = await doctor(peer=PeerRules(peer="kube2iam", role_key="example.com/role"))
    [row] = found["compat"]
    assert (row.verdict, row.subjects) == (Verdict.PROBLEM, ("shop/web",))
    assert row.found.startswith("annotation key")


MANIFESTS: list[dict[str, Any]] = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "annotations": {PERMITTED: ".*"}}},
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "shop", "annotations": {ROLE: "web"}},
        "spec": {"containers": []},
    },
]


async def test_manifests(sts: FakeSts, tmp_path: Path) -> None:
    """In place of a cluster; a file that cannot be read leaves its pods unknown."""
    file = tmp_path / "pods.yaml"
    file.write_text(yaml.safe_dump_all(MANIFESTS))
    flags = f"--sts.endpoint-url={sts.url}", "--sts.region=eu-west-1", "--upstream.url=http://127.0.0.1:9"
    doctor = Doctor(f"--source.manifests={tmp_path}", *flags)
    assert verdicts(await doctor()) == {"api-permissions": ["not checked"]}
    assert len(sts.calls(f"{ACCOUNT}web")) == 1
    (tmp_path / "more.yaml").write_text("{")
    found = verdicts(await doctor())
    assert found["roles"] == found["namespace-policy"] == ["not checked"]
    found = verdicts(await Doctor(f"--source.manifests={tmp_path / 'none'}", *flags)())
    assert found["roles"] == ["not checked"]

"""The status page as people meet it: a real agent's, in a real browser, on a desk and on a phone, without scripts.

Pictures of it are left in build/browser, to be looked at.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.browser.chromium import Page, binary, browsing
from tests.fakes.process import OWN_SECRET, AgentProcess, running, until
from tests.fakes.sts import NODE_KEY, FakeSts, Step

PICTURES = Path(__file__).parent.parent.parent / "build" / "browser"

DESK, PHONE = (1280, 800), (400, 800)

SCRIPT = "<script>document.title='owned'</script>"
RIGHT_TO_LEFT = "\u05e9\u05dc\u05d5\u05dd"
OVERRIDE = "\u202egnp.exe"
ESCAPE = "\x1b[2J"
LONG = "w" * 253

MANIFESTS = f"""\
kind: Namespace
metadata: {{name: shop, annotations: {{iam.amazonaws.com/permitted: '.*:role/shop-.*'}}}}
---
kind: Pod
metadata: {{namespace: shop, name: web, annotations: {{iam.amazonaws.com/role: shop-web}}}}
status: {{phase: Running, podIP: 127.0.0.2}}
---
kind: Pod
metadata: {{namespace: shop, name: {LONG}, annotations: {{iam.amazonaws.com/role: shop-{"r" * 58}}}}}
status: {{phase: Running, podIP: 'fd00:1234:5678:9abc:def0:1234:5678:9abc'}}
---
kind: Pod
metadata: {{namespace: shop, name: ledger, annotations: {{iam.amazonaws.com/role: shop-ledger}}}}
status: {{phase: Running, podIP: 127.0.0.3}}
---
kind: Pod
metadata: {{namespace: shop, name: thief, annotations: {{iam.amazonaws.com/role: bank}}}}
status: {{phase: Running, podIP: 127.0.0.4}}
---
kind: Pod
metadata:
  {{namespace: shop, name: "{SCRIPT}", annotations: {{iam.amazonaws.com/role: "{RIGHT_TO_LEFT} {SCRIPT}"}}}}
status: {{phase: Running, podIP: 127.0.0.5}}
---
kind: Pod
metadata: {{namespace: {RIGHT_TO_LEFT}, name: "\\e[2J\\u202egnp.exe", annotations: {{iam.amazonaws.com/role: x}}}}
status: {{phase: Running, podIP: 127.0.0.6}}
---
kind: Pod
metadata: {{namespace: kube-system, name: proxy, annotations: {{iam.amazonaws.com/role: shop-web}}}}
spec: {{hostNetwork: true}}
status: {{phase: Running, podIP: 127.0.0.7}}
---
kind: Pod
metadata: {{namespace: shop, name: plain}}
status: {{phase: Running, podIP: 127.0.0.8}}
"""


@dataclass
class World:
    """An agent with such pods, and a browser."""

    agent: AgentProcess
    sts: FakeSts
    page: Page

    async def look(self, size: tuple[int, int], query: str = "", *, dark: bool = False) -> str:
        """Look at the page; its DOM."""
        width, height = size
        await self.page.go(f"http://{self.agent.admin}/status{query}", width=width, height=height, dark=dark)
        return await self.page.html()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """With sessions held, and one refused."""
    assert binary(), "there is no Chromium: make test-all installs one"
    (tmp_path / "pods.yaml").write_text(MANIFESTS)
    async with FakeSts() as sts:
        refused = "User: arn:aws:sts::123456789012:assumed-role/node/i-0 is not authorized to perform: sts:AssumeRole"
        sts.settings["arn:aws:iam::123456789012:role/shop-ledger"] = Step(
            status=403, code="AccessDenied", message=refused
        )
        flags = (f"--source.manifests={tmp_path / 'pods.yaml'}", f"--sts.endpoint-url={sts.url}")
        async with running(tmp_path, *flags, environment={"METAPROXY_NODE_NAME": "node-a.example"}) as agent:
            await agent.until_ready()

            async def settled() -> bool:
                _, text = await agent.admin_get("/status.json")
                return text.count('"condition": "served"') == 2 and '"condition": "failing"' in text

            await until("sessions are held and refused", settled, agent.log)
            async with browsing(tmp_path / "profile") as page:
                yield World(agent, sts, page)


async def test_the_page(world: World) -> None:
    """On a desk and on a phone, in light and dark: all is there, nothing runs, nothing is wider than the window."""
    for name, size, dark in (
        ("desk-light", DESK, False),
        ("desk-dark", DESK, True),
        ("phone-light", PHONE, False),
        ("phone-dark", PHONE, True),
    ):
        dom = await world.look(size, dark=dark)
        await world.page.shot(PICTURES / f"{name}.png")
        assert await world.page.overflow() <= 0, name
        heard = await world.page.accessible()
        spoken = {text for _, text in heard}
        assert ("heading", "metaproxy on node-a.example") in heard
        assert ("table", "Pods of this node") in heard
        roles = [role for role, _ in heard]
        assert roles.count("columnheader") == 7, name
        assert roles.count("rowheader") == 8, name
        assert any(role == "image" and "percent of its life left" in text for role, text in heard)
        for words in (
            "✓\xa0",
            "✗\xa0",
            "!\xa0",
            "NotPermitted",
            "StsDenied (AccessDenied)",
            "HostNetwork",
            "NoRole",
            LONG,
            SCRIPT,
        ):
            assert words in spoken, (name, words)
        assert "\\x1b[2J\\u202egnp.exe" in spoken
        assert not {ESCAPE, OVERRIDE} & set(spoken)
        assert RIGHT_TO_LEFT in spoken
        assert "<script" not in dom
        assert "owned" not in next(text for role, text in heard if role == "RootWebArea")


async def test_no_secret_is_on_the_page(world: World) -> None:
    """Nor the id of a key: neither the agent's own nor those of any session."""
    dom = await world.look(DESK)
    _, document = await world.agent.admin_get("/status.json")
    assert len(world.sts.given) >= 2
    for shown in (dom, document):
        for secret in (OWN_SECRET, NODE_KEY, *world.sts.given, "SecretAccessKey", "SessionToken"):
            assert secret not in shown


async def test_the_style_is_allowed_by_the_policy(world: World) -> None:
    """What the policy's hash does not match would be shown bare: as black text on white, in one column."""
    await world.look(DESK, dark=True)
    root = await world.page.call("DOM.getDocument")
    body = await world.page.call("DOM.querySelector", nodeId=root["root"]["nodeId"], selector="body")
    await world.page.call("CSS.enable")
    style = await world.page.call("CSS.getComputedStyleForNode", nodeId=body["nodeId"])
    found = {each["name"]: each["value"] for each in style["computedStyle"]}
    assert found["background-color"] == "rgb(14, 17, 22)"


async def test_it_refreshes_without_a_script(world: World) -> None:
    """The browser asks again by itself, and shows what has changed."""
    assert "newcomer" not in await world.look(DESK, "?refresh=2")
    manifest = world.agent.log_file.parent / "pods.yaml"
    new = "---\nkind: Pod\nmetadata: {namespace: shop, name: newcomer}\nstatus: {phase: Running, podIP: 127.0.0.9}\n"
    manifest.write_text(MANIFESTS + new)

    async def known() -> bool:
        return "newcomer" in (await world.agent.admin_get("/status.json"))[1]

    await until("the newcomer is known", known, world.agent.log)
    # The first may have been asked for before that.
    await world.page.loaded()
    await world.page.loaded()
    assert "newcomer" in await world.page.html()

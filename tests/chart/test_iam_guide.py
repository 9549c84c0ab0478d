"""The IAM guide from an empty account to the first credentials, in each of its three set-ups: every command as it is.

By the real AWS CLI, helm and kubectl, against moto's IAM and STS and a real API server; the pod's node is played.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from metaproxy.trust import trusted
from tests.chart.account import NUMBER, Account
from tests.chart.build import Tools
from tests.chart.controlplane.plane import ControlPlane
from tests.chart.site import SECONDS, Site, open_site
from tests.cluster.waiting import wait_until
from tests.guides import Typed, blocks, sections

pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("root")]

PAGE = "docs/iam.md"
SECTIONS = sections(PAGE)
FIRST = "The first credentials"
SET_UPS = [heading for heading in SECTIONS if heading[0].isdigit()]
ROLE = f"arn:aws:iam::{NUMBER}:role/"


@pytest.fixture(scope="module")
def places(
    controlplane: ControlPlane, tools: Tools, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, Account]]:
    """A site, and the account that its agents ask."""
    with ExitStack() as stack:
        account = stack.enter_context(Account())
        # The chain's exchange of a token goes where every AWS client does; settings of the agent are not asked for it.
        everywhere = {"AWS_ENDPOINT_URL_STS": account.url}
        folder = tmp_path_factory.mktemp("site")
        site = stack.enter_context(open_site(controlplane, tools, folder, account.url, everywhere=everywhere))
        site.desk.add("aws", tools.aws)
        site.desk.environment |= {
            "AWS_ENDPOINT_URL": account.url,
            "AWS_ACCESS_KEY_ID": "administrator",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        for language, text in blocks(PAGE):
            if language == "yaml":
                (site.desk.folder / text.splitlines()[0].removeprefix("# ")).write_text(text)
        yield site, account


def test_the_headings() -> None:
    """Three set-ups, and what all end with; nothing is typed elsewhere."""
    assert len(SET_UPS) == 3
    assert [heading for heading, lines in SECTIONS.items() if lines] == [*SET_UPS, FIRST]


@pytest.mark.runs("docs/iam.md", "aws iam …", "metaproxy iam …", "helm upgrade …", "kubectl …")
def test_from_an_empty_account(places: tuple[Site, Account], typed: Typed) -> None:
    """Each set-up ends with credentials of the application's role, which trusts exactly who the agent is."""
    site, account = places
    run: list[str] = []
    principals = dict(zip(SET_UPS, ("nodes", "metaproxy", "metaproxy-agent"), strict=True))
    for heading, principal in principals.items():
        account.empty()
        run += set_up(site, account, heading)
        trust = account.policy(f"{ROLE}shop-web")
        for other in principals.values():
            assert trusted(trust, principal=f"{ROLE}{other}") is (other == principal)
        run += first_credentials(site, account)
        site.remove()
    assert sorted(set(run)) == sorted(typed.each())


def set_up(site: Site, account: Account, heading: str) -> list[str]:
    """Type a section's commands; which these were."""
    desk = site.desk
    issuer = ""
    for line in SECTIONS[heading]:
        if line.startswith("helm "):
            keys = account.instance("nodes") if "own" not in heading else {}
            site.write_values(account.url, **keys)
            # Its own step, because it is said of install.md.
            desk.type("kubectl create namespace metaproxy")
        if "nodes-2" in line and "hop-trust" in line:
            ec2 = json.dumps({"Version": "2012-10-17", "Statement": []})
            desk.type(f"aws iam create-role --role-name nodes-2 --assume-role-policy-document '{ec2}'")
        said = desk.type(line.replace("ISSUER", issuer))
        if line.startswith("kubectl get --raw"):
            issuer = json.loads(said)["issuer"].removeprefix("https://")
            (trust,) = [text for language, text in blocks(PAGE) if language == "json"]
            (desk.folder / "agent-trust.json").write_text(trust.replace("ISSUER", issuer))
    if hop := account.policy(f"{ROLE}metaproxy"):
        for node in ("nodes", "nodes-2"):
            assert trusted(hop, principal=f"{ROLE}{node}")
    return SECTIONS[heading]


def first_credentials(site: Site, account: Account) -> list[str]:
    """Type what all set-ups end with; the last answer is whose it should be."""
    desk, said = site.desk, ""
    admin, path = site.controlplane.cluster.admin, "/api/v1/namespaces/shop/serviceaccounts/default"
    for line in SECTIONS[FIRST]:
        said = desk.type(line)
        if line.startswith("kubectl create namespace"):
            # Who types is slower than the controller that makes the namespace's account.
            wait_until("pods can be made", lambda: admin.request("GET", path).status == 200, SECONDS)
    assert account.owner(json.loads(said)) == f"arn:aws:sts::{NUMBER}:assumed-role/shop-web/shop.web"
    return SECTIONS[FIRST]

"""The request shapes that emulators of the metadata service are tried with, each a row."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.replaying import HOST, OTHER, ROLE, ROLES, TOKEN, TTL, World
from tests.conformance.replaying import world as made_world
from tests.fakes.process import until
from tests.fakes.sts import NODE_KEY


@pytest.fixture(params=["optional", "required"])
async def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    """A pod whose role is served, in both modes of tokens; another one that asks for no role."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", NODE_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    async with made_world(tmp_path, request.param) as made, made.serving():
        await made.declare()
        await made.told(ROLE, 200)
        yield made


@pytest.mark.parametrize("life", ["", "0", "-1", "21601", "abc", "1.5", None])
async def test_a_token_without_a_usable_life(world: World, life: str | None) -> None:
    """400, and nothing else gives one."""
    header = [] if life is None else [f"{TTL}: {life}"]
    said = await world.once("PUT /latest/api/token HTTP/1.1", f"Host: {HOST}", *header)
    assert said.status == 400


@pytest.mark.parametrize("life", [1, 60, 300, 600, 21600])
async def test_the_life_of_a_token(world: World, life: int) -> None:
    """Echoed as it was asked for, in whatever spelling it was asked."""
    for spelling in (TTL, TTL.lower(), "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"):
        said = await world.once("PUT /latest/api/token HTTP/1.1", f"Host: {HOST}", f"{spelling}: {life}")
        assert said.headers[TTL.lower()] == str(life)
        assert re.fullmatch(r"[!-~]+", said.text)


async def test_a_token_whose_life_is_over(world: World) -> None:
    """Good at first; 401 when its second is over."""
    token = await world.token(f"{TTL}: 1")
    statuses: list[int] = []

    async def over() -> bool:
        said = await world.once(f"GET {ROLES}/ HTTP/1.1", f"Host: {HOST}", f"{TOKEN}: {token}")
        statuses.append(said.status)
        return said.status == 401

    await until("the token is refused", over, lambda: str(statuses))
    assert set(statuses) <= {200, 401}


async def test_slashes(world: World) -> None:
    """With a slash at the end and without, the same body, and never a redirect."""
    shown = (f"Host: {HOST}", f"{TOKEN}: {await world.token(f'{TTL}: 60')}")
    paths = (ROLES, f"{ROLES}/shop-web", "/latest/meta-data/instance-id", "/latest/meta-data/placement/region")
    for path in (*paths, "/latest/dynamic/instance-identity/document"):
        plain, slashed = [await world.once(f"GET {path}{end} HTTP/1.1", *shown) for end in ("", "/")]
        assert (plain.status, plain.body) == (slashed.status, slashed.body) == (200, plain.body)
        assert plain.headers["content-type"] == slashed.headers["content-type"] == "text/plain"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /latest/meta-data/no-such-item HTTP/1.1", 404),
        ("GET /no-such-version/meta-data/instance-id HTTP/1.1", 404),
        ("GET /latest/meta-data/iam/security-credentials/no-such-role HTTP/1.1", 404),
        ("GET /latest/user-data HTTP/1.1", 404),
        ("GET /latest/api/token HTTP/1.1", 405),
        ("HEAD /latest/api/token HTTP/1.1", 405),
        ("POST /latest/api/token HTTP/1.1", 405),
        ("DELETE /latest/meta-data/instance-id HTTP/1.1", 405),
        ("PUT /2021-03-23/api/token HTTP/1.1", 403),
    ],
)
async def test_what_is_not_there(world: World, line: str, status: int) -> None:
    """The status that clients tell apart, with a good token."""
    shown = (f"Host: {HOST}", f"{TOKEN}: {await world.token(f'{TTL}: 60')}", f"{TTL}: 60")
    assert (await world.once(line, *shown)).status == status


@pytest.mark.parametrize("path", ["/", ROLES, f"{ROLES}/shop-web", "/latest/meta-data/instance-id"])
async def test_tokens_of_others(world: World, path: str) -> None:
    """A wrong token is 401 in both modes, another pod's too; none is 401 where they are required."""
    token = await world.token(f"{TTL}: 60")
    request = (f"GET {path} HTTP/1.1", f"Host: {HOST}")
    assert (await world.once(*request, f"{TOKEN}: {token[::-1]}")).status == 401
    assert (await world.once(*request, f"{TOKEN}: {token}", pod=OTHER)).status == 401
    assert (await world.once(*request, f"{TOKEN}: {token}")).status == 200
    assert (await world.once(*request)).status == (401 if world.tokens == "required" else 200)


async def test_head(world: World) -> None:
    """As GET, with the length and without the body."""
    shown = (f"Host: {HOST}", f"{TOKEN}: {await world.token(f'{TTL}: 60')}")
    for path in ("/", ROLES, f"{ROLES}/shop-web", "/latest/meta-data/instance-id"):
        got, head = [await world.once(f"{method} {path} HTTP/1.1", *shown) for method in ("GET", "HEAD")]
        assert (head.status, head.headers["content-length"]) == (200, str(len(got.body)))


@pytest.mark.parametrize("version", ["1.0", "2012-01-12", "2016-09-02", "2021-03-23", "latest"])
async def test_versions(world: World, version: str) -> None:
    """Roles and items are below each of them, and a token is good for all."""
    shown = (f"Host: {HOST}", f"{TOKEN}: {await world.token(f'{TTL}: 60')}")
    listed = await world.once(f"GET /{version}/meta-data/iam/security-credentials/ HTTP/1.1", *shown)
    assert (listed.status, listed.text) == (200, "shop-web")
    assert (await world.once(f"GET /{version}/meta-data/instance-id HTTP/1.1", *shown)).status == 200
    versions: Any = (await world.once("GET / HTTP/1.1", *shown)).text.splitlines()
    assert version in versions


async def test_a_pod_without_a_role(world: World) -> None:
    """404 on the list, with a body that has a space: one client takes any other for a role."""
    said = await world.once("PUT /latest/api/token HTTP/1.1", f"Host: {HOST}", f"{TTL}: 60", pod=OTHER)
    listed = await world.once(f"GET {ROLES}/ HTTP/1.1", f"Host: {HOST}", f"{TOKEN}: {said.text}", pod=OTHER)
    assert listed.status == 404
    assert b" " in listed.body

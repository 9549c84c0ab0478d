"""Tokens: good for one address and one time, refused for everything else."""

import contextlib
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from metaproxy import tokens
from metaproxy.errors import BadRequest, TokenExpired, TokenInvalid

KEY = bytes(range(32))
OTHER_KEY = bytes(32)
NOW = 1_800_000_000.25
KEYS = st.binary(min_size=tokens.KEY_SIZE, max_size=tokens.KEY_SIZE)
ADDRESSES = st.ip_addresses().map(str)
TTLS = st.integers(1, tokens.TTL_MAX)
MOMENTS = st.floats(min_value=0, max_value=4e9)


@given(KEYS, TTLS, ADDRESSES, MOMENTS)
def test_a_token_is_good_where_it_was_made(key: bytes, ttl: int, address: str, now: float) -> None:
    """With the key, for the address and at the time it was made for, with its whole life left."""
    assert tokens.check(key, tokens.make(key, ttl=ttl, address=address, now=now), address=address, now=now) == ttl


@given(KEYS, TTLS, ADDRESSES, MOMENTS)
def test_a_token_fits_a_header(key: bytes, ttl: int, address: str, now: float) -> None:
    """Printable, no space, no padding (contract M2): Rust and Node refuse anything else."""
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", tokens.make(key, ttl=ttl, address=address, now=now))


@given(st.integers(0, 32 * 8 - 1), TTLS)
def test_any_flipped_bit_is_refused(bit: int, ttl: int) -> None:
    """The expiry included: nobody lengthens a token's life."""
    raw = bytearray(tokens.make(KEY, ttl=ttl, address="10.0.0.1", now=NOW).encode())
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(TokenInvalid):
        tokens.check(KEY, raw.decode("latin-1"), address="10.0.0.1", now=NOW)


@given(ADDRESSES, ADDRESSES)
def test_another_address_is_refused(mine: str, other: str) -> None:
    """A token that leaked to another pod is worth nothing there (contract S13)."""
    assume(mine != other)
    with pytest.raises(TokenInvalid):
        tokens.check(KEY, tokens.make(KEY, ttl=60, address=mine, now=NOW), address=other, now=NOW)


@given(ADDRESSES)
def test_another_key_is_refused(address: str) -> None:
    """A token of another node is none of ours."""
    with pytest.raises(TokenInvalid):
        tokens.check(OTHER_KEY, tokens.make(KEY, ttl=60, address=address, now=NOW), address=address, now=NOW)


@given(TTLS, MOMENTS, st.floats(min_value=0, max_value=1e6))
def test_a_life_ends(ttl: int, made: float, later: float) -> None:
    """Within its life the rest is told in whole seconds, at least one; after it the token is refused as expired."""
    token = tokens.make(KEY, ttl=ttl, address="10.0.0.1", now=made)
    if later >= ttl:
        with pytest.raises(TokenExpired):
            tokens.check(KEY, token, address="10.0.0.1", now=made + later)
    elif later <= ttl - 1:
        left = tokens.check(KEY, token, address="10.0.0.1", now=made + later)
        assert max(1, ttl - later - 1) <= left <= ttl - later + 1


@given(st.text(st.characters(exclude_categories=[])) | st.text("ABab-_+/=", min_size=32, max_size=32))
def test_foreign_text_is_refused_as_such(text: str) -> None:
    """Whatever is sent as a token: 401 as invalid, never expired, never another exception."""
    with pytest.raises(TokenInvalid):
        tokens.check(KEY, text, address="10.0.0.1", now=NOW)


@pytest.mark.parametrize("cut", [0, 1, 31])
def test_a_cut_token_is_refused(cut: int) -> None:
    """A prefix, padded or not, proves nothing."""
    token = tokens.make(KEY, ttl=60, address="10.0.0.1", now=NOW)[:cut]
    for text in (token, token.ljust(32, "="), token.ljust(32, "!"), token.ljust(32, "A") + "A"):
        with pytest.raises(TokenInvalid):
            tokens.check(KEY, text, address="10.0.0.1", now=NOW)


def test_an_expired_token_of_another_address_is_invalid() -> None:
    """What is not ours is not judged by its age: only the owner learns that a token has expired."""
    token = tokens.make(KEY, ttl=1, address="10.0.0.1", now=NOW)
    with pytest.raises(TokenInvalid):
        tokens.check(KEY, token, address="10.0.0.2", now=NOW + 100)


@pytest.mark.parametrize(("header", "ttl"), [("1", 1), ("60", 60), (" 300 ", 300), ("00600", 600), ("21600", 21600)])
def test_a_life_is_honoured_in_full(header: str, ttl: int) -> None:
    """Every whole number of seconds from 1 to 21600 (contract M3)."""
    assert tokens.ttl_of(header) == ttl


@pytest.mark.parametrize(
    "header", [None, "", " ", "0", "21601", "-1", "+60", "6_0", "60.0", "0x10", "\u0661", "²", "1 2", "9" * 5000]
)
def test_anything_else_is_a_bad_request(header: str | None) -> None:
    """Missing, out of range or no plain number: 400, and nowhere else (contract M3)."""
    with pytest.raises(BadRequest):
        tokens.ttl_of(header)


@given(st.text(st.characters(exclude_categories=[])))
def test_a_life_is_a_number_or_a_bad_request(text: str) -> None:
    """Whatever the header says."""
    with contextlib.suppress(BadRequest):
        assert 1 <= tokens.ttl_of(text) <= tokens.TTL_MAX

"""IMDSv2 session tokens: make one, check one.

Knows: that a token is an expiry and an address under an HMAC, so that nothing has to be remembered and a token outlives
a restart (contract M4: some SDKs keep a token for six hours and never ask again after a 401).
Must not know: the clock, where the key lives, who may need a token. Times are whole Unix seconds.
"""

import binascii
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import lru_cache

from metaproxy.errors import BadRequest, TokenExpired, TokenInvalid

TTL_MAX = 21600
KEY_SIZE = 32
_EXPIRY_SIZE = 6
_MAC_SIZE = 18
_TOKEN_LENGTH = (_EXPIRY_SIZE + _MAC_SIZE) * 4 // 3
_REMEDY = "ask for a new token: PUT /latest/api/token"


def ttl_of(header: str | None) -> int:
    """The life in seconds that a token request asks for.

    Raises:
        BadRequest: it is missing, no plain number, or not within 1 to 21600 (contract M3: the only way to a 400).
    """
    text = (header or "").strip()
    # Not int() alone: it takes signs, underscores and other scripts' digits.
    if text.isascii() and text.isdigit() and len(text) <= len(str(TTL_MAX)) and 1 <= int(text) <= TTL_MAX:
        return int(text)
    raise BadRequest(
        "a token request needs the header X-aws-ec2-metadata-token-ttl-seconds",
        remedy=f"send a whole number of seconds from 1 to {TTL_MAX}",
    )


def make(key: bytes, *, ttl: int, address: str, now: float) -> str:
    """A token good for `ttl` seconds for requests from `address` alone: URL-safe text, 32 characters (contract M2)."""
    expiry = (int(now) + ttl).to_bytes(_EXPIRY_SIZE)
    return urlsafe_b64encode(expiry + _mac(key, expiry, address)).decode()


def check(key: bytes, token: str, *, address: str, now: float) -> int:
    """The whole seconds that the token is still good for, at least one.

    Raises:
        TokenInvalid: not made with this key, or for another address.
        TokenExpired: its life is over.
    """
    raw = b""
    if len(token) == _TOKEN_LENGTH and token.isascii():
        try:
            raw = urlsafe_b64decode(token)
        except binascii.Error:
            raw = b""
    expiry, mac = raw[:_EXPIRY_SIZE], raw[_EXPIRY_SIZE:]
    if not hmac.compare_digest(mac, _mac(key, expiry, address)):
        raise TokenInvalid("this token is not one of this node's for your address", remedy=_REMEDY)
    left = int.from_bytes(expiry) - int(now)
    if left <= 0:
        raise TokenExpired("this token has expired", remedy=_REMEDY)
    return left


@lru_cache(maxsize=4096)  # a client shows the same token again and again; a wrong one is as wrong the second time
def _mac(key: bytes, expiry: bytes, address: str) -> bytes:
    return hmac.digest(key, expiry + address.encode("ascii", "backslashreplace"), "sha256")[:_MAC_SIZE]

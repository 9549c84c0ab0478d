"""Where clients prove who they are: GetCallerIdentity of STS, and as much of S3 as a first request needs.

Knows: the wire of both, and how a signature names its key.
Must not know: which key is the right one; it writes down what it saw.

A signature is taken at its word, but for the session token: it must be the one that belongs to the key.
"""

import re
from collections.abc import MutableSequence
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from aiohttp import web

from tests.fakes.sts import FakeSts

BUCKET = OBJECT = "proof"
_SIGNATURE = re.compile(r"Credential=([A-Z0-9]+)/\d{8}/[a-z0-9-]+/(sts|s3)/aws4_request")
_S3 = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_DATE = "2026-01-01T00:00:00.000Z"


class Prover:
    """The endpoints; knows whom the STS of the run has given which key."""

    def __init__(self, sts: FakeSts) -> None:
        self._sts = sts

    async def answer(self, request: web.BaseRequest, keys: MutableSequence[str]) -> web.StreamResponse:
        """The answer to a request; the key that it was signed with is added to `keys`."""
        body = await request.read()
        signature = _SIGNATURE.search(request.headers.get("Authorization", ""))
        key, service = (signature[1], signature[2]) if signature else ("", "s3")
        token = request.headers.get("X-Amz-Security-Token", "")
        if key not in self._sts.given or token != self._sts.token(key):
            return _xml(
                "<Error><Code>AccessDenied</Code><Message>not signed with a session of ours</Message></Error>", 403
            )
        keys.append(key)
        if service == "sts":
            action = parse_qs(body.decode()).get("Action", [""])[0]
            if action != "GetCallerIdentity":
                return _xml(f"<Error><Code>InvalidAction</Code><Message>{escape(action)}</Message></Error>", 400)
            return _xml(self._sts.identity(key))
        return _s3(request, body)


def _s3(request: web.BaseRequest, body: bytes) -> web.Response:
    bucket, _, name = request.path.strip("/").partition("/")
    if bucket not in {"", BUCKET}:
        return _xml("<Error><Code>NoSuchBucket</Code><Message>there is one bucket</Message></Error>", 404)
    if not bucket:
        owner = "<Owner><ID>owner</ID><DisplayName>owner</DisplayName></Owner>"
        one = f"<Bucket><Name>{BUCKET}</Name><CreationDate>{_DATE}</CreationDate></Bucket>"
        return _xml(f"<ListAllMyBucketsResult {_S3}>{owner}<Buckets>{one}</Buckets></ListAllMyBucketsResult>")
    if not name:
        if "location" in request.query:
            return _xml(f"<LocationConstraint {_S3}></LocationConstraint>")
        wanted = request.query.get("prefix", "")
        held = (
            f"<Contents><Key>{OBJECT}</Key><LastModified>{_DATE}</LastModified><ETag>&quot;e&quot;</ETag>"
            "<Size>5</Size><StorageClass>STANDARD</StorageClass></Contents>"
            if OBJECT.startswith(wanted)
            else ""
        )
        return _xml(
            f"<ListBucketResult {_S3}><Name>{BUCKET}</Name><Prefix>{escape(wanted)}</Prefix><KeyCount>{int(bool(held))}"
            f"</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{held}</ListBucketResult>"
        )
    if request.method == "PUT":
        return web.Response(headers={"ETag": '"e"'})
    if request.method == "DELETE":
        return web.Response(status=204)
    if name != OBJECT:
        return _xml("<Error><Code>NoSuchKey</Code><Message>there is one object</Message></Error>", 404)
    head = {"ETag": '"e"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "Accept-Ranges": "bytes"}
    return web.Response(body=b"proof", headers=head, content_type="application/octet-stream")


def _xml(text: str, status: int = 200) -> web.Response:
    return web.Response(status=status, text=f'<?xml version="1.0" encoding="UTF-8"?>\n{text}', content_type="text/xml")

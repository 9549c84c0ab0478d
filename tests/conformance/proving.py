"""Where clients prove who they are: GetCallerIdentity of STS, and as much of S3 as a first request needs.

Knows: the wire of both, what was given with each key, that a request counts only when AWS would take its signature.
Must not know: which key is the right one; it writes down what it saw.
"""

import time
from dataclasses import dataclass, field
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from aiohttp import web

from tests.conformance import sigv4
from tests.fakes.sts import FakeSts

BUCKET = OBJECT = "proof"
UNSIGNED = "it is not signed"
_S3 = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Proofs:
    """The keys that a client has proved itself with, and what was wrong with what it could not.

    `regions` are those in which it may mean to make its calls; its clock is `ahead` by so many seconds.
    """

    regions: frozenset[str] = frozenset()
    ahead: float = 0.0
    keys: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class Prover:
    """The endpoints; knows whom the STS of the run has given which key."""

    def __init__(self, sts: FakeSts) -> None:
        self._sts = sts

    async def answer(self, request: web.BaseRequest, proofs: Proofs) -> web.StreamResponse:
        """The answer to a request, whose proof, or what is wrong with it, is added to `proofs`."""
        body = await request.read()
        path, _, query = request.raw_path.partition("?")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers]
        asked = sigv4.Request(method=request.method, path=path, query=query, headers=headers, body=body)
        claimed = sigv4.scope(asked)
        if claimed is None or (fault := self._fault(asked, claimed, proofs)):
            why = UNSIGNED if claimed is None else fault
            proofs.refused.append(f"{request.method} {request.raw_path}: {why}")
            return _xml(f"<Error><Code>AccessDenied</Code><Message>{escape(why)}</Message></Error>", 403)
        proofs.keys.append(claimed.key)
        if claimed.service == "sts":
            action = parse_qs(body.decode()).get("Action", [""])[0]
            if action != "GetCallerIdentity":
                return _xml(f"<Error><Code>InvalidAction</Code><Message>{escape(action)}</Message></Error>", 400)
            return _xml(self._sts.identity(claimed.key))
        return _s3(request, body)

    def _fault(self, asked: sigv4.Request, claimed: sigv4.Scope, proofs: Proofs) -> str:
        key = claimed.key
        if claimed.service not in {"sts", "s3"}:
            return f"it is signed for {claimed.service}"
        if key not in self._sts.given:
            return f"STS has not given the key {key}"
        session = sigv4.Session(
            secret=self._sts.secret(key), token=self._sts.token(key), expires=self._sts.expires[key]
        )
        return sigv4.fault(asked, claimed, session, regions=proofs.regions, now=time.time() + proofs.ahead)


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

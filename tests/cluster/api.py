"""A plain synchronous client of a Kubernetes API server: one connection per request, nothing retried, nothing guessed.

Knows: HTTP, TLS with the cluster's own authority, bearer tokens, JSON and the line framing of watches.
Must not know: the code under test. It is the other opinion about what the server says, so it shares nothing with it.
"""

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

Json = dict[str, Any]
Query = Mapping[str, str | int]

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back: the status, the headers in lower case, the bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Json:
        """The body as a JSON object."""
        value: Json = json.loads(self.body)
        return value


class ApiFailure(Exception):
    """A status other than 2xx where only 2xx will do."""

    def __init__(self, call: str, answer: Answer) -> None:
        super().__init__(f"{call}: {answer.status} {answer.body[:2_000].decode(errors='replace')}")
        self.status = answer.status
        self.answer = answer


class Watch:
    """An open watch: its events, one after the other.

    Attributes:
        cuts: how many chunks have ended in mid-event.
    """

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.cuts = 0
        self._rest = b""  # what came after the last whole line

    def next(self, timeout: float = 20.0) -> Json | None:
        """The next event; None at a clean end.

        Raises:
            TimeoutError: `timeout` seconds of silence; the watch cannot be read any more then.
            http.client.IncompleteRead: the connection ended without a last chunk.
        """
        while b"\n" not in self._rest:
            # A response that ends with its connection has taken the socket over: then there is nothing to set.
            if self._connection.sock is not None:
                self._connection.sock.settimeout(timeout)
            part = self._response.read1(65_536)
            if getattr(self._response, "chunk_left", None) == 0 and not part.endswith(b"\n"):
                self.cuts += 1
            if not part:
                assert not self._rest, f"the watch ended in mid-event: {self._rest!r}"
                return None
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        event: Json = json.loads(line)
        return event

    def until(self, kind: str, name: str, timeout: float = 20.0) -> Json:
        """The next event of this type about this name; others are passed over. AssertionError if the watch ends."""
        while (event := self.next(timeout)) is not None:
            if event["type"] == kind and event["object"]["metadata"].get("name") == name:
                return event
        raise AssertionError(f"the watch ended without {kind} of {name}")


class Api:
    """Calls with one identity. Paths begin with `/api` or `/apis`; time-outs are seconds of silence."""

    def __init__(self, url: str, *, ca_file: Path | None = None, token: str | None = None) -> None:
        self._target = urlsplit(url)
        self._tls = ssl.create_default_context(cafile=str(ca_file)) if ca_file else None
        self._token = token

    def request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        query: Query | None = None,
        accept: str = JSON,
        content_type: str = JSON,
        timeout: float = 20.0,
    ) -> Answer:
        """One call, whatever its status. Raises OSError or http.client.HTTPException when no answer comes."""
        with self._open(method, path, body, query, accept, content_type, timeout) as (_, response):
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(status=response.status, headers=headers, body=response.read())

    def call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        query: Query | None = None,
        accept: str = JSON,
        content_type: str = JSON,
        timeout: float = 20.0,
    ) -> Json:
        """One call that must succeed: its JSON. Raises ApiFailure for any status but 2xx."""
        answer = self.request(
            method, path, body, query=query, accept=accept, content_type=content_type, timeout=timeout
        )
        if not 200 <= answer.status < 300:
            raise ApiFailure(f"{method} {path}", answer)
        return answer.json()

    def get(self, path: str, *, query: Query | None = None, accept: str = JSON) -> Json:
        """Read; raises ApiFailure."""
        return self.call("GET", path, query=query, accept=accept)

    def post(self, path: str, body: Json) -> Json:
        """Create; raises ApiFailure."""
        return self.call("POST", path, body)

    def merge(self, path: str, patch: Json) -> Json:
        """Merge patch (lists are replaced); raises ApiFailure."""
        return self.call("PATCH", path, patch, content_type=MERGE_PATCH)

    def delete(self, path: str, options: Json | None = None) -> Json:
        """Delete; raises ApiFailure."""
        return self.call("DELETE", path, options)

    @contextmanager
    def watch(
        self,
        path: str,
        *,
        query: Query | None = None,
        accept: str = JSON,
        timeout: float = 20.0,
    ) -> Iterator[Watch]:
        """An open watch; `watch=1` is added. Raises AssertionError when it is not answered with 200."""
        with self._open("GET", path, None, {"watch": 1, **(query or {})}, accept, JSON, timeout) as (
            connection,
            response,
        ):
            assert response.status == 200, f"watch {path}: {response.status} {response.read()!r}"
            yield Watch(connection, response)

    @contextmanager
    def _open(
        self,
        method: str,
        path: str,
        body: Json | None,
        query: Query | None,
        accept: str,
        content_type: str,
        timeout: float,
    ) -> Iterator[tuple[http.client.HTTPConnection, http.client.HTTPResponse]]:
        headers = {"Accept": accept}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        if body is not None:
            headers["Content-Type"] = content_type
        connection = self._connection(timeout)
        try:
            connection.request(
                method,
                path + (f"?{urlencode(query)}" if query else ""),
                json.dumps(body) if body is not None else None,
                headers,
            )
            with connection.getresponse() as response:
                yield connection, response
        finally:
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        host, port = self._target.hostname or "", self._target.port
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=timeout)
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=self._tls)

"""The wire to the API server: credentials and their renewal, errors, time-outs, streams."""

import asyncio
import base64
import datetime as dt
import gc
import inspect
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import client_exceptions, http_exceptions
from aiohttp.http_exceptions import HttpProcessingError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from metaproxy import kubeaccess, kubeclient
from metaproxy.kubeanswers import KubeError, KubeIdentity, KubeTimeout, KubeUnreachable
from metaproxy.kubeclient import KubeClient
from tests.cluster.keys import Keys, make_keys
from tests.component.listwatch_suite import eventually
from tests.component.test_listwatch_suite import write_kubeconfig
from tests.fakes.kube_api import FakeKubeApi, Fault

PODS = "/api/v1/pods"
BOUND = 20.0


@pytest.fixture
async def api() -> AsyncIterator[FakeKubeApi]:
    """A fake API server."""
    async with FakeKubeApi() as running:
        yield running


@pytest.fixture
def config(api: FakeKubeApi, tmp_path: Path) -> Path:
    """A kubeconfig for it."""
    return write_kubeconfig(tmp_path / "kubeconfig", api.url)


@pytest.fixture
async def client(config: Path) -> AsyncIterator[KubeClient]:
    """A client of it."""
    async with KubeClient(config) as client:
        yield client


def given(api: FakeKubeApi) -> list[str | None]:
    """The tokens that came."""
    return [seen.headers.get("Authorization") for seen in api.seen]


# ---- requests


async def test_request(api: FakeKubeApi, client: KubeClient) -> None:
    """Query, body, type and credentials arrive; the answer comes back whatever its status."""
    answer = await client.request("GET", PODS, query={"fieldSelector": "spec.nodeName=a b"})
    created = await client.request("POST", "/apis/events.k8s.io/v1/namespaces/default/events", body=b'{"a":1}')
    await client.request(
        "PATCH", f"{PODS}/x", body=b"{}", content_type="application/merge-patch+json", headers={"X-A": "b"}
    )

    assert answer.ok
    assert json.loads(answer.body)["kind"] == "PodList"
    assert (created.status, created.ok) == (422, False)
    first, second, third = api.seen
    assert first.query == {"fieldSelector": "spec.nodeName=a b"}
    assert first.headers["Authorization"] == "Bearer admin"
    assert first.headers["User-Agent"].startswith("metaproxy/")
    assert "Content-Type" not in first.headers
    assert (second.body, second.headers["Content-Type"]) == (b'{"a":1}', "application/json")
    assert (third.headers["Content-Type"], third.headers["X-A"]) == ("application/merge-patch+json", "b")


@pytest.mark.parametrize(
    ("fault", "reason", "retry_after", "text"),
    [
        (Fault(status=404, reason="NotFound"), "NotFound", None, "GET /x: 404 NotFound made to fail with 404"),
        (Fault(status=429, text="Too many requests", headers={"Retry-After": "3"}), "", 3.0, "GET /x: 429"),
        (
            Fault(status=429, text="no", headers={"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}),
            "",
            None,
            "GET /x: 429",
        ),
        (Fault(status=503, text="[" * 100_000), "", None, "GET /x: 503"),
        (Fault(status=500, text='{"kind":"Status","message":5,"reason":[]}'), "", None, "GET /x: 500"),
        (Fault(status=500, text='{"kind":"Secret","message":"hush"}'), "", None, "GET /x: 500"),
        (Fault(status=504, text='{"kind":"Status","details":{"retryAfterSeconds":1}}'), "", 1.0, "GET /x: 504"),
        (Fault(status=500, text='{"kind":"Status","details":7}'), "", None, "GET /x: 500"),
        (Fault(status=301, text="", headers={"Location": "http://192.0.2.1/"}), "", None, "GET /x: 301"),
    ],
)
async def test_refusals(
    api: FakeKubeApi, client: KubeClient, fault: Fault, reason: str, retry_after: float | None, text: str
) -> None:
    """A refusal becomes an error with status, reason and Retry-After, be it a Status, plain text (429) or nonsense."""
    api.fail("list", "pods", fault)

    error = (await client.request("GET", PODS)).error("GET /x")

    assert (error.status, error.reason, error.retry_after) == (fault.status, reason, retry_after)
    assert str(error) == text


async def test_refusals_are_short(api: FakeKubeApi, client: KubeClient) -> None:
    """At most 256 characters of what a server says are kept, and at most 64 KiB are read."""
    status = json.dumps({"kind": "Status", "message": "m" * 1_000, "reason": "r" * 1_000})
    api.fail("list", "pods", Fault(status=500, text=status))
    api.fail("list", "pods", Fault(status=500, text="x" * 1_000_000))

    error = (await client.request("GET", PODS)).error("list")
    long = await client.request("GET", PODS)

    assert str(error).count("m") == 256
    assert len(error.reason) == 256
    assert len(long.body) == 64 * 1024


@pytest.mark.parametrize("fault", [Fault(hang=True), Fault(open=True)])
async def test_hanging_request(api: FakeKubeApi, client: KubeClient, fault: Fault) -> None:
    """A request that gets no head, or no end of its body, ends in its time."""
    api.fail("list", "pods", fault)

    async with asyncio.timeout(BOUND):
        with pytest.raises(KubeTimeout, match="GET /api/v1/pods: no answer in time") as caught:
            await client.request("GET", PODS, timeout=0.2)

    assert (caught.value.status, caught.value.reason) == (0, "Timeout")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"hello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nrubbish",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
    ],
)
async def test_broken_answers(api: FakeKubeApi, client: KubeClient, raw: bytes) -> None:
    """Connections that break and answers that are no HTTP are one class of error, and the next request works."""
    api.fail("list", "pods", Fault(raw=raw, abort=True), times=2)  # the first may be tried again by aiohttp

    with pytest.raises(KubeUnreachable) as caught:
        await client.request("GET", PODS)

    assert caught.value.status == 0
    api.faults.clear()
    assert (await client.request("GET", PODS)).ok


async def test_nobody_listens(tmp_path: Path) -> None:
    """A refused connection names the address, and no header."""
    async with KubeClient(write_kubeconfig(tmp_path / "k", "http://127.0.0.1:1")) as client:
        with pytest.raises(KubeUnreachable, match=r"127\.0\.0\.1:1") as caught:
            await client.request("GET", PODS)

    assert "admin" not in str(caught.value)


def test_every_foreign_error_is_mapped() -> None:
    """Whatever class aiohttp's client has for failing is one of those that are caught."""
    modules = (client_exceptions, http_exceptions)
    members = (found for module in modules for _, found in inspect.getmembers(module, inspect.isclass))
    classes = {found for found in members if issubclass(found, Exception)}

    foreign = {found for found in classes if not issubclass(found, aiohttp.ClientError | HttpProcessingError | OSError)}

    assert len(classes) > 20
    assert {found.__name__ for found in foreign} == {"WSMessageTypeError"}  # of WebSockets


# ---- streams


async def test_stream(api: FakeKubeApi, client: KubeClient) -> None:
    """A stream gives its bytes as they come, beyond aiohttp's line limit, and ends with the answer."""
    query = {"watch": "1", "resourceVersion": "100", "timeoutSeconds": "60"}
    async with client.stream(PODS, query=query, lasting=BOUND) as chunks:
        await api.until_watching("pods")
        api.say(b"x" * 3_000_000)
        api.end_watches()
        received = b"".join([chunk async for chunk in chunks])

    assert received == b"x" * 3_000_000


async def test_stream_deadline_while_silent(api: FakeKubeApi, client: KubeClient) -> None:
    """A silent stream ends at its deadline, though its server would keep it open."""
    api.silent = True
    async with asyncio.timeout(BOUND), client.stream(PODS, query={"watch": "1"}, lasting=0.3) as chunks:
        with pytest.raises(KubeTimeout):
            await anext(chunks)


async def test_stream_deadline_while_talking(api: FakeKubeApi, client: KubeClient) -> None:
    """A stream that always has something to say ends at its deadline all the same."""
    async with client.stream(PODS, query={"watch": "1"}, lasting=0.3) as chunks:
        await api.until_watching("pods")

        async def talk() -> None:
            while True:
                api.say(b"x\n")
                await asyncio.sleep(0)

        async def listen() -> None:
            async for _ in chunks:
                pass

        talking = asyncio.create_task(talk())
        with pytest.raises(KubeTimeout):
            await asyncio.wait_for(listen(), BOUND)
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)


async def test_buffered_bytes_do_not_outrun_the_deadline(api: FakeKubeApi, client: KubeClient) -> None:
    """What has already come is not handed out after the deadline: reading it never waits, so no time-out strikes."""
    async with client.stream(PODS, query={"watch": "1"}, lasting=BOUND) as chunks:
        await api.until_watching("pods")
        api.say(b"x")
        assert await anext(chunks) == b"x"
        api.say(b"y")
        await eventually(lambda: chunks._response.content.total_bytes == 2)
        chunks._deadline = 0.0

        with pytest.raises(KubeTimeout):
            await anext(chunks)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(hang=True), KubeTimeout),
        (Fault(abort=True), KubeUnreachable),
        (Fault(status=410, reason="Expired"), KubeError),
    ],
)
async def test_stream_that_does_not_begin(
    api: FakeKubeApi, client: KubeClient, fault: Fault, kind: type[KubeError]
) -> None:
    """No head in time, a broken connection, a refusal: each is an error when the stream is opened."""
    api.fail("watch", "pods", fault, times=2)

    with pytest.raises(kind) as caught:
        async with asyncio.timeout(BOUND), client.stream(PODS, query={"watch": "1"}, head=0.3, lasting=BOUND):
            pytest.fail("it began")

    assert caught.value.status == fault.status


async def test_stream_cut_off(api: FakeKubeApi, client: KubeClient) -> None:
    """A connection that ends without a last chunk is an error and no end."""
    async with client.stream(PODS, query={"watch": "1"}, lasting=BOUND) as chunks:
        await api.until_watching("pods")
        api.drop_watches()
        with pytest.raises(KubeUnreachable):
            await anext(chunks)


async def test_left_stream_is_closed(api: FakeKubeApi, client: KubeClient) -> None:
    """Who leaves a stream early leaves no connection: the server sees it end."""
    async with client.stream(PODS, query={"watch": "1"}, lasting=BOUND):
        await api.until_watching("pods")

    await api.until(lambda: not api.watches)


async def test_vanished_peers_are_noticed(api: FakeKubeApi, client: KubeClient) -> None:
    """The kernel probes a silent connection within 15 s: NATs forget, cables break, and nobody says so."""
    async with client.stream(PODS, query={"watch": "1"}, lasting=BOUND):
        await api.until_watching("pods")
        transport = api.watches[0].request.transport
        assert transport is not None
        _, port = transport.get_extra_info("peername")
        kind, left = timer_of(port)

    assert kind == "02"  # the keepalive timer
    assert int(left, 16) <= 1_500  # hundredths of a second


def timer_of(port: int) -> tuple[str, str]:
    """Kind and rest of the kernel's timer for the connection from this port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    [timer] = [row[5] for row in rows if row[1].endswith(f":{port:04X}")]
    kind, _, left = timer.partition(":")
    return kind, left


# ---- credentials


async def test_nothing_is_needed_to_begin(tmp_path: Path, api: FakeKubeApi) -> None:
    """A missing kubeconfig is a failed request; once it is there, requests work."""
    path = tmp_path / "kubeconfig"
    async with KubeClient(path) as client:
        with pytest.raises(KubeIdentity, match="cannot be read") as caught:
            await client.request("GET", PODS)
        assert (caught.value.reason, caught.value.status) == ("NoCredentials", 0)

        write_kubeconfig(path, api.url)
        assert (await client.request("GET", PODS)).ok


async def test_token_file_is_read_again(api: FakeKubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token file's new content is used after the period, though the old token is not refused."""
    monkeypatch.setattr(kubeclient, "REFRESH", 0.0)
    (tmp_path / "token").write_text("one\n")
    async with KubeClient(write_kubeconfig(tmp_path / "k", api.url, {"tokenFile": str(tmp_path / "token")})) as client:
        await client.request("GET", PODS)
        (tmp_path / "token").write_text("two\n")
        await client.request("GET", PODS)

    assert given(api) == ["Bearer one", "Bearer two"]


async def test_401_reads_everything_again(api: FakeKubeApi, config: Path, client: KubeClient) -> None:
    """After a 401 the kubeconfig itself is read again before the next request, and not before."""
    await client.request("GET", PODS)
    api.token = "new"
    write_kubeconfig(config, api.url, {"token": "new"})

    assert (await client.request("GET", PODS)).status == 401
    assert (await client.request("GET", PODS)).ok


async def test_credentials_are_kept_when_their_file_is_not(
    api: FakeKubeApi, config: Path, client: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is unreadable for a moment costs nothing but a line in the log."""
    monkeypatch.setattr(kubeclient, "REFRESH", 0.0)
    await client.request("GET", PODS)
    client._expire()
    spoil_file(config)

    with capture_logs() as logs:
        assert (await client.request("GET", PODS)).ok

    assert [entry["event"] for entry in logs] == ["kubernetes credentials cannot be read, the old ones are kept"]


def spoil_file(path: Path) -> None:
    """Make it no YAML."""
    path.write_text("{")


async def test_one_load_for_everybody(api: FakeKubeApi, tmp_path: Path) -> None:
    """Many first requests run a plugin once; one of them that gives up does not stop it for the others."""
    runs = tmp_path / "runs"
    plugin = exec_user(f"echo run >> {runs}; sleep 0.3", {"token": "p"})
    async with KubeClient(write_kubeconfig(tmp_path / "k", api.url, plugin)) as client:
        impatient = asyncio.create_task(client.request("GET", PODS, timeout=0.05))
        answers = await asyncio.gather(*(client.request("GET", PODS) for _ in range(10)))
        with pytest.raises(KubeTimeout):
            await impatient

    assert all(answer.ok for answer in answers)
    assert runs.read_text() == "run\n"
    assert set(given(api)) == {"Bearer p"}


def exec_user(script: str, status: dict[str, Any]) -> dict[str, Any]:
    """A user whose credentials come from a plugin: a shell script that then prints this status."""
    printed = json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status})
    command = {"command": "sh", "args": ["-c", f"{script}; cat <<'END'\n{printed}\nEND"]}
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never", **command}}


@pytest.mark.parametrize(
    ("expiry", "runs"),
    [
        ({}, 1),
        ({"expirationTimestamp": "2099-01-01T00:00:00Z"}, 1),
        ({"expirationTimestamp": "2020-01-01T00:00:00Z"}, 3),
    ],
)
async def test_plugin_is_asked_when_its_token_expires(
    api: FakeKubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expiry: dict[str, str], runs: int
) -> None:
    """A plugin runs again only when what it gave has expired; what never expires counts until it is refused."""
    monkeypatch.setattr(kubeclient, "REFRESH", 0.0)
    plugin = exec_user(f"echo run >> {tmp_path / 'runs'}", {"token": "p", **expiry})
    async with KubeClient(write_kubeconfig(tmp_path / "k", api.url, plugin)) as client:
        for _ in range(3):
            assert (await client.request("GET", PODS)).ok
        assert (tmp_path / "runs").read_text().count("run") == runs
        assert set(given(api)) == {"Bearer p"}

        api.token = "other"
        assert [(await client.request("GET", PODS)).status for _ in range(2)] == [401, 401]
    assert (tmp_path / "runs").read_text().count("run") >= runs + 1


async def test_hanging_plugin(api: FakeKubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that hangs is a failed load in its time."""
    monkeypatch.setattr(kubeaccess, "LOADING", 0.3)
    plugin = {"exec": {"apiVersion": "v1", "command": "sleep", "args": ["30"]}}
    async with KubeClient(write_kubeconfig(tmp_path / "k", api.url, plugin)) as client, asyncio.timeout(BOUND):
        with pytest.raises(KubeIdentity, match="TimeoutError"):
            await client.request("GET", PODS)
        gc.collect()  # what is left behind would show itself now, as a warning


async def test_closing_while_loading(api: FakeKubeApi, tmp_path: Path) -> None:
    """A client that is closed while its credentials are being loaded leaves nothing behind."""
    plugin = exec_user("sleep 0.5", {"token": "p"})
    async with KubeClient(write_kubeconfig(tmp_path / "k", api.url, plugin)) as client:
        with pytest.raises(KubeTimeout):
            await client.request("GET", PODS, timeout=0.1)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("server:", "sever:"),
        lambda text: text.replace("current-context: test", "current-context: other"),
        lambda text: text.replace("token: s3cr3t", "token: s3cr3t\n  bad: ["),
        lambda text: text.replace("token: s3cr3t", "token: 's3cr3t\n\n\n    x'"),
        lambda text: text.replace("token: s3cr3t", "auth-provider: {config: {id-token: s3cr3t}, name: oidc}"),
        lambda text: text.replace("token: s3cr3t", "exec: {env: [{name: A, value: s3cr3t}]}"),
        lambda text: text.replace("- name: test\n  user:", "- nome: test\n  user:"),
        lambda text: text + "\nusers: s3cr3t",
        lambda text: text.replace("  user:\n    token:", "  token:"),
        lambda _: "s3cr3t",
        lambda _: "",
    ],
)
async def test_broken_kubeconfig_tells_no_secret(
    api: FakeKubeApi, tmp_path: Path, spoil: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    """A kubeconfig that is wrong in any way is an error that names the file and shows nothing of its users."""
    path = write_kubeconfig(tmp_path / "k", api.url, {"token": "s3cr3t"})
    spoiled = spoil(path.read_text())
    assert spoiled != path.read_text()
    path.write_text(spoiled)

    async with KubeClient(path) as client:
        with pytest.raises(KubeIdentity, match=str(path)) as caught:
            await client.request("GET", PODS)

    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cr3t" not in repr(error)
        error = error.__cause__ or error.__context__
    assert "s3cr3t" not in caplog.text


# ---- in the cluster


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """An authority and a certificate for 127.0.0.1."""
    folder = tmp_path / "keys"
    folder.mkdir()
    return make_keys(folder)


def serving(keys: Keys) -> ssl.SSLContext:
    """A server's side of TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(keys.serving_certificate, keys.serving_key)
    return context


class Inside:
    """What a pod finds: environment, token, authority."""

    def __init__(self, api: FakeKubeApi, keys: Keys, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.token, self.ca = folder / "token", folder / "ca.crt"
        self.token.write_text("one")
        self.ca.write_bytes(keys.ca_file.read_bytes())
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", api.url.rpartition(":")[2])

    def client(self) -> KubeClient:
        """A client of that pod."""
        return KubeClient(token_file=self.token, ca_file=self.ca)


@pytest.fixture
async def secure(keys: Keys) -> AsyncIterator[FakeKubeApi]:
    """A fake API server with TLS."""
    async with FakeKubeApi(tls=serving(keys)) as running:
        yield running


@pytest.fixture
def inside(secure: FakeKubeApi, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inside:
    """A pod of its cluster."""
    return Inside(secure, keys, tmp_path, monkeypatch)


async def test_projected_token_is_read_again(
    secure: FakeKubeApi, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the cluster a replaced token is used after the period, over the same connection, and at once after a 401."""
    async with inside.client() as client:
        await client.request("GET", PODS)
        inside.token.write_text("two")
        await client.request("GET", PODS)
        assert given(secure) == ["Bearer one", "Bearer one"]

        secure.token = "two"
        assert [(await client.request("GET", PODS)).status for _ in range(2)] == [401, 200]

        monkeypatch.setattr(kubeclient, "REFRESH", 0.0)
        client._fresh_until = 0.0
        secure.token, _ = "three", inside.token.write_text("three")
        session = client._session
        assert (await client.request("GET", PODS)).ok
        assert client._session is session


async def test_replaced_authority(secure: FakeKubeApi, keys: Keys, inside: Inside, tmp_path: Path) -> None:
    """When the server's certificate comes from a new authority, its file is read again and connections made anew."""
    other = tmp_path / "other"
    other.mkdir()
    stranger = make_keys(other)
    inside.ca.write_bytes(stranger.ca_file.read_bytes())
    async with inside.client() as client:
        with pytest.raises(KubeUnreachable, match="certificate"):
            await client.request("GET", PODS)

        inside.ca.write_bytes(keys.ca_file.read_bytes())
        assert (await client.request("GET", PODS)).ok


async def test_outside_of_a_cluster(tmp_path: Path) -> None:
    """Neither a kubeconfig nor a pod's environment: the error says so."""
    async with KubeClient() as client:
        with pytest.raises(KubeIdentity, match="the ServiceAccount cannot be read: Service host/port is not set"):
            await client.request("GET", PODS)


@pytest.mark.parametrize("content", ["", "\n", "not a certificate"])
async def test_no_authority(secure: FakeKubeApi, inside: Inside, content: str) -> None:
    """An authority that is none is an error, and never a connection that nobody verified."""
    inside.ca.write_text(content)
    async with inside.client() as client:
        with pytest.raises(KubeIdentity):
            await client.request("GET", PODS)
    assert secure.seen == []


def client_pair() -> tuple[bytes, bytes]:
    """A certificate that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agent")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + dt.timedelta(1)
    )
    certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return (
        certificate.sign(key, hashes.SHA256()).public_bytes(pem),
        key.private_bytes(pem, private, serialization.NoEncryption()),
    )


async def test_client_certificate(keys: Keys, tmp_path: Path) -> None:
    """A kubeconfig's client certificate is shown to the server; its server name and skipped verification count."""
    context = serving(keys)
    context.verify_mode = ssl.CERT_REQUIRED
    certificate, key = client_pair()
    context.load_verify_locations(cadata=certificate.decode())
    pair = {
        "client-certificate-data": base64.b64encode(certificate).decode(),
        "client-key-data": base64.b64encode(key).decode(),
    }
    async with FakeKubeApi(tls=context) as api:
        for cluster in (
            {"certificate-authority": str(keys.ca_file)},
            {"certificate-authority": str(keys.ca_file), "tls-server-name": "localhost"},
            {"insecure-skip-tls-verify": True},
        ):
            async with KubeClient(write_kubeconfig(tmp_path / "k", api.url, pair, **cluster)) as client:
                assert (await client.request("GET", PODS)).ok
        wrong = {"certificate-authority": str(keys.ca_file), "tls-server-name": "example.com"}
        async with KubeClient(write_kubeconfig(tmp_path / "k", api.url, pair, **wrong)) as client:
            with pytest.raises(KubeUnreachable):
                await client.request("GET", PODS)
    assert set(given(api)) == {None}


@pytest.mark.parametrize(("bypass", "proxied"), [("", True), ("127.0.0.1", False)])
async def test_proxy_of_the_environment(
    api: FakeKubeApi, client: KubeClient, monkeypatch: pytest.MonkeyPatch, bypass: str, proxied: bool
) -> None:
    """A proxy in the environment counts, and so do its exceptions; `.netrc` never does."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", bypass)

    if proxied:
        with pytest.raises(KubeUnreachable):
            await client.request("GET", PODS)
    else:
        assert (await client.request("GET", PODS)).ok

"""A real Kubernetes API server with the etcd below it, on loopback, for as long as a test run.

Knows: how the two processes are started, broken and mended, and how others get access.
Must not know: the code under test; what is written to the server (`actors`, whose methods the cluster has too).

Everything is synchronous and safe to call from any thread; asynchronous tests use `asyncio.to_thread`.
"""

import http.client
import secrets
import signal
from pathlib import Path
from typing import Self

import yaml

from tests.cluster.actors import Actors
from tests.cluster.api import Api
from tests.cluster.keys import make_keys
from tests.cluster.processes import Server, free_ports
from tests.cluster.waiting import wait_until

_READY_SECONDS = 90.0  # it takes 4 to 6; a machine ten times busier is still right


class Cluster(Actors):
    """One API server with its etcd. `start()` before use, `close()` at the end, or use it as a context manager.

    Attributes:
        url: where the API server listens, `https://127.0.0.1:PORT`; the same over all restarts.
        ca_file: PEM file of the authority that signed its certificate.
        admin_token: bearer token of a member of `system:masters`.
        folder: data, keys and logs.
    """

    def __init__(self, binary: Path, folder: Path) -> None:
        self.folder = folder
        keys = make_keys(folder)
        port, etcd_port, peer_port = free_ports(3)
        self.url = f"https://127.0.0.1:{port}"
        self.ca_file = keys.ca_file
        self.admin_token = secrets.token_urlsafe(24)
        tokens = folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{self.admin_token},admin,admin,"system:masters"\n')
        super().__init__(self.api(self.admin_token))

        etcd_url, peer_url = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{peer_port}"
        self._etcd_api = Api(etcd_url)
        self._draining = False  # after SIGTERM: the open connections live on, new ones are refused
        self._etcd = Server(
            "etcd",
            [
                binary,
                "etcd",
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls={etcd_url}",
                f"--advertise-client-urls={etcd_url}",
                f"--listen-peer-urls={peer_url}",
                f"--initial-advertise-peer-urls={peer_url}",
                f"--initial-cluster=default={peer_url}",
                "--unsafe-no-fsync",  # nobody keeps this data: not even a power cut has to spare it
                "--log-level=warn",
            ],
            folder / "etcd.log",
        )
        self._apiserver = Server(
            "kube-apiserver",
            [
                binary,
                "kube-apiserver",
                f"--etcd-servers={etcd_url}",
                "--bind-address=127.0.0.1",
                f"--secure-port={port}",
                # Loopback may not be advertised; nothing is written or dialled with no reconciler.
                "--advertise-address=192.0.2.1",
                "--endpoint-reconciler-type=none",
                "--service-cluster-ip-range=192.0.2.128/25",
                f"--tls-cert-file={keys.serving_certificate}",
                f"--tls-private-key-file={keys.serving_key}",
                f"--token-auth-file={tokens}",
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-signing-key-file={keys.account_key}",
                f"--service-account-key-file={keys.account_public_key}",
                # These wait for controllers that do not run here.
                "--disable-admission-plugins=ResourceQuota,StorageObjectInUseProtection",
                "--profiling=false",
            ],
            folder / "kube-apiserver.log",
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the processes

    def start(self) -> None:
        """Start both and wait until they are ready. Raises RuntimeError with the ends of both logs."""
        try:
            self.start_etcd()
            self.start_apiserver()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End both processes, and only them. Harmless when repeated."""
        self._apiserver.end(signal.SIGKILL)
        self._etcd.end(signal.SIGKILL)

    def stop_apiserver(self, number: signal.Signals = signal.SIGTERM, *, grace: float = 5.0) -> None:
        """End the API server; SIGKILL follows after `grace` seconds.

        On SIGTERM new connections are refused at once while open watches live up to 60 s more, so whoever wants to
        see that needs a longer grace. On SIGKILL every connection breaks off without a last chunk.
        """
        self._apiserver.end(number, grace=grace)
        self._draining = False

    def start_apiserver(self) -> None:
        """Start the API server on its port with the data of before, and wait for `/readyz`."""
        self._apiserver.start()
        self._wait_ready(self._apiserver, self.admin, "/readyz")

    def restart_apiserver(self, number: signal.Signals = signal.SIGTERM, *, grace: float = 5.0) -> None:
        """`stop_apiserver` and `start_apiserver`.

        The new process' watch cache begins at the present version: watches from older ones get 410.
        """
        self.stop_apiserver(number, grace=grace)
        self.start_apiserver()

    def terminate_apiserver(self) -> None:
        """Send SIGTERM and return at once: open watches drain; `stop_apiserver` ends it for good."""
        self._draining = True
        self._apiserver.signal(signal.SIGTERM)

    def freeze_apiserver(self) -> None:
        """Stop the API server in its tracks: every connection stays open and silent."""
        self._apiserver.freeze()

    def thaw_apiserver(self) -> None:
        """Let a frozen API server go on."""
        self._apiserver.thaw()

    def freeze_etcd(self) -> None:
        """Stop etcd in its tracks: watches are silent, reads with `resourceVersion=0` answer, others hang."""
        self._etcd.freeze()

    def thaw_etcd(self) -> None:
        """Let a frozen etcd go on; returns when the API server is ready again."""
        self._etcd.thaw()
        self._wait_ready(self._apiserver, self.admin, "/readyz")

    def stop_etcd(self) -> None:
        """End etcd; its data stay."""
        self._etcd.end(signal.SIGTERM)

    def start_etcd(self) -> None:
        """Start etcd on its data; if the API server runs, wait until it is ready again."""
        self._etcd.start()
        self._wait_ready(self._etcd, self._etcd_api, "/readyz")
        if self._apiserver.running and not self._draining:
            self._wait_ready(self._apiserver, self.admin, "/readyz")

    def compact(self) -> int:
        """Forget every version in etcd older than the present one; that one.

        This alone breaks nothing: the API server's watch cache still knows what etcd forgot. `expire_versions` does.
        """
        status = self._etcd_api.post("/v3/maintenance/status", {})
        revision = int(status["header"]["revision"])
        self._etcd_api.post("/v3/kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    def expire_versions(self) -> None:
        """Make every version up to now too old to watch from (410), as hours without a connection do.

        Breaks all connections off: the cache that remembers old versions dies with the API server, the versions in
        etcd by compaction.
        """
        self.stop_apiserver(signal.SIGKILL)
        # A cache begins at etcd's present version, from which one may still watch: leave it behind.
        self._etcd_api.post("/v3/kv/put", {"key": "eA==", "value": "eA=="})
        self.compact()
        self.start_apiserver()

    def mend(self) -> None:
        """Undo whatever was stopped or frozen: both processes run and are ready. Harmless when nothing is broken."""
        for server in (self._etcd, self._apiserver):
            if server.running:
                server.thaw()
        if self._draining:
            self.stop_apiserver(signal.SIGKILL)
        if not self._etcd.running:
            self.start_etcd()
        if self._apiserver.running:
            self._wait_ready(self._apiserver, self.admin, "/readyz")
        else:
            self.start_apiserver()

    def logs(self) -> str:
        """The ends of both logs."""
        return f"{self._etcd.tail()}\n{self._apiserver.tail()}"

    # ---- access

    def api(self, token: str | None) -> Api:
        """A client with this token, or an anonymous one."""
        return Api(self.url, ca_file=self.ca_file, token=token)

    def write_kubeconfig(self, path: Path, token: str | None = None) -> Path:
        """Write a kubeconfig file with this token, the admin's by default; `path`."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority": str(self.ca_file)}}],
            "users": [{"name": "test", "user": {"token": token if token is not None else self.admin_token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config))
        return path

    # ---- waiting

    def _wait_ready(self, server: Server, api: Api, path: str) -> None:
        """Wait for a 200; raises RuntimeError with the logs when the process ends or never gets ready."""
        last = "nothing answered"

        def ready() -> bool:
            nonlocal last
            if not server.running:
                raise RuntimeError(f"{server.name} ended while it started\n{self.logs()}")
            try:
                answer = api.request("GET", path, timeout=5.0)
            except (OSError, http.client.HTTPException) as error:
                last = repr(error)
                return False
            last = f"{answer.status} {answer.body[:1_000].decode(errors='replace')}"
            return answer.status == 200

        try:
            wait_until(f"{server.name} ready", ready, _READY_SECONDS)
        except TimeoutError:
            raise RuntimeError(
                f"{server.name} is not ready after {_READY_SECONDS:.0f} s: {last}\n{self.logs()}"
            ) from None

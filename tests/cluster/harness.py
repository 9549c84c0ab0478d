"""A real Kubernetes API server with the etcd below it, on loopback, for as long as a test run.

Knows: how the two processes are started, broken and mended, and what kubelet, scheduler and controllers would write.
Must not know: the code under test.

There is neither scheduler, kubelet nor controller-manager. What they would do is a method here: binding a pod, setting
its status, the `default` ServiceAccount of a namespace. Everything is synchronous and safe to call from any thread;
asynchronous tests use `asyncio.to_thread`.
"""

import http.client
import secrets
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self

import yaml

from tests.cluster.api import Api, Json
from tests.cluster.keys import make_keys
from tests.cluster.processes import Server, free_ports

_READY_SECONDS = 90.0  # it takes 4 to 6; a machine ten times busier is still right
_EFFECT_SECONDS = 20.0  # informers inside the API server see a change within milliseconds
_PAUSE = 0.03
_RBAC = "/apis/rbac.authorization.k8s.io/v1"


class Cluster:
    """One API server with its etcd. `start()` before use, `close()` at the end, or use it as a context manager.

    Attributes:
        url: where the API server listens, `https://127.0.0.1:PORT`; the same over all restarts.
        ca_file: PEM file of the authority that signed its certificate.
        admin_token: bearer token of a member of `system:masters`.
        admin: a client with that token, for whatever has no method of its own here.
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
        self.admin = self.api(self.admin_token)

        etcd_url, peer_url = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{peer_port}"
        self._etcd_api = Api(etcd_url)
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

    def start_apiserver(self) -> None:
        """Start the API server on its port with the data of before, and wait for `/readyz`."""
        self._apiserver.start()
        self._wait_ready(self._apiserver, self.admin, "/readyz")

    def restart_apiserver(self, number: signal.Signals = signal.SIGTERM, *, grace: float = 5.0) -> None:
        """`stop_apiserver` and `start_apiserver`.

        The new process' watch cache begins at the present version: a watch from any older one gets 410.
        """
        self.stop_apiserver(number, grace=grace)
        self.start_apiserver()

    def terminate_apiserver(self) -> None:
        """Send SIGTERM and return at once: open watches drain; `stop_apiserver` ends it for good."""
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
        if self._apiserver.running:
            self._wait_ready(self._apiserver, self.admin, "/readyz")

    def compact(self) -> int:
        """Forget every version in etcd older than the present one; that one."""
        status = self._etcd_api.post("/v3/maintenance/status", {})
        revision = int(status["header"]["revision"])
        self._etcd_api.post("/v3/kv/compaction", {"revision": str(revision), "physical": True})
        return revision

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

    def create_service_account(self, namespace: str, name: str) -> Json:
        """Create a ServiceAccount that may nothing yet."""
        return self.admin.post(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})

    def delete_service_account(self, namespace: str, name: str) -> None:
        """Delete a ServiceAccount: its tokens are refused from then on."""
        self.admin.delete(f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}")

    def grant(self, namespace: str, account: str, rules: Sequence[Mapping[str, Sequence[str]]], *, name: str) -> None:
        """Create ClusterRole and ClusterRoleBinding `name` for an account; returns when they have effect.

        Args:
            namespace: of the account.
            account: name of the ServiceAccount.
            rules: as in a ClusterRole: `{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}`.
            name: of role and binding, for `revoke`.
        """
        self.admin.post(f"{_RBAC}/clusterroles", {"metadata": {"name": name}, "rules": [dict(rule) for rule in rules]})
        self.admin.post(
            f"{_RBAC}/clusterrolebindings",
            {
                "metadata": {"name": name},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
                "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": account}],
            },
        )
        for rule in rules:
            self._wait_allowed(namespace, account, rule, allowed=True)

    def revoke(self, name: str) -> None:
        """Remove binding and role that `grant` made; returns when the account may no longer. Its tokens stay valid.

        Another grant of the same rules to the same account would keep them in effect: TimeoutError.
        """
        role = self.admin.get(f"{_RBAC}/clusterroles/{name}")
        binding = self.admin.get(f"{_RBAC}/clusterrolebindings/{name}")
        self.admin.delete(f"{_RBAC}/clusterrolebindings/{name}")
        self.admin.delete(f"{_RBAC}/clusterroles/{name}")
        for subject in binding["subjects"]:
            for rule in role["rules"]:
                self._wait_allowed(subject["namespace"], subject["name"], rule, allowed=False)

    def mint_token(self, namespace: str, account: str, *, seconds: int = 600) -> str:
        """A bearer token for the account by TokenRequest; the server takes no life below 600 s."""
        answer = self.admin.post(
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token",
            {"spec": {"expirationSeconds": seconds}},
        )
        token: str = answer["status"]["token"]
        return token

    # ---- namespaces

    def create_namespace(self, name: str, annotations: Mapping[str, str] | None = None) -> Json:
        """Create a namespace and its ServiceAccount `default`, without which no pod is admitted."""
        namespace = self.admin.post(
            "/api/v1/namespaces", {"metadata": {"name": name, "annotations": dict(annotations or {})}}
        )
        self.create_service_account(name, "default")
        return namespace

    def annotate_namespace(self, name: str, annotations: Mapping[str, str | None]) -> Json:
        """Set annotations; None removes one."""
        return self.admin.merge(f"/api/v1/namespaces/{name}", {"metadata": {"annotations": dict(annotations)}})

    def delete_namespace(self, name: str) -> None:
        """Delete a namespace with its pods and ServiceAccounts, to the end, as the namespace controller would."""
        path = f"/api/v1/namespaces/{name}"
        namespace = self.admin.delete(path)
        for kind in ("pods", "serviceaccounts"):
            for item in self.admin.get(f"{path}/{kind}")["items"]:
                self.admin.delete(f"{path}/{kind}/{item['metadata']['name']}", {"gracePeriodSeconds": 0})
        namespace["spec"]["finalizers"] = []
        self.admin.call("PUT", f"{path}/finalize", namespace)

    # ---- pods

    def create_pod(
        self,
        namespace: str,
        name: str,
        *,
        node: str | None = None,
        annotations: Mapping[str, str] | None = None,
        metadata: Mapping[str, object] | None = None,
        spec: Mapping[str, object] | None = None,
    ) -> Json:
        """Create a pod: bound by `spec.nodeName` when `node` is given, else unbound.

        Args:
            namespace: made by `create_namespace`.
            name: of the pod.
            node: any name; no Node object is needed.
            annotations: of the pod.
            metadata: more of it (labels, ownerReferences).
            spec: more of it (hostNetwork, serviceAccountName, terminationGracePeriodSeconds ...).
        """
        pod_spec: Json = {"containers": [{"name": "main", "image": "none"}], **(spec or {})}
        if node is not None:
            pod_spec["nodeName"] = node
        return self.admin.post(
            f"/api/v1/namespaces/{namespace}/pods",
            {"metadata": {"name": name, "annotations": dict(annotations or {}), **(metadata or {})}, "spec": pod_spec},
        )

    def bind_pod(self, namespace: str, name: str, node: str) -> None:
        """Bind an unbound pod to a node as the scheduler does."""
        self.admin.post(
            f"/api/v1/namespaces/{namespace}/pods/{name}/binding",
            {"metadata": {"name": name}, "target": {"apiVersion": "v1", "kind": "Node", "name": node}},
        )

    def get_pod(self, namespace: str, name: str) -> Json:
        """The pod as it is; raises ApiFailure with status 404."""
        return self.admin.get(f"/api/v1/namespaces/{namespace}/pods/{name}")

    def patch_pod(self, namespace: str, name: str, metadata: Mapping[str, object]) -> Json:
        """Merge `metadata` into the pod's: `{"annotations": {"a": "b", "c": None}}` sets a and removes c."""
        return self.admin.merge(f"/api/v1/namespaces/{namespace}/pods/{name}", {"metadata": dict(metadata)})

    def set_pod_status(self, namespace: str, name: str, addresses: Sequence[str], *, phase: str = "Running") -> Json:
        """Patch the status as the kubelet does: phase, podIP (the first address) and podIPs; no address removes both.

        A merge patch, which replaces podIPs: a strategic one would merge them.
        """
        status = {
            "phase": phase,
            "podIP": addresses[0] if addresses else None,
            "podIPs": [{"ip": address} for address in addresses] or None,
        }
        return self.admin.merge(f"/api/v1/namespaces/{namespace}/pods/{name}/status", {"status": status})

    def delete_pod(self, namespace: str, name: str, *, grace_seconds: int = 0) -> None:
        """Delete a pod: at once with 0; else it stays, with a deletionTimestamp, until it is deleted with 0.

        That second deletion is the kubelet's when the containers have ended. An unbound pod goes at once in any case.
        """
        self.admin.delete(f"/api/v1/namespaces/{namespace}/pods/{name}", {"gracePeriodSeconds": grace_seconds})

    # ---- events

    def list_events(self, namespace: str) -> list[Json]:
        """The `events.k8s.io/v1` Events of a namespace."""
        items: list[Json] = self.admin.get(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")["items"]
        return items

    # ---- waiting

    def _wait_allowed(self, namespace: str, account: str, rule: Mapping[str, Sequence[str]], *, allowed: bool) -> None:
        """Wait until the API server's own view of its rules says so: it learns of a binding through a watch."""
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                main, _, sub = resource.partition("/")
                for verb in rule["verbs"]:
                    attributes = {"group": group, "resource": main, "subresource": sub, "verb": verb}
                    review = {
                        "spec": {
                            "user": f"system:serviceaccount:{namespace}:{account}",
                            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"],
                            "resourceAttributes": {**attributes, "namespace": namespace},
                        }
                    }
                    self._wait(
                        f"{account} allowed={allowed} to {verb} {resource}",
                        partial(self._answers, review, allowed=allowed),
                        _EFFECT_SECONDS,
                    )

    def _answers(self, review: Json, *, allowed: bool) -> bool:
        answer = self.admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"]) is allowed

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
            self._wait(f"{server.name} ready", ready, _READY_SECONDS)
        except TimeoutError:
            raise RuntimeError(
                f"{server.name} is not ready after {_READY_SECONDS:.0f} s: {last}\n{self.logs()}"
            ) from None

    @staticmethod
    def _wait(what: str, reached: Callable[[], bool], seconds: float) -> None:
        """Ask until it is so; TimeoutError after `seconds`. The servers offer nothing to be woken by."""
        deadline = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds:.0f} s: {what}")
            time.sleep(_PAUSE)

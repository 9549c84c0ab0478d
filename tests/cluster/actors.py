"""Everybody who writes to an API server around a node: administrator, scheduler, kubelet, controllers.

Knows: the objects they write, and how each of them writes.
Must not know: which server this is, the code under test.

No scheduler, kubelet or controller-manager runs. What they would do is a method here: binding a pod, setting its
status, the `default` ServiceAccount of a namespace.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from tests.cluster.api import Api, Json
from tests.cluster.waiting import wait_until

_EFFECT_SECONDS = 20.0  # informers inside the API server see a change within milliseconds
_RBAC = "/apis/rbac.authorization.k8s.io/v1"


class Actors:
    """All of them, with the rights of an administrator.

    Attributes:
        admin: the client, for whatever has no method of its own here.
    """

    def __init__(self, admin: Api) -> None:
        self.admin = admin

    # ---- who may do what

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

    def mint_token(
        self,
        namespace: str,
        account: str,
        *,
        seconds: int = 600,
        pod: Json | None = None,
        audiences: Sequence[str] = (),
    ) -> str:
        """A token for the account by TokenRequest, for the API server itself unless told otherwise.

        The server takes no life below 600 s. With a pod it is bound to that and its node, as one that the kubelet asks
        for.
        """
        spec: Json = {"expirationSeconds": seconds, "audiences": [*audiences]}
        if pod is not None:
            about = pod["metadata"]
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": about["name"], "uid": about["uid"]}
        answer = self.admin.post(f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", {"spec": spec})
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
                    wait_until(
                        f"{account} allowed={allowed} to {verb} {resource}",
                        partial(self._answers, review, allowed=allowed),
                        _EFFECT_SECONDS,
                    )

    def _answers(self, review: Json, *, allowed: bool) -> bool:
        answer = self.admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"]) is allowed

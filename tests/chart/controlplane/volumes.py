"""What the kubelet gives a pod: its fields, and volumes in folders that stand for the node's disk.

Knows: the kinds of volumes that a chart like ours may use, and what each of them starts with.
Must not know: what is mounted where, and who reads it.
"""

from collections.abc import Mapping
from pathlib import Path

from tests.cluster.actors import Actors
from tests.cluster.api import ApiFailure, Json

_SHORTEST_TOKEN = 600
"""Seconds; the API server refuses less."""


class NotYetError(Exception):
    """A volume cannot be made now; the message says what it waits for."""


def fields_of(pod: Json) -> dict[str, str]:
    """What `fieldRef` may name, of a pod that is bound."""
    metadata, spec = pod["metadata"], pod["spec"]
    return {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec["nodeName"],
        "spec.serviceAccountName": spec["serviceAccountName"],
    }


def make_volumes(pod: Json, *, cluster: Actors, folder: Path, host: Path) -> dict[str, Path]:
    """Each volume's folder or file by its name: below `folder`, or below `host` what the node keeps.

    Raises NotYetError; may be called again.
    """
    return {
        volume["name"]: _make(volume, pod, cluster=cluster, folder=folder / volume["name"], host=host)
        for volume in pod["spec"].get("volumes", [])
    }


def _make(volume: Json, pod: Json, *, cluster: Actors, folder: Path, host: Path) -> Path:
    if "hostPath" in volume:
        return _on_host(volume["hostPath"], host)
    folder.mkdir(parents=True, exist_ok=True)
    if "emptyDir" in volume:
        folder.chmod(0o777)
    elif "configMap" in volume:
        _write(folder, _chosen(_data(cluster, pod, "configmaps", volume["configMap"]["name"]), volume["configMap"]))
    elif "projected" in volume:
        for source in volume["projected"]["sources"]:
            _write(folder, _projected(source, pod, cluster))
    else:
        raise AssertionError(f"the played kubelet knows no volume of this kind: {volume}")
    return folder


def _on_host(source: Json, host: Path) -> Path:
    path: Path = host / source["path"].lstrip("/")
    kind = source.get("type", "")
    if kind == "DirectoryOrCreate":
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        # Not its folder: the kubelet makes the file alone.
        path.touch(mode=0o644)
    if not path.exists() or path.is_dir() is kind.startswith("File"):
        raise NotYetError(f"hostPath type check failed: {source['path']} is not a {kind}")
    return path


def _projected(source: Json, pod: Json, cluster: Actors) -> dict[str, str]:
    namespace = pod["metadata"]["namespace"]
    if "serviceAccountToken" in source:
        wanted = source["serviceAccountToken"]
        seconds = max(_SHORTEST_TOKEN, wanted.get("expirationSeconds", 3600))
        audiences = [wanted["audience"]] if "audience" in wanted else []
        account = pod["spec"]["serviceAccountName"]
        token = cluster.mint_token(namespace, account, seconds=seconds, audiences=audiences)
        return {wanted["path"]: token}
    if "configMap" in source:
        return _chosen(_data(cluster, pod, "configmaps", source["configMap"]["name"]), source["configMap"])
    fields = fields_of(pod)
    return {item["path"]: fields[item["fieldRef"]["fieldPath"]] for item in source["downwardAPI"]["items"]}


def _data(cluster: Actors, pod: Json, kind: str, name: str) -> dict[str, str]:
    path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/{kind}/{name}"
    try:
        return dict(cluster.admin.get(path).get("data", {}))
    except ApiFailure as error:
        raise NotYetError(str(error)) from None


def _chosen(data: Mapping[str, str], source: Json) -> dict[str, str]:
    items = source.get("items") or [{"key": key, "path": key} for key in data]
    return {item["path"]: data[item["key"]] for item in items}


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        file = folder / name
        file.write_text(text)
        file.chmod(0o644)

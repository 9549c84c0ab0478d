"""The library's generated models stay out of the process."""

import subprocess
import sys
from pathlib import Path

from tests.cluster.keys import make_keys
from tests.component.test_listwatch_suite import write_kubeconfig


def test_no_models_are_imported(tmp_path: Path) -> None:
    """A fresh interpreter loads both kinds of configuration without one generated model or API class (33 MiB)."""
    keys = make_keys(tmp_path)
    (tmp_path / "token").write_text("t")
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:1", insecure_skip_tls_verify=True)
    program = f"""
import asyncio, os, sys
os.environ.update(KUBERNETES_SERVICE_HOST="127.0.0.1", KUBERNETES_SERVICE_PORT="1")
from metaproxy.kubeaccess import AccessLoader
from metaproxy import kube
print(asyncio.run(AccessLoader({str(kubeconfig)!r}).read()))
print(asyncio.run(AccessLoader("", token_file={str(tmp_path / "token")!r}, ca_file={str(keys.ca_file)!r}).read()))
print(sorted(name for name in sys.modules if name.startswith("kubernetes_asyncio")))
import kubernetes_asyncio.client
print(kubernetes_asyncio.client.CoreV1Api.__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    first, second, modules, whole = done.stdout.splitlines()
    assert first == "Access(https://127.0.0.1:1)"
    assert second == "Access(https://127.0.0.1:1)"
    assert "kubernetes_asyncio.config.kube_config" in modules
    assert "client.models" not in modules
    assert "client.api" not in modules
    assert whole == "CoreV1Api"


def test_whole_library_is_used_when_it_is_there() -> None:
    """Whoever has paid for all of the library already loses nothing of it."""
    program = """
import kubernetes_asyncio.client as before
import metaproxy.kubeaccess, sys
assert sys.modules["kubernetes_asyncio.client"] is before
assert metaproxy.kubeaccess.Configuration is before.Configuration
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_user_without_a_home() -> None:
    """As in a container whose user nobody knows: the library asks for it when it is imported."""
    program = """
import os, pwd
os.environ.pop("HOME", None)
def getpwuid(number):
    raise KeyError(number)
pwd.getpwuid = getpwuid
import metaproxy.kubeaccess
"""
    subprocess.run([sys.executable, "-c", program], check=True)

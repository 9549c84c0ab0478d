"""Whom to ask for Kubernetes objects, and as whom: the one place that meets kubernetes-asyncio.

Knows: the ServiceAccount's files, kubeconfig files with their plugins and providers, TLS, proxies.
Must not know: when anything is read again, or what is asked.

From the library come the configuration and the two loaders that fill it. They block, so they work in threads.
"""

import asyncio
import hashlib
import importlib.util
import os
import ssl
import sys
import urllib.request
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urlsplit


@contextmanager
def _without_models() -> Iterator[None]:
    """Import single modules of kubernetes_asyncio without its generated models and API classes.

    The package `kubernetes_asyncio.client` imports over 800 generated modules when it is imported: 33 MiB and 250 ms on
    every node, for classes that nothing here uses. Importing a submodule runs its parents' `__init__`, so empty
    packages with the parents' paths take their places for a moment: submodules are found as ever and are the library's
    own. Afterwards the stand-ins go, and whoever imports the library by its name gets all of it.
    """
    spec = importlib.util.find_spec("kubernetes_asyncio")
    if "kubernetes_asyncio" in sys.modules or spec is None:
        yield  # somebody has paid for all of it already; or it is missing, which the import says better
        return
    stand_ins = [ModuleType(f"kubernetes_asyncio{part}") for part in ("", ".client", ".config")]
    for package in stand_ins:
        folder = package.__name__.split(".")[1:]
        package.__path__ = [str(Path(root, *folder)) for root in spec.submodule_search_locations or ()]
        sys.modules[package.__name__] = package
    try:
        # The two names that the loaders take from the package; the second only for a function that is not used here.
        client = stand_ins[1]
        client.__dict__["Configuration"] = importlib.import_module(f"{client.__name__}.configuration").Configuration
        client.__dict__["ApiClient"] = None
        yield
    finally:
        for package in stand_ins:
            del sys.modules[package.__name__]


try:
    Path.home()
except RuntimeError:
    # The library asks for it when it is imported, and a container may tell neither a home nor a user that has one.
    os.environ["HOME"] = "/"

with _without_models():
    from kubernetes_asyncio.client.configuration import Configuration
    from kubernetes_asyncio.config.config_exception import ConfigException
    from kubernetes_asyncio.config.incluster_config import (
        SERVICE_CERT_FILENAME,
        SERVICE_TOKEN_FILENAME,
        InClusterConfigLoader,
    )
    from kubernetes_asyncio.config.kube_config import KubeConfigLoader, load_kube_config

TOKEN_FILE, CA_FILE = SERVICE_TOKEN_FILENAME, SERVICE_CERT_FILENAME
"""Where the kubelet puts the ServiceAccount's."""

LOADING = 20.0
"""Seconds for reading a kubeconfig, an exec plugin included."""

_SHOWN = 256

ResultT = TypeVar("ResultT")


class AccessError(Exception):
    """There are no usable credentials; the text says whose and, without any of their content, why."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Access:
    """Whom to ask and as whom.

    `authorization` is the header's value, empty for none. `tls` is another when connections must be made anew: another
    server, authority or client certificate. `server_hostname`: whose certificate is expected, if not the host's.
    """

    host: str
    authorization: str
    proxy: str | None
    server_hostname: str | None
    context: ssl.SSLContext | bool
    tls: bytes

    def __repr__(self) -> str:
        return f"Access({self.host})"


class AccessLoader:
    """Reads the ServiceAccount's files, or the current context of a kubeconfig; one read at a time."""

    def __init__(
        self,
        kubeconfig: str | os.PathLike[str] | None,
        *,
        token_file: str | os.PathLike[str] = TOKEN_FILE,
        ca_file: str | os.PathLike[str] = CA_FILE,
    ) -> None:
        self._kubeconfig = os.fspath(kubeconfig) if kubeconfig else ""
        self._token_file, self._ca_file = os.fspath(token_file), os.fspath(ca_file)
        self._loader: KubeConfigLoader | None = None

    def forget(self) -> None:
        """The next `read` reads the kubeconfig file itself anew, and asks plugins and providers again."""
        self._loader = None

    async def read(self) -> Access:
        """What the files say now.

        Raises:
            AccessError: they say nothing usable.
        """
        configuration = Configuration()
        # Python 3.13 demands key identifiers that the authorities of EKS and older kubeadm clusters do not carry.
        configuration.disable_strict_ssl_verification = True
        try:
            if self._kubeconfig:
                await self._fill(configuration)
            else:
                loader = InClusterConfigLoader(self._token_file, self._ca_file, try_refresh_token=False)
                await asyncio.to_thread(loader.load_and_set, configuration)
            return await asyncio.to_thread(_access, configuration)
        except Exception as error:  # noqa: BLE001  a foreign file can be wrong in any way
            text = _told(error)
        # Raised out here, so that no trace shows the cause: its text may hold the file's content.
        raise AccessError(f"credentials of {self._kubeconfig or 'the ServiceAccount'} cannot be read: {text}")

    async def _fill(self, configuration: Configuration) -> None:
        if self._loader is None:
            self._loader = await _in_thread(
                load_kube_config(self._kubeconfig, client_configuration=configuration, persist_config=False)
            )
        elif _plugin_without_expiry(self._loader):
            # Such a token counts until it is refused; then `forget` makes everything new.
            self._loader._set_config(configuration)  # noqa: SLF001  there is no public way to take it again
        else:
            # Token files are read; plugins and providers are asked if what they gave expires.
            await _in_thread(self._loader.load_and_set(configuration))


async def _in_thread(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """On a loop of its own: the library awaits plugins and providers, but reads files as if nobody waited."""
    return await asyncio.to_thread(asyncio.run, _bounded(work))


async def _bounded(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Await the library's work for a bounded time, and end the plugin that it then lets go of.

    The library keeps no hold of a plugin's process, so this loop, which is nobody else's, remembers what it starts.
    """
    loop: Any = asyncio.get_running_loop()
    start, started = loop.subprocess_exec, []

    async def remembered(*args: Any, **kwargs: Any) -> Any:
        transport, protocol = await start(*args, **kwargs)
        started.append(transport)
        return transport, protocol

    loop.subprocess_exec = remembered
    try:
        return await asyncio.wait_for(work, LOADING)
    finally:
        for transport in started:
            transport.close()
            await transport._wait()  # noqa: SLF001  what Process.wait() awaits; the process itself is the library's


def _plugin_without_expiry(loader: Any) -> bool:
    user = loader._user  # noqa: SLF001  as the library's own `refresh_token` looks
    return user is not None and "exec" in user and not hasattr(loader, "exec_plugin_expiry")


def _told(error: Exception) -> str:
    """What may be said of an error.

    The library's texts may end with " in " and the whole entry of the file, its token included; a YAML error shows
    lines of the file.
    """
    if isinstance(error, OSError | ConfigException) and str(error):
        return str(error).partition(" in ")[0][:_SHOWN]
    return type(error).__name__


def _access(configuration: Configuration) -> Access:
    """What the configuration says, read from its files.

    Raises:
        OSError: a file is missing or holds no certificate (ssl.SSLError). ValueError: the token is none.
        ConfigException: there is no server.
    """
    authorization = configuration.api_key.get("BearerToken", "").strip()
    if not authorization.isprintable() or not authorization.isascii():
        raise ValueError("a token is printable ASCII")
    host = str(configuration.host).rstrip("/")
    url = urlsplit(host)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ConfigException("no server is named")
    digest = hashlib.sha256(f"{host} {configuration.verify_ssl}".encode())
    context: ssl.SSLContext | bool = True
    if url.scheme == "https":
        context = _tls(configuration)
        for file in (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file):
            digest.update(hashlib.sha256(Path(file).read_bytes() if file else b"").digest())
    proxy = configuration.proxy
    if proxy is None and not urllib.request.proxy_bypass(url.netloc):
        proxy = urllib.request.getproxies().get(url.scheme)
    return Access(
        host=host,
        authorization=authorization,
        proxy=proxy,
        server_hostname=configuration.tls_server_name,
        context=context,
        tls=digest.digest(),
    )


def _tls(configuration: Configuration) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.disable_strict_ssl_verification:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context

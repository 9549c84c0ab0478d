"""Keys of a cluster that lives for one test run: an authority, a serving certificate, a key pair for service accounts.

Knows: which files kube-apiserver wants and what a strict TLS client checks in them.
Must not know: who uses them. Nothing here is secret: the keys guard a server on loopback for some minutes.
"""

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFE = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The files of one cluster, all PEM."""

    ca_file: Path
    serving_certificate: Path
    serving_key: Path
    account_key: Path
    account_public_key: Path


def make_keys(folder: Path) -> Keys:
    """Write all keys into `folder`; the serving certificate names 127.0.0.1 and localhost."""
    keys = Keys(
        ca_file=folder / "ca.crt",
        serving_certificate=folder / "serving.crt",
        serving_key=folder / "serving.key",
        account_key=folder / "accounts.key",
        account_public_key=folder / "accounts.pub",
    )
    ca_key = ec.generate_private_key(ec.SECP256R1())
    serving_key = ec.generate_private_key(ec.SECP256R1())
    account_key = ec.generate_private_key(ec.SECP256R1())

    ca = _authority(ca_key)
    keys.ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    keys.serving_certificate.write_bytes(
        _serving(serving_key, ca, ca_key).public_bytes(serialization.Encoding.PEM),
    )
    _write_private(keys.serving_key, serving_key)
    _write_private(keys.account_key, account_key)
    keys.account_public_key.write_bytes(
        account_key.public_key().public_bytes(
            serialization.Encoding.PEM,
            serialization.PublicFormat.SubjectPublicKeyInfo,
        ),
    )
    return keys


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LIFE)  # clocks of one machine agree, but may be set back during a run
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = _name("test cluster authority")
    return (
        _builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _serving(
    key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    names = x509.SubjectAlternativeName(
        [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")],
    )
    # Python 3.13 verifies strictly by default: it wants the authority's key identifier and the usages.
    return (
        _builder(_name("kube-apiserver"), ca.subject, key.public_key())
        .add_extension(names, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
    )

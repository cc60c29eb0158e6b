"""Certificates for tests: an authority of our own, and what it signs."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_YEAR = timedelta(days=365)


@dataclass(frozen=True)
class Authority:
    """An authority, whose certificates and keys are in a folder.

    :param folder: the folder.
    """

    folder: Path

    @property
    def bundle(self) -> Path:
        """The authority's own certificate."""
        return self.folder / "ca.pem"

    @property
    def with_key(self) -> Path:
        """The authority's own certificate and its key."""
        return self.folder / "ca-with-key.pem"

    def issue(self, host: str, *, days_from: int = -365, days_to: int = 365) -> Path:
        """Sign a certificate for a host; return the file with it and its key."""
        ca = x509.load_pem_x509_certificate(self.bundle.read_bytes())
        ca_key = serialization.load_pem_private_key(self.with_key.read_bytes(), None)
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            name: x509.GeneralName = x509.IPAddress(ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder(ca.subject, _name(host), key.public_key(), x509.random_serial_number())
            .not_valid_before(now + timedelta(days=days_from))
            .not_valid_after(now + timedelta(days=days_to))
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        path = self.folder / f"{x509.random_serial_number():x}.pem"
        path.write_bytes(_pem(certificate) + _key(key))
        return path


def make_authority(folder: Path) -> Authority:
    """Make an authority in a folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    now, name = datetime.now(UTC), _name("Made-up authority")
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - _YEAR)
        .not_valid_after(now + _YEAR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    authority = Authority(folder)
    authority.bundle.write_bytes(_pem(certificate))
    authority.with_key.write_bytes(_pem(certificate) + _key(key))
    return authority


def server_context(certificate: Path) -> ssl.SSLContext:
    """Return the TLS of a server with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

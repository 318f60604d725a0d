"""A certificate authority of the cloud's own, so that machines speak TLS with Amazon's real names."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PATTERNS = "*.{0}.amazonaws.com *.s3.{0}.amazonaws.com *.s3.dualstack.{0}.amazonaws.com".split()


class Authority:
    """Writes `ca.pem`, which machines trust, and `server.pem`, which the cloud shows them."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.server = folder / "ca.pem", folder / "server.pem"
        key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Stand-in for Amazon")])
        root = _builder(name, name, key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.ca.write_bytes(root.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        shown = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "amazonaws.com")])
        names = x509.SubjectAlternativeName([x509.DNSName(one) for one in _names()])
        leaf = _builder(name, shown, server_key).add_extension(names, critical=False)
        private = server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.server.write_bytes(
            leaf.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + private,
        )

    def hashed_name(self) -> str:
        """The name under which OpenSSL looks the authority up in a directory."""
        command = ["openssl", "x509", "-noout", "-subject_hash", "-in", str(self.ca)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
        return done.stdout.strip() + ".0"


def _builder(issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
    )


def _names() -> list[str]:
    regions = boto3.Session().get_available_regions("ec2")
    return ["*.amazonaws.com", "*.s3.amazonaws.com"] + [one.format(region) for region in regions for one in _PATTERNS]

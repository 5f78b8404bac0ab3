"""Certificates of an authority of our own, made by the `openssl` command."""

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Authority:
    """`pem` is what clients trust."""

    pem: Path
    key: Path

    def server_context(self, *names: str) -> ssl.SSLContext:
        """For a server that is known by `names` (DNS names only)."""
        folder = self.pem.parent
        stem = folder / names[0]
        alternatives = stem.with_suffix(".ext")
        alternatives.write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in names))
        request, certificate, key = (stem.with_suffix(end) for end in (".csr", ".pem", ".key"))
        _openssl("req", *_NEW_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={names[0]}")
        signed = ("-CA", self.pem, "-CAkey", self.key, "-CAcreateserial", "-days", "2", "-extfile", alternatives)
        _openssl("x509", "-req", "-in", request, "-out", certificate, *signed)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def make_authority(folder: Path) -> Authority:
    """Skips the test where there is no `openssl` command."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command, to make certificates")
    authority = Authority(folder / "authority.pem", folder / "authority.key")
    out = ("-keyout", authority.key, "-out", authority.pem)
    _openssl("req", "-x509", *_NEW_KEY, *out, "-days", "2", "-subj", "/CN=authority of tests")
    return authority


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

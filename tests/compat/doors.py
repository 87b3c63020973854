"""Who is let in: TLS, certificates of clients and API keys, as Temporal's own client sends them.

    python doors.py BINARY
"""

import asyncio
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from servers import Longhaul
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client, TLSConfig
from temporalio.service import RPCError, RPCStatusCode
from world import equal, fails

KEY = "a-key-of-a-test-0123456789"


class Certificates:
    """A CA, and certificates for `localhost` of it and of nobody's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=ca",
                     "-keyout", "ca.key", "-out", "ca.crt", "-addext", "basicConstraints=critical,CA:TRUE")
        for name in ("server", "client"):
            self.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                         "-keyout", f"{name}.key", "-out", f"{name}.csr")
            (directory / "extensions").write_text("subjectAltName=DNS:localhost")
            self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                         "-days", "2", "-extfile", "extensions", "-out", f"{name}.crt")
        for key in directory.glob("*.key"):
            key.chmod(0o600)

    def openssl(self, *arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=self.directory, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def bytes(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()

    def client(self, name: str | None = None) -> TLSConfig:
        """What a client trusts, and what it shows."""
        shown = {}
        if name:
            shown = {"client_cert": self.bytes(f"{name}.crt"), "client_private_key": self.bytes(f"{name}.key")}
        return TLSConfig(server_root_ca_cert=self.bytes("ca.crt"), domain="localhost", **shown)


async def connected(address: str, **how) -> Client:
    client = await Client.connect(address, **how)
    await client.workflow_service.get_system_info(GetSystemInfoRequest())
    return client


async def is_turned_away(address: str, **how) -> None:
    """Not let in: the SDK tries for a while before it says so."""
    try:
        await asyncio.wait_for(connected(address, **how), 20)
    except (RPCError, RuntimeError, TimeoutError, asyncio.TimeoutError):
        return
    raise AssertionError(f"let in: {how}")


async def with_keys(binary: str, certificates: Certificates, keys: Path) -> None:
    flags = ["--tls-cert", certificates.path("server.crt"), "--tls-key", certificates.path("server.key")]
    server = Longhaul(binary, *flags, "--api-key-file", str(keys))
    try:
        address = await asyncio.to_thread(server.begin)
        tls = certificates.client()
        client = await connected(address, tls=tls, api_key=KEY)
        equal(await client.service_client.check_health(), True)
        for wrong in ({}, {"api_key": KEY + "0"}):
            error = await fails((RPCError, RuntimeError), connected(address, tls=tls, **wrong))
            assert isinstance(error, RuntimeError) or error.status == RPCStatusCode.UNAUTHENTICATED, error
        await is_turned_away(address, api_key=KEY)
    finally:
        await asyncio.to_thread(server.stop)


async def with_client_certificates(binary: str, certificates: Certificates) -> None:
    flags = ["--tls-cert", certificates.path("server.crt"), "--tls-key", certificates.path("server.key")]
    server = Longhaul(binary, *flags, "--tls-client-ca", certificates.path("ca.crt"))
    try:
        address = await asyncio.to_thread(server.begin)
        await connected(address, tls=certificates.client("client"))
        await is_turned_away(address, tls=certificates.client())
    finally:
        await asyncio.to_thread(server.stop)


async def main(binary: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        certificates = Certificates(Path(directory))
        keys = Path(directory) / "keys"
        keys.touch(mode=0o600)
        keys.write_text(KEY + "\n")
        await asyncio.gather(with_keys(binary, certificates, keys), with_client_certificates(binary, certificates))


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    asyncio.run(main(os.path.abspath(sys.argv[1])))

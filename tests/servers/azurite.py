"""Azurite, Microsoft's emulator of Azure Blob Storage, run for the length of a test session.

It is installed by `make setup` into `.azurite/` (or wherever AZURITE_HOME says). Each start has an
account key of its own and keeps everything in memory, so nothing is left behind and nothing that
leaks is worth having.

What it lacks, so that no test may rely on it: versioning, soft delete, Put Blob From URL, size and
count limits, throttling, roles. A full memory answers 409 MemoryExtentStoreAtSizeLimit, which the
SDK raises as ResourceExistsError: look at `error_code`; deleted bytes are freed every 10 minutes.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from azure.storage.blob import BlobServiceClient, ContainerClient

    from .tokens import Certificate

_LISTENS = re.compile(rb"successfully listens on https?://127\.0\.0\.1:(\d+)")
_MAIN = Path("node_modules/azurite/dist/src/blob/main.js")

# Node ends when its standard input does. The other end of that pipe is ours alone, so Azurite dies
# with this process whatever ends it, SIGKILL included. PR_SET_PDEATHSIG would need code between
# fork and exec, which isn't safe with threads, and fires when the *thread* that forked ends.
_DIE_WITH_PARENT = "data:text/javascript,process.stdin.on('end',()=>process.exit()).resume()"


class AzuriteError(RuntimeError):
    """Azurite is not installed, or did not start."""


def azurite_home() -> Path:
    """The folder Azurite is installed in: AZURITE_HOME, else `.azurite` in the repository."""
    if home := os.environ.get("AZURITE_HOME"):
        return Path(home)
    return Path(__file__).resolve().parents[2] / ".azurite"


class Azurite:
    """Azurite's blob service on 127.0.0.1 at a free port, from `with` until its end.

    `url`, `account_name`, `account_key` and `connection_string` are what the pipeline would be
    given; `client` and `create_container` are for the tests' own view. Clients address it by path
    (`http://127.0.0.1:PORT/ACCOUNT`), so a key goes with the account's name:
    `credential={"account_name": ..., "account_key": ...}`.

    With `tls` it speaks HTTPS and takes access tokens too (any JWT with the right issuer, audience and
    times; it checks no signature). Clients trust it by REQUESTS_CA_BUNDLE=`tls.path`.
    """

    def __init__(
        self,
        account_name: str = "localaccount",
        *,
        timeout: float = 30.0,
        tls: Certificate | None = None,
    ) -> None:
        self.account_name = account_name
        self.account_key = base64.b64encode(secrets.token_bytes(64)).decode()
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._port = 0
        self._tls = tls

    def __enter__(self) -> Azurite:
        main, node = azurite_home() / _MAIN, shutil.which("node")
        if node is None:
            raise AzuriteError("Azurite needs node, which is not on PATH")
        if not main.is_file():
            raise AzuriteError(f"Azurite is not installed at {azurite_home()}: run make setup")
        command = [node, "--import", _DIE_WITH_PARENT, str(main)]
        command += ["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence"]
        command += ["--extentMemoryLimit", "4096", "--silent", "--disableTelemetry"]
        # The SDK's API version is newer than any that Azurite knows.
        command += ["--skipApiVersionCheck"]
        if self._tls is not None:
            command += ["--oauth", "basic", "--cert", self._tls.path, "--key", self._tls.key_path]
        # A file, not a pipe: nobody has to read on for Azurite to go on.
        self._output = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "AZURITE_ACCOUNTS": f"{self.account_name}:{self.account_key}"},
        )
        try:
            self._port = self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait(self) -> int:
        """Wait for the line that names the port."""
        assert self._process and self._output
        deadline = time.monotonic() + self._timeout
        while True:
            # Looked at before the output, so that an exit's last words are read too.
            ended = self._process.poll() is not None
            # pread: Azurite writes through the same file offset, which must not move.
            output = os.pread(self._output.fileno(), 1 << 20, 0)
            if match := _LISTENS.search(output):
                return int(match.group(1))
            if ended or time.monotonic() > deadline:
                how = f"ended ({self._process.returncode})" if ended else "is not listening"
                text = output.decode(errors="replace")[-2000:].strip()
                raise AzuriteError(f"Azurite {how} after a wait for its start: {text}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End Azurite; everything stored in it is gone. Does nothing the second time."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                # It waits for open keep-alive connections, which clients hold on to; there is
                # nothing to save, so it isn't given long.
                process.wait(timeout=0.3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdin
            process.stdin.close()
        if self._output is not None:
            self._output.close()
            self._output = None

    # -- what the pipeline is given -------------------------------------------------------------

    @property
    def url(self) -> str:
        """The account's URL."""
        return f"{self._scheme}://127.0.0.1:{self._port}/{self.account_name}"

    @property
    def _scheme(self) -> str:
        return "https" if self._tls is not None else "http"

    @property
    def connection_string(self) -> str:
        return (
            f"DefaultEndpointsProtocol={self._scheme};AccountName={self.account_name};"
            f"AccountKey={self.account_key};BlobEndpoint={self.url};"
        )

    def sas_token(self, permissions: str = "rwdlac", *, lifetime: timedelta = timedelta(hours=1)) -> str:
        """An account SAS for blobs and containers, without `?`; a negative lifetime is expired.

        `permissions` are the letters Azure uses: r(ead) w(rite) d(elete) l(ist) a(dd) c(reate)...
        """
        from azure.storage.blob import ResourceTypes, generate_account_sas

        now = datetime.now(UTC)
        return generate_account_sas(
            self.account_name,
            self.account_key,
            ResourceTypes(service=True, container=True, object=True),
            permissions,
            expiry=now + lifetime,
            start=now - timedelta(days=1),
        )

    # -- the tests' own view --------------------------------------------------------------------

    def service(self) -> BlobServiceClient:
        """A client for the whole account, with the account's key."""
        from azure.storage.blob import BlobServiceClient

        key = {"account_name": self.account_name, "account_key": self.account_key}
        trusted = self._tls.path if self._tls is not None else True
        return BlobServiceClient(self.url, credential=key, connection_verify=trusted)

    def client(self, container: str) -> ContainerClient:
        """A client for `container`, which need not exist."""
        return self.service().get_container_client(container)

    def create_container(self, name: str | None = None) -> ContainerClient:
        """Create a container, under a fresh name unless one is given."""
        return self.service().create_container(name or f"test-{secrets.token_hex(8)}")

"""A real proxy: squid, started for the tests with a configuration of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.tls import Authority, make_authority

SQUID = "squid"
HELPERS = Path("/usr/lib/squid")
_START_SECONDS = 60.0

CONFIGURATION = """
http_port 127.0.0.1:{plain}
https_port 127.0.0.1:{tls} tls-cert={certificate}
http_port 127.0.0.1:{inspecting} ssl-bump tls-cert={ca_with_key} generate-host-certificates=on
sslcrtd_program {helpers}/security_file_certgen -s {folder}/certificates -M 4MB
tls_outgoing_options cafile={ca}
acl inspected localport {inspecting}
ssl_bump bump inspected
ssl_bump splice all

auth_param basic program {helpers}/basic_ncsa_auth {folder}/passwords
auth_param basic children 1
acl forbidden dstdomain forbidden.example
acl users proxy_auth REQUIRED
http_access allow inspected
http_access deny forbidden
http_access allow users
http_access deny all

visible_hostname localhost
cache deny all
pid_filename none
cache_log {folder}/cache.log
access_log stdio:{folder}/access.log
logfile_rotate 0
buffered_logs off
netdb_filename none
coredump_dir {folder}
shutdown_lifetime 0 seconds
connect_timeout 5 seconds
"""


@dataclass(frozen=True)
class Squid:
    """A running squid. Its user is ``someone``, with the password ``made-up``.

    :param plain: the port for plain http to the proxy.
    :param tls: the port for https to the proxy.
    :param inspecting: the port that inspects TLS, with certificates of the authority; it asks for no password.
    :param authority: has signed the proxy's certificate and those of the inspection. Squid trusts it.
    :param folder: where the logs are.
    """

    plain: int
    tls: int
    inspecting: int
    authority: Authority
    folder: Path

    def accesses(self, to: str) -> list[str]:
        """Return the lines of the access log about an address, once there is one: a tunnel is logged when it closes."""
        end = time.monotonic() + _START_SECONDS
        while True:
            lines = [line for line in (self.folder / "access.log").read_text().splitlines() if to in line]
            if lines or time.monotonic() > end:
                return lines
            threading.Event().wait(0.05)


def can_inspect() -> bool:
    """Tell whether there is a squid that can inspect TLS (Debian's squid-openssl)."""
    return shutil.which(SQUID) is not None and (HELPERS / "security_file_certgen").exists()


@contextmanager
def running_squid() -> Iterator[Squid]:
    """Start squid; give it once it listens."""
    # Not in a folder of pytest's: squid gives up root, and those are root's alone.
    with tempfile.TemporaryDirectory(prefix="nexthink-squid-") as name:
        folder = Path(name)
        authority = make_authority(folder)
        plain, tls, inspecting = _free_ports(3)
        squid = Squid(plain, tls, inspecting, authority, folder)
        hashed = subprocess.run(["openssl", "passwd", "-apr1", "made-up"], check=True, capture_output=True, text=True)
        (folder / "passwords").write_text(f"someone:{hashed.stdout}")
        subprocess.run(
            [HELPERS / "security_file_certgen", "-c", "-s", folder / "certificates", "-M", "4MB"],
            check=True,
            capture_output=True,
        )
        configuration = folder / "squid.conf"
        configuration.write_text(
            CONFIGURATION.format(
                plain=squid.plain,
                tls=squid.tls,
                inspecting=squid.inspecting,
                certificate=authority.issue("127.0.0.1"),
                ca=authority.bundle,
                ca_with_key=authority.with_key,
                helpers=HELPERS,
                folder=folder,
            )
        )
        (folder / "access.log").touch()
        if os.geteuid() == 0:
            for path in (folder, *folder.rglob("*")):
                shutil.chown(path, "proxy", "proxy")
        process = subprocess.Popen(
            [SQUID, "-N", "-f", configuration], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            _wait_until_listening(process, squid)
            yield squid
        finally:
            process.terminate()
            process.communicate(timeout=30)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _wait_until_listening(process: subprocess.Popen[bytes], squid: Squid) -> None:
    end = time.monotonic() + _START_SECONDS
    waiting = {squid.plain, squid.tls, squid.inspecting}
    while waiting:
        for port in list(waiting):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                waiting.remove(port)
        if process.poll() is not None or time.monotonic() > end:
            process.terminate()
            log = squid.folder / "cache.log"
            raise RuntimeError(
                f"squid does not start: {process.communicate()[1].decode()} {log.read_text() if log.exists() else ''}"
            )
        threading.Event().wait(0.05)

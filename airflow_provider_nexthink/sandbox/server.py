"""The sandbox as a running server."""

import json
import logging
import socket
import threading
import time
from asyncio import CancelledError
from collections.abc import Callable
from types import TracebackType

import uvicorn

from airflow_provider_nexthink.sandbox.app import TOKEN_PATH, Api, ReceivedRequest
from airflow_provider_nexthink.sandbox.faults import Faults
from airflow_provider_nexthink.sandbox.tenant import Tenant

HOST = "127.0.0.1"


class Sandbox:
    """A local Nexthink tenant: a context manager that serves it from its own thread.

    It listens on the loopback address only. ::

        with Sandbox(devices=50, stale=10) as sandbox:
            httpx.get(f"{sandbox.url}/sandbox/fleet")

    :param devices: Number of devices in the fleet.
    :param stale: How many of them were last seen 90 days ago or more.
    :param seed: Seed of the generated fleet.
    :param removal_delay: Seconds until a queued device is removed.
    :param max_batch: Maximum number of devices in a deletion request.
    :param pending_polls: How many polls of an export return before it is completed.
    :param export_row_limit: Maximum number of rows of an export; above it, the status returns 206.
    :param data_management: Whether the API credential may delete devices.
    :param nql: Whether it may run queries.
    :param token_lifetime: Seconds until an access token expires.
    :param port: Where to listen; 0 for any free port.
    :param client_id: The id of the one API credential.
    :param client_secret: Its secret.
    :param clock: Returns the time, in seconds since the epoch.
    :raises ValueError: If not ``devices >= stale >= 0``.
    """

    def __init__(
        self,
        *,
        devices: int = 5000,
        stale: int = 400,
        seed: int = 1,
        removal_delay: float = 2.0,
        max_batch: int = 100,
        pending_polls: int = 2,
        export_row_limit: int | None = None,
        data_management: bool = True,
        nql: bool = True,
        token_lifetime: int = 900,
        port: int = 0,
        client_id: str = "sandbox-client",
        client_secret: str = "sandbox-secret-not-a-real-one",  # noqa: S107 - valid for the sandbox only
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.client_id = client_id
        self.client_secret = client_secret
        self.tenant = Tenant(
            devices=devices,
            stale=stale,
            seed=seed,
            removal_delay=removal_delay,
            max_batch=max_batch,
            pending_polls=pending_polls,
            export_row_limit=export_row_limit,
            data_management=data_management,
            nql=nql,
            token_lifetime=token_lifetime,
            clock=clock,
        )
        self.faults = Faults()
        #: Every request received, in order.
        self.requests: list[ReceivedRequest] = []
        self._port = port

    @property
    def url(self) -> str:
        """The address of the API; with ``port=0``, known once the sandbox is running."""
        return f"http://{HOST}:{self._port}"

    @property
    def login_url(self) -> str:
        """The address of the token endpoint."""
        return f"{self.url}{TOKEN_PATH}"

    def airflow_connection(self) -> str:
        """:returns: The Airflow connection to this sandbox, as JSON."""
        return json.dumps(
            {
                "conn_type": "nexthink",
                "host": "sandbox",
                "login": self.client_id,
                "password": self.client_secret,
                "extra": {"region": "eu", "base_url": self.url, "login_url": self.login_url},
            }
        )

    def __enter__(self) -> "Sandbox":
        api = Api(
            self.tenant,
            self.faults,
            self.requests,
            client_id=self.client_id,
            client_secret=self.client_secret,
        )
        # Bound here and not by uvicorn, so that the port is known before the URL is used.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((HOST, self._port))
        except OSError:
            listener.close()
            raise
        self._port = listener.getsockname()[1]
        # No log_config: the sandbox must not change the logging of the process.
        config = uvicorn.Config(api.app(), log_config=None, log_level="warning", access_log=False, lifespan="off")
        logging.getLogger("uvicorn.error").addFilter(_is_unexpected)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="nexthink-sandbox", daemon=True
        )
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the sandbox did not start")
            time.sleep(0.005)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Do not wait for slow responses: their clients are gone.
        self._server.force_exit = True
        self._server.should_exit = True
        self._thread.join(timeout=5)


def _is_unexpected(record: logging.LogRecord) -> bool:
    """Suppress the errors that injected faults cause: uvicorn cannot tell them from others.

    These are the connections cut by `drop` and `drop_after`, and the responses that `slow` still
    delayed when the sandbox stopped.
    """
    error = record.exc_info[1] if record.exc_info else None
    return "without completing response" not in record.getMessage() and not isinstance(error, CancelledError)

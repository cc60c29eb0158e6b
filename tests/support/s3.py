"""S3 on the loopback address: moto's server, which records what is asked of it, and fails when a test says so."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal, Self

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "bucket"
CONN_ID = "aws_default"

_ERROR = "<Error><Code>{}</Code><Message>{} of the test</Message></Error>"
_CODES = {403: "AccessDenied", 500: "InternalError", 503: "ServiceUnavailable"}
_CHUNK_BYTES = 65_536

_StartResponse = Callable[..., Callable[[bytes], object]]


@dataclass
class Request:
    """What was asked.

    :param method: such as ``GET``.
    :param key: of the object; of the bucket for what is asked of that.
    :param status: of the response.
    :param sent: how many bytes the response had.
    """

    method: str
    key: str
    status: int = 0
    sent: int = 0


@dataclass
class StorageFault:
    """Responses that fail.

    :param key: a regular expression for the keys of the objects.
    :param method: such as ``GET``; POST is a deletion or an upload in parts.
    :param kind: a status; ``cut``, the connection ends in the middle of the body; ``hang``, no response.
    :param skip: how many such requests are answered before.
    :param times: how many fail; -1 for all.
    """

    key: str
    method: str = "GET"
    kind: Literal["status", "cut", "hang"] = "status"
    status: int = 500
    skip: int = 0
    times: int = -1
    hits: int = field(default=0, init=False)

    def takes(self, request: Request) -> bool:
        """Return whether this request fails."""
        if request.method != self.method or not re.search(self.key, request.key):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times == self.hits:
            return False
        self.hits += 1
        return True


class S3:
    """A context manager that serves one bucket from its own thread. There is one for a process: moto has one state."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.faults: list[StorageFault] = []
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._released = threading.Event()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
        self._server = make_server("127.0.0.1", 0, self._respond, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.client().create_bucket(Bucket=BUCKET)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()

    def client(self) -> Any:
        """Return a client of boto3."""
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
        )

    def connection(self) -> str:
        """Return the Airflow connection: with it, only s3fs tries again, after a body that was cut or no response."""
        quick = {"read_timeout": 0.5, "retries": {"total_max_attempts": 1}}
        extra = {"endpoint_url": self.url, "region_name": "us-east-1", "config_kwargs": quick}
        return json.dumps({"conn_type": "aws", "login": "made-up", "password": "made-up", "extra": extra})

    def path(self, key: str) -> str:
        """Return the path of an object, as a Dag has it."""
        return f"s3://{CONN_ID}@{BUCKET}/{key}"

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys of the objects there are."""
        listed = self.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [each["Key"] for each in listed.get("Contents", [])]

    def put(self, key: str, content: bytes) -> str:
        """Write an object; return its path."""
        self.client().put_object(Bucket=BUCKET, Key=key, Body=content)
        return self.path(key)

    def get(self, path: str) -> bytes:
        """Return the content of an object.

        :param path: as a Dag has it.
        """
        content: bytes = self.client().get_object(Bucket=BUCKET, Key=path.partition(f"@{BUCKET}/")[2])["Body"].read()
        return content

    def fail(self, fault: StorageFault) -> StorageFault:
        """Let requests fail from now on.

        :param fault: which, and how.
        :return: that fault, which counts its hits.
        """
        self.faults.append(replace(fault))
        return self.faults[-1]

    def release(self) -> None:
        """Let requests that hang go on; no other fails any more, such as one that a write left behind comes with."""
        with self._lock:
            self.faults.clear()
            self._released.set()
            self._released = threading.Event()

    def clear(self) -> None:
        """Delete all objects, and forget requests and faults."""
        self.faults.clear()
        for key in self.keys():
            self.client().delete_object(Bucket=BUCKET, Key=key)
        self.requests.clear()

    def read(self, pattern: str) -> list[int]:
        """Return how many bytes of the body each GET of an object was sent.

        :param pattern: a regular expression for the keys of the objects.
        """
        with self._lock:
            return [each.sent for each in self.requests if each.method == "GET" and re.search(pattern, each.key)]

    def _respond(self, environ: dict[str, Any], start_response: _StartResponse) -> Iterable[bytes]:
        request = Request(environ["REQUEST_METHOD"], environ["PATH_INFO"].removeprefix(f"/{BUCKET}").strip("/"))
        with self._lock:
            self.requests.append(request)
            fault = next((each for each in self.faults if each.takes(request)), None)
            released = self._released
        if fault is not None and fault.kind == "hang":
            released.wait()
        if fault is not None and fault.kind == "status":
            request.status = fault.status
            code = _CODES[fault.status]
            body = b"" if request.method == "HEAD" else _ERROR.format(code, code).encode()
            start_response(f"{fault.status} {code}", [("Content-Type", "application/xml")])
            return [body]

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], object]:
            request.status = int(status.split()[0])
            return start_response(status, headers, *rest)

        return self._sent(request, self._moto(environ, start), is_cut=fault is not None)

    def _sent(self, request: Request, parts: Iterable[bytes], *, is_cut: bool) -> Iterator[bytes]:
        body = b"".join(parts)
        if is_cut:
            body = body[: len(body) // 2]  # fewer than Content-Length says
        for at in range(0, len(body), _CHUNK_BYTES):
            part = body[at : at + _CHUNK_BYTES]
            request.sent += len(part)
            yield part

"""The HTTP API of the sandbox: the documented responses of Nexthink's APIs."""

import asyncio
import base64
import binascii
import gzip
import json
import re
import secrets
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from airflow_provider_nexthink.sandbox.faults import Fault, Faults
from airflow_provider_nexthink.sandbox.queries import QUERIES, Result, run_query
from airflow_provider_nexthink.sandbox.tenant import Tenant

TOKEN_PATH = "/oauth2/default/v1/token"  # noqa: S105 - an address
EXECUTE_MAX_ROWS = 1000

_QUERY_ID = re.compile(r"#[a-z0-9_]{2,255}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass
class ReceivedRequest:
    """A request that the sandbox received, except those to its own ``/sandbox/`` pages.

    :param method: ``GET`` or ``POST``.
    :param path: The path, without the query string.
    :param headers: The headers, by lower-case name.
    :param body: The raw body.
    :param status: The status code of the response; None before the response, and if the connection
        was cut.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int | None = None


class CutConnection(Response):
    """The connection is closed in the middle of a response.

    ASGI cannot close a connection. But if an application sends fewer bytes than it announced,
    the server has to close it, and the client gets an error instead of a response.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Announce one byte and do not send it."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})


class NqlError(Exception):
    """A query that cannot be executed.

    :param status: The status code of the response.
    :param message: What is wrong.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Api:
    """The endpoints of one tenant.

    :param tenant: Its state.
    :param faults: The faults to inject.
    :param requests: Every request is appended here, in order of arrival.
    :param client_id: The client id of the only API credential.
    :param client_secret: Its secret.
    """

    def __init__(
        self,
        tenant: Tenant,
        faults: Faults,
        requests: list[ReceivedRequest],
        *,
        client_id: str,
        client_secret: str,
    ) -> None:
        self.tenant = tenant
        self.faults = faults
        self.requests = requests
        self.credentials = f"{client_id}:{client_secret}"

    def app(self) -> Starlette:
        """:returns: The ASGI application."""

        def route(address: str, path: str, endpoint: Endpoint, method: str) -> Route:
            return Route(address, self.with_faults(path, endpoint), methods=[method])

        return Starlette(
            routes=[
                route(TOKEN_PATH, "token", self.token, "POST"),
                route("/api/v1/data-management/device/deletions", "deletions", self.deletions, "POST"),
                route("/api/v2/nql/execute", "execute", self.execute, "POST"),
                route("/api/v1/nql/export", "export", self.export, "POST"),
                route("/api/v1/nql/status/{export_id}", "status", self.status, "GET"),
                route("/storage/{export_id}", "storage", self.storage, "GET"),
                Route("/sandbox/fleet", self.sandbox_fleet, methods=["GET"]),
                Route("/sandbox/clock", self.sandbox_advance, methods=["POST"]),
                Route("/sandbox/devices/{change}", self.sandbox_change_devices, methods=["POST"]),
                Route("/sandbox/faults", self.sandbox_add_faults, methods=["POST"]),
                Route("/sandbox/faults", self.sandbox_clear_faults, methods=["DELETE"]),
            ]
        )

    def with_faults(self, path: str, endpoint: Endpoint) -> Endpoint:
        """Record every request, and inject its fault, if any.

        :param path: The endpoint, as faults name it.
        :param endpoint: The endpoint.
        :returns: The endpoint with fault injection.
        """

        async def respond(request: Request) -> Response:
            body = await request.body()
            received = ReceivedRequest(request.method, request.url.path, dict(request.headers), body)
            self.requests.append(received)
            names = _names_in(body) if path == "deletions" and len(self.faults) else set()
            fault = self.faults.take(path, names)
            request.state.fault = fault
            response = await endpoint(request) if fault is None else await self.inject(fault, endpoint, request)
            if not isinstance(response, CutConnection):
                received.status = response.status_code
            return response

        return respond

    async def inject(self, fault: Fault, endpoint: Endpoint, request: Request) -> Response:
        """Respond to a request with a fault.

        ``deletions`` itself injects the faults that change the status of single devices.

        :param fault: The fault.
        :param endpoint: The endpoint of the request.
        :param request: The request.
        :returns: The response.
        """
        if fault.kind == "status":
            return _fault_response(fault)
        if fault.kind == "drop":
            return CutConnection()
        if fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
        if fault.kind == "revoke_tokens":
            self.tenant.revoke_tokens()
        response = await endpoint(request)
        if fault.kind == "drop_after":
            return CutConnection()
        if fault.kind == "status_after":
            return _fault_response(fault)
        if fault.kind == "not_json":
            return HTMLResponse("<html><body>A page, no JSON</body></html>", response.status_code)
        return response

    # Tokens

    async def token(self, request: Request) -> Response:
        """Handle ``POST /oauth2/default/v1/token``."""
        if _basic_credentials(request) != self.credentials:
            return _oauth_error(401, "invalid_client", "The client id or the client secret is wrong.")
        if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return _oauth_error(400, "invalid_request", "The body is not a form.")
        form = parse_qs((await request.body()).decode("latin-1"))
        grant_type = form.get("grant_type", [""])[0]
        if not grant_type:
            return _oauth_error(400, "invalid_request", "The parameter grant_type is missing.")
        if grant_type != "client_credentials":
            return _oauth_error(400, "unsupported_grant_type", "Only client_credentials is supported.")
        if "service:integration" not in form.get("scope", [""])[0].split():
            return _oauth_error(400, "invalid_scope", "The scope must be service:integration.")
        scopes = ["service:integration"]
        if self.tenant.data_management:
            scopes.append("nx_dataplatform_device_deletion_api")
        return JSONResponse(
            {
                "token_type": "Bearer",
                "expires_in": self.tenant.token_lifetime,
                "access_token": self.tenant.issue_token(),
                "scope": " ".join(scopes),
            },
            headers={"cache-control": "no-store"},
        )

    def has_valid_token(self, request: Request) -> bool:
        """:returns: Whether the request has a valid token."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.tenant.accepts_token(token)

    # Deletions

    async def deletions(self, request: Request) -> Response:
        """Handle ``POST /api/v1/data-management/device/deletions``."""
        traceparent = _TRACEPARENT.fullmatch(request.headers.get("traceparent", ""))
        headers = {
            "x-request-id": request.headers.get("x-request-id") or str(uuid.uuid4()),
            "x-trace-id": traceparent[1] if traceparent else secrets.token_hex(16),
        }

        def refuse(status: int, code: str, message: str) -> Response:
            return JSONResponse({"code": code, "message": message}, status, headers)

        if not self.has_valid_token(request):
            return Response(status_code=401, headers=headers)
        if not self.tenant.data_management:
            return refuse(403, "FEATURE_NOT_ENABLED", "Data management is not enabled.")
        devices = _devices_in(await request.body())
        if devices is None:
            return refuse(400, "INVALID_REQUEST", "The request is not valid.")
        if not devices:
            return refuse(400, "EMPTY_REQUEST", "The request names no device.")
        if len(devices) > self.tenant.max_batch:
            return refuse(400, "BATCH_SIZE_EXCEEDED", f"A request may have {self.tenant.max_batch} devices at most.")
        fault: Fault | None = request.state.fault
        kind = fault.kind if fault else ""
        # The message does not say which device is at fault.
        if kind == "refuse_names" or not all(_is_entry(device) for device in devices):
            return refuse(400, "INVALID_REQUEST", "The request is not valid.")

        results = []
        for device in devices:
            uid, name = device["uid"], device["name"]
            if fault and kind == "failed_rows" and (not fault.names or name in fault.names):
                status = "FAILED"
            elif self.tenant.queue_deletion(uid):
                status = "SCHEDULED"
            else:
                status = "INVALID"
            results.append({"uid": uid, "name": name, "status": status})
        scheduled = sum(result["status"] == "SCHEDULED" for result in results)
        if kind == "short":
            results.pop()
        if kind == "reorder":
            results.reverse()
        if kind == "other":
            results = [{**result, "uid": str(uuid.uuid4())} for result in results]
        return JSONResponse({"scheduledCount": scheduled, "status": "ACCEPTED", "devices": results}, 202, headers)

    # NQL

    async def execute(self, request: Request) -> Response:
        """Handle ``POST /api/v2/nql/execute``."""
        if not self.has_valid_token(request):
            return Response(status_code=401)
        media_type = _accepted_media_type(request.headers.get("accept", ""))
        if media_type is None:
            return Response(status_code=406)
        try:
            query_id, _, result = self.run(await request.body())
        except NqlError as error:
            return _nql_error(error)
        result = Result(result.text, result.columns, result.cells[:EXECUTE_MAX_ROWS])
        if media_type == "text/csv":
            return Response(result.csv(), media_type="text/csv")
        rows = result.rows()
        return JSONResponse(
            {
                "queryId": query_id,
                "executedQuery": result.text,
                "rows": len(rows),
                "executionDateTime": f"{self.tenant.now():%Y-%m-%dT%H:%M:%SZ}",
                "data": rows,
            }
        )

    async def export(self, request: Request) -> Response:
        """Handle ``POST /api/v1/nql/export``."""
        if not self.has_valid_token(request):
            return Response(status_code=401)
        try:
            _, compression, result = self.run(await request.body())
        except NqlError as error:
            return _nql_error(error)
        return JSONResponse({"exportId": self.tenant.start_export(result, compression)})

    async def status(self, request: Request) -> Response:
        """Handle ``GET /api/v1/nql/status/{exportId}``."""
        if not self.has_valid_token(request):
            return Response(status_code=401)
        if not self.tenant.nql:
            return _nql_error(NqlError(403, "The credential may not run queries."))
        export_id = request.path_params["export_id"]
        try:
            status, export = self.tenant.poll_export(export_id)
        except KeyError:
            return _nql_error(NqlError(404, "There is no export with this id."))
        if status != "COMPLETED":
            return JSONResponse({"status": status})
        link = f"{request.base_url}storage/{export_id}?X-Signature={self.tenant.sign_link(export_id)}"
        return JSONResponse({"status": status, "resultsFileUrl": link}, 206 if export.truncated else 200)

    def run(self, body: bytes) -> tuple[str, str, Result]:
        """Run the query of a request.

        :param body: The request's body.
        :returns: The id of the query, the requested compression, and the result.
        :raises NqlError: If it cannot be executed.
        """
        if not self.tenant.nql:
            raise NqlError(403, "The credential may not run queries.")
        payload = _json_object(body)
        if payload is None:
            raise NqlError(400, "The body is not a JSON object.")
        query_id = payload.get("queryId")
        if not isinstance(query_id, str) or not _QUERY_ID.fullmatch(query_id):
            raise NqlError(400, "The query id is malformed.")
        parameters = payload.get("parameters") or {}
        if not isinstance(parameters, dict) or not all(isinstance(each, str) for each in parameters.values()):
            raise NqlError(400, "The parameters are not a map of texts.")
        compression = payload.get("compression") or "NONE"
        if compression not in ("NONE", "GZIP", "ZSTD"):
            raise NqlError(400, "The compression is none of NONE, GZIP, ZSTD.")
        if compression == "ZSTD":
            try:
                import zstandard  # noqa: F401 - an optional package: check for it first
            except ImportError:
                raise NqlError(500, "The sandbox needs the package zstandard for this.") from None
        query = QUERIES.get(query_id)
        if query is None:
            raise NqlError(404, "There is no query with this id.")
        try:
            return query_id, compression, run_query(query, parameters, self.tenant.devices())
        except ValueError as error:
            raise NqlError(400, f"The query cannot be run: {error}.") from None

    # Object storage

    async def storage(self, request: Request) -> Response:
        """Handle ``GET /storage/{exportId}``: the object storage, which is another host than the API's."""
        if "authorization" in request.headers:
            return _storage_error(400, "InvalidArgument", "Only one authentication mechanism is allowed.")
        try:
            export = self.tenant.open_link(
                request.path_params["export_id"], request.query_params.get("X-Signature", "")
            )
        except KeyError:
            return _storage_error(403, "SignatureDoesNotMatch", "The signature is wrong.")
        except TimeoutError:
            return _storage_error(403, "AccessDenied", "The link has expired.")
        content = export.result.csv()
        if export.compression == "GZIP":
            return Response(gzip.compress(content, compresslevel=6), media_type="application/gzip")
        if export.compression == "ZSTD":
            import zstandard

            return Response(zstandard.ZstdCompressor().compress(content), media_type="application/zstd")
        return Response(content, media_type="text/csv")

    # The sandbox's own pages

    async def sandbox_fleet(self, request: Request) -> Response:  # noqa: ARG002
        """Handle ``GET /sandbox/fleet``: the number of devices."""
        return JSONResponse(self.tenant.counts())

    async def sandbox_advance(self, request: Request) -> Response:
        """Handle ``POST /sandbox/clock``: ``{"days": 7}``, ``{"seconds": 30}`` or both."""
        steps = _json_object(await request.body())
        if steps is None or not steps.keys() <= {"days", "seconds"}:
            return JSONResponse({"error": 'the body is not a JSON object such as {"days": 7, "seconds": 30}'}, 400)
        if not all(type(step) in (int, float) for step in steps.values()):
            return JSONResponse({"error": "days and seconds are numbers"}, 400)
        try:
            self.tenant.advance(**steps)  # type: ignore[arg-type] # checked above
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({"now": f"{self.tenant.now():%Y-%m-%dT%H:%M:%SZ}", **self.tenant.counts()})

    async def sandbox_change_devices(self, request: Request) -> Response:
        """Handle ``POST /sandbox/devices/mark_seen``, ``bring_back`` and ``set_up_anew``: a list of uids."""
        changes: dict[str, Callable[[list[str]], list[str] | None]] = {
            "mark_seen": self.tenant.mark_seen,
            "bring_back": self.tenant.bring_back,
            "set_up_anew": self.tenant.set_up_anew,
        }
        change = changes.get(request.path_params["change"])
        if change is None:
            return JSONResponse({"error": f"the last part of the path is one of {', '.join(changes)}"}, 404)
        try:
            uids = json.loads(await request.body())
        except ValueError:
            uids = None
        if not isinstance(uids, list) or not all(isinstance(uid, str) for uid in uids):
            return JSONResponse({"error": "the body is not a JSON list of uids"}, 400)
        uids = [uid.lower() for uid in uids]
        try:
            new = change(uids)
        except KeyError as error:
            return JSONResponse({"error": f"there was never a device {error.args[0]}"}, 404)
        return JSONResponse({"devices": new or uids})

    async def sandbox_add_faults(self, request: Request) -> Response:
        """Handle ``POST /sandbox/faults``: one fault, or a list of them."""
        try:
            given = json.loads(await request.body())
            faults = [Fault.from_json(each) for each in (given if isinstance(given, list) else [given])]
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        self.faults.add(*faults)
        return JSONResponse({"faults": len(self.faults)})

    async def sandbox_clear_faults(self, request: Request) -> Response:  # noqa: ARG002
        """Handle ``DELETE /sandbox/faults``."""
        self.faults.clear()
        return JSONResponse({"faults": 0})


def _basic_credentials(request: Request) -> str | None:
    """Return the HTTP Basic credentials, as ``id:secret``; None if there are none."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def _json_object(body: bytes) -> dict[str, object] | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _devices_in(body: bytes) -> list[dict[str, str]] | None:
    """Return the list of devices in a deletion request, unchecked; None if there is none."""
    value = (_json_object(body) or {}).get("devices")
    return value if isinstance(value, list) else None


def _is_entry(device: object) -> bool:
    """Return whether a uid and a name are present, both text and not blank."""
    if not isinstance(device, dict):
        return False
    values = (device.get("uid"), device.get("name"))
    return all(isinstance(value, str) and value.strip() for value in values)


def _names_in(body: bytes) -> set[str]:
    return {device["name"] for device in _devices_in(body) or [] if _is_entry(device)}


def _accepted_media_type(accept: str) -> str | None:
    """Return the first of JSON and CSV in an Accept header; None if it has neither."""
    for each in accept.split(","):
        media_type = each.partition(";")[0].strip().lower()
        if media_type in ("", "*/*", "application/*", "application/json"):
            return "application/json"
        if media_type in ("text/*", "text/csv"):
            return "text/csv"
    return None


def _oauth_error(status: int, error: str, description: str) -> Response:
    headers = {"www-authenticate": 'Basic realm="sandbox"'} if status == 401 else None
    return JSONResponse({"error": error, "error_description": description}, status, headers)


def _nql_error(error: NqlError) -> Response:
    return JSONResponse({"message": error.message, "code": error.status, "source": "sandbox"}, error.status)


def _storage_error(status: int, code: str, message: str) -> Response:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Response(body, status, media_type="application/xml")


def _fault_response(fault: Fault) -> Response:
    media_type = "application/json" if (fault.body or "").startswith("{") else None
    return Response(fault.body, fault.status, fault.headers, media_type)

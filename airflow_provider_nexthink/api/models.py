"""What crosses the wire, as pydantic models: read from the bytes of a response, checked on the way.

The fields and their words are those of the Data Management API 1.0.0 and the NQL API 1.2.0.
"""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from typing_extensions import TypedDict  # pydantic takes the standard library's from Python 3.12 on

from airflow_provider_nexthink.strict_json import read_json


class _Response(BaseModel):
    # Errors about a response must not repeat it: it may hold a token or a signed address.
    model_config = ConfigDict(hide_input_in_errors=True, frozen=True)

    @classmethod
    def read(cls, content: bytes) -> Self:
        """Read the body of a response.

        :param content: the body.
        :raises ValueError: if it is not as the API documents it, or names a key twice.
        """
        response = cls.model_validate_json(content)
        read_json(content)  # pydantic takes the last of two values
        return response


class TokenResponse(_Response):
    """A token, and for how many seconds it is good, where the response says so."""

    access_token: SecretStr = Field(min_length=1)
    expires_in: Any = None


class ErrorResponse(_Response):
    """The error body: Data management's ``code`` is text, NQL's is a number. The login service has words of its own."""

    code: str | int | None = None
    message: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_login_service(cls, body: Any) -> Any:
        """Take OAuth's ``error`` (RFC 6749), or ``errorCode`` and ``errorSummary`` as Okta has them."""
        if not isinstance(body, dict) or "code" in body or "message" in body:
            return body
        code = body.get("error", body.get("errorCode"))
        message = body.get("error_description", body.get("errorSummary"))
        return {
            "code": code if isinstance(code, str) and re.fullmatch(r"\w+", code) else None,
            "message": message if isinstance(message, str) else None,
        }


class DeviceStatus(TypedDict):
    """What Nexthink says of one device of the request. A plain mapping: a model for each is expensive."""

    uid: str
    name: str
    status: Literal["SCHEDULED", "INVALID", "FAILED"]


class DeletionResponse(_Response):
    """The response to a deletion request: one entry for each device, in the order of the request."""

    model_config = ConfigDict(cache_strings="keys")  # no uid and no name comes twice

    devices: list[DeviceStatus]
    scheduledCount: int | None = None  # noqa: N815
    status: str | None = None

    @classmethod
    def read(cls, content: bytes) -> Self:
        """Read the body of a response, quickly: there is one for each batch.

        :param content: the body.
        :raises ValueError: if it is not as the API documents it, or names a key twice.
        """
        response = cls.model_validate_json(content)
        # Each device has three keys and three texts. If these and the fields around them are all the strings there are,
        # no key is there twice; else a slower check does.
        strings = 6 * len(response.devices) + len(response.model_fields_set) + isinstance(response.status, str)
        if b"\\" in content or content.count(b'"') != 2 * strings:
            read_json(content)
        return response


class ExecuteResponse(_Response):
    """The rows of a query that was executed at once."""

    data: list[dict[str, Any]]


class ExportResponse(_Response):
    """The id of an export, for its status."""

    exportId: str = Field(min_length=1, max_length=200)  # noqa: N815 - Nexthink's spelling


class StatusResponse(_Response):
    """How far an export is; the address of its file is signed, and so a secret."""

    status: Literal["SUBMITTED", "IN_PROGRESS", "ERROR", "COMPLETED"]
    resultsFileUrl: SecretStr | None = None  # noqa: N815
    errorDescription: str | None = None  # noqa: N815

"""Every error this package raises, in one tree.

* ``NexthinkInputError``: what was given is wrong. A retry changes nothing.
* ``NexthinkFinalError``: Nexthink refused, and would refuse again. A retry changes nothing.
* ``NexthinkRetryableError``: it may work later. A retry makes sense.

The operators turn the first two into ``AirflowFailException`` (no retry; the error itself is its
``__cause__``) and let the third through as it is, for Airflow's retries and retry policies.
"""

from __future__ import annotations


class NexthinkError(Exception):
    """Base of all errors of this package."""

    reason: str | None = None
    """The cause in a few words, for the rows of a table; None where the message says it best."""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle and copy with all fields: Python's own way calls the class with the message alone."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(cls: type[NexthinkError], args: tuple[object, ...], fields: dict[str, object]) -> NexthinkError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(fields)
    return error


class NexthinkInputError(NexthinkError, ValueError):
    """What was given is wrong: a list, an option, the connection. A retry changes nothing."""


class NexthinkSettingsError(NexthinkInputError):
    """The connection lacks something, or says something that cannot be right: an address, a proxy, a certificate.

    Nothing was sent, unless the proxy or the certificate was refused while the run was going: then it is the error of a
    result, and the table says what was sent.
    """


class NexthinkGuardError(NexthinkInputError):
    """The plan exceeds a safety limit: this try sent nothing.

    :param message: how many, the limit, and the option that raises it.
    :param planned: how many devices would have been sent, over all tries of the task.
    :param limit: the limit that this exceeds.
    """

    def __init__(self, message: str, *, planned: int, limit: int) -> None:
        super().__init__(message)
        self.planned = planned
        self.limit = limit


class NexthinkPolicyError(NexthinkInputError):
    """The policy on the connection forbids it, or cannot take effect.

    Nothing was sent, unless the policy was changed while the run was going: then it is the error of a result, and the
    table says what was sent.
    """


class NexthinkLedgerMismatchError(NexthinkInputError):
    """The database is not this tenant's ledger, or cannot be one. A retry changes nothing."""


class NexthinkApiError(NexthinkError):
    """A response, or the lack of one, that ends a request.

    :param message: what happened and what to do about it; holds no secret and no signed URL.
    :param status: HTTP status of the response, None where there was none.
    :param code: Nexthink's own error code, such as ``FEATURE_NOT_ENABLED``, where the response had one.
    :param request_id: the ``x-request-id`` of the request, which Nexthink support asks for.
    :param trace_id: the ``x-trace-id`` of the response, where it had one.
    :param detail: Nexthink's own message, where the response had one.
    :param retry_after: seconds to wait as the response's ``Retry-After`` asks, None where it does not say.
    :param reason: the cause in a few words, where there is no status: ``connection refused``.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        trace_id: str | None = None,
        detail: str | None = None,
        retry_after: float | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.code = code
        self.request_id = request_id
        self.trace_id = trace_id
        self.detail = detail
        self.retry_after = retry_after

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} [x-request-id {self.request_id}]" if self.request_id else message


class NexthinkFinalError(NexthinkError):
    """Nexthink refused and would refuse again: a retry changes nothing."""


class NexthinkRetryableError(NexthinkError):
    """It may work later: a retry makes sense."""


class NexthinkRequestError(NexthinkApiError, NexthinkFinalError):
    """The request was refused as it stands (400 and other 4xx, a redirect)."""


class NexthinkBatchSizeError(NexthinkRequestError):
    """400 ``BATCH_SIZE_EXCEEDED``: this tenant takes fewer devices in a request."""


class NexthinkInvalidRequestError(NexthinkRequestError):
    """400 ``INVALID_REQUEST``: something in the request made Nexthink refuse the whole of it."""


class NexthinkAuthenticationError(NexthinkApiError, NexthinkFinalError):
    """No token for these credentials, or the token is refused (401)."""


class NexthinkTokenError(NexthinkApiError, NexthinkRetryableError):
    """No token could be fetched just now: the login address does not respond, or not clearly."""


class NexthinkPermissionError(NexthinkApiError, NexthinkFinalError):
    """The API credential lacks a permission, or the tenant lacks the feature (403)."""


class NexthinkProxyError(NexthinkApiError, NexthinkFinalError):
    """A proxy or gateway in between refused the request (407, or 403 with a page of its own)."""


class NexthinkNotFoundError(NexthinkApiError, NexthinkFinalError):
    """No such query, export or address (404)."""


class NexthinkTruncatedError(NexthinkApiError, NexthinkFinalError):
    """The result was cut off at the license's maximum (206): it proves no absence."""


class NexthinkExportError(NexthinkApiError, NexthinkRetryableError):
    """The export ended in ERROR, took too long, or its file cannot be read."""


class NexthinkExportTimeoutError(NexthinkExportError):
    """The export was not ready in time."""


class NexthinkResultLimitError(NexthinkExportError):
    """The result file is larger than the limits allow."""


class NexthinkRateLimitError(NexthinkApiError, NexthinkRetryableError):
    """Too many requests (429)."""


class NexthinkUnavailableError(NexthinkApiError, NexthinkRetryableError):
    """No response, or one that leaves open whether the request was carried out (408, 5xx, connection)."""


class NexthinkConnectError(NexthinkUnavailableError):
    """The request never left: no connection (refused, no such host, no tunnel through the proxy)."""


class NexthinkAmbiguousResponseError(NexthinkUnavailableError):
    """A response that does not say what became of the devices that were sent."""


class NexthinkEventError(NexthinkRetryableError):
    """A task was resumed with an event that does not say how its wait ended."""


class NexthinkLedgerError(NexthinkRetryableError):
    """The ledger cannot be read or written just now, or no longer counts this run as running."""


class NexthinkLedgerBusyError(NexthinkLedgerError):
    """Other runs hold the lock of the ledger for long."""


class NexthinkStoppedError(NexthinkRetryableError):
    """The run was stopped from outside, with batches left to send."""


class NexthinkTryOverError(NexthinkStoppedError):
    """The try of the task is over: cleared, replaced by another try, or without its supervisor.

    Retryable: whether there is another try is Airflow's decision.
    """


class NexthinkResultsError(NexthinkRetryableError):
    """The file with the outcome table, or with the rows of a query, could not be written; the rest was done."""


class NexthinkDevicesError(NexthinkError):
    """Devices ended with a status that ``fail_on`` names.

    :param message: how many, the first of them, and where the whole list is.
    :param counts: how many devices ended with each of the statuses that fail the run.
    """

    def __init__(self, message: str, *, counts: dict[str, int]) -> None:
        super().__init__(message)
        self.counts = counts


class NexthinkDevicesRetryableError(NexthinkDevicesError, NexthinkRetryableError):
    """Some devices are FAILED, UNKNOWN or NOT_SENT: a retry may schedule them."""


class NexthinkDevicesRefusedError(NexthinkDevicesError, NexthinkFinalError):
    """The devices that fail the run cannot be sent as they stand: the list needs attention."""

"""The statuses of a device, and the columns of the outcome table."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """What became of one device of the list. The first three are Nexthink's own."""

    SCHEDULED = "SCHEDULED"
    """Queued for deletion. Not "deleted": that happens later, and the API does not say when."""
    INVALID = "INVALID"
    """The uid is malformed: found here and not sent, or so the response says."""
    FAILED = "FAILED"
    """Nexthink could not schedule it, not even after retries."""
    REJECTED = "REJECTED"
    """Cannot be sent: uid or name blank, missing or not text, or one uid with two names; or Nexthink refuses it."""
    DUPLICATE = "DUPLICATE"
    """The same device is earlier in the list."""
    EXCLUDED = "EXCLUDED"
    """An exclusion or the protect list matched."""
    PLANNED = "PLANNED"
    """Dry run: would be sent."""
    UNKNOWN = "UNKNOWN"
    """Sent, and every response was ambiguous or missing, also those to the retries."""
    NOT_SENT = "NOT_SENT"
    """The run ended before its turn, or the request never left."""


class Presence(StrEnum):
    """Whether a device whose deletion was requested is still in Nexthink."""

    GONE = "GONE"
    """Not in the tenant's inventory any more."""
    STILL_PRESENT = "STILL_PRESENT"
    """Still there: not removed yet, or never to be."""


COLUMNS = ("uid", "name", "status", "reason", "batch", "request_id", "trace_id", "attempts", "submitted_at")
"""The columns of the outcome table, in this order."""

NUMBER_COLUMNS = ("batch", "attempts")
"""Those of them that hold whole numbers; the others hold text."""

RETRYABLE = frozenset({Status.FAILED, Status.UNKNOWN, Status.NOT_SENT})
"""A retry may give these rows a final status."""

ACTION_REQUIRED = RETRYABLE | {Status.INVALID, Status.REJECTED}
"""These rows need attention: they are in the XCom ``unscheduled``."""

MAX_UNSCHEDULED = 1000
"""So many of them are in that XCom if the table itself is in a file."""

RESUMABLE = frozenset({Status.SCHEDULED, Status.INVALID})
"""A retry of the task restores these rows instead of sending them again."""

KEPT = frozenset({Status.EXCLUDED, Status.REJECTED, Status.INVALID, Status.DUPLICATE})
"""A row of an outcome table keeps these statuses when the table is the next list."""

DEFAULT_FAIL_ON = (Status.FAILED, Status.UNKNOWN, Status.NOT_SENT)

"""The words of an outcome: what can become of a device."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """What became of one device of the list. The first three are Nexthink's own words."""

    SCHEDULED = "SCHEDULED"
    """Queued for deletion. Not "deleted": that happens later, and the API does not tell when."""
    INVALID = "INVALID"
    """The uid is malformed: found here and not sent, or so answered."""
    FAILED = "FAILED"
    """Nexthink could not schedule it, also after the re-sends."""
    REJECTED = "REJECTED"
    """Cannot be sent: uid or name blank or missing, no text, or one uid with two names."""
    DUPLICATE = "DUPLICATE"
    """The same device stands earlier in the list."""
    EXCLUDED = "EXCLUDED"
    """An exclusion matched."""
    PLANNED = "PLANNED"
    """Dry run: would be sent."""
    UNKNOWN = "UNKNOWN"
    """Sent, and no answer that can be trusted came back, also after the re-sends."""
    NOT_SENT = "NOT_SENT"
    """The run stopped before its turn."""


class Presence(StrEnum):
    """Whether a device that was asked for is still in Nexthink."""

    GONE = "GONE"
    """Not in the tenant's inventory any more."""
    STILL_PRESENT = "STILL_PRESENT"
    """Still there: not removed yet, or never to be."""


COLUMNS = ("uid", "name", "status", "reason", "batch", "request_id", "trace_id", "attempts", "submitted_at")
"""The columns of the outcome table, in this order."""

RETRYABLE = frozenset({Status.FAILED, Status.UNKNOWN, Status.NOT_SENT})
"""What sending again may settle."""

ACTION_REQUIRED = RETRYABLE | {Status.INVALID, Status.REJECTED}
"""What does not take its course by itself: these rows go to the XCom ``unscheduled``."""

RESUMABLE = frozenset({Status.SCHEDULED, Status.INVALID})
"""A retry of the task does not send these rows again."""

KEPT = frozenset({Status.EXCLUDED, Status.REJECTED, Status.INVALID, Status.DUPLICATE})
"""The statuses that a row of an outcome table keeps when the table is the next list."""

DEFAULT_FAIL_ON = (Status.FAILED, Status.UNKNOWN, Status.NOT_SENT)

"""Fault injection: which request fails, and how."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields

PATHS = ("token", "deletions", "execute", "export", "status", "storage")

# Kind -> effect. These change the devices in the response, so they are for deletions only:
DELETION_KINDS = {
    "short": "processed, but the response lacks the last device",
    "reorder": "processed, but the response has the devices in reverse order",
    "other": "processed, but the response has other uids",
    "failed_rows": "the devices called `names` (all, without names) become FAILED and are not queued",
    "refuse_names": "a request with a device called one of `names` is refused: 400 INVALID_REQUEST",
}
KINDS = {
    "status": "responds with `status`, `headers` and `body`; not processed",
    "slow": "the usual response after `seconds`",
    "drop": "not processed; the connection is cut",
    "drop_after": "processed, then the connection is cut",
    "status_after": "processed, then responds like `status`",
    "not_json": "processed, then responds with the usual status and an HTML page",
    "revoke_tokens": "revokes all tokens issued so far, then processed as usual: 401",
    **DELETION_KINDS,
}


@dataclass(frozen=True)
class Fault:
    """A fault to inject.

    :param path: Where: ``token``, ``deletions``, ``execute``, ``export``, ``status`` or ``storage``.
    :param kind: What: a key of ``KINDS``.
    :param times: How many requests it applies to; -1 for all. ``refuse_names`` always applies to all.
    :param skip: How many matching requests pass first.
    :param status: For ``status`` and ``status_after``: the status code of the response.
    :param body: For these: its body; None for an empty one.
    :param headers: For these: its headers.
    :param seconds: For ``slow``: how long the response takes.
    :param names: For ``deletions``: applies only to requests with a device of one of these names.
    :raises ValueError: If path or kind is unknown, or the values contradict each other.
    """

    path: str
    kind: str
    times: int = 1
    skip: int = 0
    status: int = 500
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 1.0
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path not in PATHS:
            raise ValueError(f"unknown path {self.path!r}, known are: {', '.join(PATHS)}")
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}, known are: {', '.join(KINDS)}")
        if self.path != "deletions" and (self.names or self.kind in DELETION_KINDS):
            raise ValueError(f"names and the kinds {', '.join(DELETION_KINDS)} are for the path deletions")
        if self.kind == "refuse_names" and not self.names:
            raise ValueError("refuse_names needs names")
        if self.times < -1 or self.times == 0:
            raise ValueError("times must be a positive number, or -1 for always")
        if self.skip < 0 or self.seconds < 0:
            raise ValueError("skip and seconds must not be negative")
        if not 200 <= self.status <= 599:
            raise ValueError("status must be between 200 and 599")

    @classmethod
    def from_json(cls, value: object) -> "Fault":
        """Create a fault from parsed JSON.

        :param value: An object with the fields of this class.
        :returns: The fault.
        :raises ValueError: If it is not such an object.
        """
        if not isinstance(value, dict):
            raise ValueError("a fault is a JSON object")  # noqa: TRY004 - one kind of error for bad input
        unknown = set(value) - {each.name for each in fields(cls)}
        if unknown:
            raise ValueError(f"a fault has no field {', '.join(sorted(unknown))}")
        for name, given in value.items():
            if not _FIELD_CHECKS[name](given):
                raise ValueError(f"the field {name} has a value of the wrong type")
        if not {"path", "kind"} <= set(value):
            raise ValueError("a fault needs path and kind")
        return cls(**value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_FIELD_CHECKS: dict[str, Callable[[object], bool]] = {
    "path": _is_text,
    "kind": _is_text,
    "times": _is_integer,
    "skip": _is_integer,
    "status": _is_integer,
    "body": lambda value: value is None or _is_text(value),
    "headers": lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
    "seconds": lambda value: _is_integer(value) or isinstance(value, float),
    "names": lambda value: isinstance(value, list) and all(map(_is_text, value)),
}


@dataclass
class _Pending:
    fault: Fault
    times: int
    skip: int


class Faults:
    """The pending faults, in the order in which they were added."""

    def __init__(self) -> None:
        self._pending: list[_Pending] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[Fault]:
        return iter([pending.fault for pending in self._pending])

    def add(self, *faults: Fault) -> None:
        """Add faults.

        :param faults: They come after the pending ones.
        """
        with self._lock:
            for fault in faults:
                times = -1 if fault.kind == "refuse_names" else fault.times
                self._pending.append(_Pending(fault, times, fault.skip))

    def clear(self) -> None:
        """Remove every fault."""
        with self._lock:
            self._pending.clear()

    def take(self, path: str, names: set[str]) -> Fault | None:
        """Return the fault to inject into a request: the first one that matches and has times left.

        :param path: Where the request goes, one of ``PATHS``.
        :param names: The names of the devices in it.
        :returns: The fault, or None.
        """
        with self._lock:
            for pending in self._pending:
                fault = pending.fault
                if fault.path != path or (fault.names and names.isdisjoint(fault.names)):
                    continue
                if pending.skip:
                    pending.skip -= 1
                    continue
                if pending.times > 0:
                    pending.times -= 1
                if pending.times == 0:
                    self._pending.remove(pending)
                return fault
        return None

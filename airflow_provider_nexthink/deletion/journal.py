"""The journal of a checkpoint: its entries, how they are packed into values, and how they are replayed."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_nexthink.deletion.outcome import Outcomes
from airflow_provider_nexthink.status import RESUMABLE, Status

LOST = (
    "what was sent is not known here: an earlier try was lost; see its log, and whether Nexthink still has the device"
)
"""The reason of a device that an earlier try was about to send, and whose outcome it did not record."""

_VERSION = 2
RESULT_COLUMNS = ("status", "reason", "batch", "request_id", "trace_id", "attempts", "submitted_at")

# Airflow warns of values above 64 KB. Each bound keeps a value below that; one that is full is not rewritten any more.
_MAX_VALUE = 60_000
DEVICES_IN_AN_ENTRY = 2_000
INDICES_IN_AN_ENTRY = 5_000
_RESPONSES_IN_AN_ENTRY = 100
_CHARACTERS_IN_AN_ENTRY = 100_000  # before compression


def fingerprint(tenant: str) -> str:
    """Return a digest that identifies a tenant in the journal.

    :param tenant: what tells the tenant from any other.
    """
    return hashlib.sha256(f"{_VERSION}\0{tenant}".encode()).hexdigest()


@dataclass
class EarlierTries:
    """The devices that earlier tries of a task were about to send, with what is known of each.

    :param outcomes: one row for each device.
    :param tenants: the fingerprint of each row's tenant.
    :param instance: the tenant of the latest try.
    :param uid_column: where the latest try found the uids.
    :param name_column: where the latest try found the names.
    :param started_at: when the first try recorded its intent, ISO 8601.
    :param others: the rows of devices that are not in the list of this try; all, until that list is known.
    """

    outcomes: Outcomes = field(default_factory=Outcomes.empty)
    tenants: list[str] = field(default_factory=list)
    instance: str = ""
    uid_column: str | None = None
    name_column: str | None = None
    started_at: str | None = None
    others: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.tenants)

    @property
    def may_have_sent(self) -> bool:
        """Whether one of these devices was in a request, or may have been."""
        outcomes = self.outcomes
        return any(outcomes.attempts) or any(status is not Status.NOT_SENT for status in outcomes.status)

    def counts(self) -> dict[str, int]:
        """Return how many of the other devices ended with each status."""
        counter = Counter(self.outcomes.status[at] for at in self.others)
        return {status.value: counter[status] for status in Status if counter[status]}

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the other devices, as in the outcome table."""
        return self.outcomes.rows(self.others)


@dataclass
class Entry:
    """One value of the journal: an intent, or the rows of some responses."""

    intent: dict[str, Any] | None = None
    responses: list[list[Any]] = field(default_factory=list)
    characters: int = 0
    is_saved: bool = False

    def has_room(self) -> bool:
        """Tell whether the rows of another response may be added."""
        is_small = len(self.responses) < _RESPONSES_IN_AN_ENTRY and self.characters < _CHARACTERS_IN_AN_ENTRY
        return self.intent is None and is_small

    def value(self) -> dict[str, Any]:
        """Return the JSON value to be stored."""
        return {"rows": pack(self.responses)} if self.intent is None else {"intent": self.intent}


SAVED = Entry(intent={}, is_saved=True)
"""In the place of an entry that is full and saved: its devices are needed no more."""


def replay(values: Sequence[Any]) -> EarlierTries:
    """Apply the entries of a journal, in their order.

    :raises Exception: of any kind, if one is not as this version writes it.
    """
    earlier = EarlierTries()
    for value in values:
        if "intent" in value:
            _replay_intent(earlier, value["intent"])
        else:
            responses = _unpack(value["rows"])
            if not isinstance(responses, list) or not responses:
                raise ValueError("a record has another form")
            for response in responses:
                _replay_response(earlier.outcomes, response)
    earlier.others = range(len(earlier))
    return earlier


def _replay_intent(earlier: EarlierTries, intent: dict[str, Any]) -> None:
    outcomes = earlier.outcomes
    earlier.instance = str(intent["instance"])
    earlier.uid_column, earlier.name_column = intent["uid_column"], intent["name_column"]
    earlier.started_at = earlier.started_at or intent["started_at"]
    if "known" in intent:
        for index in _indices(_unpack(intent["known"]), len(outcomes)):
            if outcomes.status[index] not in RESUMABLE:  # which request it was in before stays known
                outcomes.status[index], outcomes.reason[index] = Status.UNKNOWN, LOST
        return
    packed, names = base64.b85decode(intent["uids"]), _unpack(intent["names"])
    if len(packed) != 16 * len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError("a record has another form")
    outcomes.uid += [str(uuid.UUID(bytes=packed[at : at + 16])) for at in range(0, len(packed), 16)]
    outcomes.name += names
    earlier.tenants += [str(intent["tenant"])] * len(names)
    lost: dict[str, Any] = {"status": Status.UNKNOWN, "reason": LOST, "attempts": 0}
    for column in RESULT_COLUMNS:
        getattr(outcomes, column).extend([lost.get(column)] * len(names))


def _replay_response(outcomes: Outcomes, response: list[Any]) -> None:
    spans, *columns = response
    if len(columns) != len(RESULT_COLUMNS):
        raise ValueError("a record has another form")
    indices = _indices(spans, len(outcomes))
    unpacked = [column if isinstance(column, list) else [column] * len(indices) for column in columns]
    for index, *values in zip(indices, *unpacked, strict=True):
        status, reason, batch, request_id, trace_id, attempts, submitted_at = values
        texts = (reason, request_id, trace_id, submitted_at)
        if not (
            isinstance(attempts, int)
            and (batch is None or isinstance(batch, int))
            and all(text is None or isinstance(text, str) for text in texts)
        ):
            raise ValueError("a record has values that it cannot have")
        values[0] = Status(status)
        if outcomes.status[index] not in RESUMABLE or values[0] in RESUMABLE:
            for column, cell in zip(RESULT_COLUMNS, values, strict=True):
                getattr(outcomes, column)[index] = cell


def pack_devices(uids: Sequence[str], names: Sequence[str | None]) -> Iterator[dict[str, str]]:
    """Pack devices into as few pieces as the bound on a value allows.

    :param uids: canonical uids.
    :param names: their names.
    """
    packed = b"".join(bytes.fromhex(uid.replace("-", "")) for uid in uids)
    devices = {"uids": base64.b85encode(packed).decode(), "names": pack(names)}
    if len(uids) == 1 or sum(map(len, devices.values())) <= _MAX_VALUE:
        yield devices
    else:
        middle = len(uids) // 2
        yield from pack_devices(uids[:middle], names[:middle])
        yield from pack_devices(uids[middle:], names[middle:])


def pack(value: Any) -> str:
    """Return a JSON value as short text.

    :param value: the value.
    """
    return base64.b85encode(zlib.compress(json.dumps(value, separators=(",", ":")).encode())).decode()


def _unpack(packed: str) -> Any:
    return json.loads(zlib.decompress(base64.b85decode(packed)))


def slices(values: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Cut a sequence into parts.

    :param values: the sequence.
    :param size: the most values in a part.
    """
    return (values[start : start + size] for start in range(0, len(values), size))


def spans_of(indices: Sequence[int]) -> list[list[int]]:
    """Return ascending runs of indices as ``[first, count]``.

    :param indices: the indices.
    """
    spans: list[list[int]] = []
    for index in indices:
        if spans and index == sum(spans[-1]):
            spans[-1][1] += 1
        else:
            spans.append([index, 1])
    return spans


def _indices(spans: list[list[int]], size: int) -> list[int]:
    """Return the indices of spans, all of them below a size."""
    if any(first < 0 or count < 1 or first + count > size for first, count in spans):
        raise ValueError("a record has another form")
    return [index for first, count in spans for index in range(first, first + count)]


def pack_column(values: list[Any]) -> Any:
    """Return one value where all are the same, else the list of them.

    :param values: the cells of a column.
    """
    return values if any(value != values[0] for value in values) else values[0]

"""The removal check: which devices of a list are gone from the tenant's inventory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from airflow_provider_nexthink.deletion.plan import make_plan
from airflow_provider_nexthink.devices.identity import canonical_uid
from airflow_provider_nexthink.devices.reader import DeviceRows
from airflow_provider_nexthink.status import Presence, Status

_PREVIEW_DEVICES = 5
_REQUESTED = (Status.SCHEDULED, Status.UNKNOWN)


class RemovalCheck:
    """The devices of a list, and which of them are gone.

    A row whose deletion was requested (SCHEDULED), or may have been (UNKNOWN), becomes GONE or STILL_PRESENT. The
    others keep their status: a device that was EXCLUDED is not expected to go. A row that has no status counts as
    SCHEDULED if it could be sent, and so does one that is GONE or STILL_PRESENT already: it is compared again.

    :param rows: the devices.
    """

    def __init__(self, rows: DeviceRows) -> None:
        plan = make_plan(rows)
        given = rows.statuses or [None] * len(rows)
        self._uids, self._names = plan.uids, plan.names
        self._statuses: list[Status | Presence] = [
            status if isinstance(status, Status) else planned or Status.SCHEDULED
            for status, planned in zip(given, plan.statuses, strict=True)
        ]
        requested = [at for at, status in enumerate(self._statuses) if status in _REQUESTED]
        self._requested = [at for at in requested if canonical_uid(self._uids[at])]
        self._expected = [at for at in self._requested if self._statuses[at] is Status.SCHEDULED]

    def __len__(self) -> int:
        return len(self._uids)

    @property
    def requested(self) -> int:
        """How many deletions were requested, or may have been."""
        return len(self._requested)

    @property
    def uids(self) -> list[str]:
        """The canonical uids of these devices."""
        return [uid for at in self._requested if (uid := self._uids[at])]

    @property
    def expected(self) -> int:
        """How many devices are expected to go."""
        return len(self._expected)

    @property
    def remaining(self) -> list[int]:
        """The positions of those of them that are not known to be gone."""
        return [at for at in self._expected if self._statuses[at] is not Presence.GONE]

    def update(self, present: Collection[str]) -> bool:
        """Compare with the inventory; return whether all devices that are expected to go are gone.

        :param present: the canonical uids of all devices in the inventory.
        """
        for at in self._requested:
            self._statuses[at] = Presence.STILL_PRESENT if self._uids[at] in present else Presence.GONE
        return not self.remaining

    def gone_with_name_present(self, names: Collection[str]) -> int:
        """Return how many devices are gone while a device of the same name is present.

        :param names: of all devices in the inventory.
        """
        return sum(self._statuses[at] is Presence.GONE and self._names[at] in names for at in self._requested)

    def table(self) -> list[dict[str, Any]]:
        """Return one ``{"uid", "name", "status"}`` for every row of the list, in its order."""
        return [
            {"uid": uid, "name": name, "status": status.value}
            for uid, name, status in zip(self._uids, self._names, self._statuses, strict=True)
        ]

    def counts(self) -> dict[str, int]:
        """Return how many rows have each status."""
        return {status.value: count for status, count in Counter(self._statuses).items()}

    def describe(self) -> str:
        """Describe how many devices are still present, with the first few."""
        remaining = self.remaining
        first = ", ".join(f"{self._names[at]} ({self._uids[at]})" for at in remaining[:_PREVIEW_DEVICES])
        more = f" and {len(remaining) - _PREVIEW_DEVICES} more" if len(remaining) > _PREVIEW_DEVICES else ""
        return f"{len(remaining)} of {self.expected} devices are still in Nexthink: {first}{more}."

"""The state behind the sandbox: fleet, deletion queue, tokens and exports. No HTTP here."""

import re
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from airflow_provider_nexthink.sandbox.fleet import Device, generate_fleet
from airflow_provider_nexthink.sandbox.queries import STALE_DAYS, Result

STORAGE_LINK_LIFETIME = 900.0

_DAY_SECONDS = 86_400
_MAX_STEP_SECONDS = 36_525 * _DAY_SECONDS

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass
class Export:
    """One export of a query's result.

    :param result: The result at the time of the request, already cut to the limit.
    :param compression: ``NONE``, ``GZIP`` or ``ZSTD``.
    :param truncated: Whether the limit cut off rows.
    :param polls: How often its status was polled.
    """

    result: Result
    compression: str
    truncated: bool
    polls: int = 0


class Tenant:
    """A Nexthink tenant in memory. Its methods may be called from several threads.

    The public attributes are settings and may be changed at any time.

    :param devices: See ``generate_fleet``.
    :param stale: See ``generate_fleet``.
    :param seed: See ``generate_fleet``.
    :param removal_delay: Seconds until a queued device is removed.
    :param max_batch: Maximum number of devices in a deletion request.
    :param pending_polls: How many polls of an export return before it is completed.
    :param export_row_limit: Maximum number of rows of an export; None for no limit.
    :param data_management: Whether the API credential may delete devices.
    :param nql: Whether it may run queries.
    :param token_lifetime: Seconds until an access token expires.
    :param clock: Returns the time, in seconds since the epoch. ``advance`` adds to it.
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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.removal_delay = removal_delay
        self.max_batch = max_batch
        self.pending_polls = pending_polls
        self.export_row_limit = export_row_limit
        self.data_management = data_management
        self.nql = nql
        self.token_lifetime = token_lifetime
        self.clock = clock
        #: The uids (lower-case) of devices that are queued like all others, but never removed.
        self.never_removed: set[str] = set()
        #: Every uid (lower-case), once for each time it was queued for deletion, in order.
        self.queued: list[str] = []
        self._ahead = 0.0  # seconds that advance() has added to the clock
        # Ages are counted from here, and only advance() moves it: a test sees the same ages however long it takes.
        self._today = self.now()
        self._fleet = {device.uid: device for device in generate_fleet(devices, stale, seed, now=self._today)}
        self._gone_at: dict[str, float] = {}
        self._tokens: dict[str, float] = {}
        self._exports: dict[str, Export] = {}
        self._links: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def time(self) -> float:
        """:returns: The current time, in seconds since the epoch."""
        return self.clock() + self._ahead

    def now(self) -> datetime:
        """:returns: The current time, in UTC."""
        return datetime.fromtimestamp(self.time(), UTC)

    def advance(self, *, days: float = 0, seconds: float = 0) -> None:
        """Move the clock of this tenant forward: devices age, and those whose removal is due are removed.

        Tokens and links of this tenant expire too.

        :param days: How many days.
        :param seconds: How many seconds more.
        :raises ValueError: If that is not a time forward.
        """
        step = days * _DAY_SECONDS + seconds
        if not 0 < step <= _MAX_STEP_SECONDS:
            raise ValueError(f"days={days} and seconds={seconds} are not a time forward, of a hundred years at most")
        with self._lock:
            self._ahead += step
            self._today += timedelta(seconds=step)
            for uid, device in self._fleet.items():
                unseen = self._today - datetime.fromisoformat(device.last_seen)
                self._fleet[uid] = replace(device, days_since_last_seen=unseen.days)

    # Devices

    def devices(self) -> list[Device]:
        """:returns: The devices present now: all except those whose removal is due."""
        now = self.time()
        with self._lock:
            return [
                device
                for uid, device in self._fleet.items()
                if self._gone_at.get(uid, now + 1) > now or uid in self.never_removed
            ]

    def queue_deletion(self, uid: str) -> bool:
        """Queue a device for deletion.

        A uid that no device has is queued too, and deletes nothing. Queueing a device again does
        not delay its removal.

        :param uid: The device's uid, in either case.
        :returns: False if the uid is malformed (nothing is queued), else True.
        """
        if not _UUID.fullmatch(uid):
            return False
        uid = uid.lower()
        with self._lock:
            self.queued.append(uid)
            if uid in self._fleet:
                self._gone_at.setdefault(uid, self.time() + self.removal_delay)
        return True

    def counts(self) -> dict[str, int]:
        """:returns: The number of devices present, stale, queued for removal, and removed."""
        present = self.devices()
        with self._lock:
            waiting = sum(device.uid in self._gone_at for device in present)
        return {
            "devices": len(present),
            "stale": sum(device.days_since_last_seen >= STALE_DAYS for device in present),
            "queued": waiting,
            "removed": len(self._fleet) - len(present),
        }

    def mark_seen(self, uids: Iterable[str]) -> None:
        """Make devices report again: they were last seen now. One that was removed stays away: see ``bring_back``.

        :param uids: The devices' uids, in lower case.
        :raises KeyError: If there was never such a device.
        """
        with self._lock:
            for device in [self._fleet[uid] for uid in uids]:
                self._fleet[device.uid] = self._seen_now(device)

    def bring_back(self, uids: Iterable[str]) -> None:
        """Let devices return after their deletion, under the same uid; one that still waits for it is kept.

        :param uids: The devices' uids, in lower case.
        :raises KeyError: If there was never such a device.
        """
        with self._lock:
            for device in [self._fleet[uid] for uid in uids]:
                self._gone_at.pop(device.uid, None)
                self._fleet[device.uid] = self._seen_now(device)

    def set_up_anew(self, uids: Iterable[str]) -> list[str]:
        """Add a device with the same name and a new uid for each of these, as after a new installation.

        The old device stays as it is, present or removed.

        :param uids: The devices' uids, in lower case.
        :returns: The uids of the new devices, in the same order.
        :raises KeyError: If there was never such a device.
        """
        with self._lock:
            new = [
                replace(self._seen_now(self._fleet[uid]), uid=str(uuid.uuid4()), collector_uid=str(uuid.uuid4()))
                for uid in uids
            ]
            self._fleet |= {device.uid: device for device in new}
        return [device.uid for device in new]

    def _seen_now(self, device: Device) -> Device:
        return replace(device, days_since_last_seen=0, last_seen=f"{self._today:%Y-%m-%dT%H:%M:%SZ}")

    def rename(self, uid: str, name: str) -> None:
        """Give a device another name.

        :param uid: The device's uid, in lower case.
        :param name: Its new name.
        """
        with self._lock:
            self._fleet[uid] = replace(self._fleet[uid], name=name)

    # Tokens

    def issue_token(self) -> str:
        """:returns: A new access token."""
        token = secrets.token_urlsafe(48)
        with self._lock:
            self._tokens[token] = self.time() + self.token_lifetime
        return token

    def accepts_token(self, token: str) -> bool:
        """:returns: Whether the token was issued here and is neither expired nor revoked."""
        with self._lock:
            return self._tokens.get(token, 0.0) > self.time()

    def revoke_tokens(self) -> None:
        """Make every token issued so far invalid."""
        with self._lock:
            self._tokens.clear()

    # Exports

    def start_export(self, result: Result, compression: str) -> str:
        """Start an export of the result of a query.

        :param result: The result.
        :param compression: ``NONE``, ``GZIP`` or ``ZSTD``.
        :returns: The export's id.
        """
        limit = self.export_row_limit
        truncated = limit is not None and len(result.cells) > limit
        if truncated:
            result = Result(result.text, result.columns, result.cells[:limit])
        export_id = str(uuid.uuid4())
        with self._lock:
            self._exports[export_id] = Export(result, compression, truncated)
        return export_id

    def poll_export(self, export_id: str) -> tuple[str, Export]:
        """Poll the status of an export; each poll advances it.

        :param export_id: The id returned by ``start_export``.
        :returns: ``SUBMITTED`` the first time, ``IN_PROGRESS`` while polls are pending, then
            ``COMPLETED``; and the export.
        :raises KeyError: If there is no such export.
        """
        with self._lock:
            export = self._exports[export_id]
            export.polls += 1
            if export.polls > self.pending_polls:
                return "COMPLETED", export
            return ("SUBMITTED" if export.polls == 1 else "IN_PROGRESS"), export

    def sign_link(self, export_id: str) -> str:
        """:returns: A signature that gives access to the export's file for 15 minutes."""
        signature = secrets.token_hex(32)
        with self._lock:
            self._links[export_id, signature] = self.time() + STORAGE_LINK_LIFETIME
        return signature

    def open_link(self, export_id: str, signature: str) -> Export:
        """Return the export that a signature gives access to.

        :param export_id: The export's id.
        :param signature: The signature returned by ``sign_link``.
        :returns: The export.
        :raises KeyError: If the signature is wrong.
        :raises TimeoutError: If it has expired.
        """
        with self._lock:
            if self._links[export_id, signature] <= self.time():
                raise TimeoutError
            return self._exports[export_id]

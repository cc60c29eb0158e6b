"""The state behind the sandbox: fleet, deletion queue, tokens and exports. No HTTP here."""

import re
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from airflow_provider_nexthink.sandbox.fleet import Device, make_fleet
from airflow_provider_nexthink.sandbox.queries import STALE_DAYS, Result

STORAGE_LINK_LIFETIME = 900.0

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass
class Export:
    """One export of a query's result.

    :param result: What the query found when the export was asked for, already cut to the limit.
    :param compression: ``NONE``, ``GZIP`` or ``ZSTD``.
    :param truncated: Whether the limit cut rows off.
    :param polls: How often its status was asked for.
    """

    result: Result
    compression: str
    truncated: bool
    polls: int = 0


class Tenant:
    """A Nexthink tenant in memory. Its methods may be called from several threads.

    The public attributes are settings and may be changed at any time.

    :param devices: See ``make_fleet``.
    :param stale: See there.
    :param seed: See there.
    :param removal_delay: A queued device is gone after so many seconds.
    :param max_batch: The most devices that one deletion request may have.
    :param pending_polls: So many status polls of an export are answered before it is completed.
    :param export_row_limit: The most rows of an export; None for no limit.
    :param data_management: Whether the API credential may delete devices.
    :param nql: Whether it may run queries.
    :param token_lifetime: Seconds until an access token expires.
    :param clock: Gives the time, in seconds since the epoch.
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
        #: The uids (lower-case) of devices that are queued like all others, but never go away.
        self.never_removed: set[str] = set()
        #: Every uid (lower-case) each time it was queued for deletion, in order.
        self.queued: list[str] = []
        self._fleet = {device.uid: device for device in make_fleet(devices, stale, seed, now=self.now())}
        self._gone_at: dict[str, float] = {}
        self._tokens: dict[str, float] = {}
        self._exports: dict[str, Export] = {}
        self._links: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """:returns: The clock's time, in UTC."""
        return datetime.fromtimestamp(self.clock(), UTC)

    # Devices

    def devices(self) -> list[Device]:
        """:returns: The devices that are there now: all but those whose removal is due."""
        now = self.clock()
        with self._lock:
            return [
                device
                for uid, device in self._fleet.items()
                if self._gone_at.get(uid, now + 1) > now or uid in self.never_removed
            ]

    def queue_deletion(self, uid: str) -> bool:
        """Queue a device for deletion.

        A uid that no device has is queued too, and deletes nothing. Queueing a device again does
        not put its removal off.

        :param uid: The device's uid, in either case.
        :returns: False if the uid is malformed (nothing is queued), else True.
        """
        if not _UUID.fullmatch(uid):
            return False
        uid = uid.lower()
        with self._lock:
            self.queued.append(uid)
            if uid in self._fleet:
                self._gone_at.setdefault(uid, self.clock() + self.removal_delay)
        return True

    def counts(self) -> dict[str, int]:
        """:returns: How many devices are there, are stale, wait for removal, and were removed."""
        there = self.devices()
        with self._lock:
            waiting = sum(device.uid in self._gone_at for device in there)
        return {
            "devices": len(there),
            "stale": sum(device.days_since_last_seen >= STALE_DAYS for device in there),
            "queued": waiting,
            "removed": len(self._fleet) - len(there),
        }

    def see(self, uids: Iterable[str]) -> None:
        """Let devices report again: they were last seen just now.

        :param uids: The devices' uids, in lower case.
        """
        last_seen = self.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        with self._lock:
            for uid in uids:
                self._fleet[uid] = replace(self._fleet[uid], days_since_last_seen=0, last_seen=last_seen)

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
            self._tokens[token] = self.clock() + self.token_lifetime
        return token

    def accepts_token(self, token: str) -> bool:
        """:returns: Whether the token was issued here and is neither expired nor revoked."""
        with self._lock:
            return self._tokens.get(token, 0.0) > self.clock()

    def revoke_tokens(self) -> None:
        """Make every token issued so far invalid."""
        with self._lock:
            self._tokens.clear()

    # Exports

    def start_export(self, result: Result, compression: str) -> str:
        """Start an export of what a query found.

        :param result: What the query found.
        :param compression: ``NONE``, ``GZIP`` or ``ZSTD``.
        :returns: The export's id.
        """
        limit = self.export_row_limit
        truncated = limit is not None and len(result.devices) > limit
        if truncated:
            result = Result(result.text, result.columns, result.devices[:limit])
        export_id = str(uuid.uuid4())
        with self._lock:
            self._exports[export_id] = Export(result, compression, truncated)
        return export_id

    def poll_export(self, export_id: str) -> tuple[str, Export]:
        """Ask for the status of an export, which moves it on.

        :param export_id: What ``start_export`` gave.
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
        """:returns: A signature with which the export's file can be fetched for 15 minutes."""
        signature = secrets.token_hex(32)
        with self._lock:
            self._links[export_id, signature] = self.clock() + STORAGE_LINK_LIFETIME
        return signature

    def open_link(self, export_id: str, signature: str) -> Export:
        """Find the export that a signature opens.

        :param export_id: The export's id.
        :param signature: What ``sign_link`` gave for it.
        :returns: The export.
        :raises KeyError: If the signature is wrong.
        :raises TimeoutError: If it has expired.
        """
        with self._lock:
            if self._links[export_id, signature] <= self.clock():
                raise TimeoutError
            return self._exports[export_id]

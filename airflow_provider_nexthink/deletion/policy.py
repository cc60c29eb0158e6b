"""The policy: what the extras of the connection allow, for every Dag on its tenant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

from airflow_provider_nexthink.deletion.options import DeletionOptions, read_boolean, read_whole_number
from airflow_provider_nexthink.devices.identity import lenient_uid
from airflow_provider_nexthink.exceptions import NexthinkPolicyError, NexthinkSettingsError
from airflow_provider_nexthink.strict_json import read_json

ALLOWED, DRY_RUN_ONLY, OFF = DELETIONS = ("allowed", "dry_run_only", "off")
"""What the extra ``deletions`` takes."""

_MAX_QUOTA_DAYS = 3650
_PREVIEW_ENTRIES = 50


@dataclass(frozen=True, kw_only=True)
class DeletionPolicy:
    """What a connection allows. Make it with ``resolve``; without arguments it allows everything.

    :param deletions: ``allowed``, ``dry_run_only`` or ``off``.
    :param max_devices: how many devices one task may send at most, over all its tries; None for no limit.
    :param quota_devices: how many devices all runs together may send at most within ``quota_days``; None for no quota.
    :param quota_days: the length of that window, in days.
    :param protected: globs on the name, in any case, and uids; devices that match are never sent.
    :param require_proof: until a deletion has been seen to remove a device, a run may send a few devices only.
    :param ledger_conn_id: the SQL connection of the ledger; None for no ledger.
    """

    deletions: str = ALLOWED
    max_devices: int | None = None
    quota_devices: int | None = None
    quota_days: int | None = None
    protected: tuple[str, ...] = ()
    require_proof: bool = False
    ledger_conn_id: str | None = None

    @classmethod
    def resolve(cls, extras: Mapping[str, Any]) -> DeletionPolicy:
        """Read the policy from the extras of a connection, as text or as JSON values.

        :param extras: all of them; those that are no part of a policy are not looked at, blank ones are not set.
        :raises NexthinkSettingsError: if one cannot be right; says which, and what it takes.
        :raises NexthinkPolicyError: if one cannot take effect without another.
        """
        given = {name: _given(extras.get(name)) for name in EXTRAS}
        policy = cls(
            deletions=_read_deletions(given["deletions"]),
            max_devices=_read_number("max_devices", given["max_devices"], least=0),
            quota_devices=_read_number("quota_devices", given["quota_devices"]),
            quota_days=_read_number("quota_days", given["quota_days"], most=_MAX_QUOTA_DAYS),
            protected=_read_protected(given["protected"]),
            require_proof=_read_require_proof(given["require_proof"]),
            ledger_conn_id=_read_ledger_conn_id(given["ledger_conn_id"]),
        )
        policy._check_together()
        return policy

    def _check_together(self) -> None:
        """Refuse what could not take effect without another extra."""
        if self.quota_devices is not None and self.quota_days is None:
            raise NexthinkPolicyError(
                "The connection has the extra quota_devices without quota_days: so many devices in how many days?"
            )
        if self.quota_days is not None and self.quota_devices is None:
            raise NexthinkPolicyError(
                "The connection has the extra quota_days without quota_devices: how many devices in so many days?"
            )
        for what, is_set in (("quota_devices", self.quota_devices is not None), ("require_proof", self.require_proof)):
            if is_set and self.ledger_conn_id is None:
                raise NexthinkPolicyError(
                    f"The connection has the extra {what}, which needs a ledger: set the extra ledger_conn_id, too, to "
                    "the id of a connection to a SQL database."
                )

    def check_allowed(self) -> None:
        """Refuse a run, or a dry run, where deletions are off.

        :raises NexthinkPolicyError: if they are.
        """
        if self.deletions == OFF:
            raise NexthinkPolicyError(
                "Deletions are off: the extra deletions of the connection says so, for dry runs too. This try sent "
                f"nothing. Ask who looks after the connection; {ALLOWED} and {DRY_RUN_ONLY} are the other values."
            )

    def tighten(self, options: DeletionOptions) -> DeletionOptions:
        """Return the options with the stricter limit of the two, and as a dry run where nothing else is allowed.

        :param options: those of the task.
        """
        limits = [each for each in (options.max_devices, self.max_devices) if each is not None]
        return replace(
            options,
            max_devices=min(limits, default=None),
            dry_run=True if self.deletions == DRY_RUN_ONLY else options.dry_run,
        )

    def limits_in_force(self, tightened: DeletionOptions) -> dict[str, Any]:
        """Return what limits a run, and whether its task or the connection says so; plain JSON values.

        :param tightened: the options, as ``tighten`` returns them.
        """
        dry_run_set_by = None
        if tightened.dry_run:
            dry_run_set_by = "connection" if self.deletions == DRY_RUN_ONLY else "task"
        return {
            "dry_run_set_by": dry_run_set_by,
            "max_devices": tightened.max_devices,
            "max_devices_set_by": self.who_sets_max_devices(tightened),
            "max_share": tightened.max_share,
            "fleet_size": tightened.fleet_size,
            "fleet_query_id": tightened.fleet_query_id,
            "max_growth": tightened.max_growth,
            "exclude": preview(tightened.exclude),
            "protect_list": tightened.protect is not None,
            **self.as_dict(without=("max_devices",)),
        }

    def who_sets_max_devices(self, tightened: DeletionOptions) -> str | None:
        """Return ``connection`` or ``task``, or None where there is no limit.

        :param tightened: the options, as ``tighten`` returns them.
        """
        if tightened.max_devices is None:
            return None
        return "connection" if tightened.max_devices == self.max_devices else "task"

    def as_dict(self, without: Sequence[str] = ()) -> dict[str, Any]:
        """Return the policy as plain JSON values; of a long list, the first entries.

        :param without: what to leave out.
        """
        values = {name: getattr(self, name) for name in EXTRAS if name not in without}
        return {**values, "protected": preview(self.protected)}

    def describe(self) -> str:
        """Return the policy in a few words, for people."""
        parts = [f"deletions {self.deletions}"]
        if self.max_devices is not None:
            parts.append(f"at most {self.max_devices} devices in a run")
        if self.quota_devices is not None:
            parts.append(f"at most {self.quota_devices} devices in {self.quota_days} days over all runs")
        if self.protected:
            parts.append(f"{len(self.protected)} globs or uids protected")
        if self.require_proof:
            parts.append("proof required")
        if self.ledger_conn_id:
            parts.append(f"ledger in {self.ledger_conn_id}")
        return ", ".join(parts)


EXTRAS = tuple(field.name for field in fields(DeletionPolicy))
"""The extras of a connection that make a policy."""


def preview(entries: Sequence[str]) -> list[str]:
    """Return a list for people: of a long one, the first entries.

    :param entries: the list.
    """
    left = len(entries) - _PREVIEW_ENTRIES
    return [*entries] if left <= 0 else [*entries[:_PREVIEW_ENTRIES], f"and {left} more"]


def _given(value: object) -> object:
    """Return a value; None for a blank one, as a form or a URI has it for a field that is not set."""
    return None if isinstance(value, str) and not value.strip() else value


def _read_deletions(value: object) -> str:
    word = value.strip().lower() if isinstance(value, str) else value
    if word is None:
        return ALLOWED
    if word not in DELETIONS:
        raise NexthinkSettingsError(
            f"The extra deletions of the connection is {value!r:.100}: it takes {ALLOWED}, {DRY_RUN_ONLY} or {OFF}, as "
            "text."
        )
    return str(word)


def _read_number(extra: str, value: object, *, least: int = 1, most: int | None = None) -> int | None:
    if value is None:
        return None
    number = read_whole_number(value)
    if number is None or number < least or (most is not None and number > most):
        bounds = f"from {least} to {most}" if most is not None else f"{least} or more"
        raise NexthinkSettingsError(
            f"The extra {extra} of the connection is {value!r:.100}: it takes a whole number, {bounds}. Leave it empty "
            "for no limit."
        )
    return number


def _read_require_proof(value: object) -> bool:
    if value is None:
        return False
    wanted = read_boolean(value)
    if wanted is None:
        raise NexthinkSettingsError(
            f"The extra require_proof of the connection is {value!r:.100}: it takes true or false."
        )
    return wanted


def _read_ledger_conn_id(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise NexthinkSettingsError(
            f"The extra ledger_conn_id of the connection is {value!r:.100}: it takes the id of a connection to a SQL "
            "database, as text."
        )
    return value.strip() if value else None


def _read_protected(value: object) -> tuple[str, ...]:
    """Read globs and uids: text with one a line, or a list, also a JSON list as text."""
    entries: Any = [] if value is None else value
    if isinstance(entries, str):
        entries = entries.splitlines()
        with suppress(ValueError):  # a glob may begin with a bracket, too
            if isinstance(read := read_json(str(value)), list):
                entries = read
    if not isinstance(entries, list | tuple) or not all(isinstance(entry, str) for entry in entries):
        raise NexthinkSettingsError(
            f"The extra protected of the connection is {value!r:.100}: it takes globs and uids as text, one a line, or "
            "a list of text."
        )
    entries = [stripped for entry in entries if (stripped := entry.strip())]
    globs = [entry for entry in entries if lenient_uid(entry) is None]
    if several := next((glob for glob in globs if "," in glob or ";" in glob), None):
        raise NexthinkSettingsError(
            f"The extra protected of the connection has the line {several!r:.100}: it takes one glob or uid a line, "
            "not several with a comma between them. For a comma or a semicolon in a name write a question mark."
        )
    if quoted := next((glob for glob in globs if '"' in glob or "\\" in glob), None):
        raise NexthinkSettingsError(
            f"The extra protected of the connection has the line {quoted:.100}: the quotation marks or backslashes in "
            "it would be parts of a name. It takes one glob or uid a line, or a whole JSON list. For one in a name "
            "write a question mark."
        )
    return tuple(entries)

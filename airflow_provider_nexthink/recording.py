"""Records a deletion in the ledger: turns its plan and its limits into a request to reserve."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from airflow_provider_nexthink import __version__
from airflow_provider_nexthink.deletion.deletion import Deletion
from airflow_provider_nexthink.deletion.file_plan import FilePlan
from airflow_provider_nexthink.deletion.options import PLAN, DeletionOptions
from airflow_provider_nexthink.deletion.policy import DeletionPolicy
from airflow_provider_nexthink.devices.columns import uid_kind
from airflow_provider_nexthink.exceptions import NexthinkGuardError
from airflow_provider_nexthink.ledger.database import Database
from airflow_provider_nexthink.ledger.quota import Quota
from airflow_provider_nexthink.ledger.reservation import InventoryLook, RunRequest
from airflow_provider_nexthink.ledger.run import LedgerRun
from airflow_provider_nexthink.origin import RunOrigin


class DeletionRecorder:
    """Records deletions in the ledger of a tenant.

    :param database: the ledger.
    :param check: called often while the database is waited for; raises what is to end the wait.
    """

    def __init__(self, database: Database, check: Callable[[], None]) -> None:
        self._database = database
        self._check = check
        self._look: InventoryLook | None = None

    def set_look(self, look: InventoryLook) -> None:
        """Set what a look at the inventory just before the deletion has found.

        :param look: the look.
        """
        self._look = look

    def reserve(self, deletion: Deletion, to_send: Sequence[int]) -> LedgerRun:
        """Record the devices of a deletion as REQUESTED, if the limits that need memory allow it.

        :param deletion: the deletion.
        :param to_send: the positions of the rows to send, in order.
        :raises NexthinkGuardError: if a limit is exceeded; nothing is sent.
        :raises NexthinkLedgerError: if the ledger cannot be written; nothing is sent.
        :raises NexthinkLedgerMismatchError: if it is no ledger of this tenant; nothing is sent.
        """
        options = deletion.options
        # As many as can be in flight: of a process that is killed, so many may have been sent or not.
        run = LedgerRun(self._database, ahead=options.max_concurrency * options.batch_size)
        try:
            run.reserve(
                self.request_of(deletion),
                deletion.outcomes,
                to_send,
                check=self._check,
                earlier=deletion.checkpoint.earlier.outcomes if deletion.checkpoint else None,
                look=self._look,
            )
            return run  # noqa: TRY300 - a timeout may come at this line, too
        except BaseException:
            run.abandon()
            raise

    def check_limits(self, request: RunRequest) -> None:
        """Check the limits that need memory for a plan in a file; record nothing.

        :param request: what ``request_of_plan`` returned.
        :raises NexthinkGuardError: if a limit is exceeded.
        :raises NexthinkLedgerError: if the ledger cannot be used.
        """
        LedgerRun(self._database, ahead=0).check_limits(request, check=self._check)

    def record_blocked(self, request: RunRequest, error: NexthinkGuardError) -> None:
        """Record that a guard has stopped a deletion, or its plan, before it sent anything; not of another dry run.

        :param request: of the deletion, or of the plan.
        :param error: of the guard.
        """
        if request.is_plan or not request.dry_run:
            LedgerRun(self._database, ahead=0).record_blocked(request, error, check=self._check)

    def request_of(self, deletion: Deletion) -> RunRequest:
        """Return what a deletion is about to do, for the ledger.

        :param deletion: the deletion.
        """
        return _request(
            deletion.options,
            deletion.policy,
            deletion.origin,
            deletion.planned,
            deletion.rows.uid_column,
            deletion.rows.name_column,
            self._uid_kind(deletion),
        )

    def request_of_plan(
        self, plan: FilePlan, planned: int, options: DeletionOptions, policy: DeletionPolicy, origin: RunOrigin
    ) -> RunRequest:
        """Return what a plan in a file would do, for the ledger.

        :param plan: the plan.
        :param planned: how many devices it would send.
        :param options: of the deletion, as the policy tightens them.
        :param policy: of the connection.
        :param origin: who started it, and in which task.
        """
        kind = uid_kind(plan.uid_column)
        return _request(options, policy, origin, planned, plan.uid_column, plan.name_column, kind)

    def _uid_kind(self, deletion: Deletion) -> str | None:
        """Return the kind of uid: what the column says, or that of the look in which one of these uids is."""
        kind = uid_kind(deletion.rows.uid_column)
        if kind is None and self._look is not None:
            uids = (deletion.outcomes.uid[at] for at in deletion.plan.to_send)
            kind = self._look.uid_kind if any(uid in self._look.days_unseen for uid in uids) else None
        return kind


def _request(
    options: DeletionOptions,
    policy: DeletionPolicy,
    origin: RunOrigin,
    planned: int,
    uid_column: str | None,
    name_column: str | None,
    kind: str | None,
) -> RunRequest:
    return RunRequest(
        origin=origin,
        provider_version=__version__,
        planned=planned,
        reason=options.reason,
        uid_column=uid_column,
        uid_kind=kind,
        name_column=name_column,
        limits=policy.limits_in_force(options),
        quota=Quota.of(policy.quota_devices, policy.quota_days),
        max_growth=options.max_growth,
        require_proof=policy.require_proof,
        dry_run=bool(options.dry_run),
        is_plan=options.dry_run == PLAN,
    )

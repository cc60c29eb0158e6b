"""The state that the tries of one task share, and the supervisor through which a task reaches it.

One rule holds for whatever is kept here, the journal of a deletion and the export of a query:

* A failure of the store is a warning in the log. The task continues, and a retry has to do without its state.
* If Airflow no longer knows this try, or its supervisor is gone, ``NexthinkTryOverError`` is raised.
* A task that is cleared after it had succeeded starts afresh. Airflow raises ``max_tries`` when a task is cleared.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_nexthink.exceptions import NexthinkTryOverError
from airflow_provider_nexthink.version_compat import is_try_unknown, task_state_store

if TYPE_CHECKING:
    from airflow_provider_nexthink.deletion.checkpoint import Checkpoint, StateStore

log = logging.getLogger(__name__)

_ALARM = getattr(signal, "SIGALRM", None)  # not on Windows
_PROBE_KEY = "nexthink_supervisor_probe"  # never set
_pending: list[Any] = []  # a timeout that came while it was deferred


@contextmanager
def timeout_deferred() -> Iterator[None]:
    """Defer a timeout of the task (``SIGALRM``) until the block has ended.

    An interrupted call to the supervisor would leave half a message or an unread response in the socket between them:
    every later call would read the response of the call before.
    """
    if _ALARM is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(_ALARM)
    if not callable(handler):  # no timeout is set
        yield
        return
    signal.signal(_ALARM, lambda *arguments: _pending.append(arguments))
    try:
        yield
    finally:
        signal.signal(_ALARM, handler)
        if _pending:
            arguments = _pending[0]
            _pending.clear()
            handler(*arguments)


def is_timeout_pending() -> bool:
    """Return whether the task has timed out, but the main thread cannot say so yet. For any thread."""
    return bool(_pending)


def cancel_timeout() -> None:
    """Cancel the timeout of a task whose work is done: it could only give it a wrong outcome."""
    if _ALARM is not None and threading.current_thread() is threading.main_thread():
        signal.setitimer(signal.ITIMER_REAL, 0)


@dataclass(frozen=True)
class TaskState:
    """The state of a task. All its tries share it.

    :param store: where it is kept; None before Airflow 3.3, which keeps no state.
    :param try_number: the number of this try, from 1 on; None where it is not known.
    :param max_tries: the number that Airflow raises when the task is cleared; None where it is not known.
    """

    store: TaskStateStore | None
    try_number: int | None
    max_tries: int | None

    @classmethod
    def of(cls, context: Mapping[str, Any], *, consequence: str) -> Self:
        """Open the state of a task.

        :param context: of the task.
        :param consequence: what it means for the task that a try of it is over, for the error.
        """
        store, ti = task_state_store(context), context.get("ti")
        return cls(
            None if store is None else TaskStateStore(store, consequence=consequence),
            getattr(ti, "try_number", None),
            getattr(ti, "max_tries", None),
        )

    @property
    def is_retry(self) -> bool:
        """Whether there were tries before this one: retried by Airflow, or cleared."""
        return self.try_number is not None and self.try_number > 1

    def checkpoint(self, other_store: Callable[[], StateStore | None] = lambda: None) -> Checkpoint | None:
        """Return the checkpoint of a deletion; None where no state is kept.

        :param other_store: returns a store to use where Airflow has none, if there is one.
        """
        from airflow_provider_nexthink.deletion.checkpoint import Checkpoint

        store = self.store or other_store()
        if store is None:
            return None
        return Checkpoint(store, try_number=self.try_number, max_tries=self.max_tries)


@contextmanager
def store_failures_logged(warning: str) -> Iterator[None]:
    """Log a failure of the store instead of raising it.

    :param warning: what the failure means for a retry.
    :raises NexthinkTryOverError: if this try is over.
    """
    try:
        yield
    except NexthinkTryOverError:
        raise
    except Exception as error:  # noqa: BLE001 - of any kind of store
        log.warning("%s (%s: %s).", warning, type(error).__name__, error)


class TaskStateStore:
    """Airflow's task state store, with one error of its own where this try is over.

    :param store: ``context["task_state_store"]``.
    :param consequence: what it means for the task that this try is over, for the error.
    """

    def __init__(self, store: Any, *, consequence: str = "") -> None:
        self._store = store
        self._consequence = consequence

    def get(self, key: str) -> Any:
        """Return the value of a key, or None.

        :param key: the key.
        :raises NexthinkTryOverError: if the supervisor is gone.
        """
        return self._call(self._store.get, key)

    def set(self, key: str, value: Any) -> None:
        """Store a JSON value under a key.

        :param key: the key.
        :param value: the value.
        :raises NexthinkTryOverError: if Airflow does not know this try any more.
        """
        self._call(self._store.set, key, value)

    def delete(self, key: str) -> None:
        """Delete a key.

        :param key: the key.
        :raises NexthinkTryOverError: if Airflow does not know this try any more.
        """
        self._call(self._store.delete, key)

    def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        with timeout_deferred():
            try:
                return method(*arguments)
            except Exception as error:
                if is_try_unknown(error):
                    raise NexthinkTryOverError(
                        "Airflow does not know this try of the task any more: it was cleared, or another try has taken "
                        f"its place. {self._consequence}".rstrip()
                    ) from error
                if isinstance(error, OSError | EOFError) and self._is_supervisor_gone():
                    raise NexthinkTryOverError(
                        "The supervisor of this task process is gone: Airflow cannot reach this try any more, and may "
                        f"start another one. {self._consequence}".rstrip()
                    ) from error
                raise

    def _is_supervisor_gone(self) -> bool:
        """Return whether the socket to the supervisor is closed, and not just a state store backend down."""
        try:
            self._store.get(_PROBE_KEY)
        except (OSError, EOFError):
            return True
        except Exception:  # noqa: BLE001 - a response: the supervisor is there
            return False
        return False

"""What a task tells Airflow through its supervisor: its state for a later try, and its XComs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from airflow_provider_nexthink.exceptions import NexthinkTryOverError
from airflow_provider_nexthink.version_compat import is_try_unknown

_ALARM = getattr(signal, "SIGALRM", None)  # not on Windows
_PROBE_KEY = "nexthink_supervisor_probe"  # never set

_FOLLOWS = (
    "No other batch is sent. Devices that this try has sent since its last save may be sent again by another try. "
    "The XComs and the file are left to that one: see the outcome in this log."
)


@contextmanager
def timeout_deferred() -> Iterator[None]:
    """Let a timeout of the task (``SIGALRM``) wait until the block has ended.

    An interrupted call to the supervisor would leave half a message, or a response that nobody has read, in the socket
    between them: every later call would get what belongs to the one before.
    """
    if _ALARM is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[Any] = []
    handler = signal.getsignal(_ALARM)
    if not callable(handler):  # no timeout is set
        yield
        return
    signal.signal(_ALARM, lambda *arguments: pending.append(arguments))
    try:
        yield
    finally:
        signal.signal(_ALARM, handler)
        if pending:
            handler(*pending[0])


def cancel_timeout() -> None:
    """Cancel the timeout of the task, for one whose work is done: it could only make its outcome false."""
    if _ALARM is not None and threading.current_thread() is threading.main_thread():
        signal.setitimer(signal.ITIMER_REAL, 0)


class TaskStateStore:
    """Airflow's task state store, with one error of its own where this try is over.

    :param store: ``context["task_state_store"]``.
    """

    def __init__(self, store: Any) -> None:
        self._store = store

    def get(self, key: str) -> Any:
        """Return the value of a key, or None.

        :param key: the key.
        :raises NexthinkTryOverError: if the supervisor is gone.
        """
        return self._call(self._store.get, key)

    def set(self, key: str, value: Any) -> None:
        """Keep a JSON value under a key.

        :param key: the key.
        :param value: the value.
        :raises NexthinkTryOverError: if Airflow does not know this try any more.
        """
        self._call(self._store.set, key, value)

    def delete(self, key: str) -> None:
        """Forget a key.

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
                        f"its place. {_FOLLOWS}"
                    ) from error
                if isinstance(error, OSError | EOFError) and self._is_supervisor_gone():
                    raise NexthinkTryOverError(
                        "The supervisor of this task process is gone: Airflow cannot reach this try any more, and may "
                        f"start another one. {_FOLLOWS}"
                    ) from error
                raise

    def _is_supervisor_gone(self) -> bool:
        """Tell a closed socket to the supervisor from a failure of a state store backend, which this does not ask."""
        try:
            self._store.get(_PROBE_KEY)
        except (OSError, EOFError):
            return True
        except Exception:  # noqa: BLE001 - a response, so there is a supervisor
            return False
        return False

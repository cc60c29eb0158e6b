"""The supervisor of a task process: is it still there?

Airflow runs a task in a process of its own, forked by a supervisor that sends its heartbeats, takes its XComs and
state, and ends it when it is cleared or marked. Where the supervisor is killed (out of memory, a lost Celery worker),
the task process lives on: nothing can stop it any more, and Airflow starts a retry beside it.

Only the operating system is asked for the supervisor. It is the parent of the task process, and holds the other end of
the socket pair that is the standard input of the task. Airflow 3.1 to 3.3 are alike in both.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable

_STDIN = 0

# Airflow puts this in the place of its database in every process that it supervises, and only there. Without it, a
# standard input that is a socket may come from anywhere: sshd and IDEs make one, too.
_DATABASE_SETTING = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
_BLOCKED_DATABASE = "airflow-db-not-allowed:"


def supervisor_check() -> Callable[[], bool]:
    """Return a function that tells whether the supervisor of this task process is still there.

    Call this once, where the task begins. What it returns may be called by any thread, as often as before each request:
    it is a few system calls that never wait, and it never raises.

    Where no supervisor is (``dag.test()``, ``airflow tasks test``, a script, a notebook), it always returns True,
    whatever becomes of the shell or the IDE that started the process.
    """
    if not _is_supervised():
        return lambda: True
    parent = os.getppid()  # with run_as_user this is sudo, which outlives the supervisor

    def is_there() -> bool:
        return os.getppid() == parent and not _has_hung_up(_STDIN)

    return is_there


def _is_supervised() -> bool:
    if not os.environ.get(_DATABASE_SETTING, "").startswith(_BLOCKED_DATABASE):
        return False
    try:
        return stat.S_ISSOCK(os.fstat(_STDIN).st_mode)
    except OSError:  # it is closed
        return False


def _has_hung_up(descriptor: int) -> bool:
    """Tell whether the other end of a socket is closed, without reading what may still be in it."""
    poll = select.poll()  # one for each call: threads cannot share one
    poll.register(descriptor, 0)  # errors and hang-ups are always reported
    return bool(poll.poll(0))

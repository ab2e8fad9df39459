"""Keeps a command going for as long as whoever started it lives; run as a program, with the standard library alone.

    python keeper.py COMMAND ...

The command runs in a process group of its own. When standard input ends (the parent closed it, crashed, or was killed,
even by kill -9), or on SIGTERM, the whole group gets SIGTERM, and after some seconds SIGKILL. Ends as the command ends.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time

_PATIENCE = 15.0  # seconds between SIGTERM and SIGKILL
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def _die_with_keeper() -> None:
    """In the child: SIGTERM when the keeper itself is killed. Linux only; elsewhere the keeper must live."""
    try:
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGTERM)
    except (OSError, AttributeError):
        return


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the whole group of the command."""
    for wanted, seconds in ((signal.SIGTERM, _PATIENCE), (signal.SIGKILL, _PATIENCE)):
        if not _alive(child.pid):
            return
        try:
            os.killpg(child.pid, wanted)
        except ProcessLookupError:
            return
        until = time.monotonic() + seconds
        while _alive(child.pid) and time.monotonic() < until:
            child.poll()  # a dead child that nobody waited for still counts as alive
            time.sleep(0.05)


def main(command: list[str]) -> int:
    """Run `command` until it ends or standard input does."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer: it closes standard input
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_keeper)
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be run: {error}\n")
        return 127
    try:
        while child.poll() is None and not stopped:
            ready, _, _ = select.select([sys.stdin], [], [], 0.2)
            if ready and not os.read(sys.stdin.fileno(), 4096):
                break
    finally:
        _end(child)
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

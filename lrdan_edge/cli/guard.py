"""A process that ends a run whose interpreter is blocked: a native call that keeps the GIL stops every thread of Python.

The run writes a byte to its standard input four times a second. If none comes for too long, or a signal has no effect, the guard
says so on standard error and in ``run.json``, lets `faulthandler` print the stack of every thread, and kills the run. It imports only
the standard library, to start fast and to stay small.
"""

import contextlib
import faulthandler
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

TICK_S = 0.25
WARM_UP_S = 900.0
"""Most seconds without a sign of life before the first batch is done: some runtimes build an engine first."""

_SLACK_S = 2.0  # more than the run's own watchdog and its own end after a signal take
_DUMP = signal.SIGUSR2
_DUMP_S = 0.2
_STARTING, _RUNNING, _STOPPING = b"w", b"r", b"s"


class Guard:
    """The run's side of the guard."""

    def __init__(self, deadline_s: float, end_s: float, record: Path | None) -> None:
        """Describe what to guard; `start` starts the process.

        Args:
            deadline_s: The run is killed after this many seconds in which no thread of Python has run.
            end_s: Seconds from a signal to the end of the run, at most.
            record: The run's ``run.json``, or None.
        """
        self._words = [repr(deadline_s + _SLACK_S), repr(end_s + _SLACK_S / 10), str(record.absolute()) if record else ""]
        self._state, self._over = _STARTING, threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: int | None = None
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self, signals: int) -> None:
        """Start the process.

        Args:
            signals: The descriptor from which a thread reads the numbers of signals.
        """
        words = [sys.executable, "-I", "-S", __file__, str(signals), *self._words]
        pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
        try:  # in a session of its own: signals to the run's group are not for the guard
            self._process = subprocess.Popen(
                words, stdin=pipe, stdout=quiet, pass_fds=(signals,), start_new_session=True, bufsize=0
            )
        except OSError as error:
            with contextlib.suppress(OSError):
                print(f"Problem: no second process watches the run: it cannot be started ({error.strerror})", file=sys.stderr)
            return
        with contextlib.suppress(OSError):  # no standard error
            self._stderr = os.dup(
                2
            )  # its own: `native_noise` replaces descriptor 2 for moments, in which the run may be blocked
            faulthandler.register(_DUMP, file=self._stderr)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._thread.start()

    def began(self) -> None:
        """Say that the first batch is done: from now on the deadline counts."""
        if self._state == _STARTING:
            self._state = _RUNNING
            self._send()

    def stopping(self) -> None:
        """Say that a signal has asked the run to end."""
        self._state = _STOPPING
        self._send()

    def close(self) -> None:
        """End the process: the run is over."""
        self._over.set()
        if self._process is not None:
            self._thread.join()
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            if self._stderr is not None:
                faulthandler.unregister(_DUMP)
                os.close(self._stderr)

    def _beat(self) -> None:
        while not self._over.wait(TICK_S):
            self._send()

    def _send(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # a guard that was killed must not end the run
                os.write(self._process.stdin.fileno(), self._state)


def _watch(run: int, signals: int, deadline_s: float, end_s: float) -> str | None:
    """Wait for the end of the run (None), or for a reason to end it. Time in which the run is suspended (Ctrl-Z) does not count."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    silent_s = asked_s = 0.0
    state, last = _STARTING, time.monotonic()
    while os.getppid() == run:
        heard = poll.poll(1000 * (TICK_S / 5 if asked_s else TICK_S))
        now = time.monotonic()
        passed, last = now - last, now
        if heard:
            beats = os.read(0, 1 << 16)
            if not beats:
                return None
            state, silent_s = beats[-1:], 0.0
            time.sleep(TICK_S / 4)
        if _suspended(run):
            continue
        silent_s += 0 if heard else min(passed, 2 * TICK_S)  # a container may have been paused
        asked_s = asked_s + passed if state == _STOPPING or _unread(signals) else 0.0
        if asked_s > end_s:
            return "the run did not end in time after a signal"
        if silent_s > (max(WARM_UP_S, deadline_s) if state == _STARTING else deadline_s):
            return f"the interpreter has been blocked for {deadline_s:g} s: a native call does not return and keeps the GIL"
    return None


def _unread(signals: int) -> bool:
    count = bytearray(4)
    fcntl.ioctl(signals, termios.FIONREAD, count)
    return any(count)


def _suspended(run: int) -> bool:
    try:
        state = Path(f"/proc/{run}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in "Tt"


def _record(path: Path, why: str) -> None:
    """Add the reason to ``run.json``, whose missing end tells the next run that this one was killed."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        told = json.loads(path.read_bytes())
        told.setdefault("problems", []).append(why)
        temporary = path.with_name(f"{path.name}.tmp")
        temporary.write_text(json.dumps(told, indent=2) + "\n")
        temporary.replace(path)


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # systemd sends them to every process of the service
        signal.signal(number, signal.SIG_IGN)
    run, signals, deadline_s, end_s, record = os.getppid(), int(sys.argv[1]), *map(float, sys.argv[2:4]), sys.argv[4]
    why = _watch(run, signals, deadline_s, end_s)
    if why is None:
        return
    with contextlib.suppress(OSError):
        os.write(2, f"Error: {why}; its last frames may have no verdict. The stacks of its threads:\n".encode())
    if record:
        _record(Path(record), why)
    for number, pause_s in ((_DUMP, _DUMP_S), (signal.SIGKILL, 0.0)):
        if os.getppid() == run:
            os.kill(run, number)
            time.sleep(pause_s)


if __name__ == "__main__":
    _main()

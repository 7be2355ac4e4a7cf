"""Signals end a run in order, and within bounds whatever hangs."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from lrdan_edge.cli.console import terminal
from lrdan_edge.cli.guard import Guard

END_S = 9.0
"""Seconds from the first signal to the end of the process, at most."""

SAME_REQUEST_S = 0.5
"""A second signal within this time is the same request: ``timeout`` signals the process, then its group."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ends_on_signal(stop: Callable[[], None], guard: Guard) -> Iterator[None]:
    """Make SIGINT, SIGTERM and SIGHUP call `stop`; a second one ends the process at once, and so does time.

    A thread acts on them, because the main thread may be in a call that never returns. The guard ends the process if no thread can.

    Args:
        stop: Ends the run.
        guard: Is started, and closed at the end.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    read, write = socket.socketpair()
    write.setblocking(False)
    woken = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
    over = threading.Event()
    thread = threading.Thread(target=_act, args=(read, stop, over, guard), name="signals", daemon=True)
    try:
        guard.start(read.fileno())
        thread.start()
        for number in before:
            if before[number] is not signal.SIG_IGN or number != signal.SIGHUP:  # nohup ignores it
                signal.signal(number, lambda *_: None)
        yield
    finally:
        over.set()
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(woken)
        write.close()
        if thread.ident is not None:
            thread.join()
        guard.close()
        read.close()


def _act(read: socket.socket, stop: Callable[[], None], over: threading.Event, guard: Guard) -> None:
    """Read the numbers of the signals, until the other end is closed."""
    first: float | None = None
    while seen := read.recv(1, socket.MSG_PEEK):
        number = seen[0]
        if number in _SIGNALS and first is None:
            guard.stopping()  # before the number is taken: until then, the guard sees that nobody acts on it
        read.recv(1)
        if number not in _SIGNALS:
            continue
        if first is None:
            first = time.monotonic()
            threading.Thread(target=_end_late, args=(over,), name="last resort", daemon=True).start()
            stop()
        elif time.monotonic() - first > SAME_REQUEST_S:
            with suppress(Exception):
                terminal().show_cursor(True)
            _die_of(number)


def _end_late(over: threading.Event) -> None:
    if not over.wait(END_S):
        with suppress(OSError):
            os.write(2, b"Error: the run did not end in time after it was stopped; its last frames may have no verdict\n")
        os._exit(1)


def _die_of(number: int) -> None:
    """End as the signal does by default, so that the exit code tells; only the main thread may change handlers."""
    with suppress(Exception):
        sys.stdout.flush()
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None)
        libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        libc.signal(number, None)
        os.kill(os.getpid(), number)
        time.sleep(1)
    os._exit(128 + number)

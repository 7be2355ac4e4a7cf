"""Keeps off the terminal what C libraries print about damaged images: it names no file, and our own errors do."""

import os
import sys
import threading
from contextlib import suppress

_STDERR = 2


class NativeNoise:
    """A context in which C libraries' standard error is discarded and Python's is kept; without effect before `enable`.

    libpng and libjpeg write to the file descriptor themselves, whatever OpenCV's log level is. Any number of threads may be inside.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._kept: int | None = None
        self._nowhere = -1

    def enable(self) -> None:
        """Give Python a standard error of its own, so that only what C libraries write is discarded. Call this when the process starts."""
        if self._kept is not None or sys.stderr is None:
            return
        with suppress(OSError, ValueError):
            if sys.stderr.fileno() != _STDERR:
                return
            kept, nowhere = os.dup(_STDERR), os.open(os.devnull, os.O_WRONLY)
            encoding, errors = sys.stderr.encoding, sys.stderr.errors
            sys.stderr = os.fdopen(kept, "w", buffering=1, encoding=encoding, errors=errors, closefd=False)
            self._kept, self._nowhere = kept, nowhere

    def __enter__(self) -> None:
        if self._kept is None:
            return
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                os.dup2(self._nowhere, _STDERR)

    def __exit__(self, *_: object) -> None:
        if self._kept is None:
            return
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                os.dup2(self._kept, _STDERR)


native_noise = NativeNoise()

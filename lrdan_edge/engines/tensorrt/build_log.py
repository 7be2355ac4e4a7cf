"""Writes TensorRT's build messages into the log file, and keeps the last errors and warnings."""

import re
import threading
from collections import deque
from contextlib import ExitStack, suppress

from lrdan_edge.engines.tensorrt.options import BuildOptions
from lrdan_edge.errors import EngineError

_ERROR, _WARNING, _INFO = 1, 2, 3  # TensorRT's severities: 0 is worst


class BuildLog:
    """TensorRT's messages; any thread may add to them."""

    def __init__(self, options: BuildOptions, stack: ExitStack, noise: str | None) -> None:
        """Open the log file, if requested, until `stack` closes. Lines that contain `noise` are left out of errors and warnings.

        Raises:
            EngineError: The file cannot be written.
        """
        self.errors: deque[str] = deque(maxlen=4)
        self.warnings: deque[str] = deque(maxlen=4)
        self._limit = 4 if options.verbose else _INFO
        self._noise = noise
        self._lock = threading.Lock()
        self._file = None
        if options.log_path:
            try:
                self._file = stack.enter_context(options.log_path.open("w", encoding="utf-8"))
            except OSError as error:
                raise EngineError(
                    f"the log {options.log_path} cannot be written ({error.strerror})", "choose another file"
                ) from error

    def add(self, severity: int, message: str) -> None:
        """Add a message; never raises."""
        with self._lock, suppress(OSError):  # a full disk must not end the build, and TensorRT must not see exceptions
            if severity <= _WARNING and (plain := self.plain(message)):
                (self.errors if severity <= _ERROR else self.warnings).append(plain)
            if self._file and severity <= self._limit and not self._file.closed:
                self._file.write(f"{'!EWIV'[severity]} {message}\n")

    def plain(self, message: str) -> str:
        """The message on one line, without TensorRT's source positions."""
        lines = (line.strip() for line in message.splitlines() if not (self._noise and self._noise in line))
        return re.sub(r"\s*\bIn \S+ at \S+:\d+", "", "; ".join(filter(None, lines)))

    def reason(self) -> str:
        """The last errors, for an error message."""
        return "; ".join(self.errors) or "it gave no reason"

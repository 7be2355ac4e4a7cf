"""A steady rate for what could come faster."""

import threading
import time


class Pace:
    """Waits until the next frame of a steady rate is due."""

    def __init__(self, fps: float | None, closed: threading.Event) -> None:
        """Begin; None: as fast as they come.

        Args:
            fps: Frames per second.
            closed: Ends a wait.
        """
        self._period = 1 / fps if fps else 0.0
        self._closed = closed
        self._due = time.monotonic()

    def wait(self) -> bool:
        """Wait for the next frame's time; False when the source was closed."""
        if self._period and self._closed.wait(max(0.0, self._due - time.monotonic())):
            return False
        self._due += self._period
        return not self._closed.is_set()

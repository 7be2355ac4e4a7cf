"""Delivers recorded frames at a steady rate."""

import threading
import time


class RateLimiter:
    """Waits until the next frame is due."""

    def __init__(self, fps: float | None, closed: threading.Event) -> None:
        """Start the clock.

        Args:
            fps: Frames per second; None: no waiting.
            closed: Setting it ends a wait.
        """
        self._period = 1 / fps if fps else 0.0
        self._closed = closed
        self._due = time.monotonic()

    def wait(self) -> bool:
        """Wait until the next frame is due; False if the source was closed."""
        if self._period and self._closed.wait(max(0.0, self._due - time.monotonic())):
            return False
        self._due += self._period
        return not self._closed.is_set()

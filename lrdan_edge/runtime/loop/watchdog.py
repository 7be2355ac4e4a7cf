"""Notices what hangs: batches in the backend, and calls of sinks."""

import time
from collections.abc import Iterable

DEADLINE_S = 60.0
WARM_UP_S = 900.0
"""Most seconds of warming up: some runtimes build an engine then."""

STOP_S = 3.0
"""Seconds after a request to stop in which captured frames are still inspected; a call of the backend may take one more."""

SINKS_S = 2.0
"""Seconds after those in which sinks still write."""


class Stopwatches:
    """How long things have been going on, without the time in which the whole process stood still (Ctrl-Z, a paused container)."""

    def __init__(self, tick_s: float) -> None:
        """Count at most twice `tick_s` from one `tick` to the next."""
        self._tick_s, self._at, self._now = tick_s, time.monotonic(), 0.0
        self._since: dict[str, dict[int, float]] = {}

    def tick(self) -> None:
        """Let the time pass that has passed since the last call."""
        at = time.monotonic()
        self._now += min(at - self._at, 2 * self._tick_s)
        self._at = at

    def overdue(self, group: str, going: Iterable[int], limit_s: float) -> list[int]:
        """Those things of a group that have been going on for longer than a limit; those that are over are forgotten."""
        before = self._since.get(group, {})
        self._since[group] = {key: before.get(key, self._now) for key in going}
        return [key for key, since in self._since[group].items() if self._now - since > limit_s]

"""How far TensorRT's builder is, as one share, and how it is told to stop."""

import threading
from collections.abc import Callable
from typing import Any


class Monitor:
    """Nested phases to one share that never falls; says when to stop. TensorRT may call on any thread."""

    def __init__(self, report: Callable[[str, float], None] | None) -> None:
        self._report, self._lock = report, threading.Lock()
        self._phases: dict[str, tuple[str | None, int, int]] = {}
        self._share = 0.0
        self.stopped = False
        self.error: Exception | None = None

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """Note a phase that begins, with its number of steps."""
        with self._lock:
            self._phases[phase] = (parent, max(steps, 1), 0)

    def step(self, phase: str, step: int) -> bool:
        """Note a finished step; False stops the build."""
        with self._lock:
            parent, steps, _ = self._phases.get(phase, (None, step + 1, 0))
            self._phases[phase] = (parent, steps, step + 1)
            self._share = max(self._share, min(self._done(phase), 1.0))
            share = self._share
        if self._report and not self.stopped:
            try:
                self._report(phase, share)
            except Exception as error:  # it must not reach TensorRT's own frames; raised after the build
                self.error, self.stopped = error, True
        return not self.stopped

    def finish(self, phase: str) -> None:
        """Note a phase that ended."""
        with self._lock:
            self._phases.pop(phase, None)

    def complete(self) -> None:
        """Report that all is done."""
        if self._report:
            self._report("Finished", 1.0)

    def _done(self, phase: str) -> float:
        share, name, seen = 0.0, phase, set[str]()
        while name in self._phases and name not in seen:
            seen.add(name)
            parent, steps, done = self._phases[name]
            share, name = min((done + share) / steps, 1.0), parent or ""
        return share


def monitor_for(trt: Any, monitor: Monitor) -> Any:
    """The object of TensorRT's own class that tells `monitor`."""

    class ProgressMonitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            monitor.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return monitor.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            monitor.finish(phase_name)

    return ProgressMonitor()

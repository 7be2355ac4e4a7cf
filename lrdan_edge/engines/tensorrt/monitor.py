"""The progress of TensorRT's builder, as one fraction, and how to stop it."""

import threading
from collections.abc import Callable
from typing import Any


class Monitor:
    """Turns nested phases into one fraction that never decreases, and tells TensorRT when to stop. Any thread may call it."""

    def __init__(self, report: Callable[[str, float], None] | None) -> None:
        self._report, self._lock = report, threading.Lock()
        self._phases: dict[str, tuple[str | None, int, int]] = {}
        self._fraction = 0.0
        self.stopped = False
        self.error: Exception | None = None

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """Note that a phase with this number of steps begins."""
        with self._lock:
            self._phases[phase] = (parent, max(steps, 1), 0)

    def step(self, phase: str, step: int) -> bool:
        """Note that a step is done. Returns False to stop the build."""
        with self._lock:
            parent, steps, _ = self._phases.get(phase, (None, step + 1, 0))
            self._phases[phase] = (parent, steps, step + 1)
            self._fraction = max(self._fraction, min(self._done(phase), 1.0))
            fraction = self._fraction
        if self._report and not self.stopped:
            try:
                self._report(phase, fraction)
            except Exception as error:  # TensorRT must not see it; it is raised after the build
                self.error, self.stopped = error, True
        return not self.stopped

    def finish(self, phase: str) -> None:
        """Note that a phase has ended."""
        with self._lock:
            self._phases.pop(phase, None)

    def complete(self) -> None:
        """Report that the build is done."""
        if self._report:
            self._report("Finished", 1.0)

    def _done(self, phase: str) -> float:
        fraction, name, seen = 0.0, phase, set[str]()
        while name in self._phases and name not in seen:
            seen.add(name)
            parent, steps, done = self._phases[name]
            fraction, name = min((done + fraction) / steps, 1.0), parent or ""
        return fraction


def monitor_for(trt: Any, monitor: Monitor) -> Any:
    """An instance of TensorRT's progress-monitor class that reports to `monitor`."""

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

"""The threads that run batches through the backend. Whatever happens to a batch, each of its frames gets a result."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lrdan_edge.backends.base import Detections
from lrdan_edge.data.images import Frame
from lrdan_edge.errors import BackendError, LrdanError
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.loop.frame_queue import FrameQueue, ReadyFrame
from lrdan_edge.runtime.loop.reorder_buffer import ReorderBuffer


@dataclass(frozen=True, slots=True)
class Scored:
    """A batch after inference: the scores of its frames with an image, or why there are no scores."""

    frames: list[ReadyFrame]
    detections: Detections | None
    failure: str | None
    taken_ns: int
    scored_ns: int


class InferenceStage:
    """Takes batches from the frame queue and scores them.

    Attributes:
        scored: The batches, in order.
        ending: Why frames are not inspected any more; None while they are.
    """

    def __init__(
        self,
        inspector: Inspector,
        frame_queue: FrameQueue,
        on_crash: Callable[[Exception], None],
        *,
        batch: int,
        heatmaps: bool,
        in_flight: int,
    ) -> None:
        """Connect the parts.

        Args:
            inspector: The inspector, whose backend scores.
            frame_queue: Holds the frames.
            on_crash: Called with an error of the backend that is a bug.
            batch: Most frames per call.
            heatmaps: Whether to ask for heatmaps.
            in_flight: Number of threads.
        """
        self._inspector, self._frame_queue, self._on_crash = inspector, frame_queue, on_crash
        self._batch, self._heatmaps = batch, heatmaps
        self.scored: ReorderBuffer[Scored] = ReorderBuffer(in_flight + 1, in_flight)
        self.ending: str | None = None
        self._lock = threading.Lock()
        self._going: dict[int, tuple[list[ReadyFrame], int]] = {}
        self._warm_up_ended = threading.Event()
        self._warming_up = False
        self._warm_up_error: BaseException | None = None
        self._draining = False
        self._threads = [threading.Thread(target=self._run, name=f"infer {n}", daemon=True) for n in range(in_flight)]

    def warm_up(self) -> None:
        """Run a first batch of black frames.

        It runs in a separate thread, so that `abort_warm_up` works even while the backend hangs.

        Raises:
            BackendError: The backend failed, or the call was aborted.
        """
        self._warming_up = True
        threading.Thread(target=self._warm_up, name="warm up", daemon=True).start()
        self._warm_up_ended.wait()
        if self._warm_up_error is not None:
            raise self._warm_up_error

    def abort_warm_up(self, error: Exception) -> None:
        """Make a running `warm_up` raise."""
        if self._warming_up:
            self._warm_up_error, self._warming_up = error, False
            self._warm_up_ended.set()

    def _warm_up(self) -> None:
        try:
            self._inspector.warm_up(self._batch)
        except BaseException as error:
            self._warm_up_error = self._warm_up_error or error
        self._warming_up = False
        self._warm_up_ended.set()

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait until all threads have ended, at most `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:  # None: it was never started
                thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def going(self) -> list[int]:
        """Numbers of the batches that are in the backend now."""
        with self._lock:
            return sorted(self._going)

    @property
    def warming_up(self) -> bool:
        """Whether `warm_up` runs."""
        return self._warming_up

    def give_up(self, numbers: list[int], reason: str) -> int:
        """Make every frame of hanging batches a fault, and those that wait behind them; the frame queue has ended.

        Args:
            numbers: Numbers of the batches.
            reason: Why.

        Returns:
            How many of them were still in the backend.
        """
        self.ending = self.ending or reason
        with self._lock:
            hung = [(number, *self._going.pop(number)) for number in sorted(numbers) if number in self._going]
            drains, self._draining = bool(hung) and not self._draining, self._draining or bool(hung)
        if drains:
            self.scored.enter()
            threading.Thread(target=self._drain, name="drain", daemon=True).start()
        for number, frames, taken_ns in hung:
            # The caller also watches the sinks: if it waited for one that hangs, nothing would end the run.
            self.scored.put(number, Scored(frames, None, reason, taken_ns, time.monotonic_ns()), wait=False)
            self.scored.leave()  # on behalf of its thread, which may never return
        return len(hung)

    def _drain(self) -> None:
        try:
            while batch := self._frame_queue.take(self._batch):
                if not batch[1]:
                    break
                now = time.monotonic_ns()
                self.scored.put(batch[0], Scored(batch[1], None, self.ending, now, now))
        finally:
            self.scored.leave()

    def _run(self) -> None:
        buffer = np.empty((self._batch, *self._inspector.backend.spec.frame_shape), np.uint8)
        while True:
            number, frames = self._frame_queue.take(self._batch)
            if not frames:
                break
            taken = time.monotonic_ns()
            with self._lock:
                self._going[number] = (frames, taken)
            scored = self._score(frames, taken, buffer)
            with self._lock:
                given_up = self._going.pop(number, None) is None
            if given_up:
                return
            self.scored.put(number, scored)
        self.scored.leave()

    def _score(self, frames: list[ReadyFrame], taken_ns: int, buffer: Frame) -> Scored:
        images = [ready.resized for ready in frames if ready.resized is not None]
        detections, failure = None, self.ending
        if images and failure is None:
            try:
                batch = images[0][np.newaxis] if len(images) == 1 else np.stack(images, out=buffer[: len(images)])
                detections = self._inspector.backend.infer(batch, heatmap=self._heatmaps)
            except LrdanError as error:
                failure = str(error)
            except BaseException as error:  # a bug: its frames are faults, and `run` raises it
                failure = f"{type(error).__name__}: {error}"
                self._on_crash(error if isinstance(error, Exception) else BackendError(f"the backend raised {failure}"))
        return Scored(frames, detections, failure, taken_ns, time.monotonic_ns())

"""A source's threads: one takes its frames, and where they are to be scaled another fits them meanwhile."""

import threading
import time

import numpy as np

from lrdan_edge.data.images import fit_frame, to_eight_bits
from lrdan_edge.errors import DataError, LrdanError
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.loop.frame_queue import Intake, Policy, ReadyFrame
from lrdan_edge.runtime.loop.progress import SourceProgress
from lrdan_edge.runtime.sinks.base import without_image
from lrdan_edge.runtime.sources.base import CapturedFrame, Source

_AHEAD = 2


class Capture:
    """Brings one source's frames into its lane, fitted, in their order."""

    def __init__(
        self,
        number: int,
        source: Source,
        inspector: Inspector,
        intake: Intake,
        progress: SourceProgress,
        stopping: threading.Event,
        *,
        policy: Policy,
        keeps_images: bool,
    ) -> None:
        """Connect the parts.

        Args:
            number: The source's number, and its lane's.
            source: Delivers the frames.
            inspector: Whose graph they are fitted to.
            intake: Where they go.
            progress: The source's.
            stopping: When set, no frame is taken any more.
            policy: Under ``every``, fitting has a thread of its own. Under ``latest`` it has none: a frame that waits for it ages.
            keeps_images: Whether a sink wants the frame as it was captured.
        """
        self._number, self._source, self._intake, self._progress = number, source, intake, progress
        self._bit_depth, self._shape = inspector.bit_depth, inspector.backend.spec.frame_shape
        self._overlaps, self._keeps_images = policy == "every", keeps_images
        self._stopping, self._broken = stopping, False
        self._captured: Intake | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start capturing."""
        self._begin(threading.Thread(target=self._capture, name=f"capture {self._number}", daemon=True))

    def _begin(self, thread: threading.Thread) -> None:
        self._threads.append(thread)
        thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait until its threads have ended."""
        deadline = time.monotonic() + timeout_s
        for thread in list(self._threads):
            thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def _capture(self) -> None:
        """Take frames until the source ends; one that breaks leaves a fault behind."""
        index = -1
        try:
            for frame in self._source:
                index = frame.index
                self._pass_on(frame)
                if self._stopping.is_set() or self._broken:
                    break
        except Exception as error:
            self._pass_on(self._failed(error, index + 1))
        finally:
            if self._captured is None:
                self._end()
            else:
                self._captured.end()

    def _pass_on(self, frame: CapturedFrame) -> None:
        if self._captured is None and self._overlaps and frame.image is not None and frame.image.shape[:2] != self._shape[:2]:
            self._captured = Intake([(_AHEAD, "every")])
            name = f"fit {self._number}"
            self._begin(threading.Thread(target=self._fit_all, args=(self._captured,), name=name, daemon=True))
        if self._captured is None:
            self._intake.put(self._fit(frame))
        else:
            self._captured.put(ReadyFrame(0, frame, None, None))

    def _failed(self, error: Exception, index: int) -> CapturedFrame:
        """What a source leaves behind that breaks: it must not look like one that ended, and the loop raises the error."""
        self._progress.error = error
        uri = self._source.uri
        why = str(error) if isinstance(error, LrdanError) else f"{uri}: {type(error).__name__}: {error}"
        return CapturedFrame.missing(why, index, uri, f"frame {index}")

    def _fit_all(self, captured: Intake) -> None:
        index = -1
        try:
            while batch := captured.take(1)[1]:
                index = batch[0].frame.index
                self._intake.put(self._fit(batch[0].frame))
        except Exception as error:
            self._intake.put(self._fit(self._failed(error, index)))
        finally:
            self._broken = True
            captured.end()
            self._end()

    def _end(self) -> None:
        self._progress.ended = True
        self._intake.end(self._number)

    def _fit(self, frame: CapturedFrame) -> ReadyFrame:
        if frame.image is None or frame.fault:
            return ReadyFrame(self._number, frame, None, frame.fault or "the frame is missing")
        try:
            fitted = fit_frame(to_eight_bits(np.asarray(frame.image), self._bit_depth), self._shape)
        except DataError as error:
            return ReadyFrame(self._number, frame, None, str(error))
        # Where nobody draws it, a large image is given back at once: the next one is decoded into the same memory.
        return ReadyFrame(self._number, frame if self._keeps_images else without_image(frame), fitted, None)

"""A source's threads: one captures its frames, another resizes them if necessary."""

import threading
import time

import numpy as np

from lrdan_edge.data.form import Form
from lrdan_edge.data.images import fit_frame, to_eight_bits
from lrdan_edge.errors import DataError, LrdanError
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.loop.frame_queue import FrameQueue, Policy, ReadyFrame
from lrdan_edge.runtime.loop.progress import SourceProgress
from lrdan_edge.runtime.sinks.base import without_image
from lrdan_edge.runtime.sources.base import CapturedFrame, Source

_AHEAD = 2  # frames that may wait for resizing


class CaptureStage:
    """Resizes one source's frames and puts them into its queue, in order."""

    def __init__(
        self,
        number: int,
        source: Source,
        inspector: Inspector,
        frame_queue: FrameQueue,
        progress: SourceProgress,
        stopping: threading.Event,
        *,
        policy: Policy,
        keeps_images: bool,
    ) -> None:
        """Connect the parts.

        Args:
            number: The source's number.
            source: Delivers the frames.
            inspector: The inspector, whose graph determines the frames' size.
            frame_queue: Receives the frames.
            progress: The source's progress.
            stopping: When set, no more frames are captured.
            policy: Under ``every``, a second thread resizes. Under ``latest``, the capture thread resizes: waiting frames would age.
            keeps_images: Whether a sink uses the captured image.
        """
        self._number, self._source, self._frame_queue, self._progress = number, source, frame_queue, progress
        self._bit_depth, self._shape = inspector.bit_depth, inspector.backend.spec.frame_shape
        self._check = inspector.frame_check.check
        self._overlaps, self._keeps_images = policy == "every", keeps_images
        self._stopping, self._resizing_ended = stopping, False
        self._captured: FrameQueue | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start capturing."""
        self._begin(threading.Thread(target=self._capture, name=f"capture {self._number}", daemon=True))

    def _begin(self, thread: threading.Thread) -> None:
        self._threads.append(thread)
        thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait until its threads have ended, at most `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        for thread in list(self._threads):
            thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def _capture(self) -> None:
        """Capture frames until the source ends; an error becomes a last frame, which is a fault."""
        index = -1
        try:
            for frame in self._source:
                index = frame.index
                self._pass_on(frame)
                if self._stopping.is_set() or self._resizing_ended:
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
            self._captured = FrameQueue([(_AHEAD, "every")])
            name = f"resize {self._number}"
            self._begin(threading.Thread(target=self._resize_all, args=(self._captured,), name=name, daemon=True))
        if self._captured is None:
            self._frame_queue.put(self._resize(frame))
        else:
            self._captured.put(ReadyFrame(0, frame, None, None))

    def _failed(self, error: Exception, index: int) -> CapturedFrame:
        """The fault for a failed source, so that it does not look like one that ended; the loop raises the error at the end."""
        self._progress.error = error
        uri = self._source.uri
        known = error if isinstance(error, LrdanError) else None
        fault = str(known or f"{uri}: {type(error).__name__}: {error}")
        return CapturedFrame.missing(fault, index, uri, f"frame {index}", known)

    def _resize_all(self, captured: FrameQueue) -> None:
        index = -1
        try:
            while batch := captured.take(1)[1]:
                index = batch[0].frame.index
                self._frame_queue.put(self._resize(batch[0].frame))
        except Exception as error:
            self._frame_queue.put(self._resize(self._failed(error, index)))
        finally:
            self._resizing_ended = True
            captured.end()
            self._end()

    def _end(self) -> None:
        self._progress.ended = True
        self._frame_queue.end(self._number)

    def _resize(self, frame: CapturedFrame) -> ReadyFrame:
        if frame.image is None or frame.fault:
            return ReadyFrame(self._number, frame, None, frame.fault or "the frame is missing")
        try:
            image = np.asarray(frame.image)
            resized = fit_frame(to_eight_bits(image, self._bit_depth), self._shape)
        except DataError as error:
            return ReadyFrame(self._number, frame, None, str(error))
        unlike = tuple(self._check(frame.form or Form.of(image)))
        if wrong := next((one.sentence for one in unlike if one.fault), None):
            return ReadyFrame(self._number, frame, None, wrong, unlike)
        # If no sink uses a large image, free it at once: the next one is decoded into the same memory.
        return ReadyFrame(self._number, frame if self._keeps_images else without_image(frame), resized, None, unlike)

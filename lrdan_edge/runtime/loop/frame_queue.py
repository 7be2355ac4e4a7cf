"""The queue between capture and inference. It is bounded per source, and takes frames from the sources in turn."""

import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lrdan_edge.data.images import Frame
from lrdan_edge.runtime.sources.base import CapturedFrame
from lrdan_edge.runtime.unlike import Unlike

Policy = Literal["latest", "every"]


class ReadyFrame(NamedTuple):
    """A captured frame, ready for a batch.

    Attributes:
        source: Number of its source, from 0.
        frame: The frame as captured.
        resized: uint8 [H, W, C] in the graph's size; None without an image.
        fault: Why there is no image, or None.
        unlike: How the frame differs from the training images.
    """

    source: int
    frame: CapturedFrame
    resized: Frame | None
    fault: str | None
    unlike: tuple[Unlike, ...] = ()


@dataclass
class _SourceQueue:
    """The waiting frames of one source, at most `size`."""

    size: int
    policy: Policy
    has_room: threading.Condition
    frames: deque[ReadyFrame]
    ended: bool = False
    dropped: int = 0

    def make_room(self, ready: ReadyFrame) -> None:
        """Drop the oldest images. The last fault is kept, even beyond `size`, so that no gap goes unnoticed."""
        while len(self.frames) >= self.size:
            oldest = next((place for place, waiting in enumerate(self.frames) if waiting.resized is not None), None)
            if oldest is None and ready.resized is not None and len(self.frames) == 1:
                return
            del self.frames[oldest or 0]
            self.dropped += 1


class FrameQueue:
    """The waiting frames of all sources, under one lock.

    When a source's queue is full, the policy ``latest`` drops its oldest frame and counts it, so that live frames are never late.
    ``every`` makes the source wait, so that no frame is dropped. A batch takes one frame per source in turn: no source starves.
    """

    def __init__(self, queues: list[tuple[int, Policy]]) -> None:
        """Make one empty queue per source, of this size and policy."""
        lock = threading.Lock()
        self._arrived = threading.Condition(lock)
        self._queues = [_SourceQueue(size, policy, threading.Condition(lock), deque()) for size, policy in queues]
        self._turn = 0
        self._sequence = 0

    def put(self, ready: ReadyFrame) -> None:
        """Add a frame to its source's queue; waits for room under ``every``. After `end`, frames are discarded."""
        queue = self._queues[ready.source]
        with self._arrived:
            if queue.policy == "every":
                while len(queue.frames) >= queue.size and not queue.ended:
                    queue.has_room.wait()
            if queue.ended:
                return
            if len(queue.frames) >= queue.size:
                queue.make_room(ready)
            queue.frames.append(ready)
            self._arrived.notify()

    def end(self, source: int | None = None) -> None:
        """Accept no more frames from `source`, or from any source if None; waiting frames can still be taken."""
        with self._arrived:
            for queue in self._queues if source is None else [self._queues[source]]:
                queue.ended = True
                queue.has_room.notify_all()
            self._arrived.notify_all()

    def take(self, most: int) -> tuple[int, list[ReadyFrame]]:
        """The next frames, 1 to `most`, without waiting for a full batch; no frames when all sources have ended.

        Returns:
            The batch's number, from 0, and its frames.
        """
        with self._arrived:
            while not any(queue.frames for queue in self._queues):
                if all(queue.ended for queue in self._queues):
                    return self._sequence, []
                self._arrived.wait()
            batch: list[ReadyFrame] = []
            idle = 0
            while len(batch) < most and idle < len(self._queues):
                queue = self._queues[self._turn]
                self._turn = (self._turn + 1) % len(self._queues)
                idle += 1
                if queue.frames:
                    batch.append(queue.frames.popleft())
                    queue.has_room.notify()
                    idle = 0
            self._sequence += 1
            return self._sequence - 1, batch

    def dropped(self, source: int) -> int:
        """Number of a source's frames that were dropped because newer ones came."""
        return self._queues[source].dropped

"""Frames on their way from capture to inference: a bounded lane per source, emptied in turn."""

import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lrdan_edge.data.images import Frame
from lrdan_edge.runtime.sources.base import CapturedFrame

Policy = Literal["latest", "every"]


class ReadyFrame(NamedTuple):
    """A captured frame, ready for a batch.

    Attributes:
        source: Number of its source, from 0.
        frame: As the source delivered it.
        fitted: uint8 [H, W, C] as the graph takes it, or None where there is nothing to inspect.
        fault: Why there is nothing to inspect, or None.
    """

    source: int
    frame: CapturedFrame
    fitted: Frame | None
    fault: str | None


@dataclass
class _Lane:
    """One source's frames, at most `size`."""

    size: int
    policy: Policy
    room: threading.Condition
    frames: deque[ReadyFrame]
    ended: bool = False
    dropped: int = 0

    def make_room(self, ready: ReadyFrame) -> None:
        """Drop the oldest pictures. The last fault stays, one more than the lane's size: a gap that nobody hears of looks good."""
        while len(self.frames) >= self.size:
            oldest = next((place for place, waiting in enumerate(self.frames) if waiting.fitted is not None), None)
            if oldest is None and ready.fitted is not None and len(self.frames) == 1:
                return
            del self.frames[oldest or 0]
            self.dropped += 1


class Intake:
    """The lanes of all sources, under one lock.

    ``latest`` drops a lane's oldest frame when it is full, and counts it: a live view never drifts behind. ``every`` makes the
    source wait: nothing is dropped. Batches take one frame from each lane in turn, so that no source starves another.
    """

    def __init__(self, lanes: list[tuple[int, Policy]]) -> None:
        """Make empty lanes of these sizes and policies."""
        lock = threading.Lock()
        self._arrived = threading.Condition(lock)
        self._lanes = [_Lane(size, policy, threading.Condition(lock), deque()) for size, policy in lanes]
        self._turn = 0
        self._sequence = 0

    def put(self, ready: ReadyFrame) -> None:
        """Add a frame to its source's lane; waits for room under ``every``. After the lane's end, frames are discarded."""
        lane = self._lanes[ready.source]
        with self._arrived:
            if lane.policy == "every":
                while len(lane.frames) >= lane.size and not lane.ended:
                    lane.room.wait()
            if lane.ended:
                return
            if len(lane.frames) >= lane.size:
                lane.make_room(ready)
            lane.frames.append(ready)
            self._arrived.notify()

    def end(self, source: int | None = None) -> None:
        """No frame will follow from `source`, or from any; those inside can still be taken."""
        with self._arrived:
            for lane in self._lanes if source is None else [self._lanes[source]]:
                lane.ended = True
                lane.room.notify_all()
            self._arrived.notify_all()

    def take(self, most: int) -> tuple[int, list[ReadyFrame]]:
        """The next frames, 1 to `most`, without waiting for a full batch; none when all lanes have ended.

        Returns:
            The batch's number, from 0, and its frames.
        """
        with self._arrived:
            while not any(lane.frames for lane in self._lanes):
                if all(lane.ended for lane in self._lanes):
                    return self._sequence, []
                self._arrived.wait()
            batch: list[ReadyFrame] = []
            idle = 0
            while len(batch) < most and idle < len(self._lanes):
                lane = self._lanes[self._turn]
                self._turn = (self._turn + 1) % len(self._lanes)
                idle += 1
                if lane.frames:
                    batch.append(lane.frames.popleft())
                    lane.room.notify()
                    idle = 0
            self._sequence += 1
            return self._sequence - 1, batch

    def dropped(self, source: int) -> int:
        """How many of a source's frames were dropped because newer ones came."""
        return self._lanes[source].dropped

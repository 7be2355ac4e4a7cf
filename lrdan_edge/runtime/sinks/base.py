"""The interface of a sink, and what it is given."""

from dataclasses import dataclass, replace
from typing import Protocol

from lrdan_edge.runtime.sources.base import CapturedFrame
from lrdan_edge.runtime.verdict import Verdict


@dataclass(frozen=True, slots=True)
class InspectedFrame:
    """A frame with its verdict.

    Attributes:
        frame: The frame as captured.
        verdict: Its verdict.
        latency_ms: Time from capture to verdict.
        source_number: Number of its source in the loop, from 0.
        decided_ns: ``time.monotonic_ns`` at the verdict.
    """

    frame: CapturedFrame
    verdict: Verdict
    latency_ms: float
    source_number: int = 0
    decided_ns: int = 0


class Sink(Protocol):
    """A receiver of frames and their verdicts.

    Attributes:
        name: Its name, for messages.
        pictures: Whether it uses the frame's image and the verdict's heatmap; if not, its queue does not hold them.
    """

    name: str
    pictures: bool

    def write(self, inspected: InspectedFrame) -> None:
        """Write one frame; may raise OSError."""
        ...

    def close(self) -> None:
        """Close the sink; may raise OSError."""
        ...


@dataclass
class Gap:
    """Frames of one source that a sink has lost, in a row.

    Attributes:
        first: The first of them, without its image.
        last: The last of them, without its image.
        count: How many.
        reason: Why.
    """

    first: InspectedFrame
    last: InspectedFrame
    count: int
    reason: str

    def add(self, inspected: InspectedFrame) -> None:
        """Count one more frame."""
        self.last, self.count = inspected, self.count + 1


class UndeliveredError(Exception):
    """A frame could not be delivered and must not be sent again; the sink goes on with the next one.

    Attributes:
        lost: Number of frames that this lost.
    """

    def __init__(self, why: str, lost: int = 1) -> None:
        super().__init__(why)
        self.lost = lost


class RecordingSink(Sink, Protocol):
    """A sink that records. If it fails with OSError, it is tried again: writing a frame again must do no harm.

    It may raise `UndeliveredError` instead, and records the lost frames itself; or `lrdan_edge.errors.SinkError`, which ends the run
    at once. It may have a method ``wants``, which chooses its frames, and an attribute ``queue_size``: most frames that wait for it.

    Attributes:
        retries: True. A sink without this attribute receives no more frames after its first error: an ejector that is notified twice
            ejects twice.
    """

    retries: bool

    def write_gap(self, gap: Gap) -> None:
        """Record that frames were lost; may raise OSError."""
        ...

    def flush(self) -> None:
        """Make what was written durable; called when no frame waits, and at least after every half of the queue."""
        ...


def without_image(frame: CapturedFrame) -> CapturedFrame:
    """The frame without its image. Lists the fields, because `dataclasses.replace` takes three times as long."""
    if frame.image is None:
        return frame
    return CapturedFrame(
        None, frame.index, frame.capture_ns, frame.source, frame.name, frame.wall_time, frame.fault, frame.error
    )


def without_pictures(inspected: InspectedFrame) -> InspectedFrame:
    """The frame without its image and its heatmap."""
    frame, verdict = without_image(inspected.frame), inspected.verdict
    if verdict.heatmap is not None:
        verdict = replace(verdict, heatmap=None)
    return InspectedFrame(frame, verdict, inspected.latency_ms, inspected.source_number, inspected.decided_ns)

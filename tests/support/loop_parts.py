"""Sources and sinks for tests of the inspection loop."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lrdan_edge import Inspector
from lrdan_edge.backends.base import Detections
from lrdan_edge.runtime.sinks.base import InspectedFrame
from lrdan_edge.runtime.sources.base import CapturedFrame, Source
from lrdan_edge.runtime.verdict import Thresholder

BLACK = np.zeros((32, 32), np.uint8)


@contextmanager
def constant(bundle: Path) -> Iterator[Inspector]:
    """An inspector whose backend gives every frame the score 0, and which takes that for a score."""
    with Inspector.open(bundle, backend="null") as inspector:
        inspector.thresholder = Thresholder(inspector.thresholder.decision)
        yield inspector


class Frames(Source):
    """Frames from a generator; live ones do not wait for anybody."""

    fps = None
    frames = None

    def __init__(
        self, make: Callable[["Frames"], Iterator[CapturedFrame]], *, live: bool = False, uri: str = "test://"
    ) -> None:
        self.uri, self.live, self.make, self.closed = uri, live, make, threading.Event()

    def __iter__(self) -> Iterator[CapturedFrame]:
        return self.make(self)

    def close(self) -> None:
        self.closed.set()


def numbered(count: int) -> Callable[[Frames], Iterator[CapturedFrame]]:
    return lambda source: (CapturedFrame.of(BLACK, index, source.uri, f"frame {index}") for index in range(count))


def endless(source: Frames) -> Iterator[CapturedFrame]:
    index = 0
    while not source.closed.is_set():
        yield CapturedFrame.of(BLACK, index, source.uri, str(index))
        index += 1


class Collect:
    name = "collect"

    def __init__(self, delay_s: float = 0.0, fail_at: int | None = None, *, pictures: bool = True) -> None:
        self.got: list[InspectedFrame] = []
        self.delay_s, self.fail_at, self.closed, self.pictures = delay_s, fail_at, False, pictures

    def write(self, inspected: InspectedFrame) -> None:
        if len(self.got) == self.fail_at:
            raise OSError(28, "No space left on device", "verdicts.jsonl")
        time.sleep(self.delay_s)
        self.got.append(inspected)

    def close(self) -> None:
        self.closed = True


def delayed(infer: Callable[..., Detections], seconds: float) -> Callable[..., Detections]:
    """A backend's `infer` that takes longer."""

    def slow(*args: Any, **kwargs: Any) -> Detections:
        time.sleep(seconds)
        return infer(*args, **kwargs)

    return slow

"""The process that reads a camera or stream: a native read that hangs can be killed here, and nothing else dies with it.

Started by `lrdan_edge.runtime.sources.reader.Reader`, which see for what crosses. It imports OpenCV and NumPy, nothing heavier.
"""

import importlib
import json
import mmap
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import RawIOBase
from typing import Any, BinaryIO

import numpy as np

from lrdan_edge.data.images import Frame
from lrdan_edge.errors import SourceError
from lrdan_edge.runtime.sources.native import Capture, announced_fps, announced_frames, quiet, read_frame

SLOTS = 3  # frames that shared memory holds: one being written, one on its way, one being copied out
OPEN = b"o"  # a command; digits give slots back
_FAILED_READS = 3  # a picture that cannot be decoded fails one read of a live stream; a stream that is lost fails them all
_WAITED_S = 0.5  # a read that failed after so long waited for a picture in vain, as V4L2 does for 10 s and GStreamer for 30 s
_LAST_WORDS_S = 0.5  # how long a capture may take to be released when it is over


@dataclass(frozen=True)
class Job:
    """What to read: a function that, called with `arguments`, returns an opener.

    Attributes:
        module: Where the function is; imported in the process.
        function: Its name.
        arguments: Strings and numbers.
        read_timeout_s: How long the capture waits for one frame before it gives up.
    """

    module: str
    function: str
    arguments: tuple[str | int | float | None, ...]
    read_timeout_s: float

    def opener(self) -> Callable[[], Capture]:
        """The opener; where it cannot be made, one that tries again and raises why, for only then somebody hears of it."""
        try:
            return self._made()
        except Exception:
            return lambda: self._made()()

    def _made(self) -> Callable[[], Capture]:
        made: Callable[[], Capture] = getattr(importlib.import_module(self.module), self.function)(*self.arguments)
        return made


class Ring:
    """Frames in shared memory, written here and copied out by the parent."""

    def __init__(self, memory: int) -> None:
        """Use the file descriptor `memory`; it grows with the frames."""
        self._memory, self.capacity = memory, 0
        self._map: mmap.mmap | None = None
        self.free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(SLOTS):
            self.free.put(slot)

    def write(self, image: Frame) -> int:
        """Put a frame into a free slot, and wait for one; returns its number."""
        if image.nbytes > self.capacity:
            for _ in range(SLOTS):  # nobody may be copying when the slots move
                self.free.get()
            self.capacity = image.nbytes
            os.ftruncate(self._memory, SLOTS * self.capacity)
            self._map = mmap.mmap(self._memory, SLOTS * self.capacity)
            for slot in range(SLOTS):
                self.free.put(slot)
        slot = self.free.get()
        assert self._map is not None
        np.frombuffer(self._map, np.uint8, image.nbytes, slot * self.capacity)[:] = image.reshape(-1)
        return slot


class Worker:
    """Opens when it is told to, reads until the signal is lost, and waits to be told again."""

    def __init__(self, job: Job, memory: int, commands: RawIOBase, answers: BinaryIO) -> None:
        """Connect; `run` works.

        Args:
            job: What to read.
            memory: File descriptor of the shared memory.
            commands: `OPEN`, and slots given back; its end is the end.
            answers: One JSON object a line.
        """
        self._opener, self._timeout_s = job.opener(), job.read_timeout_s
        self._ring, self._commands, self._answers = Ring(memory), commands, answers
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._over = threading.Event()

    def run(self) -> None:
        """Work until the commands end."""
        threading.Thread(target=self._listen, daemon=True).start()
        self._say(kind="ready")
        while self._asked.get():
            self._read()

    def _listen(self) -> None:
        while command := self._commands.read(1):
            if command == OPEN:
                self._asked.put(True)
            else:
                self._ring.free.put(int(command))
        self._over.set()
        self._asked.put(False)
        for slot in range(SLOTS):
            self._ring.free.put(slot)
        time.sleep(_LAST_WORDS_S)
        os._exit(0)  # the read hangs

    def _read(self) -> None:
        """One connection, from opening to its loss."""
        capture = None
        try:
            capture = self._opener()
            self._say(kind="opened", fps=announced_fps(capture), frames=announced_frames(capture))
            while (image := self._next(capture)) is not None:
                arrived = time.monotonic_ns()
                slot = self._ring.write(np.ascontiguousarray(image))
                if self._over.is_set():
                    return
                self._say(kind="frame", slot=slot, capacity=self._ring.capacity, shape=image.shape, capture_ns=arrived)
        except SourceError as error:
            self._say(kind="lost", error=str(error), expected=True)
        except Exception as error:  # a bug must be heard of as one, not taken for a dead camera
            self._say(kind="lost", error=f"{type(error).__name__}: {error}", expected=False)
        finally:
            if capture is not None:
                capture.release()

    def _next(self, capture: Capture) -> Frame | None:
        """The next frame; None when it is over.

        Raises:
            SourceError: There is none.
        """
        failed, began = 0, time.monotonic()
        while failed < _FAILED_READS:
            asked = time.monotonic()
            image = read_frame(capture)
            if self._over.is_set():
                return None
            if image is not None:
                return image
            now = time.monotonic()
            if now - began > 0.9 * self._timeout_s:
                raise SourceError(f"no frame for {now - began:.1f} s")
            failed += now - asked < _WAITED_S
        raise SourceError("the connection ended")

    def _say(self, **answer: Any) -> None:
        try:
            self._answers.write(json.dumps(answer).encode() + b"\n")
            self._answers.flush()
        except OSError:
            self._over.set()  # the parent has gone


def main() -> None:
    """Take the job from standard input and do it."""
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what a library prints must not mix with the answers
    commands = os.fdopen(0, "rb", buffering=0)  # unbuffered: another thread reads on
    line = commands.readline()
    if not line:
        return  # the parent has gone
    job = json.loads(line)
    with quiet:
        Worker(Job(**job | {"arguments": tuple(job["arguments"])}), int(sys.argv[1]), commands, answers).run()


if __name__ == "__main__":
    main()

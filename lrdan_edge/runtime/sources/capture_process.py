"""The process that reads a camera or stream: killing it ends a native read that hangs, and a crash stays inside it.

`lrdan_edge.runtime.sources.reader.Reader` starts it, and describes the protocol. It imports OpenCV and NumPy, nothing heavier.
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

import cv2
import numpy as np

from lrdan_edge.data.images import Frame
from lrdan_edge.errors import SourceEndedError, SourceError, SourceTimeoutError
from lrdan_edge.runtime.sources import ffmpeg_log
from lrdan_edge.runtime.sources.jpeg_capture import JpegCapture
from lrdan_edge.runtime.sources.native import VideoCapture, announced_fps, announced_frames, decoder_threads, quiet, read_frame

SLOTS = 3  # frames in shared memory: one being written, one in transit, one being copied out
OPEN = b"o"  # the command to connect; a digit returns the slot of that number
BUG = "bug"  # the code of an error that is not a SourceError
_FAILED_READS = 3  # an undecodable image fails only one read of a live stream; a lost stream fails all reads
_WAITED_S = 0.5  # a failed read that took longer was waiting for a frame: V4L2 waits 10 s, GStreamer 30 s
_GAP_S = 1.0  # after a read that took longer, the decoder's buffers hold images from before the gap
_BUFFERED = 16  # at most: OpenCV decodes with at most so many threads, each of which holds one image
_SAME_SIZE = 3  # new connections after which the image size was the old one: then FFmpeg's note of another format means nothing
_RELEASE_S = 0.5  # longest time for releasing a capture at the end


@dataclass(frozen=True)
class CaptureJob:
    """The source that the capture process reads, given by a function that returns an opener.

    Attributes:
        module: The function's module, imported in the process.
        function: The function's name.
        arguments: The function's arguments, strings and numbers.
        read_timeout_s: Longest time that the capture waits for one frame.
    """

    module: str
    function: str
    arguments: tuple[str | int | float | None, ...]
    read_timeout_s: float

    def opener(self) -> Callable[[], VideoCapture]:
        """The opener. If the function fails, an opener that calls it again, so that opening reports the error."""
        try:
            return self._make()
        except Exception:
            return lambda: self._make()()

    def _make(self) -> Callable[[], VideoCapture]:
        made: Callable[[], VideoCapture] = getattr(importlib.import_module(self.module), self.function)(*self.arguments)
        return made


class FrameRing:
    """Slots for frames in shared memory: this process writes them, the parent copies them out."""

    def __init__(self, memory: int) -> None:
        """Use the shared memory of file descriptor `memory`; it grows with the frames' size."""
        self._memory, self.capacity = memory, 0
        self._map: mmap.mmap | None = None
        self.free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(SLOTS):
            self.free.put(slot)

    def write(self, image: Frame) -> int:
        """Write a frame into a free slot, waiting for one; returns the slot's number."""
        if image.nbytes > self.capacity:
            for _ in range(SLOTS):  # the parent must not be copying while slots move
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


class CaptureWorker:
    """Connects on command, reads until the signal is lost, and waits for the next command."""

    def __init__(self, job: CaptureJob, memory: int, commands: RawIOBase, answers: BinaryIO) -> None:
        """Take the pipes; `run` does the work.

        Args:
            job: The source to read.
            memory: File descriptor of the shared memory.
            commands: Delivers `OPEN`, and the numbers of returned slots. The process ends when this pipe ends.
            answers: Receives one JSON object per line.
        """
        self._opener, self._timeout_s = job.opener(), job.read_timeout_s
        self._ring, self._commands, self._answers = FrameRing(memory), commands, answers
        self._connect: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._over = threading.Event()
        self._seen_ms, self._gap_s, self._stale = 0.0, 0.0, 0
        self._watch: ffmpeg_log.DecoderWatch | None = None
        self._shape: tuple[int, ...] | None = None
        self._reopened = self._unchanged = 0

    def run(self) -> None:
        """Work until the command pipe ends."""
        threading.Thread(target=self._listen, daemon=True).start()
        self._say(kind="ready")
        while self._connect.get():
            self._read()

    def _listen(self) -> None:
        while command := self._commands.read(1):
            if command == OPEN:
                self._connect.put(True)
            else:
                self._ring.free.put(int(command))
        self._over.set()
        self._connect.put(False)
        for slot in range(SLOTS):
            self._ring.free.put(slot)
        time.sleep(_RELEASE_S)
        os._exit(0)  # the read hangs

    def _read(self) -> None:
        """Read connections until the signal is lost."""
        try:
            while self._read_connection():
                self._reopened += 1
        except SourceError as error:
            values = {name: str(value) for name, value in error.values.items()}
            self._say(kind="lost", code=error.code, problem=error.problem, fix=error.fix, values=values)
        except Exception as error:  # report a bug as a bug, not as a failed camera
            self._say(kind="lost", code=BUG, problem=f"{type(error).__name__}: {error}", fix="", values={})

    def _read_connection(self) -> bool:
        """Read one connection; True if another must be opened, because the image size may have changed; False if the process must end."""
        capture = self._opener()
        try:
            self._watch = None if isinstance(capture, JpegCapture) else ffmpeg_log.DecoderWatch(decoder_threads(capture))
            self._say(kind="opened", fps=announced_fps(capture), frames=announced_frames(capture))
            while (image := self._next(capture)) is not None:
                arrived = time.monotonic_ns()
                if self._is_reformatted(image):
                    return True
                slot = self._ring.write(np.ascontiguousarray(image))
                if self._over.is_set():
                    return False
                self._say(kind="frame", slot=slot, capacity=self._ring.capacity, shape=image.shape, capture_ns=arrived)
            return False
        finally:
            capture.release()

    def _is_reformatted(self, image: Frame) -> bool:
        """Whether only a new connection shows which size the images have now."""
        if self._reopened:
            self._unchanged += image.shape == self._shape
            self._reopened = 0
        self._shape = image.shape
        return self._watch is not None and self._watch.reformatted and self._unchanged < _SAME_SIZE

    def _next(self, capture: VideoCapture) -> Frame | None:
        """The next frame; None if the process must end. Raises a SourceError if no frame came in time or the connection ended."""
        failed, began = 0, time.monotonic()
        while failed < _FAILED_READS:
            asked = time.monotonic()
            image = read_frame(capture)
            if self._over.is_set():
                return None
            now = time.monotonic()
            if self._is_damaged(arrived=image is not None):
                if now - began > self._timeout_s:
                    raise SourceTimeoutError(f"no intact image for {now - began:.1f} s")
                if image is not None:
                    continue
            # An image after the timeout is an old one, which the decoder gives out because the stream stalled.
            if image is not None and now - began < self._timeout_s:
                if self._is_new(capture, now - asked):
                    return image
                began = now
                continue
            if size := getattr(capture, "incomplete", None):
                self._say(kind="incomplete", problem=f"the frame is not a complete image ({size} bytes)")
                failed, began = 0, now
                continue
            if now - began > 0.9 * self._timeout_s:
                raise SourceTimeoutError(f"no frame for {now - began:.1f} s")
            failed += now - asked < _WAITED_S
        raise SourceEndedError("the connection ended")

    def _is_damaged(self, *, arrived: bool) -> bool:
        """Whether FFmpeg says that the image just read is damaged, or built on a damaged one; the first of them is reported.

        Raises:
            SourceEndedError: FFmpeg will not say when the damage is over: connect again.
        """
        text = ffmpeg_log.new_text()
        if self._watch is None:
            return False
        if self._watch.see(text, arrived=arrived):
            problem = f"the image is damaged (FFmpeg: {self._watch.damage})"
            if not self._watch.has_key_frames:
                raise SourceEndedError(problem)
            self._say(kind="incomplete", problem=f"{problem}, and those up to the next key frame")
        return self._watch.damage is not None

    def _is_new(self, capture: VideoCapture, waited_s: float) -> bool:
        """Whether an image was sent after the last gap: its time in the stream has moved on by about the length of the gap."""
        if isinstance(capture, JpegCapture):  # each packet is decoded at once, and its time is not the camera's
            return True
        at_ms = capture.get(cv2.CAP_PROP_POS_MSEC)
        if waited_s > _GAP_S and at_ms > 0:
            self._gap_s, self._stale = waited_s, _BUFFERED
        if self._stale and at_ms - self._seen_ms < 500 * self._gap_s:
            self._stale -= 1
            return False
        self._seen_ms, self._stale = at_ms, 0
        return True

    def _say(self, **answer: Any) -> None:
        try:
            self._answers.write(json.dumps(answer).encode() + b"\n")
            self._answers.flush()
        except OSError:
            self._over.set()  # the parent has ended


def main() -> None:
    """Read the job from standard input and run it."""
    answers = os.fdopen(os.dup(1), "wb")
    ffmpeg_log.capture()  # what a library prints must not mix with the answers
    commands = os.fdopen(0, "rb", buffering=0)  # unbuffered: another thread continues reading
    line = commands.readline()
    if not line:
        return  # the parent has ended
    job = json.loads(line)
    with quiet:
        CaptureWorker(CaptureJob(**job | {"arguments": tuple(job["arguments"])}), int(sys.argv[1]), commands, answers).run()


if __name__ == "__main__":
    main()

"""OpenCV's FFmpeg captures: opened with time-outs, without chatter, dropping packets that arrived in part."""

import os
import threading
from types import TracebackType
from typing import Any, Protocol

import cv2
import numpy as np

from lrdan_edge.data.images import Frame
from lrdan_edge.errors import SourceError

# Read by OpenCV whenever it opens a capture. What the user has set stays.
_ENVIRONMENT = {
    # FFmpeg's messages go to the terminal otherwise, with the whole address in them; -8 is AV_LOG_QUIET.
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
    # A packet cut short decodes to a picture that is part grey and passes for a frame: drop it.
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": "rtsp_flags;prefer_tcp|fflags;discardcorrupt",
    # Else one mutex is held over every open, network included: a dead camera would stop all others from opening.
    "OPENCV_FFMPEG_IS_THREAD_SAFE": "1",
}


_SILENT = 0


def log_level(new: int | None = None) -> int:
    """OpenCV's log level; set to `new` when given. OpenCV 5 moved the functions."""
    place: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
    old: int = place.getLogLevel()
    if new is not None:
        place.setLogLevel(new)
    return old


class Quiet:
    """While anyone is inside, OpenCV's and FFmpeg's settings are ours; they are restored when the last one leaves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._added: list[str] = []
        self._level = 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._added = [name for name in _ENVIRONMENT if name not in os.environ]
                os.environ.update({name: _ENVIRONMENT[name] for name in self._added})
                self._level = log_level()
                if "OPENCV_LOG_LEVEL" not in os.environ:
                    log_level(_SILENT)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for name in self._added:
                    os.environ.pop(name, None)
                log_level(self._level)


quiet = Quiet()


class Capture(Protocol):
    """What is used of ``cv2.VideoCapture``."""

    def read(self) -> tuple[bool, object]:
        """The next frame; False when there is none."""
        ...

    def get(self, propId: int, /) -> float:  # noqa: N803 - OpenCV's name
        """A property."""
        ...

    def release(self) -> None:
        """Close it."""
        ...


def open_ffmpeg(target: str, open_timeout_s: float, read_timeout_s: float) -> cv2.VideoCapture | None:
    """Open a file or stream with FFmpeg; None when it cannot be opened. Call within `quiet`."""
    parameters = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(open_timeout_s * 1000)),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(read_timeout_s * 1000)),
    ]
    try:
        capture = cv2.VideoCapture(target, cv2.CAP_FFMPEG, parameters)
    except cv2.error as error:
        raise SourceError(f"OpenCV cannot open videos here ({error.err}): install opencv-python-headless") from error
    if capture.isOpened():
        return capture
    capture.release()
    return None


def read_frame(capture: Capture) -> Frame | None:
    """The next frame, uint8 [H, W] or [H, W, 3], or None when none came."""
    try:
        arrived, image = capture.read()
    except cv2.error:  # a picture that cannot be converted, such as one of a new size
        return None
    if not arrived or not isinstance(image, np.ndarray) or image.size == 0 or image.dtype != np.uint8:
        return None
    return image


def announced_fps(capture: Capture) -> float | None:
    """The nominal frame rate, or None when there is none worth believing."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 0 < fps <= 1000 else None


def announced_frames(capture: Capture) -> int | None:
    """How many frames the container announces, or None (live streams, unfinished recordings)."""
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if 0 < count < 2**53 else None

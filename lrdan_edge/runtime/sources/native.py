"""Opens OpenCV captures with time-outs, without log messages, and without incomplete packets."""

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import cv2
import numpy as np

from lrdan_edge.data.images import Frame
from lrdan_edge.errors import SourceError
from lrdan_edge.runtime.sources.jpeg_capture import JpegCapture, raw_jpeg

OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
"""The variable with FFmpeg's options, ``name;value|name;value``."""

# OpenCV reads these variables whenever it opens a capture. The user's own settings are kept.
_ENVIRONMENT = {
    # -8 is AV_LOG_QUIET. Without it, FFmpeg's messages would show the whole address, with its password, on the terminal.
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
    # A truncated packet decodes to a partly grey image: drop it.
    OPTIONS: "rtsp_flags;prefer_tcp|fflags;discardcorrupt",
    # Without this, OpenCV holds one mutex while it connects: one dead camera would block all others.
    "OPENCV_FFMPEG_IS_THREAD_SAFE": "1",
}


_SILENT = 0
_MOST_THREADS = 16  # OpenCV asks FFmpeg for no more


def log_level(new: int | None = None) -> int:
    """OpenCV's log level; set to `new` when given. OpenCV 5 moved the functions."""
    place: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
    old: int = place.getLogLevel()
    if new is not None:
        place.setLogLevel(new)
    return old


class Quiet:
    """A context in which OpenCV and FFmpeg log nothing; the last thread that leaves it restores their settings."""

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

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for name in self._added:
                    os.environ.pop(name, None)
                log_level(self._level)


quiet = Quiet()


class VideoCapture(Protocol):
    """The part of ``cv2.VideoCapture`` that this package uses."""

    def read(self) -> tuple[bool, object]:
        """Whether a frame came, and the frame."""
        ...

    def get(self, propId: int, /) -> float:  # noqa: N803 - OpenCV's name
        """The value of a property."""
        ...

    def release(self) -> None:
        """Close the capture."""
        ...


_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def _more_options(options: str) -> Iterator[None]:
    """FFmpeg's options with others appended; the variable belongs to the whole process."""
    if not options:
        yield
        return
    with _one_at_a_time:
        before = os.environ[OPTIONS]
        os.environ[OPTIONS] = f"{before}|{options}"
        try:
            yield
        finally:
            os.environ[OPTIONS] = before


def open_ffmpeg(target: str, open_timeout_s: float, read_timeout_s: float, options: str = "") -> "VideoCapture | None":
    """Open a file or stream with FFmpeg; None if it cannot be opened. Call this within `quiet`. MJPEG is decoded here.

    Args:
        target: What FFmpeg opens.
        open_timeout_s: Longest time for connecting.
        read_timeout_s: Longest time for one frame.
        options: FFmpeg's options for this target, beside those of `quiet`, in the form of `OPTIONS`.
    """
    parameters = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(open_timeout_s * 1000)),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(read_timeout_s * 1000)),
    ]
    try:
        with _more_options(options):
            capture = cv2.VideoCapture(target, cv2.CAP_FFMPEG, parameters)
    except cv2.error as error:
        raise SourceError(f"OpenCV cannot open videos here ({error.err})", "install opencv-python-headless") from error
    if capture.isOpened():
        return JpegCapture(capture) if raw_jpeg(capture) else capture
    capture.release()
    return None


def read_frame(capture: VideoCapture) -> Frame | None:
    """The next frame, uint8 [H, W] or [H, W, 3]; None if none came."""
    try:
        arrived, image = capture.read()
    except cv2.error:  # an image that cannot be converted, such as one of a new size
        return None
    if not arrived or not isinstance(image, np.ndarray) or image.size == 0 or image.dtype != np.uint8:
        return None
    return image


def announced_fps(capture: VideoCapture) -> float | None:
    """The nominal frame rate; None if it is not plausible."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 0 < fps <= 1000 else None


def announced_frames(capture: VideoCapture) -> int | None:
    """The number of frames that the container announces; None for live streams and unfinished recordings."""
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if 0 < count < 2**53 else None


def decoder_threads(capture: VideoCapture) -> int:
    """The most images that the decoder's threads hold at a time."""
    return max(1, min(int(capture.get(cv2.CAP_PROP_N_THREADS)) or _MOST_THREADS, _MOST_THREADS))

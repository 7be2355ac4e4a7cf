"""Records frames of a source as image files, to train on or to fit a threshold with."""

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import cv2

from lrdan_edge.errors import DataError, SourceEndedError
from lrdan_edge.runtime.sources.base import CapturedFrame, Source


def record(
    source: Source, folder: Path, count: int, every_s: float = 0.0, report: Callable[[int, str | None], None] | None = None
) -> int:
    """Write frames unchanged as PNG, named by their time of arrival, so that later recordings can be added.

    Args:
        source: A source just opened.
        folder: The folder for the files; made if missing.
        count: Most frames to write.
        every_s: Least time between two of them, in seconds; 0: every frame.
        report: Called after each frame with the number written so far, and the reason if the frame is missing.

    Returns:
        The number of frames written: fewer than `count` if the source ends earlier.

    Raises:
        DataError: The folder cannot be written.
        SourceEndedError: The source ended without a frame.
        SourceError: The source failed.
    """
    tell = report or (lambda *_: None)
    written, due, fault = 0, 0, None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for frame in source:
            if frame.image is None:
                fault = frame.fault
                tell(written, fault)
            elif frame.capture_ns >= due:
                _write(folder / _name(frame), frame)
                written, due = written + 1, frame.capture_ns + round(1e9 * every_s)
                tell(written, None)
                if written == count:
                    break
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror})", "give another folder") from error
    if not written:
        raise SourceEndedError(f"{source.uri} gives no frame{f': {fault}' if fault else ''}")
    return written


def _name(frame: CapturedFrame) -> str:
    time = datetime.fromtimestamp(frame.wall_time, timezone.utc)
    return f"{time:%Y%m%dT%H%M%S}.{time.microsecond // 1000:03d}Z-{frame.index:06d}.png"


def _write(path: Path, frame: CapturedFrame) -> None:
    assert frame.image is not None
    done, data = cv2.imencode(".png", frame.image)
    if not done:
        raise DataError(f"{frame.name} of {frame.source} cannot be written as PNG: it has the shape {frame.image.shape}")
    path.write_bytes(data.tobytes())

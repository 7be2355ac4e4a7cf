"""Frames of a source as image files: what a detector of this line is trained on and its threshold fitted on."""

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import cv2

from lrdan_edge.errors import DataError, SourceError
from lrdan_edge.runtime.sources.base import CapturedFrame, Source


def record(
    source: Source, folder: Path, count: int, every_s: float = 0.0, report: Callable[[int, str | None], None] | None = None
) -> int:
    """Write frames as PNG, unchanged, named by the time they arrived: more can be added later.

    Args:
        source: A source just opened.
        folder: Where they go; made if missing.
        count: How many at most.
        every_s: Least time between two of them, in seconds; 0: every frame.
        report: Called with the number written so far after each, and with what was missing.

    Returns:
        How many were written: fewer where the source ends before.

    Raises:
        DataError: The folder cannot be written.
        SourceError: The source failed, or gave no frame.
    """
    said = report or (lambda *_: None)
    written, due, fault = 0, 0, None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for frame in source:
            if frame.image is None:
                fault = frame.fault
                said(written, fault)
            elif frame.capture_ns >= due:
                _write(folder / _name(frame), frame)
                written, due = written + 1, frame.capture_ns + round(1e9 * every_s)
                said(written, None)
                if written == count:
                    break
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror}): give another folder") from error
    if not written:
        raise SourceError(f"{source.uri} gives no frame{f': {fault}' if fault else ''}")
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

"""Sinks that write files: verdicts as JSON Lines, and annotated frames as PNG."""

import errno
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, get_args

import cv2
import msgspec

from lrdan_edge.errors import DataError
from lrdan_edge.runtime.annotate import annotate
from lrdan_edge.runtime.sinks.base import InspectedFrame
from lrdan_edge.runtime.verdict import Outcome

Save = Literal["all", "rejects", "none"]
VERDICTS = "verdicts.jsonl"
_FAST = (cv2.IMWRITE_PNG_COMPRESSION, 1)


class JsonLinesSink:
    """One line per frame in ``verdicts.jsonl``, unbuffered, so that a killed run loses no verdict."""

    name = "verdicts"
    pictures = False

    def __init__(self, folder: Path, *, append: bool = False, overwrite: bool = False) -> None:
        """Open the file.

        Args:
            folder: The file's folder; made if missing.
            append: Add to an earlier run's verdicts; removes a last line that is incomplete (after a power failure).
            overwrite: Replace an earlier run's verdicts.

        Raises:
            DataError: The folder cannot be written, or it holds an earlier run's verdicts and neither `append` nor `overwrite` is set.
        """
        path = folder / VERDICTS
        if append and overwrite:
            raise DataError("verdicts cannot be both appended and overwritten", "choose one of {append} and {overwrite}")
        if path.exists() and not (append or overwrite):
            fix = "choose another {output}, or give {append:on} or {overwrite:on}"
            raise DataError(f"{path} holds an earlier run's verdicts", fix)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if path.exists() and append:
                _cut_unfinished_line(path)
            self._file = path.open("ab" if append else "wb", buffering=0)
        except OSError as error:
            raise DataError(f"{folder} cannot be written ({error.strerror})", "choose another {output}") from error

    def write(self, inspected: InspectedFrame) -> None:
        """Append one complete line, or nothing; see `as_record`."""
        line = msgspec.json.encode(as_record(inspected)) + b"\n"
        if (written := self._file.write(line)) != len(line):  # the disk is full: remove the incomplete line
            self._file.truncate(self._file.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class AnnotatedFramesSink:
    """One PNG per frame, or per rejected frame, with heatmap and verdict drawn on it."""

    name = "frames"
    pictures = True

    def __init__(self, folder: Path, save: Save, *, sources: int = 1, run: str = "", overwrite: bool = False) -> None:
        """Write into ``folder/frames``; made if missing.

        Args:
            folder: The parent of ``frames``.
            save: Which frames to write.
            sources: Number of sources; with several, each has a folder, from ``0``.
            run: Subfolder for this run, to keep the frames of earlier runs; empty: no subfolder.
            overwrite: Remove an earlier run's frames.

        Raises:
            DataError: The folder cannot be written.
        """
        self._save = save
        frames = folder / "frames" / run
        self._folders = [frames / str(number) for number in range(sources)] if sources > 1 else [frames]
        try:
            for one in self._folders:
                one.mkdir(parents=True, exist_ok=True)
                for outcome in get_args(Outcome) if overwrite else ():
                    for old in one.glob(f"{'[0-9]' * 8}-{outcome}.png"):
                        old.unlink()
        except OSError as error:
            raise DataError(f"{frames} cannot be written ({error.strerror})", "choose another {output}") from error

    def write(self, inspected: InspectedFrame) -> None:
        """Write the annotated frame, if frames with this outcome are kept."""
        frame, verdict = inspected.frame, inspected.verdict
        if frame.image is None or (self._save == "rejects" and verdict.outcome == "good"):
            return
        path = self._folders[inspected.source_number] / f"{frame.index:08d}-{verdict.outcome}.png"
        done, data = cv2.imencode(".png", annotate(frame.image, verdict), _FAST)
        if not done:
            raise OSError(f"{path} cannot be encoded")
        path.write_bytes(data.tobytes())

    def close(self) -> None:
        """Do nothing: no file stays open."""


def _cut_unfinished_line(path: Path) -> None:
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            if (newline := file.read(end - start).rfind(b"\n")) >= 0:
                end = start + newline + 1
                break
            end = start
        file.truncate(end)


def as_record(inspected: InspectedFrame) -> dict[str, object]:
    """An inspected frame as the JSON object of ``verdicts.jsonl``."""
    frame = inspected.frame
    return {
        "index": frame.index,
        "name": frame.name,
        "source": frame.source,
        "time": datetime.fromtimestamp(frame.wall_time, timezone.utc).isoformat(timespec="milliseconds"),
        **inspected.verdict.as_dict(),
        "latency_ms": round(inspected.latency_ms, 3),
    }

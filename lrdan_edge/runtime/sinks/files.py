"""Sinks that write files: verdicts as JSON Lines, and annotated frames as PNG."""

import errno
import io
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, get_args

import cv2
import msgspec

from lrdan_edge.errors import DataError
from lrdan_edge.runtime.annotate import annotate
from lrdan_edge.runtime.sinks.base import Gap, InspectedFrame
from lrdan_edge.runtime.sinks.lock import OutputLock
from lrdan_edge.runtime.sinks.whole import write_whole
from lrdan_edge.runtime.verdict import Outcome

Save = Literal["all", "rejects", "none"]
Durable = Literal["none", "rejects", "all"]
VERDICTS = "verdicts.jsonl"
_FAST = (cv2.IMWRITE_PNG_COMPRESSION, 1)
_APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


@dataclass(frozen=True)
class Numbering:
    """The numbers of a run's frames in its folder, none of which any other run there has.

    Attributes:
        first: The first number.
        sources: Number of sources, whose frames are numbered in turn.
    """

    first: int = 0
    sources: int = 1

    def of(self, inspected: InspectedFrame) -> int:
        """The number of a frame."""
        return self.first + inspected.frame.index * self.sources + (inspected.source_number if self.sources > 1 else 0)


class JsonLinesSink:
    """One line per frame in ``verdicts.jsonl``, unbuffered, so that a killed run loses no verdict.

    The file is only ever appended to. If it is deleted, or moved away, or its disk comes back, a new one is made.
    """

    name = "verdicts"
    pictures = False
    retries = True

    def __init__(
        self, folder: Path, *, append: bool = False, overwrite: bool = False, durable: Durable = "rejects", run: str = ""
    ) -> None:
        """Open the file, and lock the folder.

        Args:
            folder: The file's folder; made if missing.
            append: Add to an earlier run's verdicts; removes a last line that is incomplete (after a power failure).
            overwrite: Replace an earlier run's verdicts.
            durable: After which verdicts to wait until the disk has them: ``none``, ``rejects`` (and faults) or ``all``.
            run: The run's name, for its lines; empty: the lines name none.

        Raises:
            DataError: The folder cannot be written, another run writes into it, or it holds an earlier run's verdicts and neither
                `append` nor `overwrite` is set.
        """
        path = folder / VERDICTS
        if append and overwrite:
            raise DataError("verdicts cannot be both appended and overwritten", "choose one of {append} and {overwrite}")
        if path.exists() and not (append or overwrite):
            fix = "choose another {output}, or give {append:on} or {overwrite:on}"
            raise DataError(f"{path} holds an earlier run's verdicts", fix)
        self.numbering = Numbering()
        self._path, self._durable, self._run = path, durable, run
        self._lock: OutputLock | None = None
        self._file: io.FileIO | None = None
        self._unsafe = False
        try:
            self._open(truncate=overwrite)
        except OSError as error:
            self.close()
            raise DataError(f"{folder} cannot be written ({error.strerror})", "choose another {output}") from error

    def write(self, inspected: InspectedFrame) -> None:
        """Append one complete line, or nothing; see `as_record`."""
        record = as_record(inspected, self.numbering.of(inspected), self._run)
        self._append(record, safe=inspected.verdict.outcome == "good" and self._durable != "all")

    def write_gap(self, gap: Gap) -> None:
        """Append a line that is a fault, and says how many frames have no line of their own; see `as_gap_record`."""
        self._append(as_gap_record(gap, self.numbering.of(gap.first), self._run), safe=False)

    def write_record(self, record: dict[str, object]) -> None:
        """Append another line."""
        self._append(record, safe=False)

    def flush(self) -> None:
        """Wait until the disk has what `durable` asks for."""
        if self._unsafe and self._file is not None:
            os.fdatasync(self._file.fileno())
        self._unsafe = False

    def close(self) -> None:
        """Close the file, and free the folder."""
        file, self._file = self._file, None
        if self._lock is not None:
            self._lock.release()
        if file is not None:
            file.close()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def _append(self, record: dict[str, object], *, safe: bool) -> None:
        line = msgspec.json.encode(record) + b"\n"
        try:
            file = self._present()
            if (written := file.write(line)) != len(line):  # the disk is full: remove the incomplete line
                size = os.fstat(file.fileno()).st_size
                os.ftruncate(file.fileno(), max(0, size - written))
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        except OSError as error:
            self._close_file()  # the next attempt opens it again: the disk may be another one by then
            error.filename = str(self._path)
            raise
        self._unsafe |= not safe and self._durable != "none"

    def _present(self) -> io.FileIO:
        """The open file; it is opened again if another file, or none, has its name now."""
        if self._file is not None:
            try:
                if os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                    return self._file
            except FileNotFoundError as error:
                raise OSError(errno.ENOENT, "it was deleted", str(self._path)) from error
            self._close_file()
        self._open(truncate=False)
        assert self._file is not None
        return self._file

    def _open(self, *, truncate: bool) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._lock is None or not self._lock.holds():
            lock, self._lock = self._lock, None
            if lock is not None:
                lock.release()
            try:
                self._lock = OutputLock(self._path.parent)
            except DataError as error:
                if lock is None:
                    raise
                raise OSError(errno.EAGAIN, error.problem, str(self._path)) from error
        if not truncate and self._path.exists():
            _cut_unfinished_line(self._path)
        descriptor = os.open(self._path, _APPENDING | (os.O_TRUNC if truncate else 0), 0o666)
        self._file = io.FileIO(descriptor, "ab")


class AnnotatedFramesSink:
    """One PNG per frame, or per rejected frame, with heatmap and verdict drawn on it; written whole or not at all."""

    name = "frames"
    pictures = True
    retries = True

    def __init__(
        self,
        folder: Path,
        save: Save,
        *,
        sources: int = 1,
        run: str = "",
        overwrite: bool = False,
        durable: Durable = "rejects",
    ) -> None:
        """Write into ``folder/frames``; made if missing.

        Args:
            folder: The parent of ``frames``.
            save: Which frames to write.
            sources: Number of sources; with several, each has a folder, from ``0``.
            run: Subfolder for this run, to keep the frames of earlier runs; empty: no subfolder.
            overwrite: Remove earlier runs' frames.
            durable: After which pictures to wait until the disk has them: ``none``, ``rejects`` (and faults) or ``all``.

        Raises:
            DataError: The folder cannot be written, or a run of this name has written into it.
        """
        self.numbering = Numbering()
        self._save, self._durable = save, durable
        frames = folder / "frames" / run
        self._folders = [frames / str(number) for number in range(sources)] if sources > 1 else [frames]
        try:
            if overwrite:
                _remove_pictures(folder / "frames")
            if run:
                frames.mkdir(parents=True)
            for one in self._folders:
                one.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{frames} cannot be written ({error.strerror})", "choose another {output}") from error

    def write(self, inspected: InspectedFrame) -> None:
        """Write the annotated frame, if frames with this outcome are kept."""
        frame, verdict = inspected.frame, inspected.verdict
        if frame.image is None or (self._save == "rejects" and verdict.outcome == "good"):
            return
        path = self._folders[inspected.source_number] / f"{self.numbering.of(inspected):08d}-{verdict.outcome}.png"
        done, data = cv2.imencode(".png", annotate(frame.image, verdict), _FAST)
        if not done:
            raise ValueError(f"{path} cannot be encoded")
        durable = self._durable == "all" or (self._durable == "rejects" and verdict.outcome != "good")
        write_whole(path, data.tobytes(), durable=durable)

    def write_gap(self, gap: Gap) -> None:
        """Do nothing: pictures that are missing are counted by the run."""

    def flush(self) -> None:
        """Do nothing: each picture is flushed by itself."""

    def close(self) -> None:
        """Do nothing: no file stays open."""


def _remove_pictures(frames: Path) -> None:
    """Remove what runs have written below a folder, and the folders that are empty then; leave everything else."""
    for pattern in ("", "[0-9]*", "[0-9]*T[0-9]*Z*/[0-9]*"):
        for folder in sorted(frames.glob(pattern)) if pattern else [frames]:
            if not folder.is_dir() or folder.is_symlink():
                continue
            for outcome in get_args(Outcome):
                for old in folder.glob(f"{'[0-9]' * 8}*-{outcome}.png"):
                    old.unlink()
    for folder in sorted(frames.glob("[0-9]*/**/"), reverse=True):
        with suppress(OSError):
            folder.rmdir()


def _cut_unfinished_line(path: Path) -> None:
    with path.open("rb+") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return
        size = end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            if (newline := file.read(end - start).rfind(b"\n")) >= 0:
                end = start + newline + 1
                break
            end = start
        if end != size:
            file.truncate(end)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


def as_record(inspected: InspectedFrame, number: int | None = None, run: str = "") -> dict[str, object]:
    """An inspected frame as the JSON object of ``verdicts.jsonl``.

    Args:
        inspected: The frame.
        number: Its number; None: that in its source.
        run: The run's name; empty: the object names none.
    """
    frame = inspected.frame
    return {
        "index": frame.index if number is None else number,
        "name": frame.name,
        "source": frame.source,
        "time": _time(frame.wall_time),
        **inspected.verdict.as_dict(),
        "latency_ms": round(inspected.latency_ms, 3),
        **({"run": run} if run else {}),
    }


def as_gap_record(gap: Gap, number: int | None = None, run: str = "") -> dict[str, object]:
    """A gap as the JSON object of ``verdicts.jsonl``: a fault with the first lost frame's keys, and ``lost``, ``from`` and ``to``."""
    first, last = gap.first, gap.last
    start, end = _time(first.frame.wall_time), _time(last.frame.wall_time)
    record: dict[str, object] = {
        "index": first.frame.index if number is None else number,
        "name": first.frame.name,
        "source": first.frame.source,
        "time": start,
        "outcome": "fault",
        "score": None,
        "threshold": first.verdict.threshold,
        "p_value": None,
        "fault": f"{gap.count} verdicts were lost, from {start} to {end}: {gap.reason}",
        "lost": gap.count,
        "from": start,
        "to": end,
        "latency_ms": round(first.latency_ms, 3),
    }
    if run:
        record["run"] = run
    return {
        key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value for key, value in record.items()
    }

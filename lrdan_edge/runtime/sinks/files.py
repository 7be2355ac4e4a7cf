"""Sinks that write files: verdicts as JSON Lines, and annotated frames as PNG."""

from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

import cv2

from lrdan_edge.errors import DataError
from lrdan_edge.runtime.annotate import annotate
from lrdan_edge.runtime.sinks.appended_file import AppendedFile
from lrdan_edge.runtime.sinks.base import Gap, InspectedFrame
from lrdan_edge.runtime.sinks.records import Numbering, as_gap_record, as_line, as_record
from lrdan_edge.runtime.sinks.whole import write_whole
from lrdan_edge.runtime.verdict import Outcome

Save = Literal["all", "rejects", "none"]
Durable = Literal["none", "rejects", "all"]
VERDICTS = "verdicts.jsonl"
_FAST = (cv2.IMWRITE_PNG_COMPRESSION, 1)


class JsonLinesSink:
    """One line per frame in ``verdicts.jsonl``, unbuffered, so that a killed run loses no verdict; see `AppendedFile`."""

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
        self._durable, self._run = durable, run
        self._unsafe = False
        try:
            self._file = AppendedFile(path, truncate=overwrite, keep=durable != "none")
        except OSError as error:
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
        """Wait until the disk has what `durable` asks for; after a failure, write it again first."""
        if self._unsafe or self._file.due:
            self._file.sync()
        self._unsafe = False

    def close(self) -> None:
        """Close the file, and free the folder."""
        self._file.close()

    def _append(self, record: dict[str, object], *, safe: bool) -> None:
        self._file.append(as_line(record))
        self._unsafe |= not safe and self._durable != "none"


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

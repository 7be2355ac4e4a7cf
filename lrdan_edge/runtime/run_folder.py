"""The folder of a recorded run: its files, and the numbers of its frames, which no other run there has."""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.errors import DataError
from lrdan_edge.runtime.loop import Progress
from lrdan_edge.runtime.sinks.base import Sink
from lrdan_edge.runtime.sinks.files import AnnotatedFramesSink, Durable, JsonLinesSink, Save
from lrdan_edge.runtime.sinks.records import BLOCK, Numbering, as_line
from lrdan_edge.runtime.sinks.whole import write_whole

RESULT, RUNS = "run.json", "runs.jsonl"
_INDEX = re.compile(rb'\{"index":(\d+)[,}]')


@dataclass(frozen=True)
class RunFolder:
    """The folder in which a run is recorded, and how; see `lrdan_edge.runtime.recorded_run.RecordedRun`."""

    output: Path
    sources: int
    append: bool
    overwrite: bool
    durable: Durable

    def open(self, sinks: list[Sink], identity: dict[str, object], save: Save) -> Numbering:
        """Open the sinks, adding each to `sinks` at once, so that it is closed if the next one fails; returns their numbers."""
        run = str(identity["run"])
        verdicts = JsonLinesSink(self.output, append=self.append, durable=self.durable, run=run, overwrite=self.overwrite)
        sinks.append(verdicts)
        first = _begin(self.output, verdicts, identity, fresh=not self.append)
        verdicts.numbering = Numbering(first, self.sources, partial(_reserve, self.output, identity))
        if save != "none":
            name = run if self.append else ""
            drawn = AnnotatedFramesSink(
                self.output, save, sources=self.sources, run=name, durable=self.durable, overwrite=self.overwrite
            )
            drawn.numbering = verdicts.numbering
            sinks.append(drawn)
        return verdicts.numbering

    def end(self, progress: Progress, numbering: Numbering) -> None:
        """Write ``run.json``; a failure is noted."""
        progress.identity |= {"ended": _now(), "next_index": numbering.next}
        path = self.output / RESULT
        try:
            write_whole(path, to_json(progress.as_dict()), durable=True)
        except OSError as error:
            progress.note(f"{path} cannot be written ({error.strerror})")
            progress.failed_sinks.add(RESULT)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _begin(output: Path, verdicts: JsonLinesSink, identity: dict[str, object], *, fresh: bool) -> int:
    """Record that a run has begun, and that the one before it was killed if it was.

    Args:
        output: The run's folder, locked.
        verdicts: Gets a line if the earlier run left no end.
        identity: What the run is; gets ``started`` and ``ended``.
        fresh: Whether no earlier verdicts are kept.

    Returns:
        The number of the run's first frame.

    Raises:
        DataError: The folder cannot be written.
    """
    identity |= {"started": _now(), "ended": None}
    earlier = {} if fresh else _earlier_run(output)
    first = 0 if fresh else _next_number(output, earlier)
    try:
        if earlier.get("run") and earlier.get("ended") is None:
            _reserve(output, earlier, first + 1)
            verdicts.write_record(_killed(earlier, identity, first))
            first += 1
        with (output / RUNS).open("wb" if fresh else "ab") as file:
            file.write(as_line(identity | {"first_index": first}))
            file.flush()
            os.fsync(file.fileno())
        _reserve(output, identity, first + BLOCK)
    except OSError as error:
        raise DataError(f"{output} cannot be written ({error.strerror})", "choose another {output}") from error
    return first


def _earlier_run(output: Path) -> dict[str, Any]:
    """What ``run.json`` holds; empty if there is none."""
    try:
        found = msgspec.json.decode((output / RESULT).read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _killed(earlier: dict[str, Any], identity: dict[str, object], number: int) -> dict[str, object]:
    """The line for what a run that was killed may have lost: the frames that it had captured, and not yet recorded."""
    run, problems = str(earlier["run"]), earlier.get("problems")
    why = f" ({'; '.join(map(str, problems))})" if isinstance(problems, list) and problems else ""
    return {
        "index": number,
        "name": run,
        "source": "",
        "time": identity["started"],
        "outcome": "fault",
        "score": None,
        "threshold": identity["threshold"],
        "p_value": None,
        "fault": f"the run {run} of {earlier.get('started')} was killed: its last frames may have no verdict{why}",
        "latency_ms": 0.0,
        "run": identity["run"],
    }


def _next_number(output: Path, earlier: dict[str, Any]) -> int:
    """A number above those of all earlier frames: as ``run.json`` says, or else, if it was deleted, from all lines that are left."""
    with suppress(KeyError, TypeError, ValueError):
        return int(earlier["next_index"])
    largest = -1
    for path in sorted(output.glob("verdicts.jsonl*")):
        with suppress(OSError), path.open("rb") as file:
            for line in file:
                if found := _INDEX.match(line):
                    largest = max(largest, int(found[1]))
    return largest + 1


def _reserve(output: Path, identity: dict[str, object], limit: int) -> None:
    """Record in ``run.json``, for the run after this one, that this one may use numbers below a limit; may raise OSError."""
    write_whole(output / RESULT, to_json(identity | {"next_index": limit}), durable=True)
    folder = os.open(output, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # else the earlier file may be back after a power failure
    finally:
        os.close(folder)

"""An inspection recorded in a folder: verdicts, annotated frames, and ``run.json`` with counts and latencies."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.errors import DataError
from lrdan_edge.runtime.identity import describe_run, new_run
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.loop import InspectionLoop, Policy, Progress
from lrdan_edge.runtime.loop.watchdog import DEADLINE_S
from lrdan_edge.runtime.rule import Rule
from lrdan_edge.runtime.sinks.base import Sink
from lrdan_edge.runtime.sinks.files import AnnotatedFramesSink, Durable, JsonLinesSink, Numbering, Save
from lrdan_edge.runtime.sinks.whole import write_whole
from lrdan_edge.runtime.sinks.worker import SINK_TIMEOUT_S
from lrdan_edge.runtime.sources.base import Source

RESULT, RUNS = "run.json", "runs.jsonl"
_TAIL = 1 << 18


class RecordedRun:
    """Inspects sources, and records the run in a folder.

    Attributes:
        progress: Counts, latencies and problems; see `Progress`.
    """

    def __init__(
        self,
        inspector: Inspector,
        sources: Sequence[Source],
        output: Path | None,
        save: Save | None = None,
        *,
        append: bool = False,
        overwrite: bool = False,
        durable: Durable = "rejects",
        policy: Policy | None = None,
        batch: int = 1,
        rule: Rule | None = None,
        deadline_s: float = DEADLINE_S,
        sink_timeout_s: float = SINK_TIMEOUT_S,
    ) -> None:
        """Open the folder's files; `run` inspects.

        Args:
            inspector: Inspects the frames.
            sources: Deliver the frames; the run closes them.
            output: The folder; None: nothing is recorded.
            save: Which frames to draw; None: all, or only rejects and faults where a source is live.
            append: Add to an earlier run's verdicts; this run's frames go into a separate folder.
            overwrite: Replace an earlier run's verdicts and frames.
            durable: See `JsonLinesSink`.
            policy: See `InspectionLoop`.
            batch: See `InspectionLoop`.
            rule: See `InspectionLoop`.
            deadline_s: See `InspectionLoop`.
            sink_timeout_s: See `InspectionLoop`.

        Raises:
            DataError: The folder cannot be written, is in use or holds an earlier run, there is no source, or the rule does not apply.
        """
        chosen: Save = save or ("rejects" if any(source.live for source in sources) else "all")
        pictures = output is not None and chosen != "none"
        sinks: list[Sink] = []
        identity: dict[str, object] = {}
        try:
            if output is not None:
                identity = describe_run(new_run(), inspector) | _unverified(sources)
                _Files(output, len(sources), append, overwrite, durable).open(sinks, identity, chosen)
            self._loop = InspectionLoop(
                inspector,
                sources,
                sinks,
                policy=policy,
                batch=batch,
                heatmaps=pictures,
                rule=rule,
                deadline_s=deadline_s,
                sink_timeout_s=sink_timeout_s,
            )
        except BaseException:
            for sink in sinks:
                sink.close()
            raise
        self._output, self.progress = output, self._loop.progress
        self.progress.identity = identity

    def run(self, report: Callable[[Progress], None] | None = None) -> Progress:
        """Inspect until all sources have ended or `stop` is called, then write ``run.json``.

        Args:
            report: Called after every batch, on this thread.

        Raises:
            SourceError: As `InspectionLoop.run`.
            BackendError: As `InspectionLoop.run`.
            SinkError: As `InspectionLoop.run`.
        """
        try:
            return self._loop.run(report)
        finally:
            if self.progress.seconds and self._output is not None:
                self.progress.identity["ended"] = _now()
                path = self._output / RESULT
                try:
                    write_whole(path, to_json(self.progress.as_dict()), durable=True)
                except OSError as error:
                    self.progress.note(f"{path} cannot be written ({error.strerror})")
                    self.progress.failed_sinks.add(RESULT)

    def stop(self) -> None:
        """End the run, as `InspectionLoop.stop`."""
        self._loop.stop()


@dataclass(frozen=True)
class _Files:
    """Where and how a run is recorded; see `RecordedRun`."""

    output: Path
    sources: int
    append: bool
    overwrite: bool
    durable: Durable

    def open(self, sinks: list[Sink], identity: dict[str, object], save: Save) -> None:
        """Open the sinks, adding each to `sinks` at once, so that it is closed if the next one fails."""
        run = str(identity["run"])
        verdicts = JsonLinesSink(self.output, append=self.append, durable=self.durable, run=run, overwrite=self.overwrite)
        sinks.append(verdicts)
        first = _begin(self.output, verdicts, identity, fresh=not self.append)
        verdicts.numbering = Numbering(first, self.sources)
        if save != "none":
            name = run if self.append else ""
            drawn = AnnotatedFramesSink(
                self.output, save, sources=self.sources, run=name, durable=self.durable, overwrite=self.overwrite
            )
            drawn.numbering = verdicts.numbering
            sinks.append(drawn)


def _unverified(sources: Sequence[Source]) -> dict[str, object]:
    """The sources whose servers' certificates were not checked; empty if there are none."""
    found = [source.uri for source in sources if getattr(source, "unverified", False)]
    return {"unverified_sources": found} if found else {}


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
    first = 0 if fresh else _next_number(output)
    try:
        earlier = {} if fresh else _earlier_run(output)
        if earlier.get("run") and earlier.get("ended") is None:
            verdicts.write_record(_killed(str(earlier["run"]), str(earlier.get("started")), identity, first))
            first += 1
        with (output / RUNS).open("wb" if fresh else "ab") as file:
            file.write(msgspec.json.encode(identity | {"first_index": first}) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        write_whole(output / RESULT, to_json(identity), durable=True)
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


def _killed(run: str, started: str, identity: dict[str, object], number: int) -> dict[str, object]:
    """The line for what a run that was killed may have lost: the frames that it had captured, and not yet recorded."""
    return {
        "index": number,
        "name": run,
        "source": "",
        "time": identity["started"],
        "outcome": "fault",
        "score": None,
        "threshold": identity["threshold"],
        "p_value": None,
        "fault": f"the run {run} of {started} was killed: its last frames may have no verdict",
        "latency_ms": 0.0,
        "run": identity["run"],
    }


def _next_number(output: Path) -> int:
    """A number above those of all earlier frames, from the last verdicts and the last run's start.

    If the verdicts were moved away (``copytruncate``), there are none to tell where a killed run was. A second then counts as a
    thousand frames, which no line inspects.
    """
    numbers = [-1]
    with suppress(OSError), (output / "verdicts.jsonl").open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        for line in file.read().splitlines():
            with suppress(msgspec.DecodeError, KeyError, TypeError, ValueError):
                numbers.append(int(msgspec.json.decode(line)["index"]))
    with suppress(OSError, msgspec.DecodeError, KeyError, TypeError, ValueError, IndexError):
        lines = (output / RUNS).read_bytes()[-_TAIL:].splitlines()
        last = msgspec.json.decode(lines[-1])
        began = datetime.fromisoformat(last["started"]).timestamp()
        if len(numbers) == 1:
            numbers.append(int(last["first_index"]) + 1000 * max(1, round(time.time() - began)))
    return max(numbers) + 1

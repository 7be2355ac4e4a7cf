"""An inspection recorded in a folder: verdicts, annotated frames, and ``run.json`` with counts and latencies."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.loop import InspectionLoop, Policy, Progress
from lrdan_edge.runtime.rule import Rule
from lrdan_edge.runtime.sinks.base import Sink
from lrdan_edge.runtime.sinks.files import AnnotatedFramesSink, JsonLinesSink, Save
from lrdan_edge.runtime.sources.base import Source


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
        policy: Policy | None = None,
        batch: int = 1,
        rule: Rule | None = None,
    ) -> None:
        """Open the folder's files; `run` inspects.

        Args:
            inspector: Inspects the frames.
            sources: Deliver the frames; the run closes them.
            output: The folder; None: nothing is recorded.
            save: Which frames to draw; None: all, or only rejects and faults where a source is live.
            append: Add to an earlier run's verdicts; this run's frames go into a separate folder.
            overwrite: Replace an earlier run's verdicts and frames.
            policy: See `InspectionLoop`.
            batch: See `InspectionLoop`.
            rule: See `InspectionLoop`.

        Raises:
            DataError: The folder cannot be written or holds an earlier run, there is no source, or the rule cannot be applied.
        """
        chosen: Save = save or ("rejects" if any(source.live for source in sources) else "all")
        pictures = output is not None and chosen != "none"
        sinks: list[Sink] = []
        if output is not None:
            sinks.append(JsonLinesSink(output, append=append, overwrite=overwrite))
            if pictures:
                run = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) if append else ""
                sinks.append(AnnotatedFramesSink(output, chosen, sources=len(sources), run=run, overwrite=overwrite))
        self._output = output
        self._loop = InspectionLoop(inspector, sources, sinks, policy=policy, batch=batch, heatmaps=pictures, rule=rule)
        self.progress = self._loop.progress

    def run(self, report: Callable[[Progress], None] | None = None) -> Progress:
        """Inspect until all sources have ended or `stop` is called, then write ``run.json``.

        Args:
            report: Called after every batch, on this thread.

        Raises:
            SourceError: As `InspectionLoop.run`.
            BackendError: As `InspectionLoop.run`.
        """
        try:
            return self._loop.run(report)
        finally:
            if self.progress.seconds and self._output is not None:
                path = self._output / "run.json"
                try:
                    path.write_bytes(to_json(self.progress.as_dict()))
                except OSError as error:
                    self.progress.note(f"{path} cannot be written ({error.strerror})")

    def stop(self) -> None:
        """End the run, as `InspectionLoop.stop`."""
        self._loop.stop()

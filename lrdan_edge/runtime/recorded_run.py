"""An inspection recorded in a folder: verdicts, annotated frames, and ``run.json`` with counts and latencies."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lrdan_edge.runtime.identity import describe_run, new_run, unverified
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.loop import InspectionLoop, Policy, Progress
from lrdan_edge.runtime.loop.watchdog import DEADLINE_S
from lrdan_edge.runtime.rule import Rule
from lrdan_edge.runtime.run_folder import RunFolder
from lrdan_edge.runtime.sinks.base import Sink
from lrdan_edge.runtime.sinks.files import Durable, Save
from lrdan_edge.runtime.sinks.notify import NotifySink
from lrdan_edge.runtime.sinks.records import Numbering
from lrdan_edge.runtime.sinks.stream import StreamSink
from lrdan_edge.runtime.sinks.worker import SINK_TIMEOUT_S
from lrdan_edge.runtime.sources.base import Source


class RecordedRun:
    """Inspects sources, and records the run in a folder, or writes it to a stream.

    Attributes:
        progress: Counts, latencies and problems; see `Progress`.
    """

    def __init__(
        self,
        inspector: Inspector,
        sources: Sequence[Source],
        output: Path | int | None,
        save: Save | None = None,
        *,
        append: bool = False,
        overwrite: bool = False,
        durable: Durable = "rejects",
        notify: Sequence[NotifySink] = (),
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
            output: The folder; the file descriptor of a stream, which gets the lines of ``verdicts.jsonl``; None: nothing is
                recorded.
            save: Which frames to draw into the folder; None: all, or only rejects and faults where a source is live.
            append: Add to an earlier run's verdicts; this run's frames go into a separate folder.
            overwrite: Replace an earlier run's verdicts and frames.
            durable: See `JsonLinesSink`.
            notify: Sinks that notify controllers; the run closes them.
            policy: See `InspectionLoop`.
            batch: See `InspectionLoop`.
            rule: See `InspectionLoop`.
            deadline_s: See `InspectionLoop`.
            sink_timeout_s: See `InspectionLoop`.

        Raises:
            DataError: The folder cannot be written, is in use or holds an earlier run, there is no source, or the rule does not apply.
        """
        chosen: Save = save or ("rejects" if any(source.live for source in sources) else "all")
        self._folder = RunFolder(output, len(sources), append, overwrite, durable) if isinstance(output, Path) else None
        self._sinks: list[Sink] = []
        try:
            identity = self._open(inspector, output, sources, chosen, notify)
            self._loop = InspectionLoop(
                inspector,
                sources,
                self._sinks,
                policy=policy,
                batch=batch,
                heatmaps=self._folder is not None and chosen != "none",
                rule=rule,
                deadline_s=deadline_s,
                sink_timeout_s=sink_timeout_s,
            )
        except BaseException:
            for sink in self._sinks:
                sink.close()
            raise
        self.progress = self._loop.progress
        self.progress.identity = identity

    def _open(
        self,
        inspector: Inspector,
        output: Path | int | None,
        sources: Sequence[Source],
        save: Save,
        notify: Sequence[NotifySink],
    ) -> dict[str, object]:
        """Open the sinks; returns the run's identity, empty if nothing records it."""
        self._sinks += notify
        if output is None and not notify:
            return {}
        identity = describe_run(new_run(), inspector) | unverified(sources)
        self._numbering = Numbering(0, len(sources))
        if self._folder is not None:
            self._numbering = self._folder.open(self._sinks, identity, save)
        if isinstance(output, int):
            stream = StreamSink(output, run=str(identity["run"]))
            stream.numbering = self._numbering
            self._sinks.append(stream)
        for sink in notify:
            sink.numbering, sink.run = self._numbering, str(identity["run"])
        return identity

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
            if self.progress.seconds and self._folder is not None:
                self._folder.end(self.progress, self._numbering)

    def stop(self) -> None:
        """End the run, as `InspectionLoop.stop`."""
        self._loop.stop()

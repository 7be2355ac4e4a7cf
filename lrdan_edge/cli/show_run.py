"""What `lrdan-edge run` shows: the live line while it inspects, and what it came to."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.cli.show import console

if TYPE_CHECKING:
    from lrdan_edge.runtime.inspector import Inspector
    from lrdan_edge.runtime.loop import Policy, Progress
    from lrdan_edge.runtime.rule import Rule
    from lrdan_edge.runtime.sinks.files import Earlier, Save
    from lrdan_edge.runtime.sources.base import Source

_COLOURS = {"good": "green", "reject": "bold red", "fault": "yellow"}
_PLAIN_EVERY_S = 5.0
_REDRAW_EVERY_S = 0.125


def inspect_sources(
    inspector: "Inspector",
    sources: "Sequence[Source]",
    output: Path | None,
    save: "Save | None",
    *,
    earlier: "Earlier" = "refuse",
    policy: "Policy | None" = None,
    batch: int = 1,
    rule: "Rule | None" = None,
) -> bool:
    """Run the inspection loop with a live line, and print its summary.

    Returns:
        False when something was lost: faults of a recorded source, or a sink that stopped.

    Raises:
        SourceError: Sources failed; everything else was judged and delivered.
    """
    from lrdan_edge.runtime.loop import InspectionLoop
    from lrdan_edge.runtime.sinks.base import Sink
    from lrdan_edge.runtime.sinks.files import AnnotatedFramesSink, JsonLinesSink

    sinks: list[Sink] = []
    live = any(source.live for source in sources)
    chosen: Save = save or ("rejects" if live else "all")
    pictures = output is not None and chosen != "none"
    if output is not None:
        sinks.append(JsonLinesSink(output, earlier=earlier))
        if pictures:
            run = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) if earlier == "append" else ""
            overwrite = earlier == "overwrite"
            sinks.append(AnnotatedFramesSink(output, chosen, sources=len(sources), run=run, overwrite=overwrite))
    loop = InspectionLoop(inspector, sources, sinks, policy=policy, batch=batch, heatmaps=pictures, rule=rule)
    console.print(f"Inspecting {', '.join(source.uri for source in sources)} with {inspector.choice.describe()}")
    shown = _Problems()
    try:
        with _ends_on_signal(loop.stop), _live_line(shown) as report:
            loop.run(report)
    finally:
        if loop.progress.seconds:
            print_summary(loop.progress, output)
        shown.print_new(loop.progress)
    recorded = any(source.faults for source in loop.progress.sources if not source.live)
    return not recorded and not any(line.startswith("sink ") for line in loop.progress.problems)


class _Problems:
    """Prints each problem once, when it appears."""

    def __init__(self) -> None:
        self._printed = 0

    def print_new(self, progress: "Progress") -> None:
        while self._printed < len(progress.problems):
            with suppress(OSError):  # a full disk behind the log must not end the inspection
                print(f"Problem: {progress.problems[self._printed]}", file=sys.stderr)
            self._printed += 1


@contextmanager
def _ends_on_signal(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call `stop`; a second one ends the process at once."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stopping = False

    def handle(number: int, _: object) -> None:
        nonlocal stopping
        if stopping:
            console.show_cursor(True)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        stopping = True
        stop()

    try:
        for number in before:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _live_line(problems: _Problems) -> Iterator[Callable[["Progress"], None]]:
    """Lines that follow the loop: redrawn on a terminal, printed now and then elsewhere; problems when they appear."""
    shown = time.monotonic()

    def due(progress: "Progress", every_s: float) -> bool:
        nonlocal shown
        problems.print_new(progress)
        if time.monotonic() - shown < every_s:
            return False
        shown = time.monotonic()
        return True

    if not console.is_terminal:

        def plain(progress: "Progress") -> None:
            if due(progress, _PLAIN_EVERY_S):
                with suppress(OSError):
                    for line in _lines(progress):
                        console.print(line)

        yield plain
        return
    with Live(Text("waiting for the first frame"), console=console, refresh_per_second=8, transient=True) as view:

        def redraw(progress: "Progress") -> None:
            if due(progress, _REDRAW_EVERY_S):
                view.update(Group(*_lines(progress)))

        yield redraw


def _lines(progress: "Progress") -> list[Text]:
    """The loop in one line, and where there are several sources one each."""
    latency = progress.latency_percentiles()
    line = Text(
        f"{progress.frames} frames  {progress.frames_per_s:.1f}/s  latency {latency['p50']:.1f} ms (p99 {latency['p99']:.1f})"
    )
    if progress.dropped:
        line.append(f"  {progress.dropped} dropped")
    for _, verdict in progress.last:
        score = "" if verdict.score is None else f" {verdict.score:.3g}"
        line.append(f"  {verdict.outcome}{score}", style=_COLOURS[verdict.outcome])
    lines = [line]
    if len(progress.sources) > 1:
        for source in progress.sources:
            counts = ", ".join(f"{source.outcomes[outcome]} {outcome}" for outcome in _COLOURS)
            state = "failed" if source.error else "ended" if source.ended else "no signal" if source.in_gap else "running"
            style = "yellow" if state in ("failed", "no signal") else ""
            lines.append(Text(f"  {source.uri}: {counts}, {source.dropped} dropped, {state}", style=style))
    return lines


def print_summary(progress: "Progress", output: Path | None) -> None:
    """What a run came to; also as ``run.json`` in `output`."""
    counted = ", ".join(f"{progress.outcomes[outcome]} {outcome}" for outcome in _COLOURS)
    rate = progress.frames / progress.seconds if progress.seconds else 0.0
    lost = ", ".join(f"{count} {cause}" for cause, count in progress.drops.items() if count) or "none"
    console.print(f"{progress.frames} frames in {progress.seconds:.1f} s ({rate:.1f}/s): {counted}; lost: {lost}")
    if len(progress.sources) > 1:
        for line in _lines(progress)[1:]:
            console.print(line)
    table = Table("milliseconds", "p50", "p95", "p99", "max")
    for stage, latency in progress.latency.items():
        if latency.count:
            table.add_row(stage, *(f"{value:.2f}" for value in latency.percentiles_ms().values()))
    if table.row_count:
        console.print(table)
    if output is not None:
        try:
            (output / "run.json").write_bytes(to_json(progress.as_dict()))
        except OSError as error:
            progress.note(f"{output / 'run.json'} cannot be written ({error.strerror})")
        console.print(f"Written to {output}")

"""`lrdan-edge run`: inspect the frames of sources."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from lrdan_edge.cli.console import printable, show, show_unread, standard_output_for_data, table, terminal
from lrdan_edge.cli.guard import Guard
from lrdan_edge.cli.options import Parsed, backend_options, bundle_option, certificate_options, option_group, signature_option
from lrdan_edge.cli.signals import END_S, ends_on_signal
from lrdan_edge.errors import HungBackendError

if TYPE_CHECKING:
    from rich.text import Text

    from lrdan_edge.runtime.inspector import Inspector
    from lrdan_edge.runtime.loop import Progress
    from lrdan_edge.runtime.sinks.files import Save
    from lrdan_edge.runtime.sources.base import Source
    from lrdan_edge.runtime.verdict import Verdict

_COLOURS = {"good": "green", "reject": "bold red", "fault": "yellow"}
_PLAIN_EVERY_S = 5.0
_REDRAW_EVERY_S = 0.125


def _parsed(name: str, parser: str) -> Parsed:
    """An option type that is parsed by a function of `lrdan_edge.runtime.rule`."""

    def parse(text: str) -> Any:
        from lrdan_edge.runtime import rule

        return getattr(rule, parser)(text)

    return Parsed(name, parse)


_rule_options = option_group(
    "rule",
    click.option(
        "--reject-after",
        type=_parsed("N/M", "parse_reject_after"),
        help="Reject a part when N of a source's last M frames are rejected. [default: judge each frame by itself]",
    ),
    click.option(
        "--min-area",
        type=_parsed("PIXELS|PERCENT%", "parse_min_area"),
        help="Reject only if this much of the heatmap exceeds the pixel threshold.",
    ),
    click.option(
        "--region",
        "regions",
        type=_parsed("NAME=x,y,w,h:LIMIT", "parse_region"),
        multiple=True,
        help="Another limit for a region, given in fractions of the frame. LIMIT: a value, threshold+1.5, or inf. Repeatable.",
    ),
    click.option(
        "--pixel-threshold",
        type=float,
        help="Limit for a pixel of the heatmap, with --min-area and --region. [default: the bundle's]",
    ),
)


def _seconds(name: str, parameter: str, default: float, least: float, text: str) -> Callable[[Any], Any]:
    kind = click.FloatRange(min=least)
    return click.option(name, parameter, type=kind, default=default, show_default=True, metavar="SECONDS", help=text)


_survival_options = option_group(
    "survival",
    _seconds(
        "--deadline", "deadline_s", 60.0, 0.1, "A batch that takes longer is a fault, and ends the run: the backend hangs."
    ),
    _seconds(
        "--sink-timeout", "sink_timeout_s", 60.0, 0.1, "End the run when --output or a controller has failed for this long."
    ),
    click.option(
        "--durable",
        type=click.Choice(["none", "rejects", "all"]),
        default="rejects",
        show_default=True,
        help="Wait until the disk has these verdicts; rejects includes faults. A power failure may lose the others.",
    ),
)

_notify_options = option_group(
    "notifying",
    click.option(
        "--notify",
        multiple=True,
        metavar="ADDRESS",
        help="Notify a controller: exec:'PROGRAM {verdict} {index}', http://…, tcp://HOST:PORT, serial:/dev/…?baud=115200. Repeatable.",
    ),
    click.option("--notify-format", metavar="TEXT", help=r"Line for TCP and serial. [default: '{verdict} {index} {score}\n']"),
    click.option(
        "--notify-on",
        type=click.Choice(["rejects", "faults", "all"]),
        default="rejects",
        show_default=True,
        help="Which verdicts to send; rejects includes faults.",
    ),
    _seconds("--notify-timeout", "notify_timeout_s", 2.0, 0.01, "A verdict that cannot be delivered within this time is lost."),
)

_source_options = option_group(
    "reading",
    click.option("--realtime", is_flag=True, help="Play videos at their frame rate."),
    click.option(
        "--rate", type=click.FloatRange(min=0, min_open=True), metavar="FPS", help="Play videos and images at this frame rate."
    ),
    click.option("--loop", is_flag=True, help="Play files again and again."),
    click.option("--wait", is_flag=True, help="Wait for cameras that cannot be reached at the start. For services."),
    _seconds("--no-frame-after", "read_timeout_s", 10.0, 0.5, "Reconnect a camera after this long without a frame."),
    _seconds("--frozen-after", "frozen_s", 10.0, 0.0, "A frozen image for this long is a fault. 0 turns this check off."),
    _seconds("--black-after", "black_s", 2.0, 0.0, "A black image for this long is a fault. 0 turns this check off."),
    certificate_options,
)


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@bundle_option
@signature_option
@backend_options
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of the backend. [default: all cores]")
@click.option(
    "--spin/--no-spin",
    default=None,
    help="Busy-wait (lower latency) or sleep (idle cores). [default: ONNX Runtime busy-waits, TensorRT sleeps]",
)
@click.option("--require-gpu", is_flag=True, help="Fail if inference would run on the processor.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for verdicts.jsonl and annotated frames; - for verdicts as JSON Lines on standard output.",
)
@click.option(
    "--save", type=click.Choice(["all", "rejects", "none"]), help="Annotated frames to write. [default: all; rejects if live]"
)
@click.option("--append", is_flag=True, help="Add to the verdicts of an earlier run in --output. For services.")
@click.option("--overwrite", is_flag=True, help="Replace the verdicts of an earlier run in --output.")
@click.option("--threshold", type=float, help="Reject above this score instead of the calibrated threshold.")
@_rule_options
@click.option(
    "--policy",
    type=click.Choice(["latest", "every"]),
    help="latest: drop old frames when inspection is slower than the camera; every: drop none. [default: by source]",
)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Frames per inference call, at most.")
@_source_options
@_survival_options
@_notify_options
def run(
    sources: tuple[str, ...],
    bundle_path: Path,
    require_gpu: bool,
    output: Path | None,
    save: Any,
    append: bool,
    overwrite: bool,
    policy: Any,
    batch: int,
    rule: dict[str, Any],
    reading: dict[str, Any],
    survival: dict[str, Any],
    notifying: dict[str, Any],
    **given: Any,
) -> None:
    """Inspect each SOURCE: a video file, a folder, watch:FOLDER, a camera index, an RTSP or HTTP address.

    Ctrl-C (or SIGTERM, SIGHUP) stops capturing and inspects the frames already captured for up to 3 seconds; the rest are faults.
    The run then exits 0, or 1 if it did not end within 10 seconds. Another signal half a second later ends it at once.
    A source that fails does not stop the others; the exit code is then 1.
    """
    from lrdan_edge.evaluation.usefulness import recorded_weakness
    from lrdan_edge.runtime.inspector import Inspector
    from lrdan_edge.runtime.loop.opening import open_sources
    from lrdan_edge.runtime.sinks.notify import open_notifiers
    from lrdan_edge.runtime.sources.signal_monitor import Limits

    streams = output is not None and str(output) == "-"
    if append and overwrite:
        raise click.UsageError("choose one of --append and --overwrite")
    if streams and (append or overwrite or save not in (None, "none")):
        raise click.UsageError("--output - writes no folder: leave out --append, --overwrite and --save")
    files = {"append": append, "overwrite": overwrite, "notify": open_notifiers(**notifying), **survival}
    asked = _rule(**rule)
    limits = Limits(reading.pop("frozen_s"), reading.pop("black_s"))
    with (
        standard_output_for_data() if streams else nullcontext(output) as target,
        Inspector.open(bundle_path, **given) as inspector,
    ):
        if require_gpu:
            inspector.require_gpu()
        if weak := recorded_weakness(inspector.bundle):
            show(f"Warning: {weak}", style="yellow")
        show_unread(*sources)
        opened = open_sources(sources, limits=limits, bit_depth=inspector.bit_depth, **reading)
        try:
            whole = inspect_sources(inspector, opened, target, save, **files, policy=policy, batch=batch, rule=asked)
        except HungBackendError as error:
            _end_now(error)
        finally:
            for source in opened:
                source.close()
    if not whole:
        sys.exit(1)


def _end_now(error: HungBackendError) -> NoReturn:
    """End the process without closing the backend, which would wait for the call that hangs."""
    with suppress(OSError):
        print(f"Error: {printable(str(error))}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(1)


def _rule(reject_after: Any, min_area: Any, regions: Any, pixel_threshold: float | None) -> Any:
    """The rule that the options describe, or None without such options."""
    from lrdan_edge.runtime.rule import Rule

    if not (reject_after or min_area or regions or pixel_threshold is not None):
        return None
    pixels, fraction = min_area or (0, 0.0)
    return Rule(reject_after or (1, 1), pixels, fraction, tuple(regions), pixel_threshold)


def inspect_sources(
    inspector: "Inspector", sources: "Sequence[Source]", output: Path | int | None, save: "Save | None", **options: Any
) -> bool:
    """Inspect with a live progress line, and print a summary.

    Args:
        inspector: Inspects the frames.
        sources: Deliver the frames.
        output: Folder for the record of the run, or the descriptor of a stream; None: no record.
        save: Which frames to draw.
        **options: Further arguments of `lrdan_edge.runtime.recorded_run.RecordedRun`.

    Returns:
        False if something was lost: faults of a recorded source, or a failed sink.

    Raises:
        SourceError: Sources failed; all other frames were inspected and delivered.
    """
    from lrdan_edge.runtime.loop.watchdog import DEADLINE_S
    from lrdan_edge.runtime.recorded_run import RecordedRun
    from lrdan_edge.runtime.run_folder import RESULT

    run = RecordedRun(inspector, sources, output, save, **options)
    show(f"Inspecting {', '.join(source.uri for source in sources)} with {inspector.choice.describe()}")
    shown = _Problems()
    guard = Guard(options.get("deadline_s", DEADLINE_S), END_S, output / RESULT if isinstance(output, Path) else None)
    try:
        with ends_on_signal(run.stop, guard), _live_line(shown) as report:

            def reported(progress: "Progress") -> None:
                guard.began()
                report(progress)

            run.run(reported)
    finally:
        if run.progress.seconds:
            print_summary(run.progress, output)
        shown.print_new(run.progress)
        shown.print_count(run.progress)
    return run.progress.complete


class _Problems:
    """Prints each problem and remark once, when it appears."""

    def __init__(self) -> None:
        self._printed = self._remarked = 0

    def print_new(self, progress: "Progress") -> None:
        while self._printed < len(progress.problems):
            with suppress(OSError):  # a full disk behind the log must not end the inspection
                print(f"Problem: {progress.problems[self._printed]}", file=sys.stderr)
            self._printed += 1
        while self._remarked < len(progress.remarks):
            with suppress(OSError):
                print(f"Note: {printable(progress.remarks[self._remarked])}", file=sys.stderr)
            self._remarked += 1

    def print_count(self, progress: "Progress") -> None:
        if progress.more_problems:
            with suppress(OSError):
                print(f"Problem: {progress.more_problems} more came after the first {self._printed}", file=sys.stderr)


@contextmanager
def _live_line(problems: _Problems) -> Iterator[Callable[["Progress"], None]]:
    """Show the loop's progress: redrawn on a terminal, printed from time to time elsewhere; problems when they appear."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    shown = time.monotonic()

    def due(progress: "Progress", every_s: float) -> bool:
        nonlocal shown
        problems.print_new(progress)
        if time.monotonic() - shown < every_s:
            return False
        shown = time.monotonic()
        return True

    if not terminal().is_terminal:

        def plain(progress: "Progress") -> None:
            if due(progress, _PLAIN_EVERY_S):
                with suppress(OSError):
                    for line in _lines(progress):
                        show(line)

        yield plain
        return
    with Live(Text("waiting for the first frame"), console=terminal(), refresh_per_second=8, transient=True) as view:

        def redraw(progress: "Progress") -> None:
            if due(progress, _REDRAW_EVERY_S):
                view.update(Group(*_lines(progress)))

        yield redraw


def _lines(progress: "Progress") -> "list[Text]":
    """One line for the whole loop, then one line per source if there are several."""
    from rich.text import Text

    latency = progress.latency_percentiles()
    line = Text(
        f"{progress.frames} frames  {progress.frames_per_s:.1f}/s  latency {latency['p50']:.1f} ms (p99 {latency['p99']:.1f})"
    )
    if progress.dropped:
        line.append(f"  {progress.dropped} dropped")
    for _, verdict in progress.last:
        line.append(f"  {verdict.outcome}{_figure(verdict)}", style=_COLOURS[verdict.outcome])
    lines = [line]
    if len(progress.sources) > 1:
        for source in progress.sources:
            counts = ", ".join(f"{source.outcomes[outcome]} {outcome}" for outcome in _COLOURS)
            state = "failed" if source.error else "ended" if source.ended else "no signal" if source.in_gap else "running"
            style = "yellow" if state in ("failed", "no signal") else ""
            lines.append(Text(f"  {source.uri}: {counts}, {source.dropped} dropped, {state}", style=style))
    return lines


def _figure(verdict: "Verdict") -> str:
    """The score as a multiple of the threshold, and the score itself; empty without one."""
    if verdict.score is None:
        return ""
    multiple = "" if verdict.multiple is None else f"{verdict.multiple:.2f}x "
    return f" {multiple}({verdict.score:.3g})" if multiple else f" {verdict.score:.3g}"


def print_summary(progress: "Progress", output: Path | int | None) -> None:
    """Print counts and latencies of a run, and the folder of its record."""
    counted = ", ".join(f"{progress.outcomes[outcome]} {outcome}" for outcome in _COLOURS)
    rate = progress.frames / progress.seconds if progress.seconds else 0.0
    lost = ", ".join(f"{count} {cause}" for cause, count in progress.drops.items() if count) or "none"
    show(f"{progress.frames} frames in {progress.seconds:.1f} s ({rate:.1f}/s): {counted}; lost: {lost}")
    missing = sum(source.missing for source in progress.sources)
    for reason in (named := [reason for source in progress.sources for reason in source.first_missing]):
        show(f"  lost: {reason}")
    if named and missing > len(named):
        show(f"  lost: {missing} frames in all; the verdicts name each")
    if len(progress.sources) > 1:
        for line in _lines(progress)[1:]:
            show(line)
    rows = table("milliseconds", "p50", "p95", "p99", "max")
    for stage, latency in progress.latency.items():
        if latency.count:
            rows.add_row(stage, *(f"{value:.2f}" for value in latency.percentiles_ms().values()))
    if rows.row_count:
        show(rows)
    if isinstance(output, Path):
        show(f"Written to {output}")

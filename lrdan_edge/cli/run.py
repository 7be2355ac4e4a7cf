"""`lrdan-edge run`: inspect what sources deliver."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrdan_edge.cli.options import Command, backend_options, bundle_option
from lrdan_edge.errors import LrdanError

if TYPE_CHECKING:
    from lrdan_edge.bundle.spec import Precision
    from lrdan_edge.runtime.sinks.files import Earlier


class _Written(click.ParamType):  # type: ignore[type-arg]  # generic in click's stubs alone
    """A value that a function of `lrdan_edge.runtime.rule` reads."""

    def __init__(self, name: str, reader: str) -> None:
        self.name, self._reader = name, reader

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """What the text stands for."""
        from lrdan_edge.runtime import rule

        read: Callable[[str], Any] = getattr(rule, self._reader)
        try:
            return read(value) if isinstance(value, str) else value
        except LrdanError as error:
            self.fail(str(error), param, ctx)


def rule_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `lrdan_edge.runtime.rule.Rule`."""
    options = [
        click.option(
            "--reject-after",
            type=_Written("N/M", "parse_reject_after"),
            help="Reject when N of a source's last M frames say so. [default: every frame for itself]",
        ),
        click.option(
            "--min-area",
            type=_Written("PIXELS|SHARE%", "parse_min_area"),
            help="Reject only where so much of the heatmap is above the pixel threshold.",
        ),
        click.option(
            "--region",
            "regions",
            type=_Written("NAME=x,y,w,h:LIMIT", "parse_region"),
            multiple=True,
            help="A limit of its own for a part of the frame (in shares of it): a value, threshold+1.5, or inf; repeatable.",
        ),
        click.option(
            "--pixel-threshold", type=float, help="Limit of a pixel, with --min-area and --region. [default: bundle's]"
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def signal_options(command: Command) -> Command:
    """When a camera's or stream's signal counts as lost."""
    options = [
        click.option(
            "--no-frame-after",
            type=click.FloatRange(min=0.5),
            default=10.0,
            show_default=True,
            metavar="SECONDS",
            help="A camera is lost, and connected anew, after so long without a frame.",
        ),
        click.option(
            "--frozen-after",
            type=click.FloatRange(min=0),
            default=10.0,
            show_default=True,
            metavar="SECONDS",
            help="So long of the very same picture is a fault; 0: never.",
        ),
        click.option(
            "--black-after",
            type=click.FloatRange(min=0),
            default=2.0,
            show_default=True,
            metavar="SECONDS",
            help="So long of a black picture is a fault; 0: never.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@bundle_option
@backend_options
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads of the backend. [default: every core]")
@click.option(
    "--spin/--no-spin",
    default=None,
    help="Wait in a loop, or asleep: sooner answers, or cooler cores.  [default: ONNX Runtime spins, TensorRT sleeps]",
)
@click.option("--require-gpu", is_flag=True, help="Fail where the processor would do the work.")
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), help="Write verdicts.jsonl and annotated frames here."
)
@click.option(
    "--save", type=click.Choice(["all", "rejects", "none"]), help="Which frames to draw. [default: all; rejects if live]"
)
@click.option("--append", is_flag=True, help="Add to an earlier run's verdicts in --output: for a service that is restarted.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier run's verdicts in --output.")
@click.option("--threshold", type=float, help="Reject above this score instead of the calibrated threshold.")
@rule_options
@click.option(
    "--policy", type=click.Choice(["latest", "every"]), help="Newest frame wins, or none is dropped. [default: by source]"
)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Most frames judged at once.")
@click.option("--realtime", is_flag=True, help="Play videos at their own rate.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), metavar="FPS", help="Play videos and images at this rate.")
@click.option("--loop", "repeat", is_flag=True, help="Play files again and again.")
@click.option("--wait", is_flag=True, help="Wait for cameras that cannot be reached at the start: for a service.")
@signal_options
def run(
    sources: tuple[str, ...],
    bundle_path: Path,
    backend: str,
    precision: "Precision | None",
    threads: int | None,
    spin: bool | None,
    require_gpu: bool,
    output: Path | None,
    save: Any,
    append: bool,
    overwrite: bool,
    threshold: float | None,
    policy: Any,
    batch: int,
    realtime: bool,
    rate: float | None,
    repeat: bool,
    wait: bool,
    no_frame_after: float,
    frozen_after: float,
    black_after: float,
    **rule_given: Any,
) -> None:
    """Inspect each SOURCE: a video file, a folder, a camera index, an RTSP or HTTP address.

    Ctrl-C (or SIGTERM) finishes the frames already captured and exits 0; a second one ends at once. A source that fails does not
    stop the others; the exit code is then 1.
    """
    from lrdan_edge.cli.show_run import inspect_sources
    from lrdan_edge.runtime.gpu import require_gpu as demand_gpu
    from lrdan_edge.runtime.inspector import Inspector
    from lrdan_edge.runtime.loop.opening import open_sources
    from lrdan_edge.runtime.sources.signal_monitor import Limits

    if append and overwrite:
        raise click.UsageError("choose one of --append and --overwrite")
    earlier: Earlier = "append" if append else "overwrite" if overwrite else "refuse"
    rule = _rule(**rule_given)
    with Inspector.open(
        bundle_path, backend=backend, precision=precision, threshold=threshold, threads=threads, spin=spin
    ) as inspector:
        if require_gpu:
            demand_gpu(inspector)
        opened = open_sources(
            sources,
            realtime=realtime,
            rate=rate,
            loop=repeat,
            wait=wait,
            read_timeout_s=no_frame_after,
            limits=Limits(frozen_after, black_after),
            bit_depth=inspector.bit_depth,
        )
        try:
            whole = inspect_sources(inspector, opened, output, save, earlier=earlier, policy=policy, batch=batch, rule=rule)
        finally:
            for source in opened:
                source.close()
    if not whole:
        sys.exit(1)


def _rule(reject_after: Any, min_area: Any, regions: Any, pixel_threshold: float | None) -> Any:
    """The rule that the options describe, or None where none is given."""
    from lrdan_edge.runtime.rule import Rule

    if not (reject_after or min_area or regions or pixel_threshold is not None):
        return None
    pixels, share = min_area or (0, 0.0)
    return Rule(reject_after or (1, 1), pixels, share, tuple(regions), pixel_threshold)

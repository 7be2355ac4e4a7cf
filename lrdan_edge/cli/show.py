"""What the commands show on a terminal: progress, tables."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.names import BENCHMARK, graph_name, processor_graph_name
from lrdan_edge.errors import BundleError, LrdanError

if TYPE_CHECKING:
    from lrdan_edge.bundle.benchmark_report import BenchmarkReport
    from lrdan_edge.evaluation.result import Evaluation
    from lrdan_edge.protocol.protocol import Written
    from lrdan_edge.protocol.results import Entry

console = Console(soft_wrap=True, highlight=False, markup=False)


@contextmanager
def build_progress() -> Iterator[Callable[[str, float], None]]:
    """A bar for an engine's build."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("building", total=1.0)
        yield lambda phase, share: bar.update(task, description=phase, completed=share)


@contextmanager
def bench_progress() -> Iterator[Callable[[str], None]]:
    """A spinner that says which round is being measured."""
    with console.status("loading") as status:
        yield lambda line: status.update(line)


def print_evaluation(result: "Evaluation", pictures: list[Path]) -> None:
    """An evaluation's figures as tables."""
    pixel = "no masks" if result.pixel_auroc is None else f"{result.pixel_auroc:.4f}"
    table = Table("figure", "value", title=f"{result.good} good, {result.defective} defective, {result.backend}")
    table.add_row("image AUROC", f"{result.image_auroc:.4f}")
    table.add_row("pixel AUROC", pixel)
    for name, value in result.in_words().items():
        table.add_row(name, value)
    table.add_row("threshold", f"{result.threshold:.6g}")
    if result.faults:
        table.add_row("faults", str(result.faults), style="yellow")
    console.print(table)
    kinds = Table("defect", "images", "image AUROC", "miss rate")
    for kind, figures in result.kinds.items():
        kinds.add_row(kind, f"{figures['images']:.0f}", f"{figures['image_auroc']:.4f}", f"{figures['miss_rate']:.2%}")
    console.print(kinds)
    for picture in pictures:
        console.print(str(picture))
    for note in result.notes:
        console.print(f"Note: {note}", style="yellow")


def print_benchmark(report: "BenchmarkReport", bundle: Bundle) -> None:
    """A benchmark as a table."""
    table = Table(
        "backend",
        "batch",
        "p50 ms",
        "p99 ms",
        "frames/s",
        "against eager",
        title=f"{report.machine} ({report.instruction_set}), {report.cores} cores",
    )
    for entry in report.entries:
        speedup = "n/a" if entry.speedup is None else f"{entry.speedup:.2f}x"
        latency = (f"{entry.latency_ms[key]:.3f}" for key in ("p50", "p99"))
        table.add_row(entry.title, str(entry.batch), *latency, f"{entry.frames_per_s:.0f}", speedup)
    console.print(table)
    for reason in report.not_measured:
        console.print(f"not measured: {reason}")
    console.print(str(bundle.path / BENCHMARK))


@contextmanager
def protocol_progress() -> Iterator[Callable[["Entry", int, int], None]]:
    """A line per finished run, under a spinner."""
    with console.status("running") as status:

        def report(entry: "Entry", done: int, total: int) -> None:
            figure = entry.failure or f"AUROC {entry.auroc:.4f}"
            console.print(
                f"{entry.column}, {entry.normal_class} normal, seed {entry.seed}: {figure}, "
                f"trained in {entry.training_seconds:.1f} s ({done} of {total})"
            )
            status.update(f"{done} of {total} runs finished")

        yield report


def print_protocol(written: "Written") -> None:
    """The protocol's tables, and where they are."""
    from lrdan_edge.protocol.table import describe, tables

    for found in tables(written.results):
        table = Table(*found.header, title=f"{written.results.dataset}, AUROC in %: {describe(found.settings)}")
        for row in found.rows:
            table.add_row(*row)
        console.print(table)
    for path in (written.markdown, written.json, *written.pictures):
        console.print(str(path))


def print_info(bundle: Bundle, *, as_json: bool) -> bool:
    """What the bundle holds, file by file checked.

    Returns:
        Whether everything in it is whole and fresh.
    """
    from lrdan_edge.backends.processor import processor
    from lrdan_edge.engines.open import engines

    damaged: dict[str, str] = {}
    for name in bundle.manifest.files:
        maker = next(
            (record.command for record in bundle.manifest.stages.values() if name in record.outputs), "lrdan-edge train"
        )
        try:
            bundle.file(name, maker)
        except BundleError as error:
            damaged[name] = str(error)
    stale = {stage: why for stage in bundle.manifest.stages if (why := bundle.staleness(stage))}
    if as_json:
        here = processor()
        machine = {"name": here.name, "instruction_set": here.instruction_set, "int8_is_faster": here.int8_is_faster}
        facts = {
            "path": str(bundle.path),
            "damaged": damaged,
            "stale": stale,
            "processor": machine,
            "manifest": bundle.manifest,
        }
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(facts), indent=2).decode() + "\n")
        return not damaged and not stale
    model, scoring = bundle.manifest.model, bundle.manifest.scoring
    smoothed = f", smoothed over {scoring.smoothing_sigma:g} pixels" if scoring.smoothing_sigma else ""
    console.print(
        f"{bundle.path}: {model.recipe}, {model.height}x{model.width} pixels, {bundle.manifest.preprocessing.colour}; "
        f"score: {scoring.pooling} of the {'normalised ' if scoring.normalise else ''}"
        f"{'error map' if scoring.source == 'error' else 'map of marked defects'}"
        f"{smoothed}{', with their extent' if scoring.extent else ''}"
        f"{'; the heatmap gains by what is marked nearby' if scoring.nearby else ''}"
    )
    if model.geometry:
        console.print(f"takes {model.geometry.describe(model.height, model.width)}")
    table = Table("stage", "finished", "seconds", "state", "files")
    for name, record in bundle.manifest.stages.items():
        state = f"stale: {stale[name]}" if name in stale else "fresh"
        table.add_row(name, record.finished, f"{record.seconds:.1f}", state, str(len(record.outputs)))
    console.print(table)
    if bundle.pending:
        console.print("a commit was interrupted: nothing is lost, and the next command that writes to the bundle completes it")
    if "calibrate" in bundle.manifest.stages and not stale.get("calibrate") and not damaged:
        for precision, graph in bundle.decision().graphs.items():
            console.print(f"{precision}: threshold {graph.threshold:.6g}, false-reject rate {graph.false_reject_rate:g}")
    console.print(f"processor: {processor().name}, {processor().describe_int8()}")
    if graph_name("int8") in bundle.manifest.files and processor_graph_name("int8") not in bundle.manifest.files:
        console.print(
            "int8: this graph was made by an older lrdan-edge and may score differently on other processors; run 'lrdan-edge "
            f"calibrate --bundle {bundle.path}' to replace it"
        )
    try:
        for engine in engines(bundle):
            console.print(f"engine {engine.name}: {engine.obstacle or 'runs here'}")
    except LrdanError as error:
        console.print(str(error), style="red")
    for line in damaged.values():
        console.print(line, style="red")
    return not damaged and not stale

"""`lrdan-edge bench`: latency and throughput."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lrdan_edge.cli.console import show, status_line, table
from lrdan_edge.cli.options import bundle_option, signature_option

if TYPE_CHECKING:
    from lrdan_edge.bundle.benchmark_report import BenchmarkReport


@click.command()
@bundle_option
@signature_option
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1, 1024),
    multiple=True,
    default=(1, 8),
    show_default=True,
    help="Batch size to measure. Repeatable.",
)
@click.option("--seconds", type=click.FloatRange(1, 3600), default=20.0, show_default=True, help="Total measuring time.")
@click.option(
    "--rounds", type=click.IntRange(3, 1000), default=10, show_default=True, help="Rounds; each measures every backend once."
)
def bench(bundle_path: Path, require_signature: Path | None, batches: tuple[int, ...], seconds: float, rounds: int) -> None:
    """Measure latency and throughput of every engine and of PyTorch.

    The engines and PyTorch eager mode take turns in one run, so that other load on the machine affects all of them equally.
    """
    from lrdan_edge.bench.latency import bench as run_bench
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.bundle.names import BENCHMARK

    bundle = Bundle.open(bundle_path, require_signature=require_signature)
    with status_line("loading") as report:
        result = run_bench(bundle, batches=tuple(dict.fromkeys(batches)), seconds=seconds, rounds=rounds, report=report)
    _print_benchmark(result)
    show(str(bundle.path / BENCHMARK))


def _print_benchmark(report: "BenchmarkReport") -> None:
    title = f"{report.machine} ({report.instruction_set}), {report.cores} cores"
    shown = table("backend", "batch", "p50 ms", "p99 ms", "frames/s", "against eager", title=title)
    for entry in report.entries:
        speedup = "n/a" if entry.speedup is None else f"{entry.speedup:.2f}x"
        latency = (f"{entry.latency_ms[key]:.3f}" for key in ("p50", "p99"))
        shown.add_row(entry.title, str(entry.batch), *latency, f"{entry.frames_per_s:.0f}", speedup)
    show(shown)
    for reason in report.not_measured:
        show(f"not measured: {reason}")

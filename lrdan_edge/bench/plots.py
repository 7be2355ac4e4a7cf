"""The benchmark as a bar chart."""

from pathlib import Path

from lrdan_edge.bundle.benchmark_report import BenchmarkReport
from lrdan_edge.evaluation.figure import new_figure


def benchmark(path: Path, report: BenchmarkReport) -> None:
    """Write a PNG: median latency at the smallest batch size, and throughput, as one bar per backend."""
    from matplotlib.ticker import LogLocator, NullFormatter

    titles = list(dict.fromkeys(entry.title for entry in report.entries))
    batches = sorted({entry.batch for entry in report.entries})
    figure = new_figure(9, 1.6 + 0.5 * len(titles))
    left, right = figure.subplots(1, 2, sharey=True)
    height = 0.8 / len(batches)
    for place, batch in enumerate(batches):
        entries = {entry.title: entry for entry in report.entries if entry.batch == batch}
        rows = [row for row, title in enumerate(titles) if title in entries]
        speeds = [entries[titles[row]].frames_per_s for row in rows]
        bars = right.barh([row + place * height for row in rows], speeds, height, label=f"batch {batch}")
        right.bar_label(bars, fmt="%.0f", padding=2, fontsize=8)
        if batch == batches[0]:
            medians = [entries[titles[row]].latency_ms["p50"] for row in rows]
            tails = [entries[titles[row]].latency_ms["p99"] - median for row, median in zip(rows, medians, strict=True)]
            left.barh(rows, medians, 0.6, xerr=[[0] * len(rows), tails], capsize=3, color="#2ca02c")
    left.set(xlabel=f"latency at batch {batches[0]}, ms (log): median, whisker p99", xscale="log")
    left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.xaxis.set_major_formatter("{x:g}")
    left.xaxis.set_minor_formatter(NullFormatter())  # they would overlap where the durations span less than a decade
    left.set_yticks(range(len(titles)), titles)
    left.invert_yaxis()
    right.margins(x=0.15)  # room for the figures beside the bars
    right.set(xlabel="frames per second")
    right.legend(fontsize=8)
    figure.suptitle(f"{report.machine}, {report.cores} cores", fontsize=10)
    figure.savefig(path, dpi=110, format="png")

"""The benchmark as a bar chart."""

from pathlib import Path

from lrdan_edge.bundle.benchmark_report import BenchmarkReport
from lrdan_edge.evaluation.figure import new_figure

_DECADES = 300.0  # ratio of the axis' ends above which three labels a decade would collide


def benchmark(path: Path, report: BenchmarkReport) -> None:
    """Write a PNG: median latency at the smallest batch size, and throughput, as one bar per backend."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    titles = list(dict.fromkeys(entry.title for entry in report.entries))
    batches = sorted({entry.batch for entry in report.entries})
    figure = new_figure(9, 1.6 + 0.5 * len(titles))
    left, right = figure.subplots(1, 2, sharey=True)
    height = 0.8 / len(batches)
    for place, batch in enumerate(batches):
        entries = {entry.title: entry for entry in report.entries if entry.batch == batch}
        rows = [row for row, title in enumerate(titles) if title in entries]
        speeds = [entries[titles[row]].frames_per_s for row in rows]
        offset = (place - (len(batches) - 1) / 2) * height  # around the backend's name
        bars = right.barh([row + offset for row in rows], speeds, height, label=f"batch {batch}")
        right.bar_label(bars, [f"{speed:.0f}" if speed >= 10 else f"{speed:.2g}" for speed in speeds], padding=2, fontsize=8)
        if batch == batches[0]:
            medians = [entries[titles[row]].latency_ms["p50"] for row in rows]
            tails = [entries[titles[row]].latency_ms["p99"] - median for row, median in zip(rows, medians, strict=True)]
            left.barh(rows, medians, 0.6, xerr=[[0] * len(rows), tails], capsize=3, color="#2ca02c")
    left.set(title="latency: median, whisker to p99", xlabel=f"ms at batch {batches[0]}, log scale", xscale="log")
    low, high = left.get_xlim()
    left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < _DECADES * low else (1,)))
    left.xaxis.set_major_formatter("{x:g}")
    left.xaxis.set_minor_formatter(NullFormatter())  # they would overlap where the durations span less than a decade
    left.set_yticks(range(len(titles)), titles)
    left.invert_yaxis()
    right.margins(x=0.15)  # room for the figures beside the bars
    right.set(title="throughput", xlabel="frames per second")
    right.xaxis.set_major_locator(MaxNLocator(nbins=6))
    for axes in (left, right):
        axes.title.set_fontsize(10)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=len(batches), fontsize=8)
    figure.suptitle(f"{report.machine}, {report.cores} cores", fontsize=10)
    figure.savefig(path, dpi=110, format="png")

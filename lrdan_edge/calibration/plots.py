"""The calibration report's figures: ranges, scores, thresholds, sensitivities."""

from pathlib import Path
from typing import Any

import numpy as np

from lrdan_edge.calibration.report import CalibrationReport
from lrdan_edge.evaluation.figure import new_figure

_COLOURS = {"fp32": "#1f77b4", "fp16": "#2ca02c", "int8": "#d62728"}
_MARKS = {
    "min-max": "|",
    "percentile-99.999": "s",
    "percentile-99.997": "^",
    "percentile-99.99": "o",
    "entropy": "x",
    "painted-min-max": "1",
    "painted-percentile-99.99": "d",
}


def draw_layers(path: Path, report: CalibrationReport) -> None:
    """Write a PNG: the range of each activation by each method, and the sensitivity of each layer."""
    figure = new_figure(11, 1.5 + 0.21 * len(report.ranges))
    left, right = figure.subplots(1, 2)
    rows = np.arange(len(report.ranges))
    least = min((one.largest for one in report.ranges if one.largest > 0), default=1.0) / 4
    left.hlines(rows, least, [max(one.largest, least) for one in report.ranges], color="#cccccc", linewidth=3)
    for method in report.ranges[0].amplitudes:
        values = [max(one.amplitudes[method], least) for one in report.ranges]
        chosen = " (chosen)" if method == report.method else ""
        left.plot(values, rows, _MARKS[method], label=f"{method}{chosen}", markersize=6 if chosen else 5)
    left.set(xscale="log", xlabel="largest magnitude that int8 represents\n(grey: seen)", title="activations")
    left.set_yticks(rows, [one.tensor for one in report.ranges], fontsize=7)
    left.invert_yaxis()
    left.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.06), ncols=2)
    names = [one.layer for one in report.sensitivities]
    colours = ["#d62728" if name in report.kept_in_float else "#1f77b4" for name in names]
    right.barh(range(len(names)), [one.added_spread for one in report.sensitivities], color=colours)
    right.set_yticks(range(len(names)), names, fontsize=8)
    right.invert_yaxis()
    kept = "\n(red: kept in float)" if report.kept_in_float else ""
    right.set(xlabel=f"added spread of good scores\nwith only this layer in int8{kept}", title="sensitivity")
    left.xaxis.set_major_formatter("{x:g}")
    for axes in (left, right):
        axes.grid(alpha=0.3, axis="x")
    figure.savefig(path, dpi=110, format="png")


def draw_scores(path: Path, report: CalibrationReport) -> None:
    """Write a PNG: int8 scores against fp32 scores, and every graph's held-out good scores with its threshold."""
    figure = new_figure(11, 5)
    left, right = figure.subplots(1, 2)
    _draw_scatter(left, report)
    for precision, scores in report.held_out_scores.items():
        ordered = np.sort(scores)
        fraction = np.arange(1, len(ordered) + 1) / len(ordered)
        right.step(ordered, fraction, where="post", color=_COLOURS[precision], label=f"{precision} scores")
        right.axvline(report.thresholds[precision], color=_COLOURS[precision], linestyle="--", linewidth=1)
    right.axhline(1 - report.false_reject_rate, color="#999999", linewidth=1)
    right.set(xlabel="score; dashed: threshold", ylabel="fraction of held-out good images below", title="thresholds")
    right.legend(fontsize=8, loc="lower right")
    right.grid(alpha=0.3)
    figure.savefig(path, dpi=110, format="png")


def _draw_scatter(axes: Any, report: CalibrationReport) -> None:
    series = ((report.scores, "o", "training images compared on"), (report.held_out_scores, "^", "held-out good images"))
    for scores, mark, label in series:
        axes.plot(scores["fp32"], scores["int8"], mark, markersize=4, alpha=0.6, label=label)
    both = [value for scores, _, _ in series for precision in ("fp32", "int8") for value in scores[precision]]
    ends = [min(both), max(both)]
    axes.plot(ends, ends, color="#999999", linewidth=1)
    axes.axvline(report.thresholds["fp32"], color=_COLOURS["fp32"], linestyle="--", linewidth=1, label="fp32 threshold")
    axes.axhline(report.thresholds["int8"], color=_COLOURS["int8"], linestyle="--", linewidth=1, label="int8 threshold")
    rank = report.chosen.fidelity.rank_correlation
    axes.set(xlabel="fp32 score", ylabel="int8 score", title=f"int8 against fp32, rank correlation {rank:.4f}")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)

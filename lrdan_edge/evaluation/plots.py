"""The ROC curve of an evaluation."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrdan_edge.evaluation.figure import new_figure
from lrdan_edge.evaluation.result import AT_2_PERCENT, Evaluation
from lrdan_edge.metrics import COMPARED_RATE


def roc(path: Path, curve: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]], result: Evaluation) -> None:
    """Write the ROC curve as PNG, with the operating point, and with the recall at 2 % false rejects and its interval."""
    figure = new_figure(5, 5)
    axes = figure.subplots()
    axes.step(*curve, where="post", color="#1f77b4", label=f"AUROC {result.image_auroc:.4f}")
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, linestyle="--")
    if recall := result.recall_at_2_percent:
        axes.errorbar(
            COMPARED_RATE,
            recall.value,
            yerr=[[recall.value - recall.low], [recall.high - recall.value]],
            fmt="s",
            markersize=4,
            capsize=3,
            color="#2ca02c",
            label=f"{AT_2_PERCENT}: {recall.value:.1%} ({recall.low:.1%} to {recall.high:.1%})",
        )
    point = (result.false_reject_rate, 1 - result.miss_rate)
    axes.plot(*point, "o", color="#d62728", label=f"threshold: {point[0]:.1%} rejected, {point[1]:.1%} found")
    axes.set(xlabel="good parts rejected", ylabel="defective parts found", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title(f"{result.good} good, {result.defective} defective, {result.backend}")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110, format="png")

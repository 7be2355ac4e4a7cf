"""Studies: a comparison of detectors, LRDAN's losses added one by one, or the two readings of its dual term."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

from lrdan_edge.errors import DataError
from lrdan_edge.protocol.baselines import DETECTORS, RENAMED, SEMI_SUPERVISED
from lrdan_edge.protocol.baselines.base import Detector
from lrdan_edge.protocol.baselines.lrdan import Lrdan
from lrdan_edge.train.recipes.lrdan.hyperparameters import DualReading, LossWeights

LABELLED_RATIO = 0.05

REMARK_LABELLED = (
    "Columns marked semi-supervised also trained on labelled anomalies, so they cannot be compared with the other columns. The "
    "column gives the fraction of labelled anomalies in the training images. They are training images of one other class (a "
    "different one for every seed), as in Deep SAD. No detector trained on test images; the test includes that class."
)

TERMS = ("irec", "adv", "zrec", "c", "dual")
"""The loss's terms in the order in which the ablation adds them."""


@dataclass(frozen=True)
class Study:
    """One comparison.

    Attributes:
        title: A title for the comparison.
        suffix: The suffix of its file names.
        command_options: The options of the command ``protocol`` that choose it.
        columns: Makes the detector of each column, by the title of the column.
        remark: A remark about the columns for the reader.
        published: Whether to show published figures next to it.
        histograms: Whether to draw score histograms.
    """

    title: str
    suffix: str
    command_options: dict[str, object]
    columns: dict[str, Callable[[], Detector]]
    remark: str = ""
    published: bool = False
    histograms: bool = False


def of_detectors(names: tuple[str, ...], labelled_ratio: float = LABELLED_RATIO) -> Study:
    """Compare detectors.

    Args:
        names: Their registered names, or names in `RENAMED`.
        labelled_ratio: γ_l of semi-supervised detectors: the fraction of labelled anomalies in all training images, in (0, 1).

    Raises:
        DataError: There is no such detector, or the ratio is out of range.
    """
    if not 0 < labelled_ratio < 1:
        problem = f"the labelled ratio must be between 0 and 1, got {labelled_ratio:g}"
        raise DataError(problem, "give {labelled_ratio:0.05}, for example")
    names = tuple(RENAMED.get(name, name) for name in names)
    columns: dict[str, Callable[[], Detector]] = {}
    for name in names:
        if name in SEMI_SUPERVISED:
            columns[f"{name} (semi-supervised, {labelled_ratio:g})"] = partial(SEMI_SUPERVISED[name], labelled_ratio)
        elif name in DETECTORS:
            columns[name] = DETECTORS[name]
        else:
            raise DataError(
                f"there is no detector {name!r}", "choose from {known}", known=", ".join([*DETECTORS, *SEMI_SUPERVISED])
            )
    labelled = any(name in SEMI_SUPERVISED for name in names)
    options: dict[str, object] = {"detector": names, "labelled_ratio": labelled_ratio if labelled else None}
    return Study("Detectors compared", "", options, columns, REMARK_LABELLED if labelled else "", published=True)


def of_losses(weights: LossWeights | None = None) -> Study:
    """Ablate LRDAN: add the terms of its loss one by one, each with its published weight."""
    weights = weights or LossWeights()
    columns: dict[str, Callable[[], Detector]] = {}
    for count, term in enumerate(TERMS, start=1):
        part = replace(weights, **dict.fromkeys(TERMS[count:], 0.0))
        if term == "dual":
            columns["+dual, AE1's score"] = partial(Lrdan, part, scorer="ae1")
        title = term if count == 1 else f"+{term}"
        columns[title] = partial(Lrdan, part, scorer="ae2" if term == "dual" else "ae1")
    remark = (
        "From left to right, each column adds a term to the loss. Without the dual term, AE2 does not learn to reconstruct "
        "(L_zrec trains only its encoder), so the score is AE1's reconstruction error. The last column scores with AE2, as LRDAN "
        "does. The column before it has the same loss but AE1's score, to separate the effect of the term from that of the network."
    )
    return Study("LRDAN's losses, added one by one", "-ablation", {"ablate": True}, columns, remark, histograms=True)


def of_readings() -> Study:
    """Compare LRDAN with either reading of its dual term."""
    columns: dict[str, Callable[[], Detector]] = {
        reading: partial(Lrdan, dual_reading=reading) for reading in get_args(DualReading)
    }
    remark = (
        "joint: AE1 and AE2 both minimise L_girec − k·L_direc. began: AE2 minimises it, AE1 minimises L_direc, and k is controlled "
        "as in BEGAN. Everything else is equal."
    )
    return Study("Who minimises LRDAN's dual term", "-dual-readings", {"dual_readings": True}, columns, remark, histograms=True)

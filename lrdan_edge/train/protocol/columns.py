"""What is compared: detectors side by side, LRDAN's losses added one by one, or the two readings of its dual term."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

from lrdan_edge.errors import DataError
from lrdan_edge.train.adversaries import DualReading
from lrdan_edge.train.baselines import DETECTORS
from lrdan_edge.train.baselines.base import Detector
from lrdan_edge.train.baselines.lrdan import Lrdan
from lrdan_edge.train.losses import LossWeights

TERMS = ("irec", "adv", "zrec", "c", "dual")
"""The loss's terms in the order in which the ablation adds them."""


@dataclass(frozen=True)
class Study:
    """One comparison.

    Attributes:
        title: What is compared.
        suffix: Of its files' names.
        arguments: The words of the command line that choose it.
        columns: How to make each column's detector, by the column's title.
        remark: What a reader must know about the columns.
        published: Whether published figures stand beside it.
        histograms: Whether the scores are drawn.
    """

    title: str
    suffix: str
    arguments: tuple[str, ...]
    columns: dict[str, Callable[[], Detector]]
    remark: str = ""
    published: bool = False
    histograms: bool = False


def of_detectors(names: tuple[str, ...]) -> Study:
    """Detectors by their registered names.

    Raises:
        DataError: There is no such detector.
    """
    for name in names:
        if name not in DETECTORS:
            raise DataError(f"there is no detector {name!r}: choose from {', '.join(DETECTORS)}")
    arguments = tuple(word for name in names for word in ("--detector", name))
    return Study("Detectors compared", "", arguments, {name: DETECTORS[name] for name in names}, published=True)


def of_losses(weights: LossWeights | None = None) -> Study:
    """LRDAN's ablation: each term of its loss added in turn, at its published weight."""
    weights = weights or LossWeights()
    columns: dict[str, Callable[[], Detector]] = {}
    for count, term in enumerate(TERMS, start=1):
        part = replace(weights, **dict.fromkeys(TERMS[count:], 0.0))
        if term == "dual":
            columns["+dual, AE1's score"] = partial(Lrdan, part, scorer="ae1")
        title = term if count == 1 else f"+{term}"
        columns[title] = partial(Lrdan, part, scorer="ae2" if term == "dual" else "ae1")
    remark = (
        "From left to right each column adds a term to the loss. Until the dual term is in, nothing teaches AE2 to reconstruct "
        "(L_zrec reaches its encoder alone), so the score is AE1's reconstruction error. The last column scores with AE2, as LRDAN "
        "does; the one before it has the same loss and AE1's score, so that the term and the change of network stay apart."
    )
    return Study("LRDAN's losses, added one by one", "-ablation", ("--ablate",), columns, remark, histograms=True)


def of_readings() -> Study:
    """LRDAN with either reading of the dual term."""
    columns: dict[str, Callable[[], Detector]] = {
        reading: partial(Lrdan, dual_reading=reading) for reading in get_args(DualReading)
    }
    remark = (
        "joint: AE1 and AE2 both minimise L_girec − k·L_direc. began: AE2 does, AE1 minimises L_direc, and k is held in BEGAN's "
        "balance. All else is equal."
    )
    return Study("Who minimises LRDAN's dual term", "-dual-readings", ("--dual-readings",), columns, remark, histograms=True)

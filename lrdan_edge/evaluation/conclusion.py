"""The plain verdict of an evaluation: what the detector would miss and reject wrongly, its use, and what would help most."""

from typing import Literal, NamedTuple

import msgspec

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.evaluation.advice import Advice, what_helps
from lrdan_edge.metrics import Recall

Use = Literal["sorting", "second look", "not yet"]


class Criteria(NamedTuple):
    """What the test images must show for a use; rates in [0, 1].

    Attributes:
        recall: Least fraction of defective parts found.
        sure_recall: Least lower end of its 95 % interval.
        false_rejects: Largest fraction of good parts rejected.
    """

    recall: float
    sure_recall: float
    false_rejects: float


CRITERIA: dict[Use, Criteria] = {"sorting": Criteria(0.95, 0.8, 0.1), "second look": Criteria(0.7, 0.5, 0.3)}
"""The uses, the most demanding first, with what each needs; a detector that meets none is ``not yet`` usable."""

MEANING: dict[Use, str] = {
    "sorting": "usable for sorting: its verdicts can decide about parts",
    "second look": "usable for a second look: a person should look at what it rejects, because it is not good enough to sort without one",
    "not yet": "not usable yet",
}


class Conclusion(msgspec.Struct, frozen=True, kw_only=True):
    """The plain verdict.

    Attributes:
        use: What the detector is fit for, by `CRITERIA`.
        missed: Fraction of defective parts not rejected, with its 95 % interval (Clopper and Pearson, 1934).
        rejected: Fraction of good parts rejected, likewise.
        beyond_promise: Whether the interval of `rejected` lies above the promised rate.
        advice: What would help most, or None if nothing is needed.
    """

    use: Use
    missed: Recall
    rejected: Recall
    beyond_promise: bool
    advice: Advice | None = None

    def in_words(self) -> list[str]:
        """Three sentences: what it would miss, what it would reject wrongly, and what it is fit for."""
        return [
            f"Of 1000 defective parts like these, it would miss {_per_1000(self.missed)}.",
            f"Of 1000 good parts like these, it would reject {_per_1000(self.rejected)}.",
            f"It is {MEANING[self.use]}.",
        ]


def conclude(bundle: Bundle, rejected: Recall, missed: Recall, promise: float | None) -> Conclusion:
    """Draw the conclusion from the figures, and choose what would help most.

    If more good parts are rejected than promised, beyond what chance explains, more good images help, since these are unlike those
    that set the threshold. Otherwise, unless the detector is fit for sorting, it is the first of `what_helps`.

    Args:
        bundle: The bundle that was evaluated.
        rejected: Fraction of good parts rejected, with its interval.
        missed: Fraction of defective parts not rejected, with its interval.
        promise: The false-reject rate that calibration promised or aimed at, or None.
    """
    fit = (use for use, needed in CRITERIA.items() if _fits(needed, missed, rejected))
    use: Use = next(fit, "not yet")
    beyond = promise is not None and rejected.low > promise
    advice = None
    if beyond:
        why = "the good test images score higher than those that set the threshold: add images like them"
        advice = Advice("more good images", why, {})
    elif use != "sorting":
        advice = what_helps(bundle)[0]
    return Conclusion(use=use, missed=missed, rejected=rejected, beyond_promise=beyond, advice=advice)


def _fits(needed: Criteria, missed: Recall, rejected: Recall) -> bool:
    found, surely_found = 1 - missed.value, 1 - missed.high
    return found >= needed.recall and surely_found >= needed.sure_recall and rejected.value <= needed.false_rejects


def _per_1000(rate: Recall) -> str:
    value, low, high = (round(1000 * part) for part in (rate.value, rate.low, rate.high))
    return f"{value} (95% interval {low} to {high})"

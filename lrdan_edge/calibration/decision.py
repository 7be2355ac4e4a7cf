"""The decision: a threshold that keeps its promise, from held-out good images alone (split conformal prediction).

With n held-out good scores, the ⌈(n+1)(1−α)⌉-th smallest as threshold rejects a new good part with probability at most α,
whatever the scores' distribution, as long as the new part is drawn like the held-out ones (Vovk et al., 2005; Lei et al.,
2018, Theorem 2.2).
"""

import math

import numpy as np
import numpy.typing as npt

from lrdan_edge.errors import CalibrationError
from lrdan_edge.manifest import GraphDecision

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


def images_needed(false_reject_rate: float) -> int:
    """The fewest held-out good images that can promise `false_reject_rate`: n ≥ 1/α − 1."""
    return math.ceil(round(1 / false_reject_rate - 1, 9))


def require_enough(n: int, false_reject_rate: float) -> None:
    """Refuse a promise that `n` held-out good images cannot keep.

    Raises:
        CalibrationError: The rate is outside (0, 1), or `n` is too small for it.
    """
    if not 0 < false_reject_rate < 1:
        raise CalibrationError(f"the false-reject rate must lie between 0 and 1 (0.02 is 2 %); it is {false_reject_rate:g}")
    if n < (needed := images_needed(false_reject_rate)):
        best = math.ceil(1000 / (n + 1)) / 1000
        raise CalibrationError(
            f"{n} held-out good images cannot promise a false-reject rate of {false_reject_rate:g}, which takes {needed}: "
            f"give more good images, or ask for --false-reject-rate {best:g} or more"
        )


def conformal_threshold(scores: npt.NDArray[np.float32], false_reject_rate: float) -> float:
    """The ⌈(n+1)(1−α)⌉-th smallest score.

    Args:
        scores: Scores of held-out good images, float32 [n].
        false_reject_rate: α in (0, 1).

    Raises:
        CalibrationError: As `require_enough`, or a score is not finite.
    """
    n = len(scores)
    require_enough(n, false_reject_rate)
    if not np.isfinite(scores).all():
        raise CalibrationError(f"{int((~np.isfinite(scores)).sum())} of {n} good scores are not finite: train again")
    rank = math.ceil(round((n + 1) * (1 - false_reject_rate), 9))
    return float(np.sort(scores)[rank - 1])


def decide(scores: npt.NDArray[np.float32], false_reject_rate: float, graph_sha256: str) -> GraphDecision:
    """One graph's decision from its own scores of held-out good images (float32 [n])."""
    threshold = conformal_threshold(scores, false_reject_rate)
    ordered = np.sort(scores)
    return GraphDecision(
        graph_sha256=graph_sha256,
        threshold=threshold,
        false_reject_rate=false_reject_rate,
        n=len(ordered),
        good_scores=[float(score) for score in ordered],
        quantiles={f"p{round(100 * q)}": float(np.quantile(ordered, q)) for q in _QUANTILES},
    )

"""Deep SAD (Ruff et al., ICLR 2020, arXiv 1906.02694): Deep SVDD with a few labelled anomalies. Semi-supervised."""

import torch
from torch import Tensor

from lrdan_edge.errors import DataError
from lrdan_edge.protocol.baselines.base import Training
from lrdan_edge.protocol.baselines.deep_svdd import DeepSvdd

ETA, EPSILON = 1.0, 1e-6  # the paper's weight of labelled images; the authors' guard against division by zero


class DeepSad(DeepSvdd):
    """Minimises `objective` and scores ‖φ(x) − c‖²; c is the mean code of the good images before training and is not trained.

    Network, budget and preprocessing are those of `DeepSvdd`, so that only the labelled anomalies differ. There is no pretraining.
    """

    title = "Deep SAD"

    def __init__(self, labelled_ratio: float) -> None:
        """Choose γ_l, the fraction of labelled anomalies among the training images, in (0, 1), for the protocol's draw."""
        self.labelled_ratio = labelled_ratio
        self.recipe = (
            f"semi-supervised: {labelled_ratio:g} of the training images are labelled anomalies of one other class; η {ETA:g}, "
            f"{DeepSvdd.recipe}"
        )

    def _fit(self, training: Training) -> None:
        if training.defects is None or len(training.defects) == 0:
            raise DataError("Deep SAD learns from labelled anomalies too, and none is given: use deep-svdd instead")
        self._learn(training, training.defects, objective)


def objective(distances: Tensor, anomalous: Tensor, eta: float = ETA) -> Tensor:
    """1/(n+m)·Σ ‖φ(x) − c‖² + η/(n+m)·Σ (‖φ(x̃) − c‖²)^ỹ, ỹ = −1.

    Args:
        distances: ‖φ − c‖² of the n unlabelled and m labelled images, float [n + m].
        anomalous: Which are labelled anomalies, bool [n + m].
        eta: η, the weight of labelled images.
    """
    return torch.where(anomalous, eta / (distances + EPSILON), distances).mean()

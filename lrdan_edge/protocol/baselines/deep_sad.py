"""Deep SAD (Ruff et al., ICLR 2020, arXiv 1906.02694): Deep SVDD with a few labelled anomalies. Semi-supervised."""

import torch
from torch import Tensor

from lrdan_edge.errors import DataError
from lrdan_edge.protocol.baselines.common import in_chunks, require_frames
from lrdan_edge.protocol.baselines.deep_svdd import BATCH_SIZE, CODE, LEARNING_RATE, WEIGHT_DECAY, as_input, distance, learn

ETA, EPSILON = 1.0, 1e-6  # the paper's weight of labelled images; the authors' guard against division by zero
_IMAGES_AT_ONCE = 256


class DeepSad:
    """Minimises `objective` and scores ‖φ(x) − c‖²; c is the mean code of the good images before training and is not trained.

    Network, budget and preprocessing are those of `DeepSvdd`, so that only the labelled anomalies differ. There is no pretraining.
    """

    def __init__(self, labelled_ratio: float) -> None:
        """Choose γ_l, the fraction of labelled anomalies among the training images, in (0, 1), for the protocol's draw."""
        self.labelled_ratio = labelled_ratio

    @property
    def recipe(self) -> str:
        """The hyperparameters in one line."""
        return (
            f"semi-supervised: {self.labelled_ratio:g} of the training images are labelled anomalies of one other class; η {ETA:g}, "
            f"code of {CODE}, no pretraining; batches of {BATCH_SIZE}, Adam {LEARNING_RATE:g}, weight decay {WEIGHT_DECAY:g}"
        )

    def fit(self, good: Tensor, *, steps: int, seed: int, device: torch.device, defects: Tensor | None = None) -> None:
        """Train; see `Detector.fit`.

        Raises:
            DataError: The images cannot be used, or no anomaly is labelled.
            TrainingError: The loss is no longer finite.
        """
        require_frames(good, steps)
        if defects is None or len(defects) == 0:
            raise DataError("Deep SAD learns from labelled anomalies too, and none is given: use deep-svdd instead")
        require_frames(defects, steps, least=1)
        self._network, self._centre = learn(good, defects, objective, steps, seed, device, "Deep SAD")
        self._device = device

    def score(self, frames: Tensor) -> Tensor:
        """‖φ(x) − c‖²; see `Detector.score`."""
        return in_chunks(
            lambda part: distance(self._network(as_input(part, self._device)), self._centre), frames, _IMAGES_AT_ONCE
        )


def objective(distances: Tensor, anomalous: Tensor, eta: float = ETA) -> Tensor:
    """1/(n+m)·Σ ‖φ(x) − c‖² + η/(n+m)·Σ (‖φ(x̃) − c‖²)^ỹ, ỹ = −1.

    Args:
        distances: ‖φ − c‖² of the n unlabelled and m labelled images, float [n + m].
        anomalous: Which are labelled anomalies, bool [n + m].
        eta: η, the weight of labelled images.
    """
    return torch.where(anomalous, eta / (distances + EPSILON), distances).mean()

"""The part of a learner that makes batches: good images are varied, and defects are painted into them."""

from abc import ABC
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lrdan_edge.train.learner import Batch, Learner, LearnerOptions
from lrdan_edge.train.painting.hyperparameters import PaintingHyperparameters
from lrdan_edge.train.painting.known import mix_known_defects, most_suspicious_loss
from lrdan_edge.train.painting.losses import marking, overlap
from lrdan_edge.train.painting.synthetic import paint
from lrdan_edge.train.painting.variation import Image, vary


class PaintingLearner(Learner, ABC):
    """A learner whose batches are good images, the same images with synthetic defects, and the defects' masks."""

    paints = True
    shown = 1

    def __init__(
        self,
        optimisers: Sequence[torch.optim.Optimizer],
        hyperparameters: PaintingHyperparameters,
        options: LearnerOptions | None = None,
        stretch: float = 1.0,
    ) -> None:
        """Keep the settings; `stretch` as in `variation.vary`."""
        super().__init__(optimisers, options)
        self._painting = hyperparameters
        self._vary = partial(vary, hyperparameters=hyperparameters, stretch=stretch)

    def prepare(self, frames: Tensor, step: int) -> Batch:
        """Vary the good images and paint defects into them; see `Learner.prepare`.

        Returns:
            Good images varied, the same with defects (both float32 [N, C, H, W] in [-1, 1]), and masks [N, 1, H, W]; with known
            defects, the parts of a `MixedBatch`.
        """
        images = np.ascontiguousarray(frames.permute(0, 2, 3, 1).numpy(), np.float32) / np.float32(255)
        drawn = [self._draw(images, index, step) for index in range(len(images))]
        good, defective, masks = (_tensor(list(part)) for part in zip(*drawn, strict=True))
        good, defective = good * 2 - 1, defective * 2 - 1
        if self.options.known is None:
            return good, defective, masks
        count = len(images)

        def generator(place: int) -> np.random.Generator:
            return np.random.default_rng((self.options.seed, step, count + place))  # `_draw` uses the seeds below `count`

        return mix_known_defects(self.options.known, good, defective, masks, generator, self._vary, self._painting)

    def _draw(self, images: Image, index: int, step: int) -> tuple[Image, Image, Image]:
        """Image `index` of the batch [N, H, W, C] in [0, 1] varied, the same with defects, and the mask [H, W, 1]."""
        rng = np.random.default_rng((self.options.seed, step, index))
        varied = self._vary(images[index], rng)
        painted, mask = varied, np.zeros(varied.shape[:2], np.float32)
        if rng.random() >= self._painting.clean_fraction and len(images) > 1:
            other = images[(index + int(rng.integers(1, len(images)))) % len(images)]
            painted, mask = paint(varied, other, rng, self._painting)
        if rng.random() < self._painting.noisy_fraction:
            noise = rng.standard_normal(painted.shape, np.float32) * rng.uniform(0, self._painting.most_noise)
            painted = painted + noise.astype(np.float32)
        return varied, painted, mask[..., None]

    def terms(self, restoration: Tensor, logits: Tensor, mask: Tensor, known: Sequence[Tensor] = ()) -> dict[str, Tensor]:
        """The terms of the loss, and their weighted sum ``total``.

        Args:
            restoration: The loss of what was restored, a scalar.
            logits: Log-odds of a defect, float32 [N, 1, H, W].
            mask: 1 where defective, float32 [N, 1, H, W].
            known: `MixedBatch.known` and `MixedBatch.has_mask`; or nothing.
        """
        weights = self._painting
        has_mask: slice | Tensor = known[1] if known else slice(None)
        found = {
            "restoration": restoration,
            "marking": marking(logits[has_mask], mask[has_mask], weights),
            "overlap": overlap(logits[has_mask], mask[has_mask]),
        }
        found["total"] = restoration + weights.marking_weight * found["marking"] + weights.overlap_weight * found["overlap"]
        if known:
            found["known"] = most_suspicious_loss(logits[~known[1]], weights.known_pixels)
            found["total"] = found["total"] + weights.known_weight * found["known"]
        return found

    def descend(self, loss: Tensor) -> None:
        """Make one step of the only optimiser, with its gradients clipped."""
        (optimiser,) = self.optimisers
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self._painting.largest_gradient)
        optimiser.step()


def adamw(network: nn.Module, hyperparameters: PaintingHyperparameters, betas: tuple[float, float]) -> torch.optim.AdamW:
    """The optimiser of a network's weights, except frozen ones."""
    rate, decay = hyperparameters.learning_rate, hyperparameters.weight_decay
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, rate, betas=betas, weight_decay=decay, fused=True)


def _tensor(images: list[npt.NDArray[np.float32]]) -> Tensor:
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())

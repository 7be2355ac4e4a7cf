"""The check at the end of training: how well the detector separates painted defects from held-out good images.

It is computed in seconds, from images that the scan has decoded anyway. It sets nothing: thresholds, int8 and the verdict on a
bundle come from `calibrate` and `evaluate`.
"""

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrdan_edge.bundle.spec import ModelSpec, Preprocessing, Scoring
from lrdan_edge.data.painted import paint_defects
from lrdan_edge.evaluation.usefulness import LEAST_AUROC
from lrdan_edge.metrics import auroc
from lrdan_edge.model.deployed import ScoringHead, preprocess
from lrdan_edge.model.network import Network
from lrdan_edge.model.tiling import Untile
from lrdan_edge.train.report import Epoch

MOST_IMAGES = 32
"""Most held-out images that are scored; as many painted ones are."""

FALLING = 0.9
"""A loss whose mean over the last quarter of the epochs is below this fraction of that over the quarter before is still falling."""

_QUARTERS = 4
_BATCH = 16


def still_falling(epochs: list[Epoch]) -> bool | None:
    """Whether the loss was still falling when training ended; None if it cannot tell.

    With the default numbers of steps, losses fell by at most 4 % in the last quarter, on five data sets. It cannot tell from fewer
    than four epochs, and not of adversarial losses, which need not fall.

    Args:
        epochs: Every epoch's mean losses.
    """
    size = len(epochs) // _QUARTERS
    if not size or "total" not in epochs[0] or "adv" in epochs[0]:
        return None
    total = [epoch["total"] for epoch in epochs]
    before, last = np.mean(total[-2 * size : -size]), np.mean(total[-size:])
    return bool(before > 0 and last < FALLING * before)


def closing_check(scorer: "DeployedScorer", frames: Tensor, epochs: list[Epoch]) -> dict[str, Any]:
    """Score held-out good images, and the same with painted defects.

    Args:
        scorer: The trained network.
        frames: Held-out images, uint8 [N, C, H, W], at least one; with tiles, each file's together.
        epochs: Every epoch's mean losses.

    Returns:
        Results for the manifest: ``painted_auroc`` with ``painted_images`` (good ones; there are as many painted ones or more),
        ``still_falling``, ``too_weak`` (a sentence, or empty) and ``closing_check_seconds``.
    """
    started = time.monotonic()
    count = len(frames) // scorer.tiles
    good = scorer.scores(frames)
    painted = [scorer.scores(_painted(frames, scorer.tiles, seed)) for seed in range(max(1, MOST_IMAGES // count))]
    area = auroc(good, np.concatenate(painted))
    weak = scorer.localises and not area >= LEAST_AUROC
    sentence = f"its AUROC on painted defects is {area:.2f}, where 0.5 is chance ({count} good images that were held out)"
    return {
        "painted_auroc": round(float(area), 4),
        "painted_images": count,
        "still_falling": still_falling(epochs),
        "too_weak": f"this detector cannot tell painted defects from good parts: {sentence}" if weak else "",
        "closing_check_seconds": round(time.monotonic() - started, 2),
    }


def _painted(frames: Tensor, tiles: int, seed: int) -> Tensor:
    """The images with a painted defect each, in one of its tiles."""
    places = np.arange(0, len(frames), tiles) + np.random.default_rng(seed).integers(0, tiles, len(frames) // tiles)
    painted = frames.clone()
    images = frames[places].permute(0, 2, 3, 1).contiguous().numpy()
    painted[places] = torch.from_numpy(paint_defects(images, seed=seed)).permute(0, 3, 1, 2)
    return painted


class DeployedScorer:
    """A trained network with its scoring head: computes what its deploy graph would.

    Attributes:
        tiles: Number of tiles of a file.
        localises: See `ModelSpec.localises`.
    """

    def __init__(
        self,
        network: Network,
        constants: tuple[Tensor, Tensor],
        preprocessing: Preprocessing,
        scoring: Scoring,
        spec: ModelSpec,
    ) -> None:
        """Put the parts together, on the network's device.

        Args:
            network: The network; left in evaluation mode.
            constants: See `Recipe.finish`.
            preprocessing: How frames are preprocessed.
            scoring: How maps are scored.
            spec: The networks.
        """
        self._network, self._preprocessing, self._source = network.eval(), preprocessing, scoring.source
        self._device = next(network.parameters()).device
        self._head = ScoringHead(spec, scoring, *constants).to(self._device).eval()
        self._untile = Untile(spec).to(self._device)
        self.tiles = len(spec.tile_rows) * len(spec.tile_columns)
        self.localises = spec.localises

    @torch.inference_mode()
    def scores(self, frames: Tensor) -> list[float]:
        """The scores of files, uint8 [N, C, H, W], each file's tiles together."""
        found: list[float] = []
        step = max(1, _BATCH // self.tiles) * self.tiles
        for start in range(0, len(frames), step):
            maps = [self._map(part) for part in torch.split(frames[start : start + step], _BATCH)]
            found += self._head(self._untile(torch.cat(maps)))[0].tolist()
        return found

    def _map(self, frames: Tensor) -> Tensor:
        x = preprocess(frames.to(self._device).float(), self._preprocessing).contiguous(memory_format=torch.channels_last)
        return self._network.anomaly_map(x, self._source)

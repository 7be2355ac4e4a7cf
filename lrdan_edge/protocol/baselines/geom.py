"""Geometric transformations (GEOM, arXiv 1805.10917): a classifier recognises the transformations of good images only."""

from functools import lru_cache
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrdan_edge.protocol.baselines.base import Detector, Training
from lrdan_edge.protocol.baselines.common import index_batches, minimise, seeded, small_squares
from lrdan_edge.train.options import computes_bfloat16

BATCH_SIZE, LEARNING_RATE = 32, 1e-3
DRAWN = 4  # random transformations of each image in a step
WIDTHS = (16, 32, 64, 128)
TRANSFORMATIONS = tuple(product((False, True), (-1, 0, 1), (-1, 0, 1), range(4)))
"""The paper's 72: mirrored or not, shifted along each axis by a quarter of the side or not, rotated by multiples of 90°."""
_AT_ONCE = {"cpu": 4, "cuda": 64}  # images per batch when scoring; each is transformed 72 times


class Geom(Detector):
    """GEOM; the score is one minus the mean probability of the applied transformation, over all 72.

    This is the paper's score without its Dirichlet fit, which has little effect. The network is a wide residual network of ten
    layers and width two, small enough for processor cores. Every step uses four transformations of each image. Images above 64
    pixels are resized first.
    """

    recipe = (
        f"72 transformations, {DRAWN} per image and step; batches of {BATCH_SIZE}, Adam {LEARNING_RATE:g}; "
        "score: one minus the mean probability of what was applied"
    )

    def _fit(self, training: Training) -> None:
        device = training.device
        self.images_at_once = _AT_ONCE[device.type]
        x = small_squares(training.good).to(device)
        places = places_of(x.shape[-1]).to(device)
        with seeded(training.seed) as rng:
            network = _network(x.shape[1]).to(device)
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE)

            def loss_of(indices: Tensor) -> Tensor:
                labels = torch.from_numpy(rng.integers(len(TRANSFORMATIONS), size=DRAWN * len(indices))).to(device)
                images = transformed(x[indices.repeat(DRAWN).to(device)], labels, places)
                with torch.autocast(device.type, torch.bfloat16, enabled=computes_bfloat16(device)):
                    logits = network(images.contiguous(memory_format=torch.channels_last))
                return F.cross_entropy(logits.float(), labels)

            network.train()
            minimise(loss_of, index_batches(rng, len(x), BATCH_SIZE, training.steps), training.steps, optimiser, "GEOM")
        self._network, self._places = network.eval(), places

    def _score(self, frames: Tensor, device: torch.device) -> Tensor:
        """One minus the mean probability."""
        x = small_squares(frames).to(device)
        labels = torch.arange(len(TRANSFORMATIONS), device=device)
        images = transformed(x.repeat_interleave(len(labels), 0), labels.repeat(len(x)), self._places)
        named = self._network(images).softmax(1).view(len(x), len(labels), len(labels))
        mean: Tensor = named.diagonal(dim1=1, dim2=2).mean(1)
        return 1 - mean


def transformed(x: Tensor, labels: Tensor, places: Tensor) -> Tensor:
    """Apply one of `TRANSFORMATIONS` to each image.

    Args:
        x: float [N, C, S, S].
        labels: Index of each transformation, int64 [N], 0 to 71.
        places: `places_of` S, on the same device.

    Returns:
        The same shape.
    """
    from_where = places[labels][:, None].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, from_where).view(x.shape)


@lru_cache(maxsize=2)
def places_of(side: int) -> Tensor:
    """The source index of each pixel of a transformed image, int64 [72, S * S]; shifts reflect the image at its edges."""
    grid, index, quarter = torch.arange(side * side).view(side, side), torch.arange(side), side // 4
    places = []
    for mirrored, down, right, turns in TRANSFORMATIONS:
        rows, columns = (_reflected(index - quarter * move, side) for move in (down, right))
        start = grid.flip(-1) if mirrored else grid
        places.append(torch.rot90(start[rows][:, columns], turns, (-2, -1)).flatten())
    return torch.stack(places)


def _reflected(index: Tensor, side: int) -> Tensor:
    index = index.abs()
    return torch.where(index >= side, 2 * (side - 1) - index, index)


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
        )
        self.skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.skip(x) + self.body(x)
        return total


def _network(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, WIDTHS[0], 3, 1, 1, bias=False),
        _Residual(WIDTHS[0], WIDTHS[1], 1),
        _Residual(WIDTHS[1], WIDTHS[2], 2),
        _Residual(WIDTHS[2], WIDTHS[3], 2),
        nn.BatchNorm2d(WIDTHS[3]),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(WIDTHS[3], len(TRANSFORMATIONS)),
    )

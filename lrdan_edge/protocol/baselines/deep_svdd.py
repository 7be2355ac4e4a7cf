"""Deep SVDD (Ruff et al., ICML 2018): one-class classification by distance from a centre."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lrdan_edge.protocol.baselines.common import in_chunks, index_batches, require_finite, require_frames, seeded, small_squares
from lrdan_edge.train.options import computes_bfloat16
from lrdan_edge.train.schedule import rate_at

BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 32, 1e-3, 1e-6
CODE, BASE_CHANNELS = 32, 16
LEAST_CENTRE = 0.1  # a centre at zero is reached by zero weights
CENTRE_IMAGES = 1024
_IMAGES_AT_ONCE = 256


class DeepSvdd:
    """Minimises the mean of ‖φ(x) − c‖² and scores ‖φ(x) − c‖²; c is the mean code of the good images before training.

    No layer has a bias and no normalisation learns a shift, since φ(x) = c for every x would then be a solution. The layers are
    those of LeNet, as in the paper. The paper's pretraining by an autoencoder is left out to keep the same budget for every
    detector. Images above 64 pixels are resized first.
    """

    recipe = f"code of {CODE}, no pretraining; batches of {BATCH_SIZE}, Adam {LEARNING_RATE:g}, weight decay {WEIGHT_DECAY:g}"

    def fit(
        self,
        good: Tensor,
        *,
        steps: int,
        seed: int,
        device: torch.device,
        defects: Tensor | None = None,  # noqa: ARG002
    ) -> None:
        """Train; see `Detector.fit`.

        Raises:
            DataError: The images cannot be used.
            TrainingError: The loss is no longer finite.
        """
        require_frames(good, steps)
        self._network, self._centre = learn(good, None, lambda distances, _: distances.mean(), steps, seed, device, "Deep SVDD")
        self._device = device

    def score(self, frames: Tensor) -> Tensor:
        """‖φ(x) − c‖²; see `Detector.score`."""
        return in_chunks(
            lambda part: distance(self._network(as_input(part, self._device)), self._centre), frames, _IMAGES_AT_ONCE
        )


def learn(
    good: Tensor,
    anomalies: Tensor | None,
    objective: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    seed: int,
    device: torch.device,
    name: str,
) -> tuple[nn.Module, Tensor]:
    """Train the network φ.

    Args:
        good: uint8 [N, C, H, W].
        anomalies: Labelled anomalies, uint8 [M, C, H, W], or None.
        objective: The loss; its arguments are ‖φ − c‖², float [B], and whether each image is a labelled anomaly, bool [B].
        steps: Optimiser steps.
        seed: Random seed.
        device: The device to compute on.
        name: The detector's name for errors.

    Returns:
        φ in evaluation mode, and c, float32 [CODE].

    Raises:
        TrainingError: The loss is no longer finite.
    """
    half = computes_bfloat16(device)
    x = as_input(good if anomalies is None else torch.cat([good, anomalies]), device)
    anomalous = torch.arange(len(x), device=device) >= len(good)
    with seeded(seed) as rng:
        network = lenet(good.shape[1], x.shape[-1]).to(device)
        optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        centre = centre_of(network, x[torch.from_numpy(rng.permutation(len(good))[:CENTRE_IMAGES])])
        network.train()
        for step, indices in enumerate(index_batches(rng, len(x), BATCH_SIZE, steps)):
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * rate_at(step, steps)
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                code = network(x[indices])
            loss = objective(distance(code.float(), centre), anomalous[indices])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    require_finite(loss.detach(), name)
    return network.eval(), centre


def distance(code: Tensor, centre: Tensor) -> Tensor:
    """‖φ(x) − c‖², float [N].

    Args:
        code: φ(x), float [N, K].
        centre: c, float [K].
    """
    return (code - centre).square().sum(1)


def as_input(frames: Tensor, device: torch.device) -> Tensor:
    """Frames uint8 [N, C, H, W] as small squares, float32 in [-1, 1]."""
    return small_squares(frames).to(device) / 127.5 - 1


def lenet(channels: int, side: int) -> nn.Sequential:
    """5x5 convolutions, each followed by a pooling that halves the image, down to about 4x4, then a linear layer."""
    layers: list[nn.Module] = []
    width = BASE_CHANNELS
    for _ in range(max(2, round(math.log2(side / 4)))):
        layers += [
            nn.Conv2d(channels, width, 5, padding=2, bias=False),
            nn.BatchNorm2d(width, affine=False),
            nn.LeakyReLU(0.1),
            nn.MaxPool2d(2),
        ]
        channels, width, side = width, 2 * width, side // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side * side, CODE, bias=False))


@torch.no_grad()
def centre_of(network: nn.Module, x: Tensor) -> Tensor:
    """The mean code, with every coordinate at least `LEAST_CENTRE` away from zero: float32 [CODE]."""
    centre: Tensor = network.eval()(x).mean(0)
    return torch.where(centre < 0, -1.0, 1.0) * centre.abs().clamp_min(LEAST_CENTRE)

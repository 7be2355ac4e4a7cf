"""Deep SVDD (Ruff et al., ICML 2018): one-class classification by distance from a centre."""

import math

import torch
from torch import Tensor, nn

from lrdan_edge.train.baselines.common import in_chunks, index_batches, require_finite, require_frames, seeded, small_squares
from lrdan_edge.train.options import computes_bfloat16
from lrdan_edge.train.trainer import rate_at

BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 32, 1e-3, 1e-6
CODE, BASE_CHANNELS = 32, 16
LEAST_CENTRE = 0.1  # a centre at zero is reached by zero weights
CENTRE_IMAGES = 1024
_IMAGES_AT_ONCE = 256


class DeepSvdd:
    """Mean ‖φ(x) − c‖², minimised and scored; c is the mean code of the good images before training, and stays.

    No layer has a bias and no normalisation learns a shift, else φ(x) = c for every x would be a solution. The layers are
    LeNet's, as in the paper; its pretraining by an autoencoder is left out, so that the budget is everybody's. Images above 64
    pixels are made smaller first.
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
        channels, _, _ = require_frames(good, steps)
        half = computes_bfloat16(device)
        x = as_input(good, device)
        with seeded(seed) as rng:
            network = lenet(channels, x.shape[-1]).to(device)
            optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
            centre = centre_of(network, x[torch.from_numpy(rng.permutation(len(x))[:CENTRE_IMAGES])])
            network.train()
            for step, indices in enumerate(index_batches(rng, len(x), BATCH_SIZE, steps)):
                for group in optimiser.param_groups:
                    group["lr"] = LEARNING_RATE * rate_at(step, steps)
                with torch.autocast(device.type, torch.bfloat16, enabled=half):
                    code = network(x[indices])
                loss = (code.float() - centre).square().sum(1).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        require_finite(loss.detach(), "Deep SVDD")
        self._network, self._centre, self._device = network.eval(), centre, device

    def score(self, frames: Tensor) -> Tensor:
        """‖φ(x) − c‖²; see `Detector.score`."""

        def distance(part: Tensor) -> Tensor:
            code: Tensor = self._network(as_input(part, self._device))
            return (code - self._centre).square().sum(1)

        return in_chunks(distance, frames, _IMAGES_AT_ONCE)


def as_input(frames: Tensor, device: torch.device) -> Tensor:
    """Frames uint8 [N, C, H, W] as small squares, float32 in [-1, 1]."""
    return small_squares(frames).to(device) / 127.5 - 1


def lenet(channels: int, side: int) -> nn.Sequential:
    """Convolutions of five by five, each halved by a pooling until about four by four are left, then a linear layer."""
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
    """The mean code, no coordinate nearer to zero than `LEAST_CENTRE`: float32 [CODE]."""
    centre: Tensor = network.eval()(x).mean(0)
    return torch.where(centre < 0, -1.0, 1.0) * centre.abs().clamp_min(LEAST_CENTRE)

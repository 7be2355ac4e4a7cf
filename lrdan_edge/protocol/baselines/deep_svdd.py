"""Deep SVDD (Ruff et al., ICML 2018): one-class classification by distance from a centre."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lrdan_edge.protocol.baselines.base import Detector, Training
from lrdan_edge.protocol.baselines.common import index_batches, minimise, seeded, small_squares
from lrdan_edge.train.options import computes_bfloat16

BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 32, 1e-3, 1e-6
CODE, BASE_CHANNELS = 32, 16
LEAST_CENTRE = 0.1  # a centre at zero is reached by zero weights
CENTRE_IMAGES = 1024


class DeepSvdd(Detector):
    """Minimises the mean of ‖φ(x) − c‖² and scores ‖φ(x) − c‖²; c is the mean code of the good images before training.

    No layer has a bias and no normalisation learns a shift, since φ(x) = c for every x would then be a solution. The layers are
    those of LeNet, as in the paper. The paper's pretraining by an autoencoder is left out to keep the same budget for every
    detector. Images above 64 pixels are resized first.
    """

    recipe = f"code of {CODE}, no pretraining; batches of {BATCH_SIZE}, Adam {LEARNING_RATE:g}, weight decay {WEIGHT_DECAY:g}"
    title = "Deep SVDD"

    def _fit(self, training: Training) -> None:
        self._learn(training, training.good[:0], lambda distances, _: distances.mean())

    def _learn(self, training: Training, anomalies: Tensor, objective: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Train the network φ.

        Args:
            training: What to learn from.
            anomalies: Labelled anomalies, uint8 [M, C, H, W].
            objective: The loss; its arguments are ‖φ − c‖², float [B], and whether each image is a labelled anomaly, bool [B].
        """
        good, device = training.good, training.device
        x = small_squares(torch.cat([good, anomalies])).to(device)
        anomalous = torch.arange(len(x), device=device) >= len(good)
        with seeded(training.seed) as rng:
            network = lenet(good.shape[1], x.shape[-1]).to(device)
            optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
            centre = centre_of(network, x[torch.from_numpy(rng.permutation(len(good))[:CENTRE_IMAGES])])

            def loss_of(indices: Tensor) -> Tensor:
                with torch.autocast(device.type, torch.bfloat16, enabled=computes_bfloat16(device)):
                    code = network(x[indices])
                return objective(distance(code.float(), centre), anomalous[indices])

            network.train()
            batches = index_batches(rng, len(x), BATCH_SIZE, training.steps)
            minimise(loss_of, batches, training.steps, optimiser, self.title)
        self._network, self._centre = network.eval(), centre

    def _score(self, frames: Tensor, device: torch.device) -> Tensor:
        """‖φ(x) − c‖²."""
        return distance(self._network(small_squares(frames).to(device)), self._centre)


def distance(code: Tensor, centre: Tensor) -> Tensor:
    """‖φ(x) − c‖², float [N].

    Args:
        code: φ(x), float [N, K].
        centre: c, float [K].
    """
    return (code - centre).square().sum(1)


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

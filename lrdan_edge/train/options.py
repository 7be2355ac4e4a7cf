"""What a training run can be asked for."""

from dataclasses import dataclass, field
from typing import Literal

import torch

from lrdan_edge.errors import TrainingError
from lrdan_edge.manifest import Scoring
from lrdan_edge.train.adversaries import DualReading
from lrdan_edge.train.losses import LossWeights


@dataclass(frozen=True)
class TrainOptions:
    """Options of `train`; the defaults are the recipe.

    Attributes:
        image_size: (height, width) in pixels that the networks see, or None to take it from the images.
        channels: 1 (grey) or 3 (blue, green, red), or None for 1 if all images are grey, else 3.
        epochs: Passes over the training images, or None for about `STEPS` steps in all.
        seed: Seed of the weights, the order of the images and the images held out.
        device: ``cpu``, ``cuda``, or ``auto``: CUDA where PyTorch finds a GPU.
        batch_size: Images per step.
        learning_rate: Adam's for the autoencoders, a quarter of it for the discriminator; falls to 0 along a cosine.
        recipe: The networks and losses; there is the paper's.
        decoder: ``resize`` (quantises everywhere) or ``transposed`` (the paper's).
        dual_reading: Who minimises the dual term.
        weights: The losses' weights.
        scoring: How AE2's error becomes a score.
    """

    image_size: tuple[int, int] | None = None
    channels: Literal[1, 3] | None = None
    epochs: int | None = None
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: int = 16
    learning_rate: float = 1e-3
    recipe: Literal["lrdan"] = "lrdan"
    decoder: Literal["resize", "transposed"] = "resize"
    dual_reading: DualReading = "began"
    weights: LossWeights = field(default_factory=LossWeights)
    scoring: Scoring = field(default_factory=lambda: Scoring(normalise=True, smoothing_sigma=2.0, pooling="max"))

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise TrainingError(f"epochs is {self.epochs}; at least 1 is needed")
        if self.batch_size < 2:
            raise TrainingError(f"batch size is {self.batch_size}; at least 2 are needed, since images are compared in a batch")
        if not self.learning_rate > 0:
            raise TrainingError(f"learning rate is {self.learning_rate}; it must be above 0 (the default is 0.001)")


def choose_device(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device asked for.

    Raises:
        TrainingError: CUDA was asked for and PyTorch finds none.
    """
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise TrainingError("device cuda was asked for and PyTorch finds no GPU: use --device cpu, or install a CUDA build")
    return torch.device("cuda" if cuda and device != "cpu" else "cpu")


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; emulating it costs more than it saves."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # no public name for it yet
    return bool(supported and supported())

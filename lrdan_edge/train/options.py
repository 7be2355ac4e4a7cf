"""What a training run can be asked for."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from lrdan_edge.bundle.spec import BIT_DEPTHS, BitDepth, ModelSpec, Scoring
from lrdan_edge.errors import TrainingError
from lrdan_edge.train.recipes.lrdan.adversaries import DualReading
from lrdan_edge.train.recipes.lrdan.losses import LossWeights
from lrdan_edge.train.view import View


@dataclass(frozen=True)
class TrainOptions:
    """Options of `train`; the defaults are the recipe.

    Attributes:
        image_size: (height, width) in pixels that the networks see, or None to take it from the images.
        channels: 1 (grey) or 3 (blue, green, red), or None for 1 if all images are grey, else 3.
        epochs: Passes over the training images, or None for the recipe's own, see `Recipe.epochs`.
        seed: Seed of the weights, the order of the images and the images held out.
        device: ``cpu``, ``cuda``, or ``auto``: CUDA where PyTorch finds a GPU.
        batch_size: Images per step, or None for the recipe's own.
        learning_rate: Adam's at its highest (a quarter of it for a discriminator), or None for the recipe's own.
        recipe: ``inspection``, AE2 as a restorer that also marks defects, taught by synthetic ones; or ``lrdan``, the paper's.
        decoder: ``resize`` (quantises everywhere) or ``transposed`` (the paper's).
        dual_reading: Who minimises the dual term.
        weights: The losses' weights.
        group_by: ``auto`` or a regular expression: images of one group are held out together; see `lrdan_edge.data.grouping`.
        known_defects: Folder of a few labelled defects to learn from too, or None; see `lrdan_edge.train.known_defects`.
        scoring: How AE2's output becomes a score, or None for what the recipe and the image size ask for.
        bit_depth: How many bits of 16-bit images are used, or None for as many as the largest value of all good images needs.
        resume: Go on from the checkpoint of a killed or interrupted run: None does if there is one of the very same run, True
            insists, False starts anew.
        overwrite: Whether a trained bundle that is there may be replaced, once the new training is complete.
        checkpoint_seconds: Time between two checkpoints; a killed run loses no more.
        compile: Whether torch.compile makes the networks faster, after a minute or so; None for on a GPU.
        tensorboard: Folder for TensorBoard's event files, or None for none.
        view: What of a camera's frame the networks see, and in which tiles.
    """

    image_size: tuple[int, int] | None = None
    channels: Literal[1, 3] | None = None
    epochs: int | None = None
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: int | None = None
    learning_rate: float | None = None
    recipe: Literal["inspection", "lrdan"] = "inspection"
    decoder: Literal["resize", "transposed"] = "resize"
    dual_reading: DualReading = "began"
    weights: LossWeights = field(default_factory=LossWeights)
    group_by: str | None = None
    known_defects: Path | None = None
    scoring: Scoring | None = None
    bit_depth: BitDepth | None = None
    resume: bool | None = None
    overwrite: bool = False
    checkpoint_seconds: float = 30.0
    compile: bool | None = None
    tensorboard: Path | None = None
    view: View = field(default_factory=View)

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise TrainingError(f"epochs is {self.epochs}; at least 1 is needed")
        if self.batch_size is not None and self.batch_size < 2:
            raise TrainingError(f"batch size is {self.batch_size}; at least 2 are needed, since images are compared in a batch")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise TrainingError(f"learning rate is {self.learning_rate}; it must be above 0 (0.001, say)")
        if self.seed < 0:
            raise TrainingError(f"seed is {self.seed}; it must be 0 or more")
        if self.bit_depth is not None and self.bit_depth not in BIT_DEPTHS:
            raise TrainingError(f"bit depth is {self.bit_depth}; {', '.join(map(str, BIT_DEPTHS))} are supported")
        if not self.checkpoint_seconds >= 0:
            raise TrainingError(f"checkpoint seconds are {self.checkpoint_seconds}; they must be 0 or more (30, say)")
        if self.recipe == "inspection" and self.decoder != "resize":
            raise TrainingError(f"the recipe inspection has no {self.decoder} decoder: use resize, or the recipe lrdan")


PASSES = 225  # over the training images


@dataclass(frozen=True)
class Recipe:
    """What a recipe trains with if the user names nothing else.

    Attributes:
        least_steps: How long at least, in steps.
        most_steps: How long at most.
        batch_size: Images per step.
        learning_rate: Adam's, at its highest.
    """

    least_steps: int
    most_steps: int
    batch_size: int
    learning_rate: float

    def epochs(self, steps_per_epoch: int) -> int:
        """Passes over the training images: `PASSES`, or as many as the least or the most steps take.

        More images are worth more steps; few images, seen too often, are learnt by heart.
        """
        steps = min(max(self.least_steps, PASSES * steps_per_epoch), self.most_steps)
        return math.ceil(steps / steps_per_epoch)


RECIPES = {
    "inspection": Recipe(least_steps=3000, most_steps=9000, batch_size=8, learning_rate=3e-3),
    "lrdan": Recipe(least_steps=500, most_steps=500, batch_size=16, learning_rate=1e-3),
}


def scoring_for(spec: ModelSpec) -> Scoring:
    """How a model of this shape is scored unless the user says otherwise.

    A restorer by the defects it marks; an autoencoder by its error against the good images' at the same pixel: its largest
    where defects are small in a large image, all of it where the image is one object.
    """
    if spec.architecture == "restorer":
        return Scoring(normalise=False, smoothing_sigma=0.0, pooling="max", source="defects", extent=True, nearby=True)
    if spec.code == "vector":
        return Scoring(normalise=True, smoothing_sigma=1.0, pooling="rms", deviation_floor=0.2)
    return Scoring(normalise=True, smoothing_sigma=2.0, pooling="max")


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

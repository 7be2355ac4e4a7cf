"""The options of a training run."""

import warnings
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch

from lrdan_edge.bundle.spec import BIT_DEPTHS, BitDepth, ModelSpec, Scoring
from lrdan_edge.data.grouping import AUTO
from lrdan_edge.errors import TrainingError
from lrdan_edge.train.recipes import DEFAULT_RECIPE, RENAMED, SMALL_RECIPE, recipe_named
from lrdan_edge.train.recipes.base import Hyperparameters, Recipe
from lrdan_edge.train.view import View


@dataclass(frozen=True)
class TrainOptions:
    """Options of `train`.

    Attributes:
        image_size: (height, width) of the networks' images in pixels, or None to derive it from the images.
        channels: 1 (grey) or 3 (blue, green, red), or None for 1 if all images are grey, else 3.
        epochs: Passes over the training images, or None for the recipe's default.
        seed: Random seed of the weights, the order of the images and the held-out images.
        device: ``cpu``, ``cuda``, or ``auto``: CUDA if PyTorch finds a GPU.
        batch_size: Images per step; replaces the hyperparameter.
        learning_rate: Peak learning rate; replaces the hyperparameter.
        recipe: The name of a recipe (see `lrdan_edge.train.recipes`), or None for the default of the images' size; see `for_images`.
        hyperparameters: Hyperparameters of that recipe, or None for its defaults.
        group_by: ``auto`` or a regular expression: images of one group are held out together; see `lrdan_edge.data.grouping`.
            ``none`` or None: images are held out whatever their group.
        known_defects: Folder of a few labelled defects to train on too, or None; see `lrdan_edge.train.known_defects`.
        backbone: The pretrained backbone; replaces the hyperparameter. See `lrdan_edge.model.pretrained.load_pretrained`.
        scoring: How AE2's output becomes a score, or None for the default of the recipe and image size.
        bit_depth: Number of bits used in 16-bit images, or None for as many as the largest value of all good images needs.
        resume: Whether to continue from a checkpoint: None continues if it is of the same run, True requires it, False starts from
            scratch.
        overwrite: Whether an existing trained bundle may be replaced when the new training is complete.
        checkpoint_seconds: Seconds between two checkpoints; a killed run loses at most this much work.
        compile: Whether to compile the networks with torch.compile, which takes about a minute; None compiles only on a GPU.
        tensorboard: Folder for TensorBoard's event files, or None for no log.
        view: The part of a camera's frame that the networks see, and its tiles.
    """

    image_size: tuple[int, int] | None = None
    channels: Literal[1, 3] | None = None
    epochs: int | None = None
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: int | None = None
    learning_rate: float | None = None
    recipe: str | None = None
    hyperparameters: Hyperparameters | None = None
    group_by: str | None = AUTO
    known_defects: Path | None = None
    backbone: str | None = None
    scoring: Scoring | None = None
    bit_depth: BitDepth | None = None
    resume: bool | None = None
    overwrite: bool = False
    checkpoint_seconds: float = 30.0
    compile: bool | None = None
    tensorboard: Path | None = None
    view: View = field(default_factory=View)

    def __post_init__(self) -> None:
        if self.recipe in RENAMED:
            name = RENAMED[self.recipe]
            warnings.warn(f"the recipe {self.recipe} is now called {name}", DeprecationWarning, stacklevel=3)
            object.__setattr__(self, "recipe", name)
        if self.epochs is not None and self.epochs < 1:
            raise TrainingError(f"the number of epochs must be at least 1, got {self.epochs}", "give {epochs:1} or more")
        if self.batch_size is not None and self.batch_size < 2:
            raise TrainingError(
                f"the batch size must be at least 2, got {self.batch_size}",
                "give {batch_size:2} or more, since images of a batch are compared with each other",
            )
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise TrainingError(
                f"the learning rate must be above 0, got {self.learning_rate}", "give another {learning_rate}, such as 0.001"
            )
        if self.seed < 0:
            raise TrainingError(f"the random seed must be 0 or more, got {self.seed}", "give another {seed}")
        if self.bit_depth is not None and self.bit_depth not in BIT_DEPTHS:
            raise TrainingError(
                f"there is no bit depth {self.bit_depth}",
                "choose {bit_depth} from {known}",
                known=", ".join(map(str, BIT_DEPTHS)),
            )
        if not self.checkpoint_seconds >= 0:
            raise TrainingError(
                f"the seconds between checkpoints must be 0 or more, got {self.checkpoint_seconds}",
                "give another {checkpoint_seconds}",
            )
        self.resolved_hyperparameters()

    def for_images(self, height: int, width: int) -> "TrainOptions":
        """These options with a recipe, chosen by the size of the networks' images if none is given.

        Small images show one object; `DEFAULT_RECIPE` would restore a wrong object too. Its hyperparameters or backbone choose it.
        """
        if self.recipe:
            return self
        largest: int = recipe_named(SMALL_RECIPE).defaults.largest_vector_image
        small = max(height, width) <= largest and not (self.hyperparameters or self.backbone)
        return replace(self, recipe=SMALL_RECIPE if small else DEFAULT_RECIPE)

    def resolved_recipe(self) -> Recipe[Any, Any]:
        """The recipe, or the default for larger images.

        Raises:
            TrainingError: The recipe does not exist.
        """
        return recipe_named(self.recipe or DEFAULT_RECIPE)

    def resolved_hyperparameters(self) -> Hyperparameters:
        """The hyperparameters of the run: `hyperparameters` or the recipe's defaults, with the options that replace some applied.

        Raises:
            TrainingError: The recipe does not exist, the hyperparameters are of another recipe, or the recipe cannot use an option.
        """
        recipe = self.resolved_recipe()
        for name in recipe.unused_options:
            if getattr(self, name) is not None:
                raise self._unused(name)
        defaults: Hyperparameters = recipe.defaults
        chosen = self.hyperparameters or defaults
        if type(chosen) is not type(defaults):
            raise TrainingError(
                f"the hyperparameters are {type(chosen).__name__}, and the recipe is {recipe.name}",
                "give {kind} as {hyperparameters}",
                kind=type(defaults).__name__,
            )
        changes: dict[str, Any] = {
            name: value for name in ("batch_size", "learning_rate", "backbone") if (value := getattr(self, name)) is not None
        }
        for name in changes.keys() - {one.name for one in fields(chosen)}:
            raise self._unused(name)
        return replace(chosen, **changes)

    def _unused(self, name: str) -> TrainingError:
        """The error for an option that the recipe cannot use."""
        return TrainingError(
            f"the recipe {self.resolved_recipe().name} has no {name.replace('_', ' ')}", "leave {" + name + "} out"
        )

    def spec_for(self, height: int, width: int, channels: Literal[1, 3]) -> ModelSpec:
        """The recipe's networks for images of this size; see `Recipe.spec_for`."""
        chosen = self.for_images(height, width)
        return chosen.resolved_recipe().spec_for(height, width, channels, chosen.resolved_hyperparameters())

    def as_dict(self) -> dict[str, Any]:
        """The options for the manifest, with the hyperparameters of the run."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        return plain | {
            "hyperparameters": self.resolved_hyperparameters().as_dict(),
            "scoring": self.scoring and msgspec.structs.asdict(self.scoring),
            "tensorboard": self.tensorboard and str(self.tensorboard),
            "known_defects": self.known_defects and str(self.known_defects),
            "view": asdict(self.view),
        }


def choose_device(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Choose the device; ``auto`` is a GPU if there is one.

    Raises:
        TrainingError: `device` is ``cuda``, but PyTorch finds no GPU.
    """
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise TrainingError("device is cuda, but PyTorch finds no GPU", "give {device:cpu}, or install PyTorch with CUDA")
    return torch.device("cuda" if cuda and device != "cpu" else "cpu")


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; emulated bfloat16 is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # no public name for it yet
    return bool(supported and supported())

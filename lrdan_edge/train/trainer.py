"""Training: good images in, a bundle with weights and scoring constants out."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from lrdan_edge.bundle import REPORTS, WEIGHTS, Bundle, Stage
from lrdan_edge.errors import TrainingError
from lrdan_edge.manifest import ModelSpec, Preprocessing, Scoring
from lrdan_edge.train.adversaries import Adversaries, Optimisation
from lrdan_edge.train.geometry import Stitch
from lrdan_edge.train.interrupt import Interrupt, first_interrupt_is_polite
from lrdan_edge.train.learner import Learner
from lrdan_edge.train.material import prepare
from lrdan_edge.train.networks import Autoencoder, Restorer, ae2_for
from lrdan_edge.train.options import RECIPES, TrainOptions, choose_device, computes_bfloat16, scoring_for
from lrdan_edge.train.progress import Progress, TerminalProgress
from lrdan_edge.train.reconstruction import Reconstruction
from lrdan_edge.train.report import Epoch, draw_losses, write_losses
from lrdan_edge.train.restoration import Restoration
from lrdan_edge.train.scoring import anomaly_map, preprocess

__all__ = [
    "TrainOptions",
    "learner_for",
    "map_statistics",
    "networks_for",
    "preprocessing_for",
    "rate_at",
    "to_input",
    "train",
]

WARM_UP = 30  # steps over which the learning rate rises
CENTER_IMAGES = 256
SCALE, OFFSET = 2 / 255, -1.0  # uint8 to [-1, 1], what tanh gives

COLLAPSE_AFTER = 100  # steps; before that the networks may be constant
COLLAPSED = 0.01  # share of the images' own spread below which the reconstructions are all one
LEAST_SPREAD = 0.05  # images more alike than this (of a range of 2) say nothing about a collapse


def train(data: Path, bundle_path: Path, options: TrainOptions | None = None, progress: Progress | None = None) -> Bundle:
    """Train a detector on the good images of `data` and write a bundle.

    Ctrl-C ends training after the current step and still writes a usable bundle (``results["interrupted"]`` is True then); a
    second one raises KeyboardInterrupt and leaves whatever bundle was there.

    Args:
        data: Folder of good images, or one with ``train/good``; see `lrdan_edge.dataset`.
        bundle_path: The bundle; an older one is replaced when training has succeeded, and only then.
        options: What was asked for.
        progress: Who is told; the terminal by default.

    Raises:
        DataError: The images cannot be used.
        TrainingError: A loss is no longer finite, or a network has collapsed; nothing is saved.
        BundleError: The bundle cannot be written.
    """
    options = options or TrainOptions()
    progress = progress or TerminalProgress()
    device = choose_device(options.device)
    material = prepare(data, options)
    preprocessing = preprocessing_for(material.spec)
    scoring = options.scoring or scoring_for(material.spec)
    bundle = Bundle.create(bundle_path, material.spec, preprocessing, scoring)
    with (
        bundle.stage("train", command=_command(data, options), options=_recorded(options)) as stage,
        first_interrupt_is_polite() as interrupt,
        torch.random.fork_rng(),
    ):
        torch.manual_seed(options.seed)
        networks = networks_for(material.spec).to(device)
        networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with progress:
            for note in material.notes:
                progress.note(note)
            epochs = _fit(networks, material.frames, options, progress, interrupt)
        mean, deviation = map_statistics(networks.ae2, material.frames, preprocessing, scoring, material.spec)
        _save(stage, networks, mean, deviation, epochs)
        stage.results |= {
            "data": str(data.absolute()),
            "images": len(material.training),
            "held_out_images": len(material.held_out),
            "fingerprint": material.fingerprint,
            "epochs": len(epochs),
            "losses": epochs[-1],
            "interrupted": interrupt.asked,
            "device": device.type,
            "notes": material.notes,
            "geometry": msgspec.to_builtins(material.spec.geometry),
            "training": material.training,
            "held_out": material.held_out,
        }
    return bundle


class Alone(nn.Module):
    """The recipe ``inspection`` trains AE2 alone."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.ae2 = ae2_for(spec)


def networks_for(spec: ModelSpec) -> Adversaries | Alone:
    """All networks that the specification's recipe trains, newly initialised."""
    return Alone(spec) if spec.recipe == "inspection" else Adversaries(spec)


def preprocessing_for(spec: ModelSpec) -> Preprocessing:
    """What happens to frames before a network of this shape sees them."""
    colour: Literal["grey", "bgr"] = "grey" if spec.channels == 1 else "bgr"
    standardise = spec.architecture == "restorer"
    return Preprocessing(colour=colour, resize="area", scale=SCALE, offset=OFFSET, standardise=standardise)


def learner_for(networks: Adversaries | Alone, frames: Tensor, options: TrainOptions, rng: np.random.Generator) -> Learner:
    """The networks with their optimisers and losses.

    Args:
        networks: What to train, in place.
        frames: The good images, uint8 [N, C, H, W].
        options: Losses, rate and seed.
        rng: Draws the images that place LRDAN's centre.
    """
    device = next(networks.parameters()).device
    rate = options.learning_rate or RECIPES[options.recipe].learning_rate
    half = computes_bfloat16(device)
    if isinstance(networks, Alone):
        if isinstance(networks.ae2, Restorer):
            return Restoration(networks.ae2, rate, options.seed, half=half)
        return Reconstruction(networks.ae2, rate, half=half)
    networks.place_center(to_input(frames[_some(rng, len(frames), CENTER_IMAGES)], device))
    return Optimisation(networks, options.weights, options.dual_reading, rate, half=half)


def _fit(
    networks: Adversaries | Alone, frames: Tensor, options: TrainOptions, progress: Progress, interrupt: Interrupt
) -> list[Epoch]:
    """The loop: every epoch's mean losses."""
    device = next(networks.parameters()).device
    rng = np.random.default_rng(options.seed)
    recipe = RECIPES[options.recipe]
    batch_size = options.batch_size or recipe.batch_size
    steps_per_epoch = max(1, len(frames) // batch_size)
    epochs = options.epochs or math.ceil(recipe.steps / steps_per_epoch)
    steps = epochs * steps_per_epoch
    networks.train()
    learner = learner_for(networks, frames, options, rng)

    history: list[Epoch] = []
    step, started = 0, time.monotonic()
    for epoch in range(1, epochs + 1):
        sums: dict[str, float] = {}
        count = 0
        for indices in _batches(rng, len(frames), batch_size):
            learner.set_rate(rate_at(step, steps))
            x = to_input(frames[indices], device)
            terms = learner.step(x) | {"spread_x": x.std(0).mean()}
            values = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
            step, count = step + 1, count + 1
            _require_finite(values, epoch, step)
            sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
            seconds_left = (time.monotonic() - started) / step * (steps - step)
            progress.step(epoch, epochs, step, steps, values, seconds_left)
            if interrupt.asked:
                break
        history.append({name: value / count for name, value in sums.items()})
        if interrupt.asked:
            break
        if step >= COLLAPSE_AFTER:
            _require_spread(history[-1], epoch)
    return history


def rate_at(step: int, steps: int) -> float:
    """Share of the learning rate at `step` of `steps`: a short rise, then half a cosine down to zero."""
    return min(1.0, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


def to_input(frames: Tensor, device: torch.device) -> Tensor:
    """Frames uint8 [N, C, H, W] as the networks see them: float32 in [-1, 1], channels last."""
    x = frames.to(device).float() * SCALE + OFFSET
    return x.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def map_statistics(
    ae2: Autoencoder | Restorer,
    frames: Tensor,
    preprocessing: Preprocessing,
    scoring: Scoring,
    spec: ModelSpec | None = None,
    batch_size: int = 32,
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation at every pixel of the map that is scored, in evaluation mode.

    Args:
        ae2: The second autoencoder; left in evaluation mode.
        frames: Good images, uint8 [N, C, H, W]; where there are tiles, a frame's together, as `Cut` gives them.
        preprocessing: What happens to frames first.
        scoring: Which map.
        spec: The networks, where frames are cut into tiles: every tile's place has its own statistics then.
        batch_size: How many at once.

    Returns:
        Two tensors float32 [H, W], of the stitched map where there are tiles.
    """

    def maps_of(images: Tensor) -> Tensor:
        x = preprocess(images.to(device).float(), preprocessing).contiguous(memory_format=torch.channels_last)
        return anomaly_map(x, ae2(x), scoring.source)

    ae2.eval()
    device = next(ae2.parameters()).device
    stitch = Stitch(spec).to(device) if spec else nn.Identity()
    tiles = len(spec.tile_rows) * len(spec.tile_columns) if spec else 1
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    for part in torch.split(frames, max(1, batch_size // tiles) * tiles):
        maps = stitch(torch.cat([maps_of(images) for images in torch.split(part, batch_size)])).double()
        total = total + maps.sum((0, 1))
        squares = squares + maps.square().sum((0, 1))
    count = len(frames) // tiles
    mean = torch.as_tensor(total) / count
    deviation = (torch.as_tensor(squares) / count - mean.square()).clamp_min(0).sqrt()
    return mean.float().cpu(), deviation.float().cpu()


def _some(rng: np.random.Generator, count: int, most: int) -> Tensor:
    return torch.from_numpy(rng.permutation(count)[:most])


def _batches(rng: np.random.Generator, count: int, size: int) -> Iterator[Tensor]:
    """Indices of every image once, in random order, in whole batches (a rest would unsettle batch normalisation)."""
    order = torch.from_numpy(rng.permutation(count))
    for start in range(0, max(1, count // size) * size, size):
        yield order[start : start + size]


def _require_finite(values: dict[str, float], epoch: int, step: int) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingError(
                f"loss {name} became {value} in epoch {epoch}, step {step}; nothing was saved: "
                "train again with another --seed or a lower learning rate"
            )


def _require_spread(epoch_losses: Epoch, epoch: int) -> None:
    """Refuse networks that answer every image with the same one."""
    spread = epoch_losses["spread_x"]
    for name, network in (("spread_g", "AE1 (the generator)"), ("spread_ae2", "AE2")):
        if name in epoch_losses and spread > LEAST_SPREAD and epoch_losses[name] < COLLAPSED * spread:
            raise TrainingError(
                f"{network} collapsed to one constant image in epoch {epoch} (spread {epoch_losses[name]:.2g}, the images' "
                f"is {spread:.2g}); nothing was saved: train again with another --seed or more images"
            )


def _save(stage: Stage, networks: nn.Module, mean: Tensor, deviation: Tensor, epochs: list[Epoch]) -> None:
    from safetensors.torch import save

    tensors = {name: tensor.cpu().contiguous() for name, tensor in networks.state_dict().items()}
    tensors |= {"scoring.error_mean": mean, "scoring.error_std": deviation}
    stage.path(WEIGHTS).write_bytes(save(tensors))  # not save_file: it leaves the file readable by its owner alone
    write_losses(stage.path(f"{REPORTS}/training.json"), epochs)
    draw_losses(stage.path(f"{REPORTS}/training.png"), epochs)


def _recorded(options: TrainOptions) -> dict[str, object]:
    return asdict(options) | {"scoring": options.scoring and msgspec.structs.asdict(options.scoring)}


def _command(data: Path, options: TrainOptions) -> str:
    """The command line that repeats the run."""
    words = [f"lrdan-edge train {data} --recipe {options.recipe} --seed {options.seed}"]
    if options.batch_size is not None:
        words.append(f"--batch-size {options.batch_size}")
    if options.image_size is not None:
        words.append(f"--image-size {options.image_size[0]}x{options.image_size[1]}")
    words += options.view.words()
    words += [f"--{name} {value}" for name in ("channels", "epochs") if (value := getattr(options, name)) is not None]
    if options.device != "auto":
        words.append(f"--device {options.device}")
    return " ".join(words)

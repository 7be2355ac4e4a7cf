"""Training: good images in, a bundle with weights and scoring constants out."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import cv2
import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from lrdan_edge import __version__
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.names import CHECKPOINT, REPORTS, WEIGHTS
from lrdan_edge.bundle.spec import BitDepth, ModelSpec, Preprocessing, Scoring
from lrdan_edge.bundle.stage import Stage
from lrdan_edge.errors import CollapseError, InterruptedTrainingError, TrainingError
from lrdan_edge.model.deployed import anomaly_map, preprocess
from lrdan_edge.model.networks import Autoencoder, Restorer, ae2_for
from lrdan_edge.model.tiling import Stitch
from lrdan_edge.train.checkpoint import Checkpoint, State
from lrdan_edge.train.interrupt import first_interrupt_is_polite
from lrdan_edge.train.known_defects import KnownDefects
from lrdan_edge.train.learner import OFFSET, SCALE, Learner, to_input
from lrdan_edge.train.loop import Loop, Schedule, rate_at, schedule_for
from lrdan_edge.train.options import RECIPES, TrainOptions, choose_device, computes_bfloat16, scoring_for
from lrdan_edge.train.overwrite import Earlier, require_room
from lrdan_edge.train.progress import Progress, TerminalProgress
from lrdan_edge.train.recipes.inspection.restoration import Restoration, stretch_for
from lrdan_edge.train.recipes.lrdan.adversaries import Adversaries, Optimisation
from lrdan_edge.train.recipes.reconstruction.reconstruction import Reconstruction
from lrdan_edge.train.report import Epoch, draw_losses, write_losses
from lrdan_edge.train.tensorboard_log import Board, TensorBoard
from lrdan_edge.train.training_data import TrainingData, load_training_data

__all__ = [
    "TrainOptions",
    "command_for",
    "compile_networks",
    "learner_for",
    "map_statistics",
    "networks_for",
    "preprocessing_for",
    "rate_at",
    "to_input",
    "train",
]

CENTER_IMAGES = 256


def train(data: Path, bundle_path: Path, options: TrainOptions | None = None, progress: Progress | None = None) -> Bundle:
    """Train a detector on the good images of `data` and write a bundle.

    A trained bundle that is there is replaced only where the options say ``overwrite``, and only by a training that is complete.

    Ctrl-C ends training after the current step and still writes a usable bundle (``results["interrupted"]`` is True then),
    unless there is one to replace; a second one raises KeyboardInterrupt and leaves whatever bundle was there. A run that was
    killed or interrupted goes on from its checkpoint when it is asked for again, and ends with the weights that it would have
    had without the break.

    Training runs in one process; the processes of ``torchrun`` are refused, since each would train the same bundle.

    Args:
        data: Folder of good images, or one with ``train/good``; see `lrdan_edge.data.dataset`.
        bundle_path: The bundle.
        options: What was asked for.
        progress: Who is told; the terminal by default.

    Raises:
        DataError: The images cannot be used.
        TrainingError: A loss is no longer finite, or a network has collapsed; nothing is saved. Or the options ask to resume,
            and there is nothing to resume. Or the environment asks for several processes.
        InterruptedTrainingError: Training was interrupted, and the bundle that it was to replace is as it was.
        BundleError: The bundle cannot be written, or there is a trained one that may not be replaced.
        MissingExtraError: TensorBoard was asked for and is not installed.
    """
    _require_one_process()
    options = options or TrainOptions()
    device = choose_device(options.device)
    require_room(bundle_path, overwrite=options.overwrite)  # before the images are decoded, which may take minutes
    return _train(data, bundle_path, options, progress or TerminalProgress(), device)


def _train(data: Path, bundle_path: Path, options: TrainOptions, progress: Progress, device: torch.device) -> Bundle:
    material = load_training_data(data, options)
    schedule = schedule_for(options, len(material.frames))
    preprocessing = preprocessing_for(material.spec, material.bit_depth)
    scoring = options.scoring or scoring_for(material.spec)
    bundle = Bundle.create(bundle_path, material.spec, preprocessing, scoring)
    checkpoint = _checkpoint(bundle_path / CHECKPOINT, material, options, schedule, device)
    with (
        bundle.stage("train", command=command_for(data, options), options=_recorded(options)) as stage,
        first_interrupt_is_polite() as interrupt,
        torch.random.fork_rng(),
        progress,
    ):
        torch.manual_seed(options.seed)
        networks = networks_for(material.spec).to(device)
        networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        learner = learner_for(networks, material.frames, options, material.known)
        # Again, under the bundle's lock: another training may have ended meanwhile.
        earlier = require_room(bundle_path, overwrite=options.overwrite)
        state, resumed = _resume(checkpoint, networks, learner, options, earlier)
        goes_on = earlier is not None and earlier.run == checkpoint.run and state.step > 0
        kept = earlier is not None and not goes_on
        notes = [*material.notes, *resumed, *compile_networks(networks, options, device)]
        for note in notes:
            progress.note(note)
        first_step = state.step
        with _board(options, preprocessing, state) as board, _removed_on_failure(checkpoint):
            loop = Loop(networks, learner, material.frames, schedule, options.seed, progress, board, interrupt, checkpoint)
            networks.train()
            speed = loop.run(state)
            if kept and state.step < schedule.steps:
                raise InterruptedTrainingError(
                    f"training was interrupted after step {state.step} of {schedule.steps}; the bundle at {bundle_path} is "
                    "unchanged: run the same command again to resume"
                )
            mean, deviation = map_statistics(networks.ae2, material.frames, preprocessing, scoring, material.spec)
            _require_finite(mean, deviation)
        _save(stage, networks, mean, deviation, state.history)
        stage.results |= _results(data, material, state, device) | {
            "run": checkpoint.run,
            "images_per_s": round(speed, 2),
            "resumed_from_step": first_step,
            "interrupted": state.step < schedule.steps,
            "notes": notes,
        }
    if state.step == schedule.steps:
        checkpoint.remove()
    return bundle


def _require_one_process() -> None:
    """Refuse to be one of several processes that ``torchrun`` or a cluster started."""
    size = os.environ.get("WORLD_SIZE", "")
    if size.isdecimal() and int(size) > 1:
        raise TrainingError(
            f"train runs in one process, but WORLD_SIZE is {size}: start it without torchrun (or unset WORLD_SIZE), and for "
            "several GPUs train one model per GPU"
        )


class Alone(nn.Module):
    """The recipe ``inspection`` trains AE2 alone."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.ae2 = ae2_for(spec)


def networks_for(spec: ModelSpec) -> Adversaries | Alone:
    """All networks that the specification's recipe trains, newly initialised."""
    return Alone(spec) if spec.recipe == "inspection" else Adversaries(spec)


def preprocessing_for(spec: ModelSpec, bit_depth: BitDepth = 16) -> Preprocessing:
    """What happens to frames before a network of this shape sees them; `bit_depth` as in `Preprocessing`."""
    colour: Literal["grey", "bgr"] = "grey" if spec.channels == 1 else "bgr"
    standardise = spec.architecture == "restorer"
    return Preprocessing(colour=colour, resize="area", scale=SCALE, offset=OFFSET, standardise=standardise, bit_depth=bit_depth)


def learner_for(
    networks: Adversaries | Alone,
    frames: Tensor,
    options: TrainOptions,
    known: KnownDefects | None = None,
) -> Learner:
    """The networks with their optimisers and losses.

    Args:
        networks: What to train, in place.
        frames: The good images, uint8 [N, C, H, W].
        options: Losses, rate and seed.
        known: Labelled defects to learn from too.
    """
    device = next(networks.parameters()).device
    rate = options.learning_rate or RECIPES[options.recipe].learning_rate
    half = computes_bfloat16(device)
    if isinstance(networks, Alone):
        if isinstance(networks.ae2, Restorer):
            spec = networks.ae2.spec
            pictures = len(frames) // (len(spec.tile_rows) * len(spec.tile_columns))
            stretch = stretch_for(pictures)
            return Restoration(networks.ae2, rate, options.seed, half=half, known=known, stretch=stretch)
        return Reconstruction(networks.ae2, rate, half=half, known=known, seed=options.seed)
    some = torch.from_numpy(np.random.default_rng(options.seed).permutation(len(frames))[:CENTER_IMAGES])
    networks.place_center(to_input(frames[some], device))
    return Optimisation(networks, options.weights, options.dual_reading, rate, half=half, known=known, seed=options.seed)


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
        return anomaly_map(x, ae2, scoring.source)

    ae2.eval()
    device = next(ae2.parameters()).device
    stitch = Stitch(spec).to(device) if spec else nn.Identity()
    tiles = len(spec.tile_rows) * len(spec.tile_columns) if spec else 1
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    at_once = max(1, batch_size // tiles) * tiles  # whole frames
    for start in range(0, len(frames), at_once):
        part = frames[start : start + at_once]
        maps = stitch(torch.cat([maps_of(images) for images in torch.split(part, batch_size)])).double()
        total = total + maps.sum((0, 1))
        squares = squares + maps.square().sum((0, 1))
    count = len(frames) // tiles
    mean = torch.as_tensor(total) / count
    deviation = (torch.as_tensor(squares) / count - mean.square()).clamp_min(0).sqrt()
    return mean.float().cpu(), deviation.float().cpu()


@contextmanager
def _removed_on_failure(checkpoint: Checkpoint) -> Iterator[None]:
    """A run that failed by itself would fail again from its checkpoint."""
    try:
        yield
    except CollapseError:
        checkpoint.remove()
        raise


def _checkpoint(
    path: Path, material: TrainingData, options: TrainOptions, schedule: Schedule, device: torch.device
) -> Checkpoint:
    asked = _recorded(options)
    elsewhere = ("device", "compile", "resume", "overwrite", "checkpoint_seconds", "tensorboard", "known_defects")
    identity = {name: value for name, value in asked.items() if name not in elsewhere} | {
        "images": material.fingerprint,
        "known defects": material.known and material.known.digest,
        "model": msgspec.structs.asdict(material.spec),
        "bit_depth": material.bit_depth,
        "schedule": asdict(schedule),
        "rate": options.learning_rate or RECIPES[options.recipe].learning_rate,
        "lrdan-edge": __version__,
    }
    conditions = {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "processes": 1,  # a checkpoint may be of a version that trained in several
        "compile": options.compile,
        "bfloat16": computes_bfloat16(device),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }
    return Checkpoint(path, identity, conditions, options.checkpoint_seconds)


def _resume(
    checkpoint: Checkpoint,
    networks: nn.Module,
    learner: Learner,
    options: TrainOptions,
    earlier: Earlier | None = None,
) -> tuple[State, list[str]]:
    """Put an earlier run's state back, if there is one of this run; the state, and what is to be said.

    Raises:
        TrainingError: Resuming was demanded and cannot be done.
        BundleError: There is a bundle that may be replaced only by going on, and that cannot be done.
    """
    saved, said = checkpoint.read() if options.resume is not False else (None, None)
    if earlier and not options.overwrite and not (saved and earlier.run == checkpoint.run):
        missing = "--no-resume was given" if options.resume is False else f"there is no {checkpoint.path}"
        raise earlier.refused("it belongs to a different run" if saved else f"this run cannot go on ({said or missing})")
    if saved:
        notes = [f"resuming after step {saved.state.step}, where an earlier run stopped (--no-resume starts from scratch)"]
        return saved.restore(networks, learner.optimisers), notes + ([said] if said else [])
    if options.resume:
        raise TrainingError(f"nothing to resume: {said or f'there is no {checkpoint.path}'}; train without --resume")
    return State(), [f"{said}; training starts anew"] if said else []


def compile_networks(networks: nn.Module, options: TrainOptions, device: torch.device) -> list[str]:
    """Compile the networks (torch.compile) where that was asked for or pays; what is to be said about it.

    Raises:
        TrainingError: It was asked for and cannot be done.
    """
    if options.compile is False or (options.compile is None and device.type != "cuda"):
        return []
    obstacles = {
        "no C compiler is found": not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))),
        "Triton is not installed": device.type == "cuda" and find_spec("triton") is None,
    }
    if found := [obstacle for obstacle, there in obstacles.items() if there]:
        if options.compile:
            raise TrainingError(f"the networks cannot be compiled, since {found[0]}: train without --compile")
        return [f"the networks are not compiled, since {found[0]}"]
    for network in networks.children():
        network.compile()
    return []


def _board(options: TrainOptions, preprocessing: Preprocessing, state: State) -> Board:
    if options.tensorboard is None:
        return Board()
    rate = options.learning_rate or RECIPES[options.recipe].learning_rate
    return TensorBoard(options.tensorboard, rate, preprocessing, state.step)


def _require_finite(mean: Tensor, deviation: Tensor) -> None:
    """Refuse networks that the last step broke."""
    if not bool(torch.isfinite(mean).all() and torch.isfinite(deviation).all()):
        raise CollapseError(
            "AE2's output is not finite after training; nothing was saved: "
            "train again with another --seed or a lower --learning-rate"
        )


def _results(data: Path, material: TrainingData, state: State, device: torch.device) -> dict[str, Any]:
    return {
        "data": str(data.absolute()),
        "images": len(material.training),
        "held_out_images": len(material.held_out),
        "held_out_groups": material.held_out_groups,
        "fingerprint": material.fingerprint,
        "known_defects": material.known.sha256 if material.known else [],
        "epochs": len(state.history),
        "steps": state.step,
        "steps_seconds": round(state.seconds, 2),
        "losses": state.history[-1],
        "device": device.type,
        "threads": torch.get_num_threads(),
        "geometry": msgspec.to_builtins(material.spec.geometry),
        "training": material.training,
        "held_out": material.held_out,
    }


def _save(stage: Stage, networks: nn.Module, mean: Tensor, deviation: Tensor, epochs: list[Epoch]) -> None:
    from safetensors.torch import save

    tensors = {name: tensor.cpu().contiguous() for name, tensor in networks.state_dict().items()}
    tensors |= {"scoring.error_mean": mean, "scoring.error_std": deviation}
    stage.path(WEIGHTS).write_bytes(save(tensors))  # not save_file: it leaves the file readable by its owner alone
    write_losses(stage.path(f"{REPORTS}/training.json"), epochs)
    draw_losses(stage.path(f"{REPORTS}/training.png"), epochs)


def _recorded(options: TrainOptions) -> dict[str, object]:
    return asdict(options) | {
        "scoring": options.scoring and msgspec.structs.asdict(options.scoring),
        "tensorboard": options.tensorboard and str(options.tensorboard),
        "known_defects": options.known_defects and str(options.known_defects),
    }


def command_for(data: Path, options: TrainOptions) -> str:
    """The command line that repeats the run."""
    names = ("batch_size", "channels", "epochs", "learning_rate", "bit_depth", "group_by", "known_defects")
    given = {name: None if (value := getattr(options, name)) is None else str(value) for name in names}
    size = options.image_size and "{}x{}".format(*options.image_size)
    device = None if options.device == "auto" else options.device
    command = Command("train", data, recipe=options.recipe, seed=options.seed, image_size=size)
    return str(command.with_options(**options.view.options(), **given, device=device))

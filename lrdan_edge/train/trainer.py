"""Training: good images in, a bundle with weights and scoring constants out."""

import os
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.image_kinds import KEY as IMAGE_KINDS
from lrdan_edge.bundle.names import CHECKPOINT, OUT_OF_FOLD, REPORTS, WEIGHTS
from lrdan_edge.bundle.stage import Stage
from lrdan_edge.data.grouping import AUTO, NONE
from lrdan_edge.errors import CollapseError, InterruptedTrainingError, TrainingError
from lrdan_edge.train.checkpoint import State
from lrdan_edge.train.closing_check import DeployedScorer, closing_check
from lrdan_edge.train.compilation import compile_networks
from lrdan_edge.train.cross_fit import CrossFitting
from lrdan_edge.train.interrupt import graceful_interrupt
from lrdan_edge.train.learner import LearnerOptions
from lrdan_edge.train.loop import Loop
from lrdan_edge.train.options import TrainOptions, choose_device, computes_bfloat16
from lrdan_edge.train.overwrite import require_room
from lrdan_edge.train.progress import Progress, TerminalProgress
from lrdan_edge.train.report import Epoch, draw_losses, write_losses
from lrdan_edge.train.resume import checkpoint_for, removed_on_failure, resume
from lrdan_edge.train.schedule import Schedule
from lrdan_edge.train.tensorboard_log import TensorBoardLog, TrainingLog
from lrdan_edge.train.training_data import TrainingData, load_training_data

__all__ = ["TrainOptions", "command_for", "train"]


def train(data: Path, bundle_path: Path, options: TrainOptions | None = None, progress: Progress | None = None) -> Bundle:
    """Train a detector on the good images of `data` and write a bundle.

    An existing trained bundle is replaced only with the option ``overwrite``, and only when the new training is complete.

    Ctrl-C ends training after the current step and writes a usable bundle (``results["interrupted"]`` is then True), unless that
    would replace an existing one. A second Ctrl-C raises KeyboardInterrupt and leaves the bundle unchanged. A killed or interrupted
    run continues from its checkpoint when it is started again, and gives the same weights as without the interruption.

    Training runs in one process. Processes of ``torchrun`` are refused, since each would train the same bundle.

    Args:
        data: Folder of good images, or one with ``train/good``; see `lrdan_edge.data.dataset`.
        bundle_path: The bundle.
        options: The options.
        progress: Receives progress and notes; the terminal by default.

    Raises:
        DataError: The images cannot be used.
        CollapseError: A loss is no longer finite, or a network has collapsed; nothing is saved.
        TrainingError: The options require resuming, but there is nothing to resume; or ``WORLD_SIZE`` is above 1.
        InterruptedTrainingError: Training was interrupted; the existing bundle is unchanged.
        BundleError: The bundle cannot be written, or an existing trained one may not be replaced.
        MissingExtraError: The option ``tensorboard`` is given, but TensorBoard is not installed.
    """
    _require_one_process()
    options = options or TrainOptions()
    device = choose_device(options.device)
    require_room(bundle_path, overwrite=options.overwrite)  # before the images are decoded, which may take minutes
    return _train(data, bundle_path, options, progress or TerminalProgress(), device)


def _train(data: Path, bundle_path: Path, options: TrainOptions, progress: Progress, device: torch.device) -> Bundle:
    training_data = load_training_data(data, options)
    spec = training_data.spec
    options = options.for_images(spec.height, spec.width)
    recipe, hyperparameters = options.resolved_recipe(), options.resolved_hyperparameters()
    schedule = recipe.schedule_for(hyperparameters, len(training_data.frames), options.epochs)
    preprocessing = recipe.preprocessing_for(spec, training_data.bit_depth)
    scoring = options.scoring or recipe.scoring_for(spec)
    checkpoint = checkpoint_for(bundle_path / CHECKPOINT, training_data, options, schedule, device)
    bundle = Bundle.create(bundle_path, spec, preprocessing, scoring)
    with (
        bundle.stage("train", command=command_for(data, options), options=options.as_dict()) as stage,
        graceful_interrupt() as interrupt,
        torch.random.fork_rng(),
        progress,
    ):
        torch.manual_seed(options.seed)
        networks = recipe.networks_for(spec).to(device)
        networks.to(memory_format=torch.channels_last)
        learner_options = LearnerOptions(seed=options.seed, half=computes_bfloat16(device), known=training_data.known)
        learner = recipe.learner_for(networks, spec, training_data.frames, hyperparameters, learner_options)
        # Again, while the bundle is locked: another training may have ended meanwhile.
        existing = require_room(bundle_path, overwrite=options.overwrite)
        state, resumed = resume(checkpoint, networks, learner, options, existing)
        first_step = state.step
        kept = existing is not None and not (existing.run == checkpoint.run and first_step > 0)
        compiled = compile_networks(networks, options, device, by_default=bool(learner.optimisers))
        notes = [*training_data.notes, *resumed, *compiled]
        for note in notes:
            progress.note(note)
        log = TensorBoardLog(options.tensorboard, preprocessing, first_step) if options.tensorboard else TrainingLog()
        with log, removed_on_failure(checkpoint):
            loop = Loop(networks, learner, training_data.frames, schedule, options.seed, progress, log, interrupt, checkpoint)
            networks.train()
            speed = loop.run(state)
            crossed = CrossFitting.of((recipe, networks), training_data, hyperparameters, options.seed, preprocessing, scoring)
            complete = state.step == schedule.steps and (crossed is None or crossed.run(lambda: interrupt.asked, progress))
            if not complete:
                if state.step == schedule.steps:  # the loop writes none after the last step; before, an epoch's sums are open
                    checkpoint.write(networks, learner.optimisers, state)
                _require_replaceable(bundle_path, state, schedule, kept=kept)
            mean, deviation = recipe.finish(networks, training_data.frames, preprocessing, scoring, spec)
            _require_finite(mean, deviation)
        _save(stage, networks, mean, deviation, state.history)
        if complete and crossed:
            stage.path(OUT_OF_FOLD).write_bytes(to_json(crossed.finished(networks, mean, deviation)))
            stage.results["cross_fit_seconds"] = round(crossed.seconds, 2)
        stage.results |= _results(data, training_data, state, device) | recipe.inputs_for(hyperparameters)
        scorer = DeployedScorer(networks.network, (mean, deviation), preprocessing, scoring, spec)
        stage.results |= closing_check(scorer, training_data.checked, state.history) | {
            "usual_steps": recipe.schedule_for(hyperparameters, len(training_data.frames), None).steps,
            "run": checkpoint.run,
            "images_per_s": round(speed, 2),
            "resumed_from_step": first_step,
            "interrupted": not complete,
            "notes": notes,
        }
    if complete:
        checkpoint.remove()
    return bundle


def _require_one_process() -> None:
    """Refuse to be one of several processes that ``torchrun`` or a cluster started."""
    size = os.environ.get("WORLD_SIZE", "")
    if size.isdecimal() and int(size) > 1:
        raise TrainingError(
            f"train runs in one process, but WORLD_SIZE is {size}",
            "start it without torchrun (or unset WORLD_SIZE), and for several GPUs train one model per GPU",
        )


def _require_replaceable(bundle_path: Path, state: State, schedule: Schedule, *, kept: bool) -> None:
    """Raise InterruptedTrainingError if the bundle of an interrupted run would replace one that is to be `kept`."""
    if kept:
        raise InterruptedTrainingError(
            f"training was interrupted after step {state.step} of {schedule.steps}; the bundle at {bundle_path} is unchanged",
            "run the same command again to resume",
        )


def _require_finite(mean: Tensor, deviation: Tensor) -> None:
    """Raise CollapseError if the scoring constants are not finite, which means that the last step broke the networks."""
    if not bool(torch.isfinite(mean).all() and torch.isfinite(deviation).all()):
        raise CollapseError(
            "the network's output is not finite after training; nothing was saved",
            "train again with another {seed} or a lower {learning_rate}",
        )


def _results(data: Path, training_data: TrainingData, state: State, device: torch.device) -> dict[str, Any]:
    return {
        "data": str(data.absolute()),
        "images": len(training_data.training),
        "held_out_images": len(training_data.held_out),
        "held_out_groups": None if training_data.groups is None else len(set(training_data.groups)),
        "held_out_group_of": training_data.groups,
        "fingerprint": training_data.fingerprint,
        "known_defects": training_data.known.sha256 if training_data.known else [],
        "epochs": len(state.history),
        "steps": state.step,
        "steps_seconds": round(state.seconds, 2),
        "losses": state.history[-1],
        "device": device.type,
        "threads": torch.get_num_threads(),
        IMAGE_KINDS: msgspec.to_builtins(training_data.kinds),
        "geometry": msgspec.to_builtins(training_data.spec.geometry),
        "training": training_data.training,
        "held_out": training_data.held_out,
    }


def _save(stage: Stage, networks: nn.Module, mean: Tensor, deviation: Tensor, epochs: list[Epoch]) -> None:
    from safetensors.torch import save

    tensors = {name: tensor.cpu().contiguous() for name, tensor in networks.state_dict().items()}
    tensors |= {"scoring.error_mean": mean, "scoring.error_std": deviation}
    stage.path(WEIGHTS).write_bytes(save(tensors))  # not save_file, which makes the file readable only by its owner
    write_losses(stage.path(f"{REPORTS}/training.json"), epochs)
    draw_losses(stage.path(f"{REPORTS}/training.png"), epochs)


def command_for(data: Path, options: TrainOptions) -> str:
    """The command line that repeats the run."""
    names = ("batch_size", "channels", "epochs", "learning_rate", "backbone", "bit_depth", "group_by", "known_defects")
    given = {name: None if (value := getattr(options, name)) is None else str(value) for name in names}
    given["group_by"] = None if options.group_by == AUTO else options.group_by or NONE
    size = options.image_size and "{}x{}".format(*options.image_size)
    device = None if options.device == "auto" else options.device
    command = Command("train", data, recipe=options.recipe, seed=options.seed, image_size=size)
    return str(command.with_options(**options.view.options(), **given, device=device))

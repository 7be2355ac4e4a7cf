"""Identity of a run, and resuming it from its checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import cv2
import msgspec
import numpy as np
import torch
from torch import nn

from lrdan_edge import __version__
from lrdan_edge.errors import CollapseError, TrainingError
from lrdan_edge.train.checkpoint import Checkpoint, State
from lrdan_edge.train.learner import Learner
from lrdan_edge.train.options import TrainOptions, computes_bfloat16
from lrdan_edge.train.overwrite import ExistingBundle
from lrdan_edge.train.schedule import Schedule
from lrdan_edge.train.training_data import TrainingData

_ELSEWHERE = {
    "device",
    "compile",
    "resume",
    "overwrite",
    "checkpoint_seconds",
    "tensorboard",
    "known_defects",
    "hyperparameters",
    "group_by",
}
"""Options that are not part of a run's identity, or are part of it in another form."""


def checkpoint_for(
    path: Path, data: TrainingData, options: TrainOptions, schedule: Schedule, device: torch.device
) -> Checkpoint:
    """The checkpoint of a run at `path`; its identity includes everything that determines the result."""
    identity = {name: value for name, value in options.as_dict().items() if name not in _ELSEWHERE} | {
        "images": data.fingerprint,
        "known defects": data.known and data.known.digest,
        "model": msgspec.structs.asdict(data.spec),
        "bit_depth": data.bit_depth,
        "group_by": data.group_by,
        "schedule": asdict(schedule),
        "lrdan-edge": __version__,
    }
    identity |= options.resolved_recipe().inputs_for(options.resolved_hyperparameters())
    identity |= {f"hyperparameter {name}": value for name, value in options.resolved_hyperparameters().as_dict().items()}
    conditions = {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "processes": 1,  # earlier versions trained in several
        "compile": options.compile,
        "bfloat16": computes_bfloat16(device),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }
    checkpoint = Checkpoint(path, identity, conditions, options.checkpoint_seconds)
    checkpoint.schedule = schedule
    return checkpoint


def resume(
    checkpoint: Checkpoint, networks: nn.Module, learner: Learner, options: TrainOptions, existing: ExistingBundle | None = None
) -> tuple[State, list[str]]:
    """Restore the state of an earlier, interrupted start of this run, if there is one.

    Returns:
        The state to start from, and notes for the user.

    Raises:
        TrainingError: The options require resuming, but it is not possible.
        TrainingError: The checkpoint's tensors are not those of this run.
        BundleError: The existing bundle may only be replaced by resuming, but that is not possible.
    """
    saved, warning = checkpoint.read() if options.resume is not False else (None, None)
    if existing and not options.overwrite and not (saved and existing.run == checkpoint.run):
        if saved:
            raise existing.refused("it belongs to a different run")
        reason = "resuming is switched off" if options.resume is False else warning or f"there is no {checkpoint.path}"
        raise existing.refused(f"this run cannot be resumed ({reason})")
    if saved:
        notes = [f"resuming after step {saved.state.step}, where an earlier run stopped"]
        return saved.restore(networks, learner.optimisers), notes + ([warning] if warning else [])
    if options.resume:
        raise TrainingError(f"nothing to resume: {warning or f'there is no {checkpoint.path}'}", "train without {resume}")
    return State(), [f"{warning}; training starts from scratch"] if warning else []


@contextmanager
def removed_on_failure(checkpoint: Checkpoint) -> Iterator[None]:
    """Remove the checkpoint if training collapses, since a resumed run would collapse again."""
    try:
        yield
    except CollapseError:
        checkpoint.remove()
        raise

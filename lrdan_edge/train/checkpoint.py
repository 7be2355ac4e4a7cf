"""Checkpoints: the complete state of a training run, in one safetensors file with JSON in its header.

A resumed run gives the same bits as an uninterrupted one. The order of the images and all random draws depend only on seed and step
(`prefetch`, `Learner.prepare`); networks, optimisers, PyTorch's random generators and the epoch's sums are saved.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import torch
from torch import Tensor, nn

from lrdan_edge.bundle.encoding import decode
from lrdan_edge.bundle.files import MOST_OF_LARGE, Folder
from lrdan_edge.errors import TrainingError
from lrdan_edge.train.report import Epoch
from lrdan_edge.train.schedule import Schedule

_UNREADABLE = (OSError, ValueError, LookupError, RecursionError, RuntimeError, TypeError, AttributeError)
"""What safetensors, msgspec and PyTorch raise for the content of a damaged file."""

_ADAM = {"step", "exp_avg", "exp_avg_sq"}  # what Adam keeps of each weight
_NETWORK, _OPTIMISER, _GENERATOR = "network.", "optimiser.", "generator."  # prefixes of tensor names


class State(msgspec.Struct, forbid_unknown_fields=True):
    """The progress of a training run.

    Attributes:
        step: Number of completed steps.
        history: Mean losses of the finished epochs.
        sums: Sums of losses of the unfinished epoch.
        counts: Consecutive steps with each sign of a collapse; see `collapse.CollapseDetector`.
        seconds: Duration of all steps in seconds, over all starts.
    """

    step: int = 0
    history: list[Epoch] = []
    sums: Epoch = {}
    counts: dict[str, int] = {}
    seconds: float = 0.0


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    identity: dict[str, Any]
    conditions: dict[str, Any]
    state: State


@dataclass
class Checkpoint:
    """The checkpoint of one run.

    Attributes:
        path: The file.
        identity: Everything that determines the result: data fingerprint, model, options, hyperparameters, version.
        conditions: Settings that change only the last bits of the result: device, threads, library versions.
        seconds: Seconds between two writes.
        schedule: The length of the run; a checkpoint of more steps is refused.
    """

    path: Path
    identity: dict[str, Any]
    conditions: dict[str, Any]
    seconds: float
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        self._written = time.monotonic()
        self.identity = _plain(self.identity)
        self.conditions = _plain(self.conditions)

    @property
    def run(self) -> str:
        """The run's identifier: the sha256 of its identity, in hex."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    @property
    def due(self) -> bool:
        """Whether `seconds` have passed since the last write."""
        return time.monotonic() - self._written >= self.seconds

    def write(self, networks: nn.Module, optimisers: Sequence[torch.optim.Optimizer], state: State) -> None:
        """Replace the checkpoint atomically and durably: after a kill, the old or the new one is there."""
        from safetensors.torch import save

        tensors = {f"{_NETWORK}{name}": tensor for name, tensor in networks.state_dict().items()}
        tensors |= {f"{_OPTIMISER}{name}": tensor for name, tensor in _of_optimisers(optimisers).items()}
        tensors |= {f"{_GENERATOR}{name}": tensor for name, tensor in _generators().items()}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        header = msgspec.json.encode(_Header(self.identity, self.conditions, state))
        metadata = {"run": header.decode(), "sha256": _digest(header, tensors)}
        with Folder(self.path.parent) as folder:
            folder.write(self.path.name, save(tensors, metadata))
        self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the checkpoint and its temporary file, if they exist."""
        with Folder(self.path.parent) as folder:
            folder.remove(self.path.name)
            folder.remove(f"{self.path.name}.tmp")

    def read(self) -> tuple["Saved | None", str | None]:
        """Read the checkpoint of an earlier, interrupted start.

        Returns:
            The checkpoint, or None if there is none of this run; and a warning for the user, or None.
        """
        try:
            header, tensors = _parse(self.path)
        except FileNotFoundError:
            return None, None
        except _UNREADABLE as error:
            return None, f"the checkpoint {self.path} is damaged ({_in_one_line(error)})"
        if differing := _differences(header.identity, self.identity):
            return None, f"the checkpoint {self.path} is of another run ({'; '.join(differing[:3])})"
        if wrong := _contradiction(header.state, self.schedule):
            return None, f"the checkpoint {self.path} is damaged ({wrong})"
        warning = None
        if differing := _differences(header.conditions, self.conditions):
            warning = (
                f"the last bits of the result may differ, since the checkpoint has other conditions ({'; '.join(differing)})"
            )
        return Saved(self.path, tensors, header.state), warning


@dataclass
class Saved:
    """The content of a checkpoint file."""

    path: Path
    tensors: dict[str, Tensor]
    state: State

    def restore(self, networks: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> State:
        """Restore networks, optimisers and PyTorch's random generators in place.

        Raises:
            TrainingError: The tensors are not those of this run.
        """
        try:
            self._restore(networks, optimisers)
        except _UNREADABLE as error:
            raise TrainingError(
                f"the checkpoint {self.path} does not match this run ({_in_one_line(error)})", "delete it and train again"
            ) from error
        return self.state

    def _restore(self, networks: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> None:
        networks.load_state_dict(_under(self.tensors, _NETWORK))
        saved = _under(self.tensors, _OPTIMISER)
        for place, optimiser in enumerate(optimisers):
            own = _under(saved, f"{place}.")
            for index, parameter in enumerate(_parameters(optimiser)):
                kept = _under(own, f"{index}.")
                if kept.keys() not in (set(), _ADAM):
                    raise ValueError(f"the optimiser's state of a weight is {', '.join(sorted(kept))}")
                optimiser.state[parameter] = {name: _like(tensor, parameter) for name, tensor in kept.items()}
        generators = _under(self.tensors, _GENERATOR)
        torch.set_rng_state(generators["cpu"])
        if "cuda" in generators and torch.cuda.is_available():
            torch.cuda.set_rng_state(generators["cuda"])


def _like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """`tensor` on the parameter's device and with its memory layout (fused Adam needs the same layout for both)."""
    if tensor.ndim == 0 != parameter.ndim:  # the step count
        return tensor.to(parameter.device)
    if tensor.shape != parameter.shape:
        raise ValueError(f"a tensor of the optimiser has shape {list(tensor.shape)}, its weight {list(parameter.shape)}")
    return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def _of_optimisers(optimisers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    return {
        f"{place}.{index}.{name}": value
        for place, optimiser in enumerate(optimisers)
        for index, parameter in enumerate(_parameters(optimiser))
        for name, value in optimiser.state[parameter].items()
    }


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def _generators() -> dict[str, Tensor]:
    found = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _parse(path: Path) -> tuple[_Header, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        # Opened by descriptor: safe_open takes only a path, and would follow a symbolic link.
        with (
            Folder(path.parent) as folder,
            _limited(folder.open(path.name)) as opened,
            safe_open(f"/proc/self/fd/{opened.fileno()}", "pt") as file,
        ):
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dictionary
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    raw = metadata["run"].encode()
    if metadata["sha256"] != _digest(raw, tensors):
        raise ValueError("its sha256 does not match")
    return msgspec.convert(decode(raw), _Header), tensors


def _limited(file: BinaryIO) -> BinaryIO:
    """The file, if it is not larger than any checkpoint."""
    if (size := os.fstat(file.fileno()).st_size) > MOST_OF_LARGE:
        file.close()
        raise ValueError(f"it has {size} bytes, at most {MOST_OF_LARGE} are read")
    return file


def _contradiction(state: State, schedule: Schedule | None) -> str | None:
    """What is wrong with the state of a stranger's checkpoint."""
    epochs = state.step // schedule.steps_per_epoch if schedule else len(state.history)
    if state.step < 0 or (schedule and state.step > schedule.steps):
        return f"it is at step {state.step} of {schedule.steps if schedule else 'a run'}"
    if len(state.history) != epochs:
        return f"it has the losses of {len(state.history)} epochs after {epochs}"
    values = [*state.sums.values(), *(value for epoch in state.history for value in epoch.values()), state.seconds]
    if not all(map(math.isfinite, values)) or state.seconds < 0 or any(count < 0 for count in state.counts.values()):
        return "a loss, count or duration is not valid"
    return None


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}…"


def _digest(header: bytes, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(header)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """The values after a round trip through JSON."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(values))
    return plain


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    names = sorted(there.keys() | here.keys())
    return [
        f"{name} {_short(there.get(name))}, here {_short(here.get(name))}"
        for name in names
        if there.get(name) != here.get(name)
    ]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"

"""A stranger's checkpoint, consistent in itself, gives a warning or one clear error, and no endless or wrong training."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load, save

from lrdan_edge.errors import TrainingError
from lrdan_edge.train.checkpoint import Checkpoint, State, _digest, _Header
from lrdan_edge.train.schedule import Schedule

SCHEDULE = Schedule(batch_size=2, steps_per_epoch=5, epochs=4)
HISTORY = [{"loss": 1.0}] * 2


def run(folder: Path) -> tuple[Checkpoint, torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    return Checkpoint(folder / ".checkpoint.safetensors", {"seed": 1}, {}, 0, SCHEDULE), network, optimiser


def forged(checkpoint: Checkpoint, state: State, changes: dict[str, torch.Tensor | None] | None = None) -> None:
    """Replace the checkpoint by one whose digest is right."""
    tensors = load(checkpoint.path.read_bytes()) | (changes or {})
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    header = msgspec.json.encode(_Header(checkpoint.identity, checkpoint.conditions, state))
    checkpoint.path.write_bytes(save(kept, {"run": header.decode(), "sha256": _digest(header, kept)}))


def test_a_checkpoint_of_this_run_is_restored(tmp_path: Path) -> None:
    checkpoint, network, optimiser = run(tmp_path)
    checkpoint.write(network, [optimiser], State(step=12, history=HISTORY))
    forged(checkpoint, State(step=12, history=HISTORY))
    saved, said = checkpoint.read()
    assert saved is not None
    assert said is None
    assert saved.restore(network, [optimiser]).step == 12


@pytest.mark.parametrize(
    "state",
    [
        State(step=10**15),
        State(step=21, history=[{}] * 4),
        State(step=-1),
        State(step=20),
        State(step=12, history=[{}]),
        State(step=12, history=[{}] * 1000),
        State(step=12, history=HISTORY, seconds=-1.0),
        State(step=12, history=HISTORY, counts={"x": -(10**9)}),
    ],
    ids=str,
)
def test_a_state_outside_the_schedule_is_not_resumed(tmp_path: Path, state: State) -> None:
    checkpoint, network, optimiser = run(tmp_path)
    checkpoint.write(network, [optimiser], State())
    forged(checkpoint, state)
    saved, said = checkpoint.read()
    assert saved is None
    assert "is damaged (" in str(said)


FOREIGN: dict[str, dict[str, torch.Tensor | None]] = {
    "weight of another shape": {"network.weight": torch.zeros(4, 4)},
    "weight missing": {"network.weight": None},
    "weight too many": {"network.extra": torch.zeros(1)},
    "generator missing": {"generator.cpu": None},
    "generator too short": {"generator.cpu": torch.zeros(4, dtype=torch.uint8)},
    "generator of floats": {"generator.cpu": torch.zeros(5056)},
    "moment of another shape": {"optimiser.0.0.exp_avg": torch.zeros(7)},
    "moment that would be broadcast": {"optimiser.0.0.exp_avg": torch.zeros(1)},
    "moment missing": {"optimiser.0.0.exp_avg_sq": None},
    "unknown moment": {"optimiser.0.0.other": torch.zeros(2, 3)},
    "step of another shape": {"optimiser.0.0.step": torch.zeros(2)},
}


@pytest.mark.parametrize("changes", FOREIGN.values(), ids=FOREIGN)
def test_tensors_of_another_run_give_one_clear_error(tmp_path: Path, changes: dict[str, torch.Tensor | None]) -> None:
    checkpoint, network, optimiser = run(tmp_path)
    checkpoint.write(network, [optimiser], State(step=12, history=HISTORY))
    forged(checkpoint, State(step=12, history=HISTORY), changes)
    saved, _ = checkpoint.read()
    assert saved is not None
    with pytest.raises(
        TrainingError, match=r"the checkpoint .* does not match this run \(.*\): delete it and train"
    ) as refusal:
        saved.restore(network, [optimiser])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["F4", "F6_E2M3", "F8_E4M3", "BOOL", "U16", "U64", "C64", "F32", "X"])
@pytest.mark.parametrize("shape", [[2], [8], [0]])
def test_any_type_of_tensor_gives_a_warning(tmp_path: Path, kind: str, shape: list[int]) -> None:
    checkpoint, _, _ = run(tmp_path)
    size = int(shape[0] * {"F4": 0.5, "F6_E2M3": 0.75, "U16": 2, "U64": 8, "C64": 8, "F32": 4}.get(kind, 1))
    tensor: dict[str, Any] = {"dtype": kind, "shape": shape, "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": {"run": "{}", "sha256": "0"}, "x": tensor}).encode()
    checkpoint.path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
    saved, said = checkpoint.read()
    assert saved is None
    assert "is damaged (" in str(said)


def test_a_huge_or_deep_checkpoint_is_not_read(tmp_path: Path) -> None:
    checkpoint, _, _ = run(tmp_path)
    checkpoint.path.touch()
    os.truncate(checkpoint.path, 1 << 42)
    assert "has 4398046511104 bytes" in str(checkpoint.read()[1])
    header = '{"identity":' + "[" * 400 + "]" * 400 + ',"conditions":{},"state":{}}'
    checkpoint.path.write_bytes(save({}, {"run": header, "sha256": _digest(header.encode(), {})}))
    assert "levels" in str(checkpoint.read()[1])

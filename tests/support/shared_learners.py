"""Steps every kind of learner alone and, under torchrun, in shares: the same batches, in float64.

    torchrun --nproc-per-node 2 shared_learners.py FOLDER

Writes FOLDER/<learner>-<alone|shared>-<rank>.safetensors: the loss curve by term, and the networks.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.model.networks import spec_for
from lrdan_edge.train.distributed import Team, synchronise, team
from lrdan_edge.train.known_defects import KnownDefects
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.trainer import learner_for, networks_for

CPU = torch.device("cpu")
KINDS = {
    "restoration": (TrainOptions(recipe="inspection"), 36),
    "reconstruction": (TrainOptions(recipe="inspection"), 28),
    "lrdan-began": (TrainOptions(recipe="lrdan"), 32),
    "lrdan-joint": (TrainOptions(recipe="lrdan", dual_reading="joint"), 32),
    "restoration-known": (TrainOptions(recipe="inspection"), 36),
    "reconstruction-known": (TrainOptions(recipe="inspection"), 28),
    "lrdan-known": (TrainOptions(recipe="lrdan"), 32),
}


def size_of(kind: str) -> tuple[int, int]:
    """Images per batch, and steps; with known defects, two of them go beside 14 images."""
    return (14, 4) if kind.endswith("known") else (6, 12)


def known_defects(spec: ModelSpec) -> KnownDefects:
    """Three, one without a mask."""
    chance = torch.Generator().manual_seed(2)
    frames = torch.randint(0, 256, (3, 1, spec.height, spec.width), dtype=torch.uint8, generator=chance)
    masks = torch.zeros(3, spec.height, spec.width)
    masks[:2, 8:16, 8:16] = 1
    return KnownDefects(frames, masks, [])


def stepped(kind: str, processes: Team) -> dict[str, torch.Tensor]:
    """The curve and the networks after its steps."""
    options, side = KINDS[kind]
    spec = spec_for(side, side + 4, 1, recipe=options.recipe)
    torch.manual_seed(processes.rank)  # only the first one's weights may count
    networks = networks_for(spec)
    count, steps = size_of(kind)
    frames = torch.randint(0, 256, (count, 1, side, side + 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    learner = learner_for(networks, frames, options, known_defects(spec) if kind.endswith("known") else None)
    networks.double().train()
    synchronise(networks)
    curve = []
    for step in range(steps):
        learner.set_rate(0.3)
        batch = learner.prepare(frames, step, processes.share(len(frames)))
        terms = learner.step(*(part.double() if part.is_floating_point() else part for part in batch))
        curve.append({name: value.double() for name, value in terms.items()})
    losses = {f"loss.{name}": torch.stack([terms[name] for terms in curve]) for name in curve[0]}
    return losses | {name: tensor.contiguous() for name, tensor in networks.state_dict().items()}


def main(folder: Path) -> None:
    for kind in KINDS:
        save_file(stepped(kind, Team()), folder / f"{kind}-alone-{0}.safetensors")
    with team(CPU) as processes:
        for kind in KINDS:
            save_file(stepped(kind, processes), folder / f"{kind}-shared-{processes.rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

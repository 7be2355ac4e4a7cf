"""How many images a second training takes, against what the machine could do: its steps alone, and its painting alone.

    python benchmarks/training.py [--images DIR]

DIR is laid out as for ``lrdan-edge train``; without it surfaces are painted. Each row is one recipe at one size and batch. *Steps
alone* repeats one batch that lies on the device already, so it is the most that the device gives for these networks; *batches alone*
makes batches ready on the host and trains nothing. Where worker processes make them ready ahead, training cannot be faster than the
slower of the two; where none do, it does both one after the other. Its share of that limit is the last column. The three take turns;
medians over the rounds. Writes ``benchmarks/results/training-<device>.json`` and
``.md``.
"""

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import repeat
from pathlib import Path
from statistics import median

import msgspec
import torch
from surfaces import surfaces

from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.stage import versions
from lrdan_edge.train.compilation import compile_networks
from lrdan_edge.train.learner import Batch, Learner, LearnerOptions
from lrdan_edge.train.options import TrainOptions, choose_device, computes_bfloat16
from lrdan_edge.train.prefetch import AHEAD, MOST_WORKERS, batch_of, batches, workers_for
from lrdan_edge.train.recipes import recipe_named
from lrdan_edge.train.training_data import load_training_data

RESULTS = Path(__file__).parent / "results"
SETUPS = (("restoration", 256, 8), ("restoration", 256, 64), ("restoration", 64, 64), ("lrdan", 64, 16), ("lrdan", 64, 64))


class Row(msgspec.Struct):
    """Images per second of one setup.

    Attributes:
        recipe: Which networks and losses.
        size: Pixels of a side.
        batch: Images per step.
        first: Seconds that the first step takes, compiling included.
        steps: Of steps alone.
        batches: Of making batches ready alone.
        training: Of both.
        ahead: Whether batches are made ready while steps are taken.
    """

    recipe: str
    size: int
    batch: int
    first: float
    steps: float
    batches: float
    training: float
    ahead: bool

    @property
    def share(self) -> float:
        """Training's share of what the two allow."""
        limit = min(self.steps, self.batches) if self.ahead else 1 / (1 / self.steps + 1 / self.batches)
        return self.training / limit


def measure(
    data: Path, recipe: str, size: int, batch: int, device: torch.device, seconds: float, rounds: int, compiled: bool | None
) -> Row:
    """One setup: its networks compiled, as training does it."""
    options = TrainOptions(recipe=recipe, image_size=(size, size), batch_size=batch, compile=compiled)
    material = load_training_data(data, options)
    frames = material.frames
    chosen, hyperparameters = recipe_named(recipe), options.resolved_hyperparameters()
    networks = chosen.networks_for(material.spec).to(device, memory_format=torch.channels_last)
    half = computes_bfloat16(device)
    learner: Learner = chosen.learner_for(networks, material.spec, frames, hyperparameters, LearnerOptions(half=half))
    for note in compile_networks(networks, options, device):
        print(note)
    networks.train()
    taken = chosen.schedule_for(hyperparameters, len(frames)).batch_size

    def make(step: int) -> Batch:
        return learner.prepare(frames[batch_of(step, 0, len(frames), taken)], step)

    workers = workers_for(learner, device)

    def ready_batches() -> Generator[Batch, None, None]:
        yield from batches(make, range(1 << 30), workers, print)

    def step(some: Batch) -> list[float]:
        return torch.stack(list(learner.step(*some).values())).tolist()  # as the loop reads them, which waits for the device

    def on_device(some: Batch) -> Batch:
        return tuple(part.to(device, non_blocking=True) for part in some)

    ready = on_device(make(0))
    ways: dict[str, Callable[[], Generator[object, None, None]]] = {
        "steps": lambda: (step(some) for some in repeat(ready)),
        "batches": ready_batches,
        "training": lambda: (step(on_device(some)) for some in ready_batches()),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    begun = time.perf_counter()
    step(ready)
    first = time.perf_counter() - begun
    for _ in range(rounds):
        for name, way in ways.items():
            rates[name].append(taken * _per_second(way(), seconds))
    figures = {name: median(values) for name, values in rates.items()}
    return Row(recipe, size, taken, first, **figures, ahead=workers > 0)


def _per_second(turns: Generator[object, None, None], seconds: float) -> float:
    """Turns per second once they flow: what was made ready before is not counted."""
    with closing(turns):
        for _ in range((AHEAD + 1) * MOST_WORKERS):
            next(turns)
        count, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            next(turns)
            count += 1
        return count / (time.perf_counter() - begun)


def as_markdown(rows: list[Row], command: str, machine: str, device: torch.device) -> str:
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    half = "bfloat16" if computes_bfloat16(device) else "float32"
    ahead = "worker processes make batches ready ahead" if any(row.ahead for row in rows) else "no batches are made ready ahead"
    threads = f"{ahead}, {torch.get_num_threads()} threads compute"
    lines = [
        "# Training throughput",
        "",
        f"`{command}` on {machine}, {len(os.sched_getaffinity(0))} cores; convolutions in {half}; {threads}; {said}.",
        "",
        "| recipe | size | batch | first step, s | steps alone, images/s | batches alone, images/s | training, images/s | of the limit |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {row.recipe} | {row.size} | {row.batch} | {row.first:.1f} | {row.steps:.0f} | {row.batches:.0f} "
            f"| {row.training:.0f} | {row.share:.0%} |"
            for row in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, metavar="DIR")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--seconds", type=float, default=10.0, help="Of each of the three, each round.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="As `lrdan-edge train` takes it.")
    parser.add_argument("--setups", type=int, nargs="+", default=range(len(SETUPS)), help="Which rows, from 0.")
    arguments = parser.parse_args()
    command = shlex.join(["python", "benchmarks/training.py", *sys.argv[1:]])
    device = choose_device(arguments.device)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else processor().name
    RESULTS.mkdir(exist_ok=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.images or surfaces(Path(folder))
        for setup in arguments.setups:
            rows.append(measure(data, *SETUPS[setup], device, arguments.seconds, arguments.rounds, arguments.compile))
            print(rows[-1], flush=True)
            record = {"command": command, "machine": machine, "versions": versions(), "rows": rows}
            (RESULTS / f"training-{device.type}.json").write_bytes(to_json(record))
            page = as_markdown(rows, command, machine, device)
            (RESULTS / f"training-{device.type}.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

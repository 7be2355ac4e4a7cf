"""What a few known defects in training are worth: image AUROC on the remaining test images, with 0, 1 and 2 of each kind known.

    python benchmarks/known_defects.py ../shared/data/magnetic-tile --image-size 96x96 --epochs 12

DATA holds ``train/good``, ``test/good``, ``test/<kind>`` and perhaps ``ground_truth/<kind>``. Per seed, two defects of each kind are
drawn and taken out of the test images of every column, known or not, so that all columns judge the same images. Scores are the
deploy module's (PyTorch, float32). Writes ``benchmarks/results/known-defects-<name of DATA>.json`` and ``.md`` after each run.
"""

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch

from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.stage import versions
from lrdan_edge.data.dataset import LabelledImage, test_images
from lrdan_edge.data.images import batches, read_mask
from lrdan_edge.metrics import auroc
from lrdan_edge.model.deployed import load_network
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.progress import Progress
from lrdan_edge.train.recipes import RECIPES
from lrdan_edge.train.trainer import train

RESULTS = Path(__file__).parent / "results"
MOST = 2  # of each kind
COLUMNS = {"none": (0, True), "1 of each kind": (1, True), "2 of each kind": (2, True), "2 of each kind, no masks": (2, False)}


class Run(msgspec.Struct):
    """One training."""

    column: str
    seed: int
    known: int
    training_seconds: float
    image_auroc: float
    kinds: dict[str, float]


def draw(images: list[LabelledImage], seed: int) -> dict[str, list[LabelledImage]]:
    """`MOST` defects of each kind."""
    rng = np.random.default_rng(seed)
    kinds = sorted({image.kind for image in images if image.defective})
    found = {kind: [image for image in images if image.kind == kind] for kind in kinds}
    return {kind: [found[kind][place] for place in rng.permutation(len(found[kind]))[:MOST]] for kind in kinds}


def write_known(folder: Path, drawn: dict[str, list[LabelledImage]], count: int, *, masks: bool) -> None:
    """The first `count` of each kind as ``--known-defects`` wants them."""
    for kind, images in drawn.items():
        for image in images[:count]:
            (folder / kind).mkdir(parents=True, exist_ok=True)
            shutil.copy(image.path, folder / kind)
            if masks and image.mask is not None and read_mask(image.mask).any():  # one of the tiles' masks marks nothing
                (folder / "masks" / kind).mkdir(parents=True, exist_ok=True)
                shutil.copy(image.mask, folder / "masks" / kind / f"{image.path.stem}.png")


def measure(data: Path, column: str, options: TrainOptions) -> Run:
    """Train, and judge the test images that nobody was shown."""
    count, masks = COLUMNS[column]
    images = test_images(data)
    drawn = draw(images, options.seed)
    taken = {image.path for part in drawn.values() for image in part}
    rest = [image for image in images if image.path not in taken]
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder) / "known"
        write_known(known, drawn, count, masks=masks)
        started = time.monotonic()
        bundle = train(data, Path(folder) / "bundle", replace(options, known_defects=known if count else None), Progress())
        seconds = time.monotonic() - started
        module = load_network(bundle)
        with torch.inference_mode():
            depth = bundle.manifest.preprocessing.bit_depth
            parts = batches([image.path for image in rest], bundle.manifest.model.frame_shape, 32, depth)
            scores = np.concatenate([module(torch.from_numpy(part))[0].numpy() for part in parts])
    good = [score for score, image in zip(scores, rest, strict=True) if not image.defective]
    bad = {kind: [score for score, image in zip(scores, rest, strict=True) if image.kind == kind] for kind in drawn}
    return Run(
        column,
        options.seed,
        count * len(drawn),
        seconds,
        auroc(good, [score for part in bad.values() for score in part]),
        {kind: auroc(good, part) for kind, part in bad.items()},
    )


def as_markdown(title: str, runs: list[Run], command: str) -> str:
    """One row per measure, one column per number of known defects: mean and standard deviation over seeds."""
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    columns = [column for column in COLUMNS if any(run.column == column for run in runs)]
    seeds = sorted({run.seed for run in runs})
    lines = [
        f"# Known defects in training: {title}",
        "",
        f"`{command}` on {processor().name}, {torch.get_num_threads()} thread; {said}. Seeds {', '.join(map(str, seeds))}.",
        f"Image AUROC on the test images without the {MOST} of each kind that were drawn; mean ± standard deviation over seeds.",
        "",
        "| known defects | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for name in ("image AUROC", *runs[0].kinds):
        cells = []
        for column in columns:
            found = [run for run in runs if run.column == column]
            values = [run.image_auroc if name == "image AUROC" else run.kinds[name] for run in found]
            cells.append(f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    seconds = [np.mean([run.training_seconds for run in runs if run.column == column]) for column in columns]
    lines.append("| seconds of training | " + " | ".join(f"{value:.0f}" for value in seconds) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", choices=RECIPES, default="restoration")
    parser.add_argument("--image-size", type=lambda text: tuple(map(int, text.split("x"))), help="Rows x columns.")
    parser.add_argument("--epochs", type=int, help="Passes over the good images. [default: the recipe's]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    command = shlex.join(["python", "benchmarks/known_defects.py", *sys.argv[1:]])
    name = f"known-defects-{arguments.data.name}"
    runs: list[Run] = []
    RESULTS.mkdir(exist_ok=True)
    for seed in arguments.seeds:
        options = TrainOptions(
            recipe=arguments.recipe, image_size=arguments.image_size, epochs=arguments.epochs, seed=seed, group_by="auto"
        )
        for column in COLUMNS:
            runs.append(measure(arguments.data, column, options))
            record = {"command": command, "machine": processor().name, "versions": versions(), "runs": runs}
            (RESULTS / f"{name}.json").write_bytes(to_json(record))
            (RESULTS / f"{name}.md").write_text(as_markdown(arguments.data.name, runs, command), encoding="utf-8")


if __name__ == "__main__":
    main()

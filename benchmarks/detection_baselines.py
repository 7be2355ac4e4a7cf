"""How well the protocol's baselines detect defects on the data set that ``benchmarks/detection.py`` uses, on the same split.

    python benchmarks/detection_baselines.py ../shared/data/magnetic-tile --image-size 128x128

DATA holds ``train/good``, ``test/good`` and ``test/<kind>``. Every detector learns from the images that ``lrdan-edge train``
would learn from with the same seed, standardised per image first, as the recipe restoration's are, so that exposure counts for
none of them. Writes ``benchmarks/results/detection-baselines-<name of DATA>.json`` and ``.md``, anew after each run.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from detection import RESULTS, spread

from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.stage import versions
from lrdan_edge.data.dataset import good_images, test_images
from lrdan_edge.data.grouping import AUTO
from lrdan_edge.data.images import load_frames
from lrdan_edge.evaluation.result import AT_2_PERCENT
from lrdan_edge.metrics import Recall, auroc, recall_at
from lrdan_edge.protocol.baselines import DETECTORS
from lrdan_edge.protocol.baselines.base import Training

BASELINES = ("pixel-1nn", "pca", "autoencoder", "deep-svdd", "ganomaly", "geom")
SPREAD = 48.0  # grey levels of one standard deviation after standardising: 128 ± 2.6 deviations fill the range


class Run(msgspec.Struct):
    """One detector with one seed; AUROC in [0, 1] over all images, and per kind of defect; recall at 2 % false rejects likewise."""

    detector: str
    seed: int
    machine: str
    threads: int
    training_seconds: float
    image_auroc: float
    kinds: dict[str, float]
    recall_at_2_percent: Recall | None = None
    kinds_recall: dict[str, float] = {}


def standardised(frames: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Frames uint8 [N, H, W, C] to uint8 [N, C, H, W], every image with mean 128 and deviation `SPREAD`."""
    x = frames.astype(np.float32)
    x = (x - x.mean((1, 2, 3), keepdims=True)) / (x.std((1, 2, 3), keepdims=True) + 1)
    levels = np.clip(np.round(x * SPREAD + 128), 0, 255).astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(levels.transpose(0, 3, 1, 2)))


def measure(data: Path, shape: tuple[int, int, int], name: str, seed: int, steps: int) -> Run:
    """Train one detector and judge the test images."""
    tests = test_images(data)
    detector = DETECTORS[name]()
    started = time.monotonic()
    good = standardised(load_frames(good_images(data, seed, AUTO).training, shape))
    detector.fit(Training(good=good, steps=steps, seed=seed, device=torch.device("cpu")))
    seconds = time.monotonic() - started
    scores = detector.score(standardised(load_frames([image.path for image in tests], shape))).numpy()
    kinds = np.array([image.kind for image in tests])
    baseline = scores[kinds == "good"]
    of_kind = {str(kind): scores[kinds == kind] for kind in np.unique(kinds) if kind != "good"}
    at = {kind: recall_at(baseline, own) for kind, own in of_kind.items()}
    return Run(
        name,
        seed,
        processor().name,
        torch.get_num_threads(),
        seconds,
        auroc(baseline, scores[kinds != "good"]),
        {kind: auroc(baseline, own) for kind, own in of_kind.items()},
        recall_at(baseline, scores[kinds != "good"]),
        {kind: recall.value for kind, recall in at.items() if recall},
    )


def _of_kind(kind: str, runs: list[Run]) -> str:
    return spread([run.kinds[kind] for run in runs])


def _recall_of_kind(kind: str, runs: list[Run]) -> str:
    return spread([run.kinds_recall[kind] for run in runs])


def _interval(runs: list[Run]) -> str:
    recall = runs[0].recall_at_2_percent
    return f"{recall.low:.3f} to {recall.high:.3f}" if recall else ""


def as_markdown(title: str, runs: list[Run], command: str) -> str:
    """One row per measure, one column per detector, mean ± standard deviation over the seeds."""
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    detectors = list(dict.fromkeys(run.detector for run in runs))
    lines = [
        f"# Baselines on {title}",
        "",
        f"`{command}`; {said}.",
        "Recall at 2 % false rejects and image AUROC, mean ± standard deviation over the seeds; every image is standardised first.",
        "",
        "| | " + " | ".join(detectors) + " |",
        "|---|" + "---|" * len(detectors),
    ]

    def row(label: str, cell: Callable[[list[Run]], str]) -> str:
        cells = (cell([run for run in runs if run.detector == detector]) for detector in detectors)
        return f"| {label} | " + " | ".join(cells) + " |"

    def each(value: Callable[[Run], object]) -> Callable[[list[Run]], str]:
        return lambda own: ", ".join(dict.fromkeys(str(value(run)) for run in own))

    lines.append(row("seeds", each(lambda run: run.seed)))
    if all(run.recall_at_2_percent for run in runs):  # results of earlier versions have none
        lines.append(row(AT_2_PERCENT, lambda own: spread([one.value for run in own if (one := run.recall_at_2_percent)])))
        lines.append(row("its 95 % interval, first seed", _interval))
        lines += [row(f"{kind}, {AT_2_PERCENT}", partial(_recall_of_kind, kind)) for kind in runs[0].kinds_recall]
    lines.append(row("image AUROC", lambda own: spread([run.image_auroc for run in own])))
    lines += [row(kind, partial(_of_kind, kind)) for kind in runs[0].kinds]
    lines.append(row("minutes of training", lambda own: spread([run.training_seconds / 60 for run in own])))
    lines.append(row("threads", each(lambda run: run.threads)))
    lines.append(row("processor", each(lambda run: run.machine)))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--image-size", type=lambda text: tuple(map(int, text.split("x"))), default=(128, 128))
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1)
    parser.add_argument("--detector", dest="detectors", choices=sorted(DETECTORS), nargs="+", default=list(BASELINES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--add", action="store_true", help="Add to the runs that the results hold already.")
    arguments = parser.parse_args()
    command = shlex.join(["python", "benchmarks/detection_baselines.py", *sys.argv[1:]])
    target = RESULTS / f"detection-baselines-{arguments.data.name}"
    runs: list[Run] = []
    RESULTS.mkdir(exist_ok=True)
    if arguments.add:
        earlier = json.loads(target.with_suffix(".json").read_bytes())
        command = f"{earlier['command']}; {command}"
        again = {(name, seed) for name in arguments.detectors for seed in arguments.seeds}
        runs = [run for run in msgspec.convert(earlier["runs"], list[Run]) if (run.detector, run.seed) not in again]
    for name in arguments.detectors:
        for seed in arguments.seeds:
            runs.append(measure(arguments.data, (*arguments.image_size, arguments.channels), name, seed, arguments.steps))
            print(f"{name}, seed {seed}: image AUROC {runs[-1].image_auroc:.3f}", flush=True)
            record = {"command": command, "versions": versions(), "runs": runs}
            target.with_suffix(".json").write_bytes(to_json(record))
            target.with_suffix(".md").write_text(as_markdown(arguments.data.name, runs, command), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Every recipe on one data set, side by side: how many defects each finds at 2 % false rejects, and what training costs.

    python benchmarks/recipes.py ../shared/data/bottle --recipes feature-restoration padim patchcore --seeds 0 1 2 --image-size 256x256

DATA holds ``train/good``, ``test/good``, ``test/<kind>`` and perhaps ``ground_truth/<kind>``. The scores are those of the deploy module in
PyTorch (the exported graphs differ from it by less than the bounds in docs/reference/graph.md). Runs that the results hold already are not
repeated, unless their version, backbone or hyperparameters differ. Writes ``benchmarks/results/recipes-<name of DATA>.json`` and ``.md``
after each run.
"""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from detection import RESULTS, spread, trained

from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.stage import versions
from lrdan_edge.calibration.decision import conformal_rank, images_needed
from lrdan_edge.data.dataset import recorded_images, test_images
from lrdan_edge.data.images import load_frames
from lrdan_edge.evaluation.evaluate import mask_of
from lrdan_edge.evaluation.result import AT_2_PERCENT
from lrdan_edge.metrics import PixelAuroc, auroc, recall_at, threshold_at
from lrdan_edge.model.deployed import DeployModule, load_network
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.recipes import RECIPES, recipe_named

PROMISE = 0.02
_BATCH = 8


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One recipe with one seed.

    Attributes:
        recipe: The recipe.
        seed: The seed.
        hyperparameters: The recipe's hyperparameters.
        machine: The processor.
        threads: Threads of training.
        training_seconds: Duration of all steps.
        images: Number of training images.
        image_auroc: AUROC of the image scores.
        pixel_auroc: AUROC of the heatmaps, or None without masks.
        recall: Recall at 2 % false rejects of the test's good images.
        recall_low: Lower end of its 95 % interval.
        recall_high: Upper end.
        false_reject_rate: Fraction of the test's good images above the threshold of the held-out images; None if they are too few to
            promise 2 %.
        kinds: Recall at 2 % false rejects and AUROC per kind of defect.
    """

    recipe: str
    seed: int
    hyperparameters: str
    machine: str
    threads: int
    training_seconds: float
    images: int
    image_auroc: float
    pixel_auroc: float | None
    recall: float
    recall_low: float
    recall_high: float
    false_reject_rate: float | None
    kinds: dict[str, dict[str, float]]


@torch.inference_mode()
def scores_of(
    module: DeployModule, bundle: Bundle, paths: Sequence[Path]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float16]]:
    """Scores float32 [N] and heatmaps float16 [N, h, w] of image files."""
    shape, depth = bundle.manifest.model.frame_shape, bundle.manifest.preprocessing.bit_depth
    scores, heatmaps = [], []
    for start in range(0, len(paths), _BATCH):
        score, heatmap = module(torch.from_numpy(load_frames(list(paths[start : start + _BATCH]), shape, depth)))
        scores.append(score.numpy())
        heatmaps.append(heatmap.half().numpy())
    return np.concatenate(scores), np.concatenate(heatmaps)


def measure(data: Path, options: TrainOptions, folder: Path) -> Run:
    """Train with `options` in `folder`, and judge the test images."""
    bundle = trained(data, folder / f"{options.recipe}-{options.seed}", options)
    module = load_network(bundle)
    images = test_images(data)
    scores, heatmaps = scores_of(module, bundle, [image.path for image in images])
    pixels, masks = PixelAuroc(), any(image.mask for image in images)
    for image, heatmap in zip(images, heatmaps, strict=True):
        if masks and (image.mask or not image.defective):
            heat = heatmap.astype(np.float32)
            pixels.add(heat, mask_of(image, heat, bundle.manifest.model.region_fractions))
    defective = np.array([image.defective for image in images])
    good, bad = scores[~defective], scores[defective]
    at = recall_at(good, bad, PROMISE)
    if at is None:
        raise SystemExit(f"{data} needs good and defective test images")
    threshold = threshold_at(good, PROMISE)
    kinds = {}
    for kind in sorted({image.kind for image in images if image.defective}):
        part = scores[[image.kind == kind for image in images]]
        kinds[kind] = {
            "images": float(len(part)),
            "recall": float(np.mean(part > threshold)),
            "image_auroc": auroc(good, part),
        }
    held_out = np.sort(scores_of(module, bundle, recorded_images(bundle, "held_out"))[0])
    enough = len(held_out) >= images_needed(PROMISE)
    rejected = float((good > held_out[conformal_rank(len(held_out), PROMISE) - 1]).mean()) if enough else None
    results = bundle.manifest.stages["train"].results
    return Run(
        recipe=bundle.manifest.model.recipe,
        seed=options.seed,
        hyperparameters=options.resolved_hyperparameters().describe(),
        machine=processor().name,
        threads=results["threads"],
        training_seconds=results["steps_seconds"],
        images=results["images"],
        image_auroc=auroc(good, bad),
        pixel_auroc=pixels.value() if masks else None,
        recall=at.value,
        recall_low=at.low,
        recall_high=at.high,
        false_reject_rate=rejected,
        kinds=kinds,
    )


def as_markdown(name: str, runs: list[Run], commands: list[str]) -> str:
    """One column per recipe, mean ± standard deviation over its seeds."""
    columns = {recipe: [run for run in runs if run.recipe == recipe] for recipe in dict.fromkeys(run.recipe for run in runs)}

    def row(title: str, values: dict[str, list[float | None]], digits: int = 3) -> str:
        cells = []
        for found in values.values():
            known = [value for value in found if value is not None]
            cells.append(spread(known) if known and digits == 3 else f"{np.mean(known):.0f}" if known else "–")
        return f"| {title} | {' | '.join(cells)} |"

    said = ", ".join(f"{package} {version}" for package, version in versions().items())
    lines = [
        f"# Recipes on {name}",
        "",
        *(f"`{command}`" for command in commands),
        "",
        f"{', '.join(dict.fromkeys(run.machine for run in runs))}; {said}. Mean ± standard deviation over seeds.",
        "",
        "| | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
        row(AT_2_PERCENT, {recipe: [run.recall for run in found] for recipe, found in columns.items()}),
        "| lowest and highest end of its 95 % intervals | "
        + " | ".join(
            f"{min(run.recall_low for run in found):.3f} to {max(run.recall_high for run in found):.3f}"
            for found in columns.values()
        )
        + " |",
        row("image AUROC", {recipe: [run.image_auroc for run in found] for recipe, found in columns.items()}),
        row("pixel AUROC", {recipe: [run.pixel_auroc for run in found] for recipe, found in columns.items()}),
        row(
            "false rejects at 2 % promised",
            {recipe: [run.false_reject_rate for run in found] for recipe, found in columns.items()},
        ),
    ]
    for kind, figures in runs[0].kinds.items():
        values: dict[str, list[float | None]] = {
            recipe: [run.kinds[kind]["recall"] for run in found] for recipe, found in columns.items()
        }
        lines.append(row(f"{kind} ({figures['images']:.0f}), {AT_2_PERCENT}", values))
    lines += [
        row("seconds of training", {recipe: [run.training_seconds for run in found] for recipe, found in columns.items()}, 0),
        row("on so many threads", {recipe: [float(run.threads) for run in found] for recipe, found in columns.items()}, 0),
        "| seeds | " + " | ".join(", ".join(str(run.seed) for run in found) for found in columns.values()) + " |",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipes", choices=RECIPES, nargs="+", default=["feature-restoration", "padim", "patchcore"])
    parser.add_argument("--image-size", type=lambda text: tuple(map(int, text.split("x"))), help="Rows x columns.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="Keep bundles in DIR, and take those already trained.")
    arguments = parser.parse_args()
    path = RESULTS / f"recipes-{arguments.data.name}"
    record = json.loads(path.with_suffix(".json").read_bytes()) if path.with_suffix(".json").exists() else {}
    runs = [msgspec.convert(run, Run) for run in record.get("runs", [])]
    commands = [*record.get("commands", []), shlex.join(["python", "benchmarks/recipes.py", *sys.argv[1:]])]
    for seed in arguments.seeds:
        for recipe in arguments.recipes:
            described = recipe_named(recipe).defaults.describe()
            if any((run.recipe, run.seed, run.hyperparameters) == (recipe, seed, described) for run in runs):
                continue
            runs = [run for run in runs if run.recipe != recipe or run.hyperparameters == described]
            options = TrainOptions(recipe=recipe, image_size=arguments.image_size, seed=seed, overwrite=True)
            with tempfile.TemporaryDirectory() as folder:
                runs.append(measure(arguments.data, options, arguments.keep or Path(folder)))
            runs.sort(key=lambda run: (list(RECIPES).index(run.recipe), run.seed))
            path.with_suffix(".json").write_bytes(to_json({"commands": commands, "versions": versions(), "runs": runs}))
            path.with_suffix(".md").write_text(as_markdown(arguments.data.name, runs, commands), encoding="utf-8")


if __name__ == "__main__":
    main()

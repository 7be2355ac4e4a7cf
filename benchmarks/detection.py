"""How well a recipe detects defects on a data set: train, export, calibrate and evaluate, once per seed.

    python benchmarks/detection.py ../shared/data/magnetic-tile --image-size 256x256

DATA holds ``train/good``, ``test/good``, ``test/<kind>`` and perhaps ``ground_truth/<kind>``. What is measured is the fp32
deploy graph, as ``lrdan-edge evaluate`` measures it; every seed is in the table, none is chosen. Writes
``benchmarks/results/detection-<name of DATA>.json`` and ``.md``.
"""

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.journal import MANIFEST
from lrdan_edge.bundle.stage import versions
from lrdan_edge.calibration.calibrate import calibrate
from lrdan_edge.evaluation.evaluate import evaluate
from lrdan_edge.evaluation.result import AT_2_PERCENT, Evaluation
from lrdan_edge.export.graph import export
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.recipes import RECIPES
from lrdan_edge.train.trainer import train

RESULTS = Path(__file__).parent / "results"


class Run(msgspec.Struct):
    """One seed."""

    seed: int
    machine: str
    training_seconds: float
    training_threads: int
    evaluation: Evaluation


def trained(data: Path, path: Path, options: TrainOptions) -> Bundle:
    """The bundle at `path` if the same options have trained it to the end on data of this name, else one that is trained now."""
    if (path / MANIFEST).exists():
        bundle = Bundle.open(path)
        stage = bundle.manifest.stages.get("train")
        asked = json.loads(json.dumps(options.as_dict(), default=str))
        same = stage and stage.options == asked and Path(stage.results["data"]).name == data.absolute().name
        if stage and same and not stage.results["interrupted"]:
            return bundle
    return train(data, path, options)


def measure(data: Path, options: TrainOptions, keep: Path | None) -> Run:
    """Train with `options` and judge the test images; the bundle stays in `keep`, if that is given."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = trained(data, (keep or Path(folder)) / f"seed-{options.seed}", options)
        stage = bundle.manifest.stages["train"]
        export(bundle)
        calibrate(bundle, false_reject_rate=0.1)  # a threshold from few images; neither AUROC nor recall at 2 % sees it
        evaluation, _ = evaluate(bundle, data, precision="fp32", write=False)
        return Run(options.seed, processor().name, stage.results["steps_seconds"], stage.results["threads"], evaluation)


def spread(values: list[float]) -> str:
    """Mean ± standard deviation, or the one value."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


def as_markdown(title: str, runs: list[Run], command: str) -> str:
    """One row per measure, one column per seed, and the mean with its standard deviation."""
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    evaluations = [run.evaluation for run in runs]
    rows: list[tuple[str, list[float]]] = []
    at = [e.recall_at_2_percent for e in evaluations]
    if all(at):  # results of earlier versions have none
        rows.append((AT_2_PERCENT, [recall.value for recall in at if recall]))
        rows += [
            (f"{kind}, {AT_2_PERCENT}", [e.kinds[kind]["recall_at_2_percent"] for e in evaluations])
            for kind in evaluations[0].kinds
        ]
    rows.append(("image AUROC", [e.image_auroc for e in evaluations]))
    rows += [
        (f"{kind} ({int(found['images'])})", [e.kinds[kind]["image_auroc"] for e in evaluations])
        for kind, found in evaluations[0].kinds.items()
    ]
    pixels = [e.pixel_auroc for e in evaluations if e.pixel_auroc is not None]
    if len(pixels) == len(runs):
        rows.append(("pixel AUROC", pixels))
    lines = [
        f"# Detection on {title}",
        "",
        f"`{command}` on {', '.join(dict.fromkeys(run.machine for run in runs))}; {said}.",
        f"{evaluations[0].good} good and {evaluations[0].defective} defective test images; mean ± standard deviation over seeds.",
        "",
        "| | " + " | ".join(f"seed {run.seed}" for run in runs) + " | mean |",
        "|---|" + "---|" * (len(runs) + 1),
    ]
    table = [
        f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + f" | {spread(values)} |" for name, values in rows
    ]
    if all(at):
        ends = " | ".join(f"{recall.low:.3f} to {recall.high:.3f}" for recall in at if recall)
        table.insert(1, f"| its 95 % interval | {ends} | |")
    lines += table
    minutes = [run.training_seconds / 60 for run in runs]
    lines.append("| minutes of training | " + " | ".join(f"{value:.1f}" for value in minutes) + f" | {np.mean(minutes):.1f} |")
    lines.append("| on so many threads | " + " | ".join(str(run.training_threads) for run in runs) + " | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", choices=RECIPES, default="restoration")
    parser.add_argument("--image-size", type=lambda text: tuple(map(int, text.split("x"))), help="Rows x columns.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--add", action="store_true", help="Add to the seeds that the results hold already.")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="Keep bundles in DIR, and take those already trained.")
    arguments = parser.parse_args()
    command = shlex.join(["python", "benchmarks/detection.py", *sys.argv[1:]])
    name = f"detection-{arguments.data.name}" + ("" if arguments.recipe == "restoration" else f"-{arguments.recipe}")
    RESULTS.mkdir(exist_ok=True)
    earlier = json.loads((RESULTS / f"{name}.json").read_bytes()) if arguments.add else {"runs": []}
    runs = [msgspec.convert(run, Run) for run in earlier["runs"] if run["seed"] not in arguments.seeds]
    if runs:
        command = f"{earlier['command']}; {command}"
    for seed in arguments.seeds:  # written after each seed, so that a run cut short is not lost
        options = TrainOptions(recipe=arguments.recipe, image_size=arguments.image_size, seed=seed)
        runs.append(measure(arguments.data, options, arguments.keep))
        record = {
            "command": command,
            "versions": versions(),
            "runs": runs,
        }
        (RESULTS / f"{name}.json").write_bytes(to_json(record))
        (RESULTS / f"{name}.md").write_text(as_markdown(arguments.data.name, runs, command), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The effect of a change to a recipe: train with some of its hyperparameters changed, score the test images, add a row to a table.

    python benchmarks/trials.py ../shared/data/magnetic-tile --image-size 256x256 --set most_zoom=1.3 --seeds 0 1

DATA and the measured values are those of ``benchmarks/detection.py``. Without ``--set`` the row is the recipe itself, to compare with.
Results differ between seeds: a change whose sign depends on the seed means little. Writes
``benchmarks/results/trials-<name of DATA>.json`` and ``.md``, each row with its command and the revision it ran on.
"""

import argparse
import ast
import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
from detection import RESULTS, Run, measure

from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.stage import versions
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.recipes import RECIPES, recipe_named
from lrdan_edge.train.recipes.base import Hyperparameters


class Trial(msgspec.Struct):
    """One row."""

    command: str
    revision: str
    changes: list[str]
    image_size: list[int] | None
    runs: list[Run]


def changed(hyperparameters: Hyperparameters, change: str) -> Hyperparameters:
    """Replace one hyperparameter by ``name=value``; ``weights.k=0.5`` replaces a field of a field.

    Raises:
        SystemExit: No hyperparameter has this name, or the value has the wrong type.
    """
    name, _, text = change.partition("=")
    *outer, last = name.split(".")
    try:
        holders: list[Any] = [hyperparameters]
        for part in outer:
            holders.append(getattr(holders[-1], part))
        before, value = getattr(holders[-1], last), ast.literal_eval(text)
    except (AttributeError, ValueError, SyntaxError) as error:
        sys.exit(f"{change!r} cannot be applied ({error}): write --set most_zoom=1.3")
    number = isinstance(before, int | float) and isinstance(value, int | float)
    if not number and type(value) is not type(before):
        sys.exit(f"{name} is {before!r}, which {value!r} cannot replace")
    for holder, field in zip(reversed(holders), reversed([*outer, last]), strict=True):
        value = replace(holder, **{field: value})
    return cast(Hyperparameters, value)


def revision() -> str:
    """The commit that is checked out, with a plus where files were changed."""
    parts = (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no", "lrdan_edge"])
    commit, changed = (subprocess.run(["git", *part], check=True, capture_output=True, text=True).stdout for part in parts)
    return commit.strip() + ("+" if changed.strip() else "")


def as_markdown(title: str, trials: list[Trial]) -> str:
    """One row per trial; AUROC of every seed, none left out."""
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        f"# Trials on {title}",
        "",
        f'{said}. AUROC per seed; "recipe" is the recipe as it stood at that revision.',
        "",
        "| change | seeds | image AUROC | pixel AUROC | minutes of training | processor | revision |",
        "|---|---|---|---|---|---|---|",
    ]
    for trial in trials:
        found = [run.evaluation for run in trial.runs]
        pixels = [f"{one.pixel_auroc:.3f}" for one in found if one.pixel_auroc is not None]
        cells = [
            ", ".join(f"`{change}`" for change in trial.changes) or "recipe",
            ", ".join(str(run.seed) for run in trial.runs),
            ", ".join(f"{one.image_auroc:.3f}" for one in found),
            ", ".join(pixels),
            ", ".join(f"{run.training_seconds / 60:.1f}" for run in trial.runs),
            ", ".join(dict.fromkeys(run.machine for run in trial.runs)),
            trial.revision,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"    {trial.command}" for trial in trials)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--image-size", type=lambda text: tuple(map(int, text.split("x"))), help="Rows x columns.")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--recipe", choices=RECIPES, default="restoration")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="Keep bundles in a folder of DIR, and take those already there."
    )
    arguments = parser.parse_args()
    hyperparameters: Hyperparameters = recipe_named(arguments.recipe).defaults
    for change in arguments.changes:
        hyperparameters = changed(hyperparameters, change)
    keep = arguments.keep and arguments.keep / "+".join([revision(), *arguments.changes])  # older code made other bundles
    target = RESULTS / f"trials-{arguments.data.name}"
    RESULTS.mkdir(exist_ok=True)
    trial = Trial(
        shlex.join(["python", "benchmarks/trials.py", *sys.argv[1:]]),
        revision(),
        arguments.changes,
        arguments.image_size and list(arguments.image_size),
        [],
    )
    options = TrainOptions(image_size=arguments.image_size, recipe=arguments.recipe, hyperparameters=hyperparameters)
    for seed in arguments.seeds:
        trial.runs.append(measure(arguments.data, replace(options, seed=seed), keep))
        # Read again: two trials may run at a time.
        rows = json.loads(target.with_suffix(".json").read_bytes()) if target.with_suffix(".json").exists() else []
        trials = [row for row in msgspec.convert(rows, list[Trial]) if row.command != trial.command] + [trial]
        target.with_suffix(".json").write_bytes(to_json(trials))
        target.with_suffix(".md").write_text(as_markdown(arguments.data.name, trials), encoding="utf-8")


if __name__ == "__main__":
    main()

"""What a threshold promises and what it keeps: real scores, divided again and again into held-out and new parts.

    python benchmarks/thresholds.py --data ../shared/data/magnetic-tile --detector pca
    python benchmarks/thresholds.py --data ../shared/data/magnetic-tile --recipe padim
    python benchmarks/thresholds.py --bundle bundle --good DIR
    python benchmarks/thresholds.py --scores scores.json

With ``--data`` the good images are cross-fitted with a baseline that fits in seconds, once with folds of single images and once with
folds of whole parts (near-copies), so that copies of training images set the first threshold as they would in use. With ``--bundle``
its fp32 graph scores good images that it was not trained on. A file holds ``scores`` and perhaps ``groups`` and ``defective``.

In each of 1000 draws a third of the images (or of the parts) is new. The rest is what a user has: a fifth of it sets the threshold
(split), or all of it (pooled out-of-fold scores). The scores are fixed: no model is fitted again per draw, so what a smaller or
larger training set does to the scores is not in the table.

With ``--recipe`` a recipe is fitted again in each of 100 draws, once without each of five folds of the user's images, as ``train``
does. The network that was fitted without the held-out images scores the new images and the defective ones, for both ways.

Prints a table; with ``--data``, writes it to ``benchmarks/results/thresholds-<name of DATA>.md``, with ``--recipe`` to
``thresholds-<recipe>-<name of DATA>.md``.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from lrdan_edge.calibration.cross import cross_conformal
from lrdan_edge.calibration.decision import conformal_threshold, covered, images_needed
from lrdan_edge.data.dataset import FOLDS, HELD_OUT_FRACTION, good_folders, test_images
from lrdan_edge.data.grouping import AUTO, fold_numbers, group_names, numbered
from lrdan_edge.data.scan import Scan

RESULTS = Path(__file__).parent / "results"
NEW, DRAWS, REFITS = 1 / 3, 1000, 100

Scores = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


class Material(msgspec.Struct):
    """Scores of good images.

    Attributes:
        scores: Each by a model that did not learn from its part, [n].
        groups: The part of each image, [n].
        leaky: Each by a model that did not learn from the image, but perhaps from its part, [n]; without one, `scores`.
        defective: Scores of defective images, or empty.
    """

    scores: list[float]
    groups: list[int]
    leaky: list[float]
    defective: list[float] = []


class Row(msgspec.Struct):
    """One way to set a threshold, and how it fared in all draws; rates in [0, 1].

    Attributes:
        new: What is new: ``images`` or ``parts``.
        way: How the threshold was set.
        rates: The fraction of new good images rejected, per draw; empty if the way cannot promise the rate.
        thresholds: The threshold, per draw.
        recalls: The fraction of defective images found, per draw.
    """

    new: str
    way: str
    rates: list[float]
    thresholds: list[float]
    recalls: list[float]

    def cells(self, promised: float, spread: float) -> list[str]:
        """The row of the table; `spread` is the standard deviation of the good scores."""
        if not self.rates:
            return [self.new, self.way, f"{promised:.1%}", "too few", "", "", "", ""]
        rates, recall = np.array(self.rates), f"{np.mean(self.recalls):.3f}" if self.recalls else ""
        low, high = np.quantile(rates, [0.05, 0.95])
        kept = np.mean(rates <= 2 * promised)
        wide = np.std(self.thresholds) / spread
        return [
            self.new,
            self.way,
            f"{promised:.1%}",
            f"{rates.mean():.2%}",
            f"{low:.1%} to {high:.1%}",
            f"{kept:.0%}",
            f"{wide:.2f}",
            recall,
        ]


def ways(material: Material, rate: float) -> dict[str, Callable[[Places, Places], float]]:
    """The ways to set a threshold, from the places of a user's images and of the held-out ones among them."""
    scores, leaky = np.array(material.scores, np.float32), np.array(material.leaky, np.float32)
    groups = np.array(material.groups)

    def by_part(places: Places) -> float:
        own = groups[places].tolist()
        return conformal_threshold(scores[places], rate, own if covered(own, rate) == "parts" else None)

    def pooled(places: Places, *, parts: bool) -> float:
        own = groups[places].tolist() if parts else list(range(len(places)))
        folds = fold_numbers(own, FOLDS)
        values = (scores if parts else leaky)[places]
        return cross_conformal(values, folds, rate, own if parts else None).threshold

    return {
        "split, single images": lambda _, held: conformal_threshold(leaky[held], rate),
        "split, whole parts": lambda _, held: by_part(held),
        f"pooled over {FOLDS} folds, single images": lambda own, _: pooled(own, parts=False),
        f"pooled over {FOLDS} folds, whole parts": lambda own, _: pooled(own, parts=True),
    }


def simulate(material: Material, rate: float, draws: int = DRAWS, seed: int = 0) -> list[Row]:
    """Divide the scores `draws` times, and set the threshold in each way.

    Args:
        material: The scores.
        rate: The promised false-reject rate, in (0, 1).
        draws: Number of draws.
        seed: Random seed of the draws.
    """
    scores, bad = np.array(material.scores, np.float32), np.array(material.defective, np.float32)
    single, groups = np.arange(len(scores)), np.array(material.groups)
    rows = []
    for new, unit in (("images", single), ("parts", groups)):
        for way, threshold_from in ways(material, rate).items():
            rng, row = np.random.default_rng(seed), Row(new, way, [], [], [])
            for _ in range(draws):
                fresh, own = _divide(unit, np.arange(len(scores)), NEW, rng)
                held, _ = _divide(groups if "parts" in way else single, own, HELD_OUT_FRACTION, rng)
                if (len(held) if "split" in way else len(own)) < images_needed(rate):
                    break
                threshold = threshold_from(own, held)
                row.thresholds.append(threshold)
                row.rates.append(float(np.mean(scores[fresh] > threshold)))
                if len(bad):
                    row.recalls.append(float(np.mean(bad > threshold)))
            rows.append(row if len(row.rates) == draws else Row(new, way, [], [], []))
    return rows


def _divide(unit: npt.NDArray[np.int64], places: Places, fraction: float, rng: np.random.Generator) -> tuple[Places, Places]:
    """About `fraction` of `places`, whole units in random order, and the rest."""
    names = rng.permutation(np.unique(unit[places]))
    sizes = np.array([np.count_nonzero(unit[places] == name) for name in names])
    count = 1 + int(np.searchsorted(np.cumsum(sizes), round(fraction * len(places))))
    drawn = np.isin(unit[places], names[:count])
    return places[drawn], places[~drawn]


def simulate_refits(
    data: Path, recipe_name: str, shape: tuple[int, int, int], rate: float, seed: int
) -> tuple[Material, list[Row]]:
    """Divide the good images `REFITS` times, whole parts, and fit a recipe as ``train`` does; each row is as in `simulate`.

    Args:
        data: The data set.
        recipe_name: A recipe that is cross-fitted.
        shape: (H, W, C) of the networks' images.
        rate: The promised false-reject rate, in (0, 1).
        seed: Random seed of the draws and of every fit.
    """
    paths, _ = good_folders(data)
    groups = np.array(numbered(group_names(paths, data, AUTO, Scan())))
    defects = [image.path for image in test_images(data) if image.defective]
    fitted = _fits([*paths, *defects], recipe_name, shape, seed)
    bad, everything = range(len(paths), len(paths) + len(defects)), np.arange(len(paths))
    ways = ("split, whole parts", f"cross-fitted, {FOLDS} folds, whole parts")
    rows = [Row("parts", way, [], [], []) for way in ways]
    rng, last = np.random.default_rng(seed), np.zeros(len(paths), np.float32)
    for draw in range(REFITS):
        fresh, own = _divide(groups, everything, NEW, rng)
        held, rest = _divide(groups, own, HELD_OUT_FRACTION, rng)
        folds = np.zeros(len(paths), np.int64)
        folds[rest] = [fold + 1 for fold in fold_numbers(groups[rest].tolist(), FOLDS - 1, draw)]
        scorers = [fitted(own[folds[own] != fold]) for fold in range(FOLDS)]
        scores = np.zeros(len(paths), np.float32)
        for fold, scorer in enumerate(scorers):
            scores[own[folds[own] == fold]] = scorer(own[folds[own] == fold].tolist())
        parts = groups[held].tolist()
        apart = parts if covered(parts, rate) == "parts" else None
        enough = len(held) >= images_needed(rate)
        thresholds = (
            conformal_threshold(scores[held], rate, apart) if enough else None,
            cross_conformal(scores[own], folds[own].tolist(), rate, groups[own].tolist()).threshold,
        )
        scores[fresh], found = scorers[0](fresh.tolist()), np.array(scorers[0](bad))
        for row, threshold in zip(rows, thresholds, strict=True):
            if threshold is None:
                continue
            row.thresholds.append(threshold)
            row.rates.append(float(np.mean(scores[fresh] > threshold)))
            row.recalls.append(float(np.mean(found > threshold)))
        last = scores
    rows = [row if len(row.rates) == REFITS else Row(row.new, row.way, [], [], []) for row in rows]
    return Material(last.tolist(), groups.tolist(), last.tolist(), found.tolist()), rows


def _fits(
    paths: list[Path], recipe_name: str, shape: tuple[int, int, int], seed: int
) -> Callable[[Places], Callable[[Sequence[int]], list[float]]]:
    """What fits a recipe to some of the images and returns what scores others."""
    import torch

    from lrdan_edge.data.images import load_frames
    from lrdan_edge.model.pretrained import load_pretrained
    from lrdan_edge.train.cross_fit import BackboneFeatures, CrossFit
    from lrdan_edge.train.frozen_backbone import FrozenBackbone
    from lrdan_edge.train.recipes import recipe_named
    from lrdan_edge.train.recipes.fitted import FittedRecipe

    recipe = recipe_named(recipe_name)
    if not isinstance(recipe, FittedRecipe):
        raise SystemExit(f"the recipe {recipe_name} is not cross-fitted")
    spec = recipe.spec_for(shape[0], shape[1], 1 if shape[2] == 1 else 3, recipe.defaults)
    networks = recipe.networks_for(spec)
    load_pretrained(recipe.defaults.backbone).load_into(networks.network.backbone, recipe.defaults.contrast)
    networks.frozen = FrozenBackbone(networks.network.backbone)
    frames = torch.from_numpy(load_frames(paths, shape)).permute(0, 3, 1, 2).contiguous()
    features = BackboneFeatures(networks, frames)
    constants = recipe.preprocessing_for(spec), recipe.scoring_for(spec)
    fit = CrossFit(recipe, spec, recipe.defaults, *constants, seed, frames, features)

    def fitted(places: Places) -> Callable[[Sequence[int]], list[float]]:
        scorer = fit.fitted(networks.network.backbone, places.tolist())
        assert scorer  # nothing stops it
        return scorer.scores

    return fitted


def as_markdown(title: str, material: Material, rows: list[Row], rate: float, command: str) -> str:
    """One row per way and kind of new parts."""
    parts = len(set(material.groups))
    head = [
        "new",
        "threshold",
        "promised",
        "mean",
        "90 % interval",
        "within twice the promise",
        "spread of the threshold",
        "recall",
    ]
    draws = max(len(row.rates) for row in rows)
    lines = [
        f"# Thresholds on {title}",
        "",
        f"`{command}`",
        "",
        f"{len(material.scores)} good images of {parts} parts, {len(material.defective)} defective; {draws} draws. The false-reject "
        "rate realised on new images or parts: its mean, the interval of 90 % of the draws, and the fraction of draws within twice "
        "the promise. The spread of the threshold is in standard deviations of the good scores. Recall is that of the threshold.",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    spread = float(np.std(material.scores))
    return "\n".join([*lines, *(f"| {' | '.join(row.cells(rate, spread))} |" for row in rows)]) + "\n"


def cross_fitted(data: Path, detector: str, shape: tuple[int, int, int], seed: int) -> Material:
    """Out-of-fold scores of the good training images by a baseline, and scores of the defective ones by the model of all."""
    import torch
    from detection_baselines import standardised

    from lrdan_edge.data.images import load_frames
    from lrdan_edge.protocol.baselines import DETECTORS
    from lrdan_edge.protocol.baselines.base import Training

    paths, _ = good_folders(data)
    groups = numbered(group_names(paths, data, AUTO, Scan()))
    frames = standardised(load_frames(paths, shape))
    defects = [image.path for image in test_images(data) if image.defective]

    def fitted(good: torch.Tensor) -> Callable[[torch.Tensor], Scores]:
        model = DETECTORS[detector]()
        model.fit(Training(good=good, steps=300, seed=seed, device=torch.device("cpu")))
        return lambda images: np.asarray(model.score(images).numpy(), np.float32)

    def out_of_fold(units: list[int]) -> list[float]:
        folds, scores = np.array(fold_numbers(units, FOLDS, seed)), np.zeros(len(paths), np.float32)
        for fold in range(FOLDS):
            scores[folds == fold] = fitted(frames[folds != fold])(frames[folds == fold])
        return [float(score) for score in scores]

    bad = fitted(frames)(standardised(load_frames(defects, shape)))
    return Material(out_of_fold(groups), groups, out_of_fold(list(range(len(paths)))), [float(score) for score in bad])


def scored(bundle_path: Path, good: Path) -> Material:
    """Scores of good images by a bundle's fp32 graph."""
    from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.calibration.images import FrameLoader, groups_of, threshold_images
    from lrdan_edge.calibration.scores import score_images

    bundle = Bundle.open(bundle_path)
    images = threshold_images(bundle, good)
    with OnnxRuntimeBackend(bundle.graph("fp32").read_bytes(), "fp32") as backend:
        found = [float(score) for score in score_images(backend, images, FrameLoader.of(bundle), lambda _: None)[0]]
    return Material(found, groups_of(bundle, images, good) or [], found)


def from_file(path: Path) -> Material:
    """Scores of a JSON file."""
    content = json.loads(path.read_bytes())
    found, groups = content["scores"], content.get("groups")
    own = numbered(list(map(str, groups))) if groups else list(range(len(found)))
    return Material(found, own, content.get("leaky", found), content.get("defective", []))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="Data set to cross-fit a baseline on.")
    source.add_argument("--bundle", type=Path, help="Bundle whose fp32 graph scores --good.")
    source.add_argument("--scores", type=Path, help="JSON file.")
    parser.add_argument("--good", type=Path, help="Good images for --bundle.")
    parser.add_argument("--detector", default="pca", help="Baseline for --data.")
    parser.add_argument("--recipe", help="Cross-fitted recipe for --data, in place of a baseline; fitted again in every draw.")
    parser.add_argument("--image-size", type=lambda text: tuple(map(int, text.split("x"))), default=(64, 64))
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1)
    parser.add_argument("--false-reject-rate", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.bundle and not arguments.good:
        parser.error("--bundle needs --good")
    if arguments.recipe and not arguments.data:
        parser.error("--recipe needs --data")
    rate, rows, shape = arguments.false_reject_rate, None, (*arguments.image_size, arguments.channels)
    if arguments.recipe:
        title = f"{arguments.recipe}-{arguments.data.name}"
        material, rows = simulate_refits(arguments.data, arguments.recipe, shape, rate, arguments.seed)
    elif arguments.data:
        title, material = arguments.data.name, cross_fitted(arguments.data, arguments.detector, shape, arguments.seed)
    elif arguments.bundle:
        title, material = arguments.good.name, scored(arguments.bundle, arguments.good)
    else:
        title, material = arguments.scores.stem, from_file(arguments.scores)
    command = shlex.join(["python", "benchmarks/thresholds.py", *sys.argv[1:]])
    page = as_markdown(title, material, rows or simulate(material, rate, seed=arguments.seed), rate, command)
    print(page)
    if arguments.data:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"thresholds-{title}.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

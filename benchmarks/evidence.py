"""What each map of evidence of a feature-restoration detector is worth: alone, left out of the sum, and without the background.

    python benchmarks/evidence.py ../shared/data/magnetic-tile BUNDLE

Scores are those of the network in PyTorch, float32. The false rejects are those of the test's good images, by a threshold that the
held-out images set at 2 %. Writes ``benchmarks/results/evidence-<name of DATA>.json`` and ``.md``.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from detection import RESULTS
from recipes import PROMISE

from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.stage import versions
from lrdan_edge.calibration.decision import conformal_rank, images_needed
from lrdan_edge.data.dataset import recorded_images, test_images
from lrdan_edge.data.images import load_frames
from lrdan_edge.metrics import auroc, recall_at
from lrdan_edge.model.deployed import load_network, preprocess
from lrdan_edge.model.feature_restorer import BACKGROUND, DISTANCE_WEIGHT, ERROR_WEIGHT, NEAREST_WEIGHT, FeatureRestorer
from lrdan_edge.model.networks import doubled

MAPS = {"marks": 1.0, "error": ERROR_WEIGHT, "distance": DISTANCE_WEIGHT, "nearest": NEAREST_WEIGHT}
_BATCH = 8
Scores = npt.NDArray[np.float64]


class Row(msgspec.Struct, frozen=True):
    """One way to score: its name, AUROC, recall at 2 % false rejects, and false rejects at the held-out images' threshold for 2 %."""

    name: str
    image_auroc: float
    recall: float
    false_reject_rate: float | None


@torch.inference_mode()
def peaks_and_means(bundle: Bundle, paths: Sequence[Path]) -> dict[str, Scores]:
    """Per map, its largest value and its mean for each image: float64 [N, 2]."""
    module = load_network(bundle)
    network, spec, preprocessing = module.network, bundle.manifest.model, bundle.manifest.preprocessing
    if not isinstance(network, FeatureRestorer) or spec.geometry:
        raise SystemExit(f"{bundle.path} is not of the recipe feature-restoration, or cuts its images")
    found: dict[str, list[Scores]] = {name: [] for name in MAPS}
    for start in range(0, len(paths), _BATCH):
        frames = torch.from_numpy(load_frames(list(paths[start : start + _BATCH]), spec.frame_shape, preprocessing.bit_depth))
        x = preprocess(frames.permute(0, 3, 1, 2).float(), preprocessing)
        raw = network.backbone(x)
        features = network.standardised(raw)
        restored = network.ae2(features[1:])
        maps = {
            "marks": doubled(network.decoder(x, features, restored)),
            "error": network.error(features[1:], restored),
            "distance": network.distance(features[-1], restored[-1]),
            "nearest": network.nearest(network.nearest.memory.cosines(raw[-1])),
        }
        for name, one in maps.items():
            flat = one.flatten(1).double()
            found[name].append(torch.stack([flat.amax(1), flat.mean(1)], 1).numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def rows_of(test: dict[str, Scores], held_out: dict[str, Scores], defective: npt.NDArray[np.bool_]) -> list[Row]:
    """Every way to score."""
    ways: dict[str, tuple[list[str], float]] = {
        "all four": (list(MAPS), BACKGROUND),
        "all four, background kept": (list(MAPS), 0.0),
        **{f"without {name}": ([other for other in MAPS if other != name], BACKGROUND) for name in MAPS},
        **{f"{name} alone": ([name], BACKGROUND) for name in MAPS},
        **{f"{name} alone, background kept": ([name], 0.0) for name in MAPS},
    }
    rows = []
    for way, (names, background) in ways.items():

        def total(maps: dict[str, Scores], names: list[str] = names, background: float = background) -> Scores:
            parts = [MAPS[name] * (maps[name][:, 0] - background * maps[name][:, 1]) for name in names]
            return np.asarray(np.sum(parts, 0))

        scores, known = total(test), np.sort(total(held_out))
        good, bad = scores[~defective], scores[defective]
        at = recall_at(good, bad, PROMISE)
        assert at is not None
        enough = len(known) >= images_needed(PROMISE)
        rejected = float((good > known[conformal_rank(len(known), PROMISE) - 1]).mean()) if enough else None
        rows.append(Row(way, auroc(good, bad), at.value, rejected))
    return rows


def as_markdown(title: str, rows: list[Row], command: str) -> str:
    """One line per way to score."""
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        f"# Evidence: {title}",
        "",
        f"`{command}` on {processor().name}; {said}.",
        "",
        "| score | recall at 2 % false rejects | image AUROC | false rejects at 2 % promised |",
        "|---|---|---|---|",
    ]
    for row in rows:
        rejected = "–" if row.false_reject_rate is None else f"{row.false_reject_rate:.3f}"
        lines.append(f"| {row.name} | {row.recall:.3f} | {row.image_auroc:.3f} | {rejected} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("bundle", type=Path)
    arguments = parser.parse_args()
    bundle, images = Bundle.open(arguments.bundle), test_images(arguments.data)
    test = peaks_and_means(bundle, [image.path for image in images])
    held_out = peaks_and_means(bundle, recorded_images(bundle, "held_out"))
    rows = rows_of(test, held_out, np.array([image.defective for image in images]))
    command = shlex.join(["python", "benchmarks/evidence.py", *sys.argv[1:]])
    record = {"command": command, "machine": processor().name, "versions": versions(), "rows": rows}
    path = RESULTS / f"evidence-{arguments.data.name}"
    path.with_suffix(".json").write_bytes(to_json(record))
    path.with_suffix(".md").write_text(as_markdown(arguments.data.name, rows, command), encoding="utf-8")


if __name__ == "__main__":
    main()

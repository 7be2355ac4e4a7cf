"""What ten known defects are worth to a detector of the recipe feature-restoration: recall at 2 % false rejects on the other test images.

    python benchmarks/known_defect_memory.py ../shared/data/magnetic-tile BUNDLE --draws 5

Known defects do not change the network's weights, only its memory of known defects, so one trained BUNDLE serves all draws. Each draw
takes defects out of the test images of every column, so that all columns judge the same images. Scores are the deploy module's
(PyTorch, float32). Writes ``benchmarks/results/known-defect-memory-<name of DATA>.json`` and ``.md``.
"""

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from known_defects import RESULTS, write_known
from recipes import PROMISE, scores_of

from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.stage import versions
from lrdan_edge.data.dataset import LabelledImage, recorded_images, test_images
from lrdan_edge.data.images import load_frames
from lrdan_edge.metrics import auroc, recall_at
from lrdan_edge.model.deployed import DeployModule, load_network
from lrdan_edge.model.feature_restorer import FeatureRestorer
from lrdan_edge.train.frozen_backbone import FrozenBackbone
from lrdan_edge.train.known_defects import read_known
from lrdan_edge.train.recipes.backbone import backbone_input
from lrdan_edge.train.recipes.feature_restoration.statistics import fit_known, fit_memory

COLUMNS = {"none": None, "without masks": False, "with masks": True}


class Draw(msgspec.Struct):
    """One draw of known defects: its number, and per column the recall at 2 % false rejects and the image AUROC of the others."""

    number: int
    recall: dict[str, float]
    image_auroc: dict[str, float]


class Memory:
    """A bundle's network whose known defects can be changed."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.module = bundle, load_network(bundle)
        if not isinstance(self.module.network, FeatureRestorer):
            raise SystemExit(f"{bundle.path} is not of the recipe feature-restoration")
        self._backbone = FrozenBackbone(self.module.network.backbone)
        spec, depth = bundle.manifest.model, bundle.manifest.preprocessing.bit_depth
        paths = recorded_images(bundle, "training")
        parts = [load_frames(paths[start : start + 16], spec.frame_shape, depth) for start in range(0, len(paths), 16)]
        self._features = torch.cat([self._seen(torch.from_numpy(part).permute(0, 3, 1, 2)) for part in parts])
        self._cosines = fit_memory(self.module.network.nearest, self._features)

    def _seen(self, frames: torch.Tensor) -> torch.Tensor:
        return self._backbone(backbone_input(frames))[-1].half()

    def know(self, folder: Path) -> DeployModule:
        """The module with the defects in `folder`."""
        known = read_known(folder, self.bundle.manifest.model, self.bundle.manifest.preprocessing.bit_depth)
        network = self.module.network
        assert isinstance(network, FeatureRestorer)
        fit_known(network, self._seen(known.frames), known.masks, self._features, self._cosines)
        return self.module


def measure(number: int, count: int, images: list[LabelledImage], memory: Memory, before: npt.NDArray[np.float32]) -> Draw:
    """Draw known defects, and judge the others; `before` are the scores with no known defect."""
    defects = [image for image in images if image.defective]
    places = np.random.default_rng(number).choice(len(defects), count, replace=False)
    taken = {defects[place].path for place in places}
    kept = np.array([image.path not in taken for image in images])
    defective = np.array([image.defective for image in images])
    draw = Draw(number, {}, {})
    for column, masks in COLUMNS.items():
        scores = before
        if masks is not None:
            if masks and not any(image.mask for image in defects):
                continue
            with tempfile.TemporaryDirectory() as folder:
                kinds = {
                    image.kind: [defects[place] for place in places if defects[place].kind == image.kind] for image in defects
                }
                write_known(Path(folder), kinds, count, masks=masks)
                scores = scores_of(memory.know(Path(folder)), memory.bundle, [image.path for image in images])[0]
        good, bad = scores[kept & ~defective], scores[kept & defective]
        at = recall_at(good, bad, PROMISE)
        assert at is not None
        draw.recall[column], draw.image_auroc[column] = at.value, auroc(good, bad)
    return draw


def as_markdown(title: str, count: int, draws: list[Draw], command: str) -> str:
    """One column per kind of knowledge; mean ± standard deviation over the draws."""
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    columns = list(draws[0].recall)
    lines = [
        f"# Known defects in the memory: {title}",
        "",
        f"`{command}` on {processor().name}; {said}.",
        f"{count} known defects, {len(draws)} draws; mean ± standard deviation. All columns judge the same images: those not drawn.",
        "",
        "| known defects | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for name, values in (
        ("recall at 2 % false rejects", [draw.recall for draw in draws]),
        ("image AUROC", [draw.image_auroc for draw in draws]),
    ):
        found = [[value[column] for value in values] for column in columns]
        lines.append(f"| {name} | " + " | ".join(f"{np.mean(one):.3f} ± {np.std(one, ddof=1):.3f}" for one in found) + " |")
    gains = [[draw.recall[column] - draw.recall["none"] for draw in draws] for column in columns]
    lines.append(
        "| draws in which recall rose, fell | "
        + " | ".join(f"{sum(np.array(one) > 0)}, {sum(np.array(one) < 0)}" for one in gains)
        + " |"
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--count", type=int, default=10, help="Known defects, of all kinds together.")
    parser.add_argument("--draws", type=int, default=5)
    arguments = parser.parse_args()
    command = shlex.join(["python", "benchmarks/known_defect_memory.py", *sys.argv[1:]])
    memory = Memory(Bundle.open(arguments.bundle))
    images = test_images(arguments.data)
    before = scores_of(memory.module, memory.bundle, [image.path for image in images])[0]
    draws = [measure(number, arguments.count, images, memory, before) for number in range(arguments.draws)]
    name = f"known-defect-memory-{arguments.data.name}"
    record = {"command": command, "machine": processor().name, "versions": versions(), "draws": draws}
    (RESULTS / f"{name}.json").write_bytes(to_json(record))
    (RESULTS / f"{name}.md").write_text(as_markdown(arguments.data.name, arguments.count, draws, command), encoding="utf-8")


if __name__ == "__main__":
    main()

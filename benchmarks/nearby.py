"""What the heatmap gains by counting what is marked nearby: other windows and shares, and the score if it counted it too.

    python benchmarks/nearby.py ../shared/data/magnetic-tile BUNDLE...

BUNDLES are restorers trained on DATA (``benchmarks/detection.py --keep``), one per seed; nothing is trained. Writes
``benchmarks/results/nearby-<name of DATA>.json`` and ``.md``.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch
from detection import spread
from torch import Tensor

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.stage import versions
from lrdan_edge.data.dataset import LabelledImage, test_images
from lrdan_edge.data.images import fit_frame, read_image
from lrdan_edge.evaluation.evaluate import mask_of
from lrdan_edge.metrics import PixelAuroc, auroc
from lrdan_edge.model import deployed as scoring
from lrdan_edge.model.deployed import ScoringHead, load_network, preprocess

RESULTS = Path(__file__).parent / "results"
WINDOWS, SHARES = (0.25, 0.5, 0.75), (0.003, 0.01, 0.03, 0.1)


class Row(msgspec.Struct):
    """One way to count, over the seeds.

    Attributes:
        window: Share of each side; 0 for not counting.
        share: That doubles a pixel's odds.
        image: Image AUROC if the score counted it too.
        pixel: Pixel AUROC.
    """

    window: float
    share: float
    image: list[float]
    pixel: list[float]


def marks(bundle: Bundle, images: list[LabelledImage]) -> Tensor:
    """The log-odds of every image, float32 [N, 1, H, W]."""
    module = load_network(bundle)
    shape, depth = bundle.manifest.model.frame_shape, bundle.manifest.preprocessing.bit_depth
    found = []
    with torch.inference_mode():
        for image in images:
            frame = torch.from_numpy(fit_frame(read_image(image.path, depth), shape)).float().permute(2, 0, 1)[None]
            found.append(module.network.anomaly_map(preprocess(frame, module.preprocessing), "defects"))
    return torch.cat(found)


def ways() -> Iterator[tuple[float, float]]:
    yield 0.0, 1.0
    yield from ((0.5, share) for share in SHARES)
    yield from ((window, 0.01) for window in WINDOWS if window != 0.5)


def measure(bundle: Bundle, images: list[LabelledImage], logits: Tensor, window: float, share: float) -> tuple[float, float]:
    """Image and pixel AUROC of one way."""
    scoring.CONTEXT_WINDOW, scoring.CONTEXT_FRACTION = window, share
    spec = bundle.manifest.model
    asked = msgspec.structs.replace(bundle.manifest.scoring, nearby=window > 0)
    head = ScoringHead(spec, asked, torch.zeros(spec.heatmap_shape), torch.ones(spec.heatmap_shape))
    pixels, peaks = PixelAuroc(), []
    for image, one in zip(images, logits, strict=True):
        heatmap = head(one[None])[1][0].numpy()
        peaks.append(float(heatmap.max()))
        if image.mask or not image.defective:
            pixels.add(heatmap, mask_of(image, heatmap, None))
    defective = np.array([image.defective for image in images])
    tops = np.array(peaks)
    return auroc(tops[~defective], tops[defective]), pixels.value()


def as_markdown(rows: list[Row], command: str, data: str, seeds: int) -> str:
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        f"# What is marked nearby, on {data}",
        "",
        f"`{command}`; {said}.",
        f"Mean ± standard deviation over {seeds} networks. The score does not count what is nearby; the last column is what its AUROC",
        "would be if it did.",
        "",
        "| window, of each side | share that doubles the odds | pixel AUROC | image AUROC if it counted for the score |",
        "|---|---|---|---|",
    ]
    for row in rows:
        way = f"{row.window:g} | {row.share:g}" if row.window else "none | —"
        lines.append(f"| {way} | {spread(row.pixel)} | {spread(row.image)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("bundles", type=Path, nargs="+")
    arguments = parser.parse_args()
    images = test_images(arguments.data)
    rows = [Row(window, share, [], []) for window, share in ways()]
    for path in arguments.bundles:
        bundle = Bundle.open(path)
        logits = marks(bundle, images)
        for row in rows:
            image, pixel = measure(bundle, images, logits, row.window, row.share)
            row.image.append(image)
            row.pixel.append(pixel)
            print(path, row, flush=True)
    command = shlex.join(["python", "benchmarks/nearby.py", *sys.argv[1:]])
    RESULTS.mkdir(exist_ok=True)
    name = f"nearby-{arguments.data.name}"
    (RESULTS / f"{name}.json").write_bytes(to_json({"command": command, "versions": versions(), "rows": rows}))
    page = as_markdown(rows, command, arguments.data.name, len(arguments.bundles))
    (RESULTS / f"{name}.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()

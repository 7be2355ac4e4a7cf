"""Where near-copies stand apart and where similarity thins out evenly: pairs per band of similarity, on data of both kinds.

    python benchmarks/near_copies.py --tiles ../shared/data/magnetic-tile --mnist ../shared/data/mnist

Brick, gravel and grass are scikit-image's photographs, cropped as ``benchmarks/textures.py`` does for training. Writes
``benchmarks/results/near-copies.md``.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import textures
from skimage import data as photographs

from lrdan_edge.backends.processor import processor
from lrdan_edge.data.images import Frame, list_images, read_image
from lrdan_edge.data.similarity import blocks, find_near_copies, join, thumbnail, whiten
from lrdan_edge.protocol.readers import read_dataset

RESULTS = Path(__file__).parent / "results"


def row(name: str, images: list[Frame]) -> str:
    """One set's line of the table."""
    found = np.stack([thumbnail(image) for image in images])
    started = time.monotonic()
    copies = find_near_copies(found)
    seconds = time.monotonic() - started
    pairs = np.concatenate([block[block > 0.3] for _, block in blocks(whiten(found))])
    counts = [int(((pairs >= low) & (pairs < low + 0.1)).sum()) for low in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)]
    counts[-1] = int((pairs >= 0.9).sum())
    said = (
        "none"
        if copies.threshold is None
        else f"from {copies.threshold:g}: {len(np.unique(join(len(images), copies.pairs)))} groups"
    )
    return f"| {name} | {len(images)} | {' | '.join(map(str, counts))} | {said} | {seconds:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=Path, required=True)
    parser.add_argument("--mnist", type=Path, required=True)
    arguments = parser.parse_args()
    sets: dict[str, list[Frame]] = {
        f"tiles, {part}/good": [read_image(path) for path in list_images(arguments.tiles / part / "good")]
        for part in ("train", "test")
    }
    for name in textures.TEXTURES:
        photograph = getattr(photographs, name)()
        sets[f"{name}, crops"] = [
            np.ascontiguousarray(c) for c in textures._crops(photograph[: textures.UPPER], textures.TRAIN_STRIDE)
        ]
    digits = read_dataset("mnist", arguments.mnist).train
    for digit in (0, 1, 7):
        sets[f"digits, {digit} only"] = list(digits.frames[digits.labels == digit][:1500, 0])
    sets["digits, mixed"] = list(digits.frames[:5000, 0])
    lines = [
        "# Near-copies",
        "",
        f"`{shlex.join(['python', 'benchmarks/near_copies.py', *sys.argv[1:]])}` on {processor().name}",
        "",
        "Pairs of images by similarity, and what `lrdan_edge.data.similarity` makes of them; seconds without decoding.",
        "",
        "| set | images | 0.3 to 0.4 | to 0.5 | to 0.6 | to 0.7 | to 0.8 | to 0.9 | to 1 | near-copies | seconds |",
        "|---" * 11 + "|",
        *(row(name, images) for name, images in sets.items()),
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "near-copies.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

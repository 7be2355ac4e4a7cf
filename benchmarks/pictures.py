"""The pictures of the README and the docs, made small from what `make demo` wrote.

    python benchmarks/pictures.py demo

Writes ``docs/pictures/*.png``: a part of the contact sheet, the benchmark's chart, and a few rejects side by side, each with few
colours and less than 120 kB. Look at each picture before you commit it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
LARGEST_BYTES = 120_000
REJECTS = 4
KINDS, SHOWN = 5, (0, 3, 4)  # of the contact sheet: good, hole, missing piece, scratch, stain
GREY_LEVELS = 52
GAP = 8  # white pixels between two pictures


def save(image: Image.Image, name: str, *, width: int) -> Path:
    """Write a picture of that width with a palette: grey levels for the parts, the rest for heatmaps and frames."""
    height = round(image.height * width / image.width)
    small = image.convert("RGB").resize((width, height), Image.Resampling.BOX)
    colours = small.quantize(256 - GREY_LEVELS, Image.Quantize.MAXCOVERAGE).getpalette() or []
    greys = [round(level) for level in np.linspace(0, 255, GREY_LEVELS) for _ in range(3)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(greys + colours[: 3 * (256 - GREY_LEVELS)])
    path = PICTURES / name
    small.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    if size >= LARGEST_BYTES:
        raise SystemExit(f"{path} has {size} bytes, {LARGEST_BYTES} are too many: reduce its width")
    return path


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size in a row."""
    width, height = images[0].size
    row = Image.new("RGB", (len(images) * (width + GAP) - GAP, height), "white")
    for index, image in enumerate(images):
        row.paste(image, (index * (width + GAP), 0))
    return row


def part_of_sheet(sheet: Image.Image) -> Image.Image:
    """The hardest half of the good images, the scratches and the stains: the demo's kinds stand below each other, hardest left."""
    height = sheet.height // KINDS
    part = Image.new("RGB", (sheet.width // 2, len(SHOWN) * height), "white")
    for place, kind in enumerate(SHOWN):
        part.paste(sheet.crop((0, kind * height, part.width, (kind + 1) * height)), (0, place * height))
    return part


def rejects(folder: Path) -> list[Path]:
    """So many rejected frames, spread over the run."""
    found = sorted(folder.glob("*-reject.png"))
    if len(found) < REJECTS:
        raise SystemExit(f"{folder} has {len(found)} rejected frames, {REJECTS} are needed: run `make demo` first")
    places = np.linspace(0, len(found) - 1, REJECTS + 2)[1:-1]
    return [found[round(place)] for place in places]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="The folder that `make demo` wrote.")
    parser.add_argument(
        "--rejects", type=Path, nargs=REJECTS, help="The rejected frames to show. [default: spread over the run]"
    )
    arguments = parser.parse_args()
    reports, frames = arguments.demo / "bundle" / "reports", arguments.demo / "run" / "frames"
    PICTURES.mkdir(parents=True, exist_ok=True)
    chosen = [Image.open(path) for path in arguments.rejects or rejects(frames)]
    print(save(part_of_sheet(Image.open(reports / "evaluation-sheet.png")), "contact-sheet.png", width=400))
    print(save(Image.open(reports / "benchmark.png"), "benchmark.png", width=800))
    print(save(side_by_side(chosen), "rejects.png", width=860))


if __name__ == "__main__":
    main()

"""Whether the fp16 and int8 graphs of real bundles stay within their bounds: the reports that export and calibration write, in one table.

    python benchmarks/parity.py tiles=BUNDLE --mnist ../shared/data/mnist

TITLE=BUNDLE are exported and calibrated bundles. With ``--mnist`` one more is made first: one digit is good, the others are
defects (60 images each), trained by the recipe's default. Writes ``benchmarks/results/parity.json`` and ``.md``.
"""

import argparse
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from msgspec import to_builtins

from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import from_json, to_json
from lrdan_edge.bundle.stage import versions
from lrdan_edge.calibration.calibrate import calibrate
from lrdan_edge.calibration.fidelity import LARGEST_AUROC_DIFFERENCE, LEAST_RANK_CORRELATION
from lrdan_edge.calibration.report import CalibrationReport
from lrdan_edge.export.graph import export
from lrdan_edge.export.parity import SCORE_BOUND, ParityReport
from lrdan_edge.protocol.idx import read_part
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.trainer import train

RESULTS = Path(__file__).parent / "results"
PER_DIGIT = 60


def digit_images(root: Path, digit: int, folder: Path) -> None:
    """The images of one digit as good ones, of the others as defects."""
    for part in ("train", "test"):
        images, labels = read_part(root, part, 10)
        for label in range(10):
            if part == "train" and label != digit:
                continue
            kind = "good" if label == digit else f"digit-{label}"
            (folder / part / kind).mkdir(parents=True)
            found = images[labels == label]
            for index, image in enumerate(found if part == "train" else found[:PER_DIGIT]):
                assert cv2.imwrite(str(folder / part / kind / f"{index:04}.png"), np.squeeze(image))


def digit_bundle(root: Path, digit: int, folder: Path) -> Bundle:
    """A bundle of that digit, trained, exported and calibrated against the labelled defects."""
    digit_images(root, digit, folder / "data")
    bundle = train(folder / "data", folder / "bundle", TrainOptions(recipe="restoration"))
    export(bundle)
    calibrate(bundle, false_reject_rate=0.02, defects=folder / "data")
    return Bundle.open(bundle.path)


def as_markdown(record: dict[str, Any]) -> str:
    """Two tables from the record that is written: the graphs against PyTorch, and int8 against fp32."""
    said = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines = [
        "# Parity of real bundles",
        "",
        f"`{record['command']}` on {record['processor']}; {said}.",
        "",
        "A score's difference is relative to the score, the median score or one unit, whichever is largest.",
        "",
        "| bundle | graph | run by | images | score, largest | score, mean | bound | AUROC | AUROC, difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in record["bundles"]:
        lines += [
            f"| {row['title']} | {one['precision']} | {one['runner']} | {one['images']} | {one['score_max']:.1e} | "
            f"{one['score_mean']:.1e} | {SCORE_BOUND[one['precision']]:.0e} | {_number(one['auroc'])} | "
            f"{_number(one['auroc_difference'])} |"
            for one in row["parity"]["rows"]
        ]
    lines += [
        "",
        f"Int8, by the graph's own rounding; bounds: rank correlation {LEAST_RANK_CORRELATION}, AUROC within "
        f"{LARGEST_AUROC_DIFFERENCE} of fp32's.",
        "",
        "| bundle | method | layers in float | rank correlation | verdicts changed | AUROC int8 | AUROC fp32 | AUROC on |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in record["bundles"]:
        chosen = row["calibration"]
        found = chosen["fidelity"]
        lines.append(
            f"| {row['title']} | {chosen['method']} | {', '.join(chosen['kept_in_float']) or 'none'} | "
            f"{found['rank_correlation']:.4f} | {found['verdicts_changed']:.1%} | {found['auroc']:.4f} | "
            f"{found['auroc_fp32']:.4f} | {chosen['auroc_on']} |"
        )
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _read(title: str, bundle: Bundle) -> dict[str, Any]:
    """What the tables say of a bundle; the reports that it is taken from stay in the bundle, with every image's score."""
    parity, calibration = (bundle.path / "reports" / name for name in ("parity.json", "calibration.json"))
    against_torch = from_json(parity.read_bytes(), ParityReport, str(parity))
    int8 = from_json(calibration.read_bytes(), CalibrationReport, str(calibration))
    return {
        "title": title,
        "trained_by": bundle.manifest.stages["train"].command,
        "parity": {"images": against_torch.images, "rows": to_builtins(against_torch.rows)},
        "calibration": {
            "command": int8.command,
            "images": int8.images,
            "method": int8.method,
            "kept_in_float": int8.kept_in_float,
            "auroc_on": int8.auroc_on,
            "fidelity": to_builtins(int8.chosen.fidelity),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", metavar="TITLE=BUNDLE")
    parser.add_argument("--mnist", type=Path, metavar="ROOT", help="Folder of MNIST's IDX files.")
    parser.add_argument("--digit", type=int, default=3)
    arguments = parser.parse_args()
    rows = [_read(title, Bundle.open(path)) for title, _, path in (text.partition("=") for text in arguments.bundles)]
    with tempfile.TemporaryDirectory() as folder:
        if arguments.mnist:
            bundle = digit_bundle(arguments.mnist, arguments.digit, Path(folder))
            rows.append(_read(f"MNIST, {arguments.digit} is good", bundle))
    command = shlex.join(["python", "benchmarks/parity.py", *sys.argv[1:]])
    RESULTS.mkdir(exist_ok=True)
    record = {"command": command, "processor": processor().name, "versions": versions(), "bundles": rows}
    (RESULTS / "parity.json").write_bytes(to_json(record))
    (RESULTS / "parity.md").write_text(as_markdown(record), encoding="utf-8")


if __name__ == "__main__":
    main()

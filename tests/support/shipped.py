"""What a device gets of a workstation, and what its scores are held to."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
from parts import Line, rewrite_manifest

FRAMES = {"good": 20, "blob": 4}
FP32_BOUND = 1e-4  # relative, of every score
INT8_BOUND = 0.02  # of the good scores' deviation


@dataclass(frozen=True)
class Device:
    """What a device gets.

    Attributes:
        bundle: A bundle whose training images stayed on the workstation.
        data: Test images, ``test/good`` and ``test/blob``.
    """

    bundle: Path
    data: Path

    def copied_to(self, folder: Path) -> "Device":
        """The same with a bundle that may be changed."""
        return Device(shutil.copytree(self.bundle, folder / "bundle"), self.data)

    def run(self, precision: str, output: Path, backend: str = "onnxruntime") -> list[str]:
        """The command that judges every frame."""
        words = ["run", *(str(self.data / "test" / kind) for kind in FRAMES), "--bundle", str(self.bundle), "--save", "none"]
        return [*words, f"--{precision}", "--backend", backend, "--output", str(output)]

    def evaluate(self) -> list[str]:
        """The command that evaluates the fp32 graph."""
        return ["evaluate", str(self.data), "--bundle", str(self.bundle), "--fp32", "--backend", "onnxruntime"]

    def figures(self) -> dict[str, float]:
        """What the last evaluation found."""
        written = json.loads((self.bundle / "reports/evaluation.json").read_text())
        return {name: written[name] for name in ("image_auroc", "false_reject_rate", "miss_rate", "threshold", "faults")}

    def exact_scores(self, precision: str) -> dict[str, float]:
        """Each frame's score by the graph's own operators, one by one: no kernel of other arithmetic takes their place."""
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(self.bundle / f"model.{precision}.onnx", options, providers=["CPUExecutionProvider"])
        scores = {}
        for path in self.data.glob("test/*/*.png"):
            image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            assert image is not None
            scores[f"{path.parent.name}/{path.name}"] = float(session.run(["score"], {"frames": image[None, :, :, None]})[0][0])
        return scores


def ship(line: Line, folder: Path) -> Device:
    """A device's share of a line: the bundle, and a few frames."""

    def forget_training_images(manifest: dict[str, Any]) -> None:
        manifest["stages"]["train"]["results"]["data"] = "/workstation/data"

    for kind, count in FRAMES.items():
        (folder / "data/test" / kind).mkdir(parents=True)
        for index in range(count):
            (folder / "data/test" / kind / f"{index}.png").symlink_to(line.data / "test" / kind / f"{index}.png")
    shutil.copytree(line.bundle, folder / "bundle")
    rewrite_manifest(folder / "bundle", forget_training_images)
    return Device(folder / "bundle", folder / "data")


def scores_of(output: Path) -> dict[str, float]:
    """Each frame's score, as ``run --output`` wrote it."""
    records = [json.loads(text) for text in (output / "verdicts.jsonl").read_text().splitlines()]
    return {f"{Path(record['source']).name}/{record['name']}": record["score"] for record in records}


def assert_same_scores(found: dict[str, float], expected: dict[str, float]) -> None:
    """Every score is the expected one, as far as float32 sums in another order allow."""
    assert found.keys() == expected.keys()
    worst = max(abs(found[name] - expected[name]) / abs(expected[name]) for name in expected)
    assert worst <= FP32_BOUND, f"scores differ by {worst:.1e}, relative"


def assert_exact_int8(found: dict[str, float], exact: dict[str, float]) -> None:
    """Every score is that of the exact computation, within a small part of what good parts' scores differ among themselves."""
    assert found.keys() == exact.keys()
    spread = np.std([exact[name] for name in exact if name.startswith("good/")])
    off = max(abs(found[name] - exact[name]) for name in exact) / spread
    assert off <= INT8_BOUND, f"int8 scores are off by {off:.1%} of the good scores' deviation"

"""What `Inspector` costs beside its backend: microseconds per call, time to the first verdict, and memory.

    python benchmarks/inspector.py BUNDLE

BUNDLE is a calibrated one of 256x256 pixels. A second one of 64x64 is trained first, for a few epochs, since what is measured on it
does not depend on what it learnt. `inspect` and the backend's own `infer` take turns, in pairs. Writes
``benchmarks/results/inspector.json`` and ``.md``.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

from lrdan_edge import Bundle, Inspector
from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.stage import versions
from lrdan_edge.calibration.calibrate import calibrate
from lrdan_edge.engines.build import BuildRequest, build_engine
from lrdan_edge.export.graph import export
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.trainer import train

RESULTS = Path(__file__).parent / "results"

FIRST = """
import json, os, sys, time
import numpy as np
from lrdan_edge import Inspector
with Inspector.open(sys.argv[1], backend="onnxruntime", precision="int8") as inspector:
    frame = np.zeros(inspector.backend.spec.frame_shape, np.uint8)
    verdict = inspector.inspect(frame)[0]
    since_start = time.clock_gettime(time.CLOCK_BOOTTIME) - {started}
    for _ in range(int(sys.argv[2])):
        inspector.inspect(frame)
    with open("/proc/self/status") as status:
        resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    print(json.dumps({{"seconds": since_start, "resident_mib": resident / 1024, "outcome": verdict.outcome}}))
"""


def small_bundle(folder: Path, side: int) -> Bundle:
    """A bundle of small painted surfaces."""
    rng = np.random.default_rng(0)
    good = folder / "data" / "train" / "good"
    good.mkdir(parents=True)
    for index in range(60):
        grain = cv2.blur(rng.normal(128, 60, (side, side)).astype(np.float32), (1, 9))
        cv2.imwrite(str(good / f"{index:03}.png"), np.clip(grain, 0, 255).astype(np.uint8))
    bundle = train(folder / "data", folder / "bundle", TrainOptions(recipe="restoration", image_size=(side, side), epochs=6))
    export(bundle)
    calibrate(bundle, false_reject_rate=0.1, int8=False)
    return Bundle.open(bundle.path)


def overhead(bundle: Bundle, calls: int) -> dict[str, Any]:
    """Median microseconds of `inspect`, of the backend alone, and of their difference within pairs; batch 1."""
    found: dict[str, Any] = {}
    with Inspector.open(bundle, backend="onnxruntime", precision="fp32") as inspector:
        frame = np.random.default_rng(0).integers(0, 256, inspector.backend.spec.frame_shape).astype(np.uint8)
        batch = frame[None]
        for heatmaps in (False, True):
            pairs = []
            for number in range(calls):
                took: list[float] = [0.0, 0.0]
                for which in (0, 1) if number % 2 else (1, 0):
                    begun = time.perf_counter()
                    if which:
                        inspector.inspect(frame, heatmaps=heatmaps)
                    else:
                        inspector.backend.infer(batch, heatmap=heatmaps)
                    took[which] = 1e6 * (time.perf_counter() - begun)
                pairs.append(took)
            name = "with heatmap" if heatmaps else "score alone"
            found[name] = {
                "backend_us": median(pair[0] for pair in pairs),
                "inspect_us": median(pair[1] for pair in pairs),
                "added_us": median(pair[1] - pair[0] for pair in pairs),
            }
    return found


def first_verdict(bundle: Bundle, times: int, frames: int) -> dict[str, Any]:
    """From the start of a fresh process to its first verdict, the median; and its resident memory after some frames."""
    answers = []
    for _ in range(times):
        # The clock starts before the process does: interpreter and imports count.
        program = FIRST.format(started=time.clock_gettime(time.CLOCK_BOOTTIME))
        done = subprocess.run(
            [sys.executable, "-c", program, str(bundle.path), str(frames)], capture_output=True, text=True, check=True
        )
        answers.append(json.loads(done.stdout))
    return {
        "seconds": median(answer["seconds"] for answer in answers),
        "slowest": max(answer["seconds"] for answer in answers),
        "resident_mib": max(answer["resident_mib"] for answer in answers),
        "times": times,
        "frames": frames,
    }


def as_markdown(results: dict[str, Any]) -> str:
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    first = results["first_verdict"]
    return "\n".join(
        [
            "# What the inspector costs",
            "",
            f"`{results['command']}` on {processor().name}; {said}.",
            "",
            "64×64, batch 1, ONNX Runtime fp32; medians, differences within pairs:",
            "",
            "| | backend | `inspect` | added |",
            "|---|---|---|---|",
            *(
                f"| {name} | {row['backend_us']:.0f} µs | {row['inspect_us']:.0f} µs | {row['added_us']:.0f} µs |"
                for name, row in results["overhead"].items()
            ),
            "",
            f"256×256, ONNX Runtime int8 engine: first verdict {first['seconds']:.2f} s after the process started (median of "
            f"{first['times']}, slowest {first['slowest']:.2f} s); {first['resident_mib']:.0f} MiB after {first['frames']} frames.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--frames", type=int, default=500)
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    build_engine(bundle, BuildRequest("int8", "onnxruntime"))
    with tempfile.TemporaryDirectory() as folder:
        added = overhead(small_bundle(Path(folder), 64), arguments.calls)
    results = {
        "command": shlex.join(["python", "benchmarks/inspector.py", *sys.argv[1:]]),
        "machine": processor().name,
        "versions": versions(),
        "overhead": added,
        "first_verdict": first_verdict(Bundle.open(bundle.path), arguments.times, arguments.frames),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "inspector.json").write_bytes(to_json(results))
    (RESULTS / "inspector.md").write_text(as_markdown(results), encoding="utf-8")


if __name__ == "__main__":
    main()

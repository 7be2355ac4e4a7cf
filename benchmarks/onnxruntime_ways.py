"""Ways to call ONNX Runtime on a processor: plainly or through I/O binding, with threads that spin or sleep, on one core or all.

    python benchmarks/onnxruntime_ways.py BUNDLE

BUNDLE is calibrated. The ways take turns in slices, with a pause between, for threads spin on for a while after a call. Ratios are
taken within a round. Writes ``benchmarks/results/onnxruntime-ways.json`` and ``.md``.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort

from lrdan_edge.backends.base import Cores
from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.stage import versions
from lrdan_edge.data.images import Frame
from lrdan_edge.engines.golden import golden_frames

RESULTS = Path(__file__).parent / "results"
_PAUSE_S = 0.1

Call = Callable[[], object]


def bound(session: Any, frames: Frame, heatmap: bool) -> Call:
    """A call whose frames are bound where they lie and whose results are written into arrays made for them."""
    binding = session.io_binding()
    sizes = {output.name: output.shape[1:] for output in session.get_outputs() if heatmap or output.name == "score"}

    def call() -> object:
        binding.bind_input("frames", "cpu", 0, np.uint8, frames.shape, frames.ctypes.data)
        results = []
        for name, size in sizes.items():
            results.append(np.empty((len(frames), *size), np.float32))
            binding.bind_output(name, "cpu", 0, np.float32, results[-1].shape, results[-1].ctypes.data)
        session.run_with_iobinding(binding)
        return results

    return call


def ways(graph: bytes, frames: Frame, heatmap: bool) -> dict[str, Call]:
    """Each way's call, the usual one first."""
    usual = OnnxRuntimeBackend(graph, "int8")
    found: dict[str, Call] = {"usual": lambda: usual.infer(frames, heatmap=heatmap)}
    found["I/O binding"] = bound(usual._session, frames, heatmap)
    for name, cores in (("threads that sleep", Cores(spin=False)), ("one thread", Cores(threads=1))):
        backend = OnnxRuntimeBackend(graph, "int8", cores=cores)
        found[name] = lambda backend=backend: backend.infer(frames, heatmap=heatmap)  # type: ignore[misc]
    return found


def measure(found: dict[str, Call], rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Median microseconds of a call, and the median over rounds of the usual way's duration over it."""
    slices: dict[str, list[float]] = {name: [] for name in found}
    for number in range(rounds):
        for name in list(found)[:: 1 if number % 2 else -1]:
            time.sleep(_PAUSE_S)
            found[name]()
            durations, end = [], time.perf_counter() + seconds
            while time.perf_counter() < end:
                begun = time.perf_counter()
                found[name]()
                durations.append(1e6 * (time.perf_counter() - begun))
            slices[name].append(median(durations))
    usual = slices["usual"]
    return {
        name: {"us": median(values), "speed": median(a / b for a, b in zip(usual, values, strict=True))}
        for name, values in slices.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5)
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    graph, golden, rows = bundle.graph("int8").read_bytes(), golden_frames(bundle), []
    for batch, heatmap in ((1, False), (1, True), (8, True)):
        frames = np.ascontiguousarray(golden[np.arange(batch) % len(golden)])
        for name, figures in measure(ways(graph, frames, heatmap), arguments.rounds, arguments.seconds).items():
            rows.append({"batch": batch, "heatmap": heatmap, "way": name, **figures})
    command = shlex.join(["python", "benchmarks/onnxruntime_ways.py", *sys.argv[1:]])
    model, said = bundle.manifest.model, ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# Ways to call ONNX Runtime",
        "",
        f"`{command}` on {processor().name}; {said}. Int8, {model.height}×{model.width}×{model.channels}; "
        f"medians over {arguments.rounds} rounds in turn, ONNX Runtime {ort.__version__}.",
        "",
        "| batch | heatmap | way | µs a call | speed, the usual way's is 1 |",
        "|---|---|---|---|---|",
        *(
            f"| {row['batch']} | {'yes' if row['heatmap'] else 'no'} | {row['way']} | {row['us']:.0f} | {row['speed']:.3f} |"
            for row in rows
        ),
        "",
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "onnxruntime-ways.json").write_bytes(to_json({"command": command, "versions": versions(), "rows": rows}))
    (RESULTS / "onnxruntime-ways.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()

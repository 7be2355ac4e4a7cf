"""What 7-bit weights cost, and what integer kernels add to the scores of this machine's processor.

    python benchmarks/int8_kernels.py BUNDLE

BUNDLE is calibrated, int8 included; its calibration method and float layers are reused. Its graph is quantised twice: with 7
bits for weights whose activations may be negative, as `lrdan_edge.calibration.scales` has it, and with 8. Both are compared with
fp32 in floats, and then run by this processor's kernels, in turn. Writes ``benchmarks/results/int8-kernels.json`` and ``.md``.
"""

import argparse
import shlex
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np

from lrdan_edge.backends.base import Backend
from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
from lrdan_edge.backends.openvino import OpenVinoBackend
from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.stage import versions
from lrdan_edge.calibration.fidelity import QuantizationEvaluator
from lrdan_edge.calibration.images import FrameLoader, calibration_split
from lrdan_edge.calibration.quantise import load_quantisable
from lrdan_edge.calibration.ranges import collect_ranges
from lrdan_edge.calibration.scales import MOST_WEIGHT_STEPS, MOST_WEIGHT_STEPS_SIGNED
from lrdan_edge.calibration.unsigned import with_unsigned_activations
from lrdan_edge.data.images import Frame
from lrdan_edge.engines.golden import golden_frames

RESULTS = Path(__file__).parent / "results"
_BITS = {"7 bits": MOST_WEIGHT_STEPS_SIGNED, "8 bits": MOST_WEIGHT_STEPS}
_FALSE_REJECT_RATE = 0.02

Row = dict[str, float]


def runtimes(graph: bytes, precision: str) -> dict[str, Backend]:
    """What runs a graph on this processor, by name."""
    found: dict[str, Backend] = {"onnxruntime": OnnxRuntimeBackend(graph, precision)}
    if find_spec("openvino"):
        found["openvino"] = OpenVinoBackend(graph, precision)
    return found


def compare(bundle: Bundle) -> tuple[dict[str, Row], dict[str, bytes]]:
    """Each graph's fidelity and what kernels add, and the graphs for processors."""
    facts = bundle.manifest.stages["calibrate"].results["int8"]
    split, loader = calibration_split(bundle), FrameLoader.of(bundle)
    graph = load_quantisable(bundle.graph("fp32"))
    histograms = collect_ranges(graph, split.ranges, loader)
    amplitudes = {tensor: histogram.amplitude(facts["method"]) for tensor, histogram in histograms.items()}
    evaluator = QuantizationEvaluator(graph.model, split.compared, loader, _FALSE_REJECT_RATE)
    rows, graphs = {}, {}
    for title, most in _BITS.items():
        model = graph.quantise(amplitudes, facts["kept_in_float"], most)
        fidelity, int8 = evaluator.measure(model), evaluator.score_pair(model).int8
        graphs[title] = with_unsigned_activations(model).SerializeToString()
        rows[title] = {
            "rank_correlation": fidelity.rank_correlation,
            "painted_rank_correlation": fidelity.painted_rank_correlation,
            "added_spread": fidelity.added_spread,
            "auroc_difference": abs(fidelity.auroc - fidelity.auroc_fp32),
        }
        for name, backend in runtimes(graphs[title], "int8").items():
            with backend:
                rows[title][f"{name}_adds"] = evaluator.kernel_difference(backend, int8)
    return rows, graphs


def latencies(graphs: dict[str, tuple[bytes, str]], frame: Frame, rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of one frame, by graph and runtime, all in turn."""
    opened = {
        (title, name): backend
        for title, (graph, precision) in graphs.items()
        for name, backend in runtimes(graph, precision).items()
    }
    durations: dict[tuple[str, str], list[float]] = {key: [] for key in opened}
    for number in range(rounds + 1):
        for key in list(opened)[:: 1 if number % 2 else -1]:
            for _ in range(5):
                begun = time.perf_counter()
                opened[key].infer(frame, heatmap=False)
                if number:  # the first round warms up
                    durations[key].append(1e3 * (time.perf_counter() - begun))
    found: dict[str, dict[str, float]] = {title: {} for title in graphs}
    for (title, name), values in durations.items():
        found[title][name] = median(values)
    return found


def as_markdown(said: str, rows: dict[str, Row], times: dict[str, dict[str, float]]) -> str:
    names = list(next(iter(times.values())))
    header = ["weights", "rank correlation", "rank correlation, synthetic defects", "added spread", "AUROC difference"]
    header += [f"{name} adds" for name in names] + [f"{name} ms" for name in names]
    lines = ["# Int8 kernels", "", said, "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for title, found in times.items():
        row = rows.get(title)
        cells = ["–"] * (4 + len(names))
        if row:
            cells = [f"{row[key]:.4f}" for key in ("rank_correlation", "painted_rank_correlation")]
            cells += [f"{row['added_spread']:.3f}", f"{row['auroc_difference']:.4f}"]
            cells += [f"{row[f'{name}_adds']:.1g}" for name in names]
        lines.append(f"| {title} | {' | '.join(cells)} | {' | '.join(f'{found[name]:.2f}' for name in names)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    rows, graphs = compare(bundle)
    contenders = {"fp32": (bundle.graph("fp32").read_bytes(), "fp32")}
    contenders |= {title: (graph, "int8") for title, graph in graphs.items()}
    frame = np.ascontiguousarray(golden_frames(bundle)[:1])
    times = latencies(contenders, frame, arguments.rounds)
    command = shlex.join(["python", "benchmarks/int8_kernels.py", *sys.argv[1:]])
    here, model = processor(), bundle.manifest.model
    said = (
        f"`{command}`, a bundle of `{bundle.manifest.stages['train'].command}` ({model.height}×{model.width}×{model.channels}); "
        f"{here.name}, {here.instruction_set}. 'Adds': the largest score difference between the runtime's integer kernels and the "
        "graph computed in floats, in deviations of good scores. Milliseconds: median of one frame."
    )
    RESULTS.mkdir(exist_ok=True)
    report = {"command": command, "machine": here.name, "instruction_set": here.instruction_set, "versions": versions()}
    (RESULTS / "int8-kernels.json").write_bytes(to_json(report | {"rows": rows, "latency_ms": times}))
    (RESULTS / "int8-kernels.md").write_text(as_markdown(said, rows, times), encoding="utf-8")
    print((RESULTS / "int8-kernels.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

"""The demo under several seeds: what it reaches on conveyors and weights that nobody chose.

    python benchmarks/demo_seeds.py --seeds 10 11 12

Writes ``benchmarks/results/demo-seeds.json`` and ``.md``.
"""

import argparse
import tempfile
from pathlib import Path

import msgspec

from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.stage import versions
from lrdan_edge.cli.demo import DemoResult, run_demo

RESULTS = Path(__file__).parent / "results"


class Run(msgspec.Struct):
    seed: int
    result: DemoResult


def as_markdown(runs: list[Run], command: str) -> str:
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# The demo under several seeds",
        "",
        f"`{command}` on {processor().name}; {said}.",
        "",
        "| seed | image AUROC fp32 | int8 | pixel AUROC | defects found | defective frames missed | good frames rejected | fastest "
        "| against eager | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        r = run.result
        pixel = "no masks" if r.pixel_auroc is None else f"{r.pixel_auroc:.4f}"
        lines.append(
            f"| {run.seed} | {r.image_auroc:.4f} | {r.int8_image_auroc:.4f} | {pixel} | {r.defects - r.missed_defects} of "
            f"{r.defects} | {r.missed_in_words()} | {r.false_rejects_in_words()} | {r.fastest} | {r.speedup_over_eager:.1f}× "
            f"| {r.seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    seeds: list[int] = parser.parse_args().seeds
    runs = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            runs.append(Run(seed, run_demo(Path(folder) / "demo", seed)))
    RESULTS.mkdir(exist_ok=True)
    command = f"python benchmarks/demo_seeds.py --seeds {' '.join(map(str, seeds))}"
    (RESULTS / "demo-seeds.json").write_bytes(to_json({"command": command, "machine": processor().name, "runs": runs}))
    (RESULTS / "demo-seeds.md").write_text(as_markdown(runs, command), encoding="utf-8")


if __name__ == "__main__":
    main()

"""How much faster a processor runs the deploy graph than PyTorch eager does, everything interleaved in one run.

    python benchmarks/processor.py BUNDLE

BUNDLE is calibrated, int8 included. What is measured is `lrdan_edge.bench.latency.bench`, the command ``lrdan-edge bench``. Writes
``benchmarks/results/processor.json`` and ``.md``.
"""

import argparse
import shlex
import sys
from pathlib import Path

from lrdan_edge.bench.latency import as_markdown, bench
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import to_json

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seconds", type=float, default=180)
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    report = bench(bundle, batches=tuple(arguments.batch), seconds=arguments.seconds, report=print)
    command = shlex.join(["python", "benchmarks/processor.py", *sys.argv[1:]])
    model = bundle.manifest.model
    said = (
        f"`{command}`, a bundle of `{bundle.manifest.stages['train'].command}`: recipe {model.recipe}, "
        f"{model.height}×{model.width}×{model.channels}.\n\n"
    )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "processor.json").write_bytes(to_json({"command": command, "report": report}))
    (RESULTS / "processor.md").write_text(said + as_markdown(report), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The demo: the whole line on a conveyor made from a real photograph, from training to benchmark."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.table import Table

from lrdan_edge.bench.evaluate import evaluate
from lrdan_edge.bench.latency import bench
from lrdan_edge.bundle import REPORTS, Bundle
from lrdan_edge.calibration.calibrate import calibrate
from lrdan_edge.console import bench_progress, console
from lrdan_edge.console_run import inspect_sources
from lrdan_edge.demo.conveyor import Conveyor, make_conveyor
from lrdan_edge.errors import DataError, LrdanError
from lrdan_edge.export.engine import BuildRequest, build_engine
from lrdan_edge.export.graph import export
from lrdan_edge.manifest import to_json
from lrdan_edge.metrics import binomial_bound
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.sinks.files import VERDICTS
from lrdan_edge.runtime.sources import open_source
from lrdan_edge.train.trainer import TrainOptions, train

_EPOCHS = 16  # about 75 s on two cores with bfloat16, two minutes without
_BENCH_SECONDS = 12.0
_MARK = ".lrdan-edge-demo"


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """``demo.json``; rates in [0, 1].

    Attributes:
        image_auroc: Of the video's frames, by the fp32 graph.
        int8_image_auroc: The same by the int8 graph.
        pixel_auroc: Of the heatmaps against the painted masks, by the fp32 graph.
        false_reject_rate: Share of the video's good frames that the inspection loop rejected.
        promised_false_reject_rate: What calibration promised.
        false_rejects_explained: Most false rejects that the promise explains (one-sided 99 % binomial bound).
        good_frames: Good frames in the video.
        missed_defects: Defects of which no frame was rejected.
        defects: Defects painted on the belt.
        seconds: The whole demo.
        speedup_over_eager: Fastest engine against PyTorch eager at batch 1, median over rounds of the ratio.
        fastest: Which engine that is.
    """

    image_auroc: float
    int8_image_auroc: float
    pixel_auroc: float | None
    false_reject_rate: float
    promised_false_reject_rate: float
    false_rejects_explained: int
    good_frames: int
    missed_defects: int
    defects: int
    seconds: float
    speedup_over_eager: float
    fastest: str


def run_demo(output: Path, seed: int = 0) -> DemoResult:
    """Make a conveyor, train, export, calibrate, build, inspect its video, evaluate and benchmark.

    Args:
        output: Folder for everything; an earlier demo there is replaced, anything else is left alone.
        seed: Seed of conveyor and training.

    Returns:
        What came out; also written to ``output/demo.json``.

    Raises:
        DataError: `output` holds something else than an earlier demo.
    """
    started = time.monotonic()
    _clear(output)
    with _step("conveyor: a brick wall becomes training tiles and a video with defects painted on the belt"):
        conveyor = make_conveyor(output, seed)
    with _step("train: two autoencoders and a discriminator, on good tiles only"):
        bundle = train(conveyor.data, output / "bundle", TrainOptions(recipe="lrdan", seed=seed, epochs=_EPOCHS))
    with _step("export: the fp32 and fp16 deploy graphs"):
        export(bundle)
    with _step("calibrate: the int8 graph, and a threshold per graph from held-out good tiles"):
        decision = calibrate(bundle)
    with _step("build-engine: for this machine"):
        _build_engines(bundle)
    with _step("run: the inspection loop over the video"), Inspector.open(bundle) as inspector:
        source = open_source(str(conveyor.video))
        inspect_sources(inspector, [source], output / "run", "all", batch=1)
        promised = decision.graphs[inspector.choice.precision].false_reject_rate
    with _step("evaluate: every frame against what was painted"):
        fp32, pictures = evaluate(bundle, conveyor.data, precision="fp32")
        int8, _ = evaluate(bundle, conveyor.data, precision="int8", write=False)
    with _step("bench: PyTorch eager against every engine, interleaved"), bench_progress() as report:
        benchmark = bench(bundle, seconds=_BENCH_SECONDS, report=report)
    fastest = max((entry for entry in benchmark.entries if entry.batch == 1), key=lambda entry: entry.speedup or 0)
    rejected, missed = _count(conveyor, output / "run" / VERDICTS)
    good = sum(frame.label == "good" for frame in conveyor.frames)
    result = DemoResult(
        image_auroc=fp32.image_auroc,
        int8_image_auroc=int8.image_auroc,
        pixel_auroc=fp32.pixel_auroc,
        false_reject_rate=rejected / good,
        promised_false_reject_rate=promised,
        false_rejects_explained=binomial_bound(good, promised),
        good_frames=good,
        missed_defects=missed,
        defects=len(conveyor.defects),
        seconds=round(time.monotonic() - started, 1),
        speedup_over_eager=fastest.speedup or float("nan"),
        fastest=fastest.title,
    )
    (output / "demo.json").write_bytes(to_json(result))
    _print(result, [*pictures, bundle.path / REPORTS / "benchmark.png", bundle.path / REPORTS / "training.png"], output)
    return result


def _clear(output: Path) -> None:
    """Remove an earlier demo, and nothing else."""
    if output.exists() and any(output.iterdir()):
        if not (output / _MARK).is_file():
            raise DataError(f"{output} is not empty and no earlier demo: choose another --output")
        shutil.rmtree(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / _MARK).touch()
    except OSError as error:
        raise DataError(f"{output} cannot be written ({error.strerror}): choose another --output") from error


@contextmanager
def _step(title: str) -> Iterator[None]:
    console.print(title, style="bold")
    begun = time.monotonic()
    yield
    console.print(f"  {time.monotonic() - begun:.1f} s")


def _build_engines(bundle: Bundle) -> None:
    for precision in ("fp32", "int8"):
        console.print(f"  {build_engine(bundle, BuildRequest(precision, 'onnxruntime'))}")
    try:
        console.print(f"  {build_engine(bundle, BuildRequest('fp16', 'tensorrt'))}")
    except LrdanError as error:
        console.print(f"  no TensorRT engine: {error}")


def _count(conveyor: Conveyor, verdicts: Path) -> tuple[int, int]:
    """Good frames rejected, and defects with no rejected frame."""
    outcomes = [json.loads(line)["outcome"] for line in verdicts.read_text().splitlines()]
    rejected = {frame.frame for frame, outcome in zip(conveyor.frames, outcomes, strict=True) if outcome == "reject"}
    false_rejects = sum(frame.label == "good" and frame.frame in rejected for frame in conveyor.frames)
    found = {frame.defect for frame in conveyor.frames if frame.frame in rejected}
    return false_rejects, len(set(range(len(conveyor.defects))) - found)


def _print(result: DemoResult, pictures: list[Path], output: Path) -> None:
    table = Table("figure", "value", title="lrdan-edge demo")
    table.add_row("image AUROC, fp32 / int8", f"{result.image_auroc:.4f} / {result.int8_image_auroc:.4f}")
    table.add_row("pixel AUROC, fp32", "no masks" if result.pixel_auroc is None else f"{result.pixel_auroc:.4f}")
    table.add_row("defects found", f"{result.defects - result.missed_defects} of {result.defects}")
    table.add_row(
        "good frames rejected",
        f"{result.false_reject_rate:.2%} of {result.good_frames} (promised {result.promised_false_reject_rate:.2%})",
    )
    table.add_row("fastest engine", f"{result.fastest}, {result.speedup_over_eager:.1f}x PyTorch eager")
    table.add_row("seconds", f"{result.seconds:.0f}")
    console.print(table)
    for path in (*(picture for picture in pictures if picture.is_file()), output / "run" / "frames", output / "demo.json"):
        console.print(str(path))

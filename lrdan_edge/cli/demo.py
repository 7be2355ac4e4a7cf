"""`lrdan-edge demo`: all stages, from training to benchmark, on a conveyor made from a photograph."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from lrdan_edge.cli.console import show, status_line, table
from lrdan_edge.cli.options import Option, require
from lrdan_edge.cli.run import inspect_sources
from lrdan_edge.errors import DataError, LrdanError

if TYPE_CHECKING:
    from lrdan_edge.bundle.benchmark_report import BenchmarkReport
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.demo.conveyor import BeltFrame, Conveyor

_EPOCHS = 3  # 20 s on two cores
_IMAGE_SIZE = (64, 64)  # a tile's 96 pixels are scaled to this
_BENCH_SECONDS = 6.0
_MARK = ".lrdan-edge-demo"


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """``demo.json``; rates in [0, 1].

    Attributes:
        image_auroc: Of the video's frames, by the fp32 graph.
        int8_image_auroc: The same, by the int8 graph.
        pixel_auroc: Of the heatmaps against the painted masks, by the fp32 graph.
        false_reject_rate: Fraction of the video's good frames that the inspection loop rejected.
        promised_false_reject_rate: What calibration promised.
        false_rejects_explained: Largest number of false rejects that the promise explains (one-sided 99 % binomial bound).
        good_frames: Good frames in the video.
        defective_frames: Frames that show a whole defect.
        missed_frames: Number of these frames that the inspection loop did not reject.
        defects: Defects painted on the belt.
        missed_defects: Defects of which no frame was rejected.
        seconds: Duration of the whole demo.
        speedup_over_eager: Fastest engine against PyTorch eager at batch 1: the median over rounds of the ratio.
        fastest: The name of that engine.
        recall: Recall of the fp32 graph on single frames at its own threshold, with the ends of its 95 % interval (``value``,
            ``low``, ``high``). The inspection loop may have used another graph.
        recall_at_2_percent: Recall of the fp32 graph where 2 % of the good frames are rejected.
        int8_recall_at_2_percent: The same of the int8 graph.
    """

    image_auroc: float
    int8_image_auroc: float
    pixel_auroc: float | None
    false_reject_rate: float
    promised_false_reject_rate: float
    false_rejects_explained: int
    good_frames: int
    defective_frames: int
    missed_frames: int
    defects: int
    missed_defects: int
    seconds: float
    speedup_over_eager: float
    fastest: str
    recall: dict[str, float] | None = None
    recall_at_2_percent: dict[str, float] | None = None
    int8_recall_at_2_percent: dict[str, float] | None = None

    def recalls_in_words(self) -> dict[str, str]:
        """The recalls on single frames, by name."""
        from lrdan_edge.metrics import Recall

        found = {
            "recall at the threshold, fp32": self.recall,
            "recall at 2% false rejects, fp32": self.recall_at_2_percent,
            "recall at 2% false rejects, int8": self.int8_recall_at_2_percent,
        }
        return {name: Recall(**recall).in_words() for name, recall in found.items() if recall}

    def missed_in_words(self) -> str:
        """The number of missed defective frames, and the rate."""
        return f"{self.missed_frames} of {self.defective_frames} ({self.missed_frames / self.defective_frames:.1%})"

    def false_rejects_in_words(self) -> str:
        """The number of rejected good frames, the rate, and the promised rate."""
        rejected = round(self.false_reject_rate * self.good_frames)
        rates = f"{self.false_reject_rate:.1%}, promised {self.promised_false_reject_rate:.1%}"
        return f"{rejected} of {self.good_frames} ({rates})"


@click.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="Folder for all files of the demo.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed of the conveyor and the training.")
def demo(output: Path, seed: int) -> None:
    """Show all stages, from training to benchmark, on a conveyor made from a photograph. Takes a few minutes."""
    require("demo", "the demo", "torch", "safetensors", "onnx", "onnxscript", "matplotlib", "skimage")
    run_demo(output, seed)


def run_demo(output: Path, seed: int = 0) -> DemoResult:
    """Make a conveyor, train, export, calibrate, build, inspect its video, evaluate and benchmark.

    Args:
        output: Folder for all files; an earlier demo there is replaced, a folder with other files is refused.
        seed: Seed of conveyor and training.

    Returns:
        The figures; also written to ``output/demo.json``.

    Raises:
        DataError: `output` holds something other than an earlier demo.
    """
    from lrdan_edge.bundle.encoding import to_json
    from lrdan_edge.bundle.names import REPORTS
    from lrdan_edge.demo.conveyor import make_conveyor
    from lrdan_edge.evaluation.evaluate import evaluate
    from lrdan_edge.metrics import binomial_bound
    from lrdan_edge.runtime.sinks.files import VERDICTS

    started = time.monotonic()
    _clear(output)
    with _step("conveyor: a brick wall becomes training tiles and a video with defects painted on the belt"):
        conveyor = make_conveyor(output, seed)
    bundle = _make_bundle(conveyor, output / "bundle", seed)
    promised = _inspect(bundle, conveyor.video, output / "run")
    with _step("evaluate: compare every frame with what was painted"):
        fp32, pictures = evaluate(bundle, conveyor.data, precision="fp32")
        int8, _ = evaluate(bundle, conveyor.data, precision="int8", write=False)
    benchmark = _benchmark(bundle)
    lines = (output / "run" / VERDICTS).read_text().splitlines()
    tally = count(conveyor.frames, len(conveyor.defects), [json.loads(line)["outcome"] for line in lines])
    fastest = max((entry for entry in benchmark.entries if entry.batch == 1), key=lambda entry: entry.speedup or 0)
    result = DemoResult(
        image_auroc=fp32.image_auroc,
        int8_image_auroc=int8.image_auroc,
        pixel_auroc=fp32.pixel_auroc,
        false_reject_rate=tally.false_rejects / tally.good_frames,
        promised_false_reject_rate=promised,
        false_rejects_explained=binomial_bound(tally.good_frames, promised),
        good_frames=tally.good_frames,
        defective_frames=tally.defective_frames,
        missed_frames=tally.missed_frames,
        defects=len(conveyor.defects),
        missed_defects=tally.missed_defects,
        seconds=round(time.monotonic() - started, 1),
        speedup_over_eager=fastest.speedup or float("nan"),
        fastest=fastest.title,
        recall=msgspec.to_builtins(fp32.recall),
        recall_at_2_percent=msgspec.to_builtins(fp32.recall_at_2_percent),
        int8_recall_at_2_percent=msgspec.to_builtins(int8.recall_at_2_percent),
    )
    (output / "demo.json").write_bytes(to_json(result))
    _print(result, [*pictures, bundle.path / REPORTS / "benchmark.png", bundle.path / REPORTS / "training.png"], output)
    return result


def _make_bundle(conveyor: "Conveyor", path: Path, seed: int) -> "Bundle":
    """Train, export, calibrate and build engines."""
    from lrdan_edge.calibration.calibrate import calibrate
    from lrdan_edge.export.graph import export
    from lrdan_edge.train.trainer import TrainOptions, train

    with _step("train: a network that restores and marks painted defects, on good tiles only"):
        bundle = train(
            conveyor.data, path, TrainOptions(recipe="restoration", seed=seed, epochs=_EPOCHS, image_size=_IMAGE_SIZE)
        )
    with _step("export: the fp32 and fp16 deploy graphs"):
        export(bundle)
    with _step("calibrate: the int8 graph, and a threshold per graph from held-out good tiles"):
        calibrate(bundle)
    with _step("build-engine: for this machine"):
        _build_engines(bundle)
    return bundle


def _inspect(bundle: "Bundle", video: Path, output: Path) -> float:
    """Inspect the video; returns the false-reject rate that calibration promised for the graph used."""
    from lrdan_edge.runtime.inspector import Inspector
    from lrdan_edge.runtime.sources import open_source

    with _step("run: the inspection loop over the video"), Inspector.open(bundle) as inspector:
        inspect_sources(inspector, [open_source(str(video))], output, "rejects", batch=1)
        return bundle.decision().graphs[inspector.choice.precision].false_reject_rate


def _benchmark(bundle: "Bundle") -> "BenchmarkReport":
    from lrdan_edge.bench.latency import bench

    with _step("bench: every engine and PyTorch eager mode, taking turns"), status_line("loading") as report:
        return bench(bundle, seconds=_BENCH_SECONDS, report=report)


def _clear(output: Path) -> None:
    """Remove an earlier demo, and nothing else."""
    if output.exists() and any(output.iterdir()):
        if not (output / _MARK).is_file():
            raise DataError(f"{output} is not empty and does not hold an earlier demo", "choose another {output}")
        shutil.rmtree(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / _MARK).touch()
    except OSError as error:
        raise DataError(f"{output} cannot be written ({error.strerror})", "choose another {output}") from error


@contextmanager
def _step(title: str) -> Iterator[None]:
    show(title, style="bold")
    begun = time.monotonic()
    yield
    show(f"  {time.monotonic() - begun:.1f} s")


def _build_engines(bundle: "Bundle") -> None:
    from lrdan_edge.backends.nvidia import find_gpu
    from lrdan_edge.engines.build import BuildRequest, build_engine

    for precision in ("fp32", "int8"):
        show(f"  {build_engine(bundle, BuildRequest(precision, 'onnxruntime'))}")
    if find_gpu() is None:
        return
    try:
        show(f"  {build_engine(bundle, BuildRequest('fp16', 'tensorrt'))}")
    except LrdanError as error:
        show(f"  no TensorRT engine: {error.worded(Option)}")


@dataclass(frozen=True)
class Tally:
    """Counts of the inspection loop's verdicts on the video, without frames that show only a part of a defect.

    Attributes:
        good_frames: Frames that show no defect.
        false_rejects: Good frames that were rejected.
        defective_frames: Frames that show a whole defect.
        missed_frames: Defective frames that were not rejected.
        missed_defects: Defects of which no frame was rejected.
    """

    good_frames: int
    false_rejects: int
    defective_frames: int
    missed_frames: int
    missed_defects: int


def count(frames: "list[BeltFrame]", defects: int, outcomes: list[str]) -> Tally:
    """Count verdicts.

    Args:
        frames: What is in each frame of the video.
        defects: How many defects are painted on the belt.
        outcomes: Each frame's verdict: ``good``, ``reject`` or ``fault``.
    """
    judged = [(frame, outcome == "reject") for frame, outcome in zip(frames, outcomes, strict=True)]
    good = [rejected for frame, rejected in judged if frame.label == "good"]
    defective = [rejected for frame, rejected in judged if frame.defect is not None]
    found = {frame.defect for frame, rejected in judged if rejected and frame.defect is not None}
    return Tally(len(good), sum(good), len(defective), len(defective) - sum(defective), defects - len(found))


def _print(result: DemoResult, pictures: list[Path], output: Path) -> None:
    figures = table("figure", "value", title="lrdan-edge demo")
    for name, words in result.recalls_in_words().items():
        figures.add_row(name, words)
    figures.add_row("image AUROC, fp32 / int8", f"{result.image_auroc:.4f} / {result.int8_image_auroc:.4f}")
    figures.add_row("pixel AUROC, fp32", "no masks" if result.pixel_auroc is None else f"{result.pixel_auroc:.4f}")
    figures.add_row("defects found", f"{result.defects - result.missed_defects} of {result.defects}")
    figures.add_row("defective frames missed", result.missed_in_words())
    figures.add_row("good frames rejected", result.false_rejects_in_words())
    figures.add_row("fastest engine", f"{result.fastest}, {result.speedup_over_eager:.1f}x PyTorch eager")
    figures.add_row("seconds", f"{result.seconds:.0f}")
    show(figures)
    show("Frames that show only a part of a defect count as neither good nor defective. Pictures and figures:")
    for path in (*(picture for picture in pictures if picture.is_file()), output / "run" / "frames", output / "demo.json"):
        show(str(path))

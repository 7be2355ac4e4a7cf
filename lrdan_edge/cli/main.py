"""The command line: each command parses, calls one function, prints. Nothing heavy is imported before a command runs."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrdan_edge import __version__
from lrdan_edge.cli.camera import camera
from lrdan_edge.cli.dataset import dataset, explain
from lrdan_edge.cli.engine import build_engine, engine
from lrdan_edge.cli.options import METHODS, Option, next_step
from lrdan_edge.cli.options import backend_options as _backend_options
from lrdan_edge.cli.options import bundle_option as _bundle_option
from lrdan_edge.cli.run import run
from lrdan_edge.cli.view_options import Size, view_options
from lrdan_edge.errors import InterruptedTrainingError, LrdanError, MissingExtraError

if TYPE_CHECKING:
    from lrdan_edge.bundle.spec import Precision

INTERRUPTED = 130


class _Group(click.Group):
    """Prints the toolkit's own errors in one line and exits 1; everything else keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LrdanError as error:
            raise click.ClickException(" ".join(error.worded(Option).split())) from error

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)  # in the order of the work, not of the alphabet


_DATA = click.argument("data", type=click.Path(path_type=Path))


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="lrdan-edge")
def cli() -> None:
    """Train LRDAN anomaly detectors on good parts, and run them on the edge.

    The usual order: train, export, calibrate, build-engine, run. Every command reads a bundle (a folder) and adds to it.
    """


cli.add_command(dataset)


@cli.command()
@_DATA
@_bundle_option
@click.option(
    "--image-size", type=Size(), help="Size the networks see; all images are resized to it. [default: the images', at most 256]"
)
@click.option("--channels", type=click.Choice(["1", "3"]), help="1 grey, 3 colour. [default: the images']")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the images. [default: from their number]")
@click.option(
    "--recipe",
    type=click.Choice(["inspection", "lrdan"]),
    default="inspection",
    show_default=True,
    help="inspection: AE2 restores and marks synthetic defects; lrdan: the paper's two autoencoders and discriminator.",
)
@click.option("--batch-size", type=click.IntRange(min=2), help="Images per step. [default: the recipe's]")
@click.option(
    "--learning-rate", type=click.FloatRange(0, min_open=True), help="Adam's, at its highest. [default: the recipe's]"
)
@click.option(
    "--bit-depth", type=click.Choice(["8", "10", "12", "14", "16"]), help="Bits 16-bit images use. [default: as found]"
)
@click.option(
    "--group-by",
    metavar="REGEX|auto",
    help="Hold out whole groups: images with the same first match of REGEX in their path, or near-copies of each other.",
)
@click.option("--known-defects", type=click.Path(path_type=Path), help="Folder of a few defects to learn from too.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all chance.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to train.")
@click.option("--compile/--no-compile", default=None, help="Compile the networks (torch.compile). [default: on a GPU]")
@click.option(
    "--resume/--no-resume",
    default=None,
    help="Go on where a killed or interrupted run stopped, or start anew. [default: go on if it was the same run]",
)
@click.option(
    "--overwrite/--no-overwrite",
    default=False,
    help="Replace the trained bundle that is there, once this training is complete. [default: refuse]",
)
@click.option(
    "--checkpoint-seconds",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Time between checkpoints: a killed run loses no more.",
)
@click.option(
    "--tensorboard", type=click.Path(path_type=Path, file_okay=False), help="Write losses and images for TensorBoard."
)
@view_options
def train(
    data: Path, bundle_path: Path, view: dict[str, Any], channels: str | None, bit_depth: str | None, **given: Any
) -> None:
    """Train on the good images in DATA.

    DATA is a folder of good images, or one with train/good as MVTec AD and anomalib have it. A share of the good images is held
    out for the threshold (or all of calibration/good, if there is such a folder). Ctrl-C ends training early and keeps what was
    learnt; the same command again goes on from there, as it does after a crash. A trained bundle that is there is replaced with
    --overwrite only, and only by a training that is complete.
    """
    _require("train", "training", "torch", "safetensors", "matplotlib")
    from lrdan_edge.train.trainer import TrainOptions
    from lrdan_edge.train.trainer import train as run_training
    from lrdan_edge.train.view import View

    depth: Any = bit_depth and int(bit_depth)
    planes: Any = channels and int(channels)
    options = TrainOptions(channels=planes, bit_depth=depth, view=View(**view), **given)
    try:
        bundle = run_training(data, bundle_path, options)
    except InterruptedTrainingError as error:
        click.echo(f"{str(error)[:1].upper()}{str(error)[1:]}.")
        sys.exit(INTERRUPTED)
    results = bundle.manifest.stages["train"].results
    if results.get("interrupted"):
        click.echo(
            f"Stopped early after {results['epochs']} epochs; the bundle at {bundle_path} is usable; run the same command again to resume."
        )
        sys.exit(INTERRUPTED)
    groups = "" if results["held_out_groups"] is None else f" ({results['held_out_groups']} groups)"
    next_step(
        f"Trained on {len(results['training'])} images, {len(results['held_out'])} held out{groups}.", "export", bundle_path
    )


@cli.command()
@_bundle_option
@click.option("--frame-size", type=Size(), help="Size of the camera's frames; the graph scales them. [default: as trained]")
def export(bundle_path: Path, frame_size: tuple[int, int] | None) -> None:
    """Write the fp32 and fp16 deploy graphs (ONNX), measured against PyTorch on real images."""
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.export.graph import export as run_export

    bundle = Bundle.open(bundle_path)
    run_export(bundle, frame_size=frame_size)
    for precision, check in bundle.manifest.stages["export"].results.items():
        worst = check["largest_relative_score_difference"]
        click.echo(f"{bundle_path}/model.{precision}.onnx: scores within {worst:.1e} of PyTorch's, relative")
    click.echo(f"All of it: {bundle_path}/reports/parity.md")
    next_step("Exported.", "calibrate", bundle_path)


@cli.command()
@_bundle_option
@click.option(
    "--false-reject-rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of good parts that may be rejected. [default: 0.02; with --decision-only the last one]",
)
@click.option("--good", type=click.Path(path_type=Path), help="Folder of other good images to fit the threshold on.")
@click.option("--defects", type=click.Path(path_type=Path), help="Folder of defective images, or one with test/<defect>.")
@click.option(
    "--threshold-from",
    "rule",
    type=click.Choice(["conformal", "recall", "best-f1"]),
    help="conformal: good images alone; recall, best-f1: the defects too. [default: conformal; with --decision-only the last one]",
)
@click.option(
    "--recall",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of defective parts to find, with --threshold-from recall. [default: 0.95; with --decision-only the last one]",
)
@click.option(
    "--method",
    "methods",
    type=click.Choice(METHODS),
    multiple=True,
    default=METHODS,
    help="Int8 ranges; repeatable. [default: tries all, takes the best]",
)
@click.option("--int8/--no-int8", default=True, show_default=True, help="Whether to make the int8 graph.")
@click.option("--decision-only", is_flag=True, help="Only fit thresholds, engines' own too; needs no onnx, no torch.")
@click.option("--show", is_flag=True, help="Only explain the thresholds there are.")
def calibrate(
    bundle_path: Path,
    false_reject_rate: float | None,
    good: Path | None,
    defects: Path | None,
    rule: Any,
    recall: float | None,
    methods: Any,
    int8: bool,
    decision_only: bool,
    show: bool,
) -> None:
    """Make the int8 graph, and fit each graph's threshold on held-out good images."""
    from lrdan_edge.backends.nvidia import MODULES
    from lrdan_edge.backends.processor import processor
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.calibration.calibrate import calibrate as run_calibration
    from lrdan_edge.calibration.decision import Wish
    from lrdan_edge.calibration.device import decide_here, last_wish
    from lrdan_edge.cli.show import build_progress
    from lrdan_edge.cli.show_calibration import print_decided, print_decision, print_int8, print_thresholds

    if show and decision_only:
        raise click.UsageError("choose one of --show and --decision-only")
    bundle = Bundle.open(bundle_path)
    if show:
        print_decision(bundle)
        return
    usual = last_wish(bundle) if decision_only else Wish()
    wish = Wish(rule or usual.rule, false_reject_rate or usual.false_reject_rate, recall or usual.recall)
    with build_progress() as progress:
        if decision_only:
            decided = decide_here(bundle, wish, good=good, defects=defects, progress=progress)
        else:
            decision = run_calibration(
                bundle,
                false_reject_rate=wish.false_reject_rate,
                good=good,
                defects=defects,
                rule=wish.rule,
                recall=wish.recall,
                methods=methods,
                int8=int8,
                progress=progress,
            )
    if decision_only:
        print_decided(decided)
        next_step("Decided.", "run SOURCE", bundle_path)
        return
    print_thresholds(decision.graphs)
    for note in bundle.manifest.stages["calibrate"].results["notes"]:
        click.echo(f"Note: {note}")
    print_int8(bundle)
    fastest = "int8" if int8 and processor().int8_is_faster else "fp32"
    here = "--fp16" if any(map(find_spec, MODULES)) else f"--{fastest} --target onnxruntime"
    next_step("Calibrated.", f"build-engine {here}", bundle_path)


cli.add_command(build_engine)
cli.add_command(engine)


cli.add_command(camera)
cli.add_command(run)


@cli.command()
@_DATA
@_bundle_option
@_backend_options
def evaluate(data: Path, bundle_path: Path, backend: str, precision: "Precision | None") -> None:
    """Measure how well the bundle tells DATA's good parts from its defective ones.

    DATA has test/good and test/<defect>, and optionally masks in ground_truth/<defect>.
    """
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.cli.show import print_evaluation
    from lrdan_edge.evaluation.evaluate import evaluate as run_evaluation

    result, pictures = run_evaluation(Bundle.open(bundle_path), data, backend=backend, precision=precision)
    print_evaluation(result, pictures)


cli.add_command(explain)


@cli.command()
@_bundle_option
@click.option("--batch", "batches", type=click.IntRange(1, 1024), multiple=True, default=(1, 8), show_default=True)
@click.option("--seconds", type=click.FloatRange(1, 3600), default=20.0, show_default=True, help="How long to measure in all.")
@click.option("--rounds", type=click.IntRange(3, 1000), default=10, show_default=True, help="Turns each backend gets.")
def bench(bundle_path: Path, batches: tuple[int, ...], seconds: float, rounds: int) -> None:
    """Measure latency and throughput of PyTorch eager and every engine, interleaved in one run."""
    from lrdan_edge.bench.latency import bench as run_bench
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.cli.show import bench_progress, print_benchmark

    bundle = Bundle.open(bundle_path)
    with bench_progress() as report:
        result = run_bench(bundle, batches=tuple(dict.fromkeys(batches)), seconds=seconds, rounds=rounds, report=report)
    print_benchmark(result, bundle)


@cli.command()
@click.argument("dataset", type=click.Choice(["mnist", "fashion-mnist", "cifar10"]))
@click.option("--root", type=click.Path(path_type=Path), required=True, help="Folder of the data set's files.")
@click.option("--detector", "detectors", multiple=True, help="What to compare; repeatable. [default: lrdan]")
@click.option(
    "--labelled-ratio",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Share of labelled anomalies among the training images of semi-supervised detectors (deep-sad).",
)
@click.option("--ablate", is_flag=True, help="Instead: LRDAN's losses, added one by one.")
@click.option("--dual-readings", is_flag=True, help="Instead: the two readings of LRDAN's dual term.")
@click.option("--seed", "seeds", type=int, multiple=True, default=(0,), show_default=True, help="Repeatable.")
@click.option("--classes", help="Classes to take as normal, as cat,dog. [default: all]")
@click.option("--steps", type=click.IntRange(min=1), help="Optimiser steps per run, for every detector. [default: 1500]")
@click.option("--train-limit", type=click.IntRange(min=2), help="Most training images per run. [default: all]")
@click.option("--test-limit", type=click.IntRange(min=1), help="Most test images per class. [default: all]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to train.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("protocol"),
    show_default=True,
    help="Folder for tables and figures; what is finished there is not run again, and several runs may add to it at once.",
)
def protocol(
    dataset: Any,
    root: Path,
    detectors: tuple[str, ...],
    labelled_ratio: float,
    ablate: bool,
    dual_readings: bool,
    seeds: tuple[int, ...],
    classes: str | None,
    output: Path,
    **limits: Any,
) -> None:
    """Measure detectors by the one-class protocol on DATASET: one class normal, nine anomalous, each in turn.

    Reads IDX files (MNIST, Fashion-MNIST), CIFAR-10's binary version, or image folders train/<class> and test/<class>.
    """
    if (len(detectors) > 0) + ablate + dual_readings > 1:
        raise click.UsageError("choose one of --detector, --ablate and --dual-readings")
    _require("train", "the protocol", "torch", "safetensors", "matplotlib")
    from lrdan_edge.backends.processor import processor
    from lrdan_edge.cli.show import print_protocol, protocol_progress
    from lrdan_edge.protocol import columns
    from lrdan_edge.protocol.protocol import ProtocolOptions, run_protocol
    from lrdan_edge.protocol.readers import read_dataset

    chosen = tuple(name.strip() for name in classes.split(",")) if classes else ()
    given = {name: value for name, value in limits.items() if value is not None}  # --steps has its default there
    options = ProtocolOptions(seeds=seeds, classes=chosen, **given)
    study = (
        columns.of_losses()
        if ablate
        else columns.of_readings()
        if dual_readings
        else columns.of_detectors(detectors or ("lrdan",), labelled_ratio)
    )
    with protocol_progress() as report:
        written = run_protocol(read_dataset(dataset, root), study, output, options, processor=processor().name, report=report)
    print_protocol(written)


@cli.command()
@_bundle_option
@click.option("--json", "as_json", is_flag=True, help="Print the manifest's facts as JSON.")
def info(bundle_path: Path, as_json: bool) -> None:
    """Show what the bundle holds, what is stale or damaged, and what runs here."""
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.cli.show import print_info

    if not print_info(Bundle.open(bundle_path), as_json=as_json):
        sys.exit(1)


@cli.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="Folder for it all.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of conveyor and training.")
def demo(output: Path, seed: int) -> None:
    """Show the whole line on a conveyor made from a real photograph, in a few minutes."""
    _require("demo", "the demo", "torch", "safetensors", "onnx", "onnxscript", "matplotlib", "skimage")
    from lrdan_edge.cli.demo import run_demo

    run_demo(output, seed)


def _require(extra: str, purpose: str, *modules: str) -> None:
    """Say which extra to install, before a module that needs it is imported."""
    for module in modules:
        if find_spec(module) is None:
            raise MissingExtraError(module, extra, purpose)


def main() -> None:
    """Entry point of ``lrdan-edge``."""
    cli(prog_name="lrdan-edge")


if __name__ == "__main__":
    main()

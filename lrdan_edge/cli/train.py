"""`lrdan-edge train`: from good images to a bundle."""

import sys
from pathlib import Path
from typing import Any

import click

from lrdan_edge.cli.options import bundle_option, device_option, in_words, next_step, require
from lrdan_edge.cli.view_options import SIZE, view_options
from lrdan_edge.errors import InterruptedTrainingError
from lrdan_edge.train.recipes import DEFAULT_RECIPE, RECIPES, RENAMED, SMALL_RECIPE

INTERRUPTED = 130
_STILL_FALLING = "training has not converged: the loss was still falling when it ended"
_NOT_YET = "the detector is not ready for use"


class RecipeName(click.Choice):  # type: ignore[type-arg]  # generic only in newer versions of click
    """The name of a recipe; one of an earlier version is replaced, with a note."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check the name."""
        if new := RENAMED.get(value):
            click.echo(f"Note: the recipe {value} is now called {new}.", err=True)
        return super().convert(new or value, param, ctx)


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@bundle_option
@click.option(
    "--image-size",
    type=SIZE,
    help="Input size of the networks; all images are resized to it. [default: the images' size, at most 256]",
)
@click.option("--channels", type=click.Choice(["1", "3"]), help="1: grey, 3: colour. [default: as the images]")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the images. [default: depends on their number]")
@click.option(
    "--recipe",
    type=RecipeName(list(RECIPES)),
    help=f"{'; '.join(f'{name}: {summary}' for name, summary in RECIPES.items())}. [default: {DEFAULT_RECIPE}, and for images of "
    f"32 pixels or less {SMALL_RECIPE}]",
)
@click.option(
    "--backbone",
    metavar="NAME|FILE",
    help="Pretrained network of feature-restoration, padim, patchcore and dn2: efficientnet-lite0, -lite1, -lite2, timm/NAME, or a "
    ".safetensors file. [default: efficientnet-lite0]",
)
@click.option("--batch-size", type=click.IntRange(min=2), help="Images per step. [default: the recipe's]")
@click.option(
    "--learning-rate", type=click.FloatRange(0, min_open=True), help="Peak learning rate of Adam. [default: the recipe's]"
)
@click.option(
    "--bit-depth",
    type=click.Choice(["8", "10", "12", "14", "16"]),
    help="Bits that 16-bit images use. [default: from the largest pixel value]",
)
@click.option(
    "--group-by",
    metavar="REGEX|auto|none",
    default="auto",
    show_default=True,
    help="Hold out whole groups of images, so that the promised rate covers new parts. auto: near-copies, if there are enough "
    "groups; REGEX: images whose paths have the same first match; none: hold out single images.",
)
@click.option("--known-defects", type=click.Path(path_type=Path), help="Folder with a few images of defects to learn from.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed.")
@device_option
@click.option("--compile/--no-compile", default=None, help="Compile the networks with torch.compile. [default: on a GPU]")
@click.option(
    "--resume/--no-resume",
    default=None,
    help="Continue an interrupted run, or start from scratch. [default: continue if it is the same run]",
)
@click.option(
    "--overwrite/--no-overwrite",
    default=False,
    help="Replace a trained bundle when this training is complete. [default: refuse]",
)
@click.option(
    "--checkpoint-seconds",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds between checkpoints. A killed run loses no more than this.",
)
@click.option(
    "--tensorboard", type=click.Path(path_type=Path, file_okay=False), help="Folder to write losses and images for TensorBoard."
)
@view_options
def train(
    data: Path, bundle_path: Path, view: dict[str, Any], channels: str | None, bit_depth: str | None, **given: Any
) -> None:
    """Train on the good images in DATA.

    DATA is a folder of good images, or a data set with train/good in the layout of MVTec AD and anomalib, or has folders such as OK
    and NG. A fifth of the good images is held out to set the threshold. If DATA has a folder calibration/good, its images are held
    out instead.

    Ctrl-C ends training early and keeps what was learnt. Run the same command again to continue, also after a crash. With
    --overwrite, an existing bundle is replaced only when the new training is complete.
    """
    require("train", "training", "torch", "safetensors", "matplotlib")
    from lrdan_edge.evaluation.advice import what_helps
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
            f"Stopped early after {results['epochs']} epochs. The bundle at {bundle_path} is usable; run the same command again to "
            "continue."
        )
        sys.exit(INTERRUPTED)
    _print_figure(results)
    groups = "" if results["held_out_groups"] is None else f" ({results['held_out_groups']} groups)"
    done = f"Trained on {len(results['training'])} images, {len(results['held_out'])} held out{groups}"
    if problem := results["too_weak"] or (results["still_falling"] and _STILL_FALLING):
        click.echo(f"Warning: {problem}.")
        click.echo(f"{done}, but {_NOT_YET}. Next: {in_words(what_helps(bundle)[0])}")
        return
    next_step(f"{done}.", "export", bundle_path)


def _print_figure(results: dict[str, Any]) -> None:
    """Print how well the detector separates painted defects from held-out good images."""
    click.echo(
        f"Painted defects score higher than held-out good images with a probability of {results['painted_auroc']:.2f} (AUROC; 0.5 is "
        f"chance), measured on {results['painted_images']} images."
    )

"""Commands about images: what a data folder holds, and why an image was judged as it was."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lrdan_edge.cli.options import bundle_option, precision_options

if TYPE_CHECKING:
    from lrdan_edge.bundle.spec import Precision


@click.group()
def dataset() -> None:
    """Check a folder of images before training on it."""


@dataset.command("check")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_dataset(data: Path, as_json: bool) -> None:
    """Look at every image in DATA: sizes, bit depths, near-copies, and what to do about them.

    Exits 1 if an image cannot be decoded.
    """
    from lrdan_edge.cli.show_dataset import print_check
    from lrdan_edge.data.check import check

    if not print_check(check(data), as_json=as_json):
        sys.exit(1)


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@bundle_option
@precision_options
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("explanation.html"),
    show_default=True,
    help="The page to write.",
)
@click.option("--threshold", type=float, help="Judge by this threshold instead of the calibrated one.")
def explain(
    images: tuple[Path, ...], bundle_path: Path, precision: "Precision | None", output: Path, threshold: float | None
) -> None:
    """Write a page that shows why each of IMAGES (files or folders) was judged as it was.

    One file without anything from elsewhere: image, reconstruction, error, heatmap, score, and where it lies among the good ones.
    """
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.runtime.explain import explain as run_explain

    page = run_explain(Bundle.open(bundle_path), list(images), output, precision=precision, threshold=threshold)
    click.echo(f"{page.path}: {page.images} image{'s' if page.images != 1 else ''}, {page.rejected} rejected, by {page.graph}")

"""`lrdan-edge dataset`: check a folder of images before training on it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lrdan_edge.cli.console import show, table, write_json

if TYPE_CHECKING:
    from lrdan_edge.data.check import DatasetReport


@click.group()
def dataset() -> None:
    """Check a folder of images before training on it."""


@dataset.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(data: Path, as_json: bool) -> None:
    """Check every image in DATA: sizes, bit depths and near-copies. Say how to fix problems.

    Exits 1 if an image cannot be decoded.
    """
    from lrdan_edge.data.check import check as run_check

    report = run_check(data)
    broken = [line for folder in report.folders for line in folder.broken]
    if as_json:
        write_json(report)
    else:
        _print_report(report)
        for line in broken:
            show(line, style="red")
    if broken:
        sys.exit(1)


def _print_report(report: "DatasetReport") -> None:
    copies = report.copies
    shown = table("folder", "images", "sizes", "form", "files", "groups", "with near-copies", title=report.data)
    for folder in report.folders:
        sizes = next(iter(folder.sizes), "none") if len(folder.sizes) <= 1 else f"{len(folder.sizes)} sizes"
        groups, paired = (str(counts.get(folder.name, "")) for counts in (copies.groups, copies.images))
        shown.add_row(
            folder.name, str(folder.images), sizes, ", ".join(folder.forms), ", ".join(folder.suffixes), groups, paired
        )
    show(shown)
    if copies.threshold is None:
        show("no near-copies among the good images")
    else:
        show(f"{copies.pairs} pairs of near-copies among the good images (similarity {copies.threshold:g} or more), such as")
        for first, second, similarity in copies.examples:
            show(f"  {similarity:.2f}  {first}  {second}")
    for line in report.warnings:
        show(f"Note: {line}", style="yellow")

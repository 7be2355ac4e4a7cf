"""What ``lrdan-edge dataset check`` shows on a terminal."""

import sys
from typing import TYPE_CHECKING

import msgspec
from rich.table import Table

from lrdan_edge.cli.show import console

if TYPE_CHECKING:
    from lrdan_edge.data.check import DatasetReport


def print_check(report: "DatasetReport", *, as_json: bool) -> bool:
    """Print what was found.

    Returns:
        Whether every image could be decoded.
    """
    broken = [line for folder in report.folders for line in folder.broken]
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
        return not broken
    copies = report.copies
    table = Table("folder", "images", "sizes", "form", "files", "groups", "with near-copies", title=report.data)
    for folder in report.folders:
        sizes = next(iter(folder.sizes), "none") if len(folder.sizes) <= 1 else f"{len(folder.sizes)} sizes"
        groups, paired = (str(counts.get(folder.name, "")) for counts in (copies.groups, copies.images))
        table.add_row(
            folder.name, str(folder.images), sizes, ", ".join(folder.forms), ", ".join(folder.suffixes), groups, paired
        )
    console.print(table)
    if copies.threshold is None:
        console.print("no near-copies among the good images")
    else:
        console.print(
            f"{copies.pairs} pairs of near-copies among the good images (similarity {copies.threshold:g} or more), such as"
        )
        for first, second, similarity in copies.examples:
            console.print(f"  {similarity:.2f}  {first}  {second}")
    for line in report.warnings:
        console.print(f"Note: {line}", style="yellow")
    for line in broken:
        console.print(line, style="red")
    return not broken

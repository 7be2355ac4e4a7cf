"""`lrdan-edge protocol`: the one-class protocol of the papers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrdan_edge.cli.console import show, status_line, table
from lrdan_edge.cli.options import device_option, option_group, require

if TYPE_CHECKING:
    from lrdan_edge.protocol.protocol import Written
    from lrdan_edge.protocol.results import Entry

_limits = option_group(
    "limits",
    click.option("--steps", type=click.IntRange(min=1), help="Optimiser steps per run, for every detector. [default: 1500]"),
    click.option("--train-limit", type=click.IntRange(min=2), help="Training images per run, at most. [default: all]"),
    click.option("--test-limit", type=click.IntRange(min=1), help="Test images per class, at most. [default: all]"),
    device_option,
)


@click.command()
@click.argument("dataset", type=click.Choice(["mnist", "fashion-mnist", "cifar10"]))
@click.option("--root", type=click.Path(path_type=Path), required=True, help="Folder with the files of the data set.")
@click.option("--detector", "detectors", multiple=True, help="Detector to measure. Repeatable. [default: lrdan]")
@click.option(
    "--labelled-ratio",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Fraction of labelled anomalies among the training images, for semi-supervised detectors (deep-sad).",
)
@click.option("--ablate", is_flag=True, help="Measure LRDAN with its losses added one by one, instead of detectors.")
@click.option("--dual-readings", is_flag=True, help="Measure both readings of LRDAN's dual term, instead of detectors.")
@click.option("--seed", "seeds", type=int, multiple=True, default=(0,), show_default=True, help="Random seed. Repeatable.")
@click.option("--classes", help="Classes that are normal in turn, such as cat,dog. [default: all]")
@_limits
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("protocol"),
    show_default=True,
    help="Folder for tables and figures. Finished runs in it are not repeated; several processes can share it.",
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
    limits: dict[str, Any],
    output: Path,
) -> None:
    """Measure detectors on DATASET by the one-class protocol.

    Each class in turn is normal, and the other nine are anomalous. A detector is trained on the normal class only.

    Reads IDX files (MNIST, Fashion-MNIST), the binary version of CIFAR-10, or image folders train/<class> and test/<class>.
    """
    if (len(detectors) > 0) + ablate + dual_readings > 1:
        raise click.UsageError("choose one of --detector, --ablate and --dual-readings")
    require("train", "the protocol", "torch", "safetensors", "matplotlib")
    from lrdan_edge.backends.processor import processor
    from lrdan_edge.protocol import columns
    from lrdan_edge.protocol.protocol import ProtocolOptions, run_protocol
    from lrdan_edge.protocol.readers import read_dataset

    chosen = tuple(name.strip() for name in classes.split(",")) if classes else ()
    given = {name: value for name, value in limits.items() if value is not None}  # ProtocolOptions has the default of --steps
    options = ProtocolOptions(seeds=seeds, classes=chosen, **given)
    if ablate:
        study = columns.of_losses()
    elif dual_readings:
        study = columns.of_readings()
    else:
        study = columns.of_detectors(detectors or ("lrdan",), labelled_ratio)
    with _progress() as report:
        written = run_protocol(read_dataset(dataset, root), study, output, options, processor=processor().name, report=report)
    _print_tables(written)


@contextmanager
def _progress() -> Iterator[Callable[["Entry", int, int], None]]:
    """Show a line per finished run, above a spinner."""
    with status_line("running") as update:

        def report(entry: "Entry", done: int, total: int) -> None:
            figure = entry.failure or f"AUROC {entry.auroc:.4f}"
            show(
                f"{entry.column}, {entry.normal_class} normal, seed {entry.seed}: {figure}, "
                f"trained in {entry.training_seconds:.1f} s ({done} of {total})"
            )
            update(f"{done} of {total} runs finished")

        yield report


def _print_tables(written: "Written") -> None:
    from lrdan_edge.protocol.table import describe, tables

    for found in tables(written.results):
        shown = table(*found.header, title=f"{written.results.dataset}, AUROC in %: {describe(found.settings)}")
        for row in found.rows:
            shown.add_row(*row)
        show(shown)
    for path in (written.markdown, written.json, *written.pictures):
        show(str(path))

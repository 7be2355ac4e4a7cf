"""The results of the protocol as tables, in Markdown or as cells for other formats."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from lrdan_edge.protocol.published import LEFT_OUT, PUBLISHED, Published
from lrdan_edge.protocol.readers import CLASSES
from lrdan_edge.protocol.results import Entry, Results, Settings

NOTHING = "—"


@dataclass(frozen=True)
class Table:
    """A table of strings: one row per class, one column per detector, then the mean and the training time.

    Attributes:
        settings: The settings of its runs.
        header: The columns' titles.
        rows: The cells of each row, one per column.
    """

    settings: Settings
    header: list[str]
    rows: list[list[str]]


def tables(results: Results) -> list[Table]:
    """One table per settings, in the order of their first run; AUROC in percent."""
    return [_table(results, settings) for settings in dict.fromkeys(entry.settings for entry in results.entries)]


def as_markdown(results: Results) -> str:
    """The results as a Markdown page."""
    lines = [
        f"# {results.title}: {results.dataset}",
        "",
        "Each class in turn is normal; the other nine are anomalous. Image AUROC in percent, mean ± standard deviation over the "
        "seeds. The final state of training is used, without selection of an epoch; batch normalisation is in evaluation mode.",
    ]
    if results.remark:
        lines += ["", results.remark]
    for table in tables(results):
        entries = [entry for entry in results.entries if entry.settings == table.settings]
        lines += ["", f"## {describe(table.settings)}", "", _seeds(entries), ""]
        lines += [_row(table.header), "|---" * len(table.header) + "|", *map(_row, table.rows)]
        lines += [*_failures(entries)]
    lines += ["", "## How it was made", "", *(f"    {command}" for command in results.commands), ""]
    lines += [f"- {column}: {recipe}" for column, recipe in results.recipes.items() if recipe]
    lines += [f"- processor: {name}" for name in dict.fromkeys(entry.processor for entry in results.entries)]
    listed = (", ".join(f"{name} {version}" for name, version in entry.versions.items()) for entry in results.entries)
    lines += [f"- versions: {text}" for text in dict.fromkeys(listed)]
    if results.published:
        lines += ["", "## Published figures", "", "By other implementations, with their own networks and training."]
        lines += ["", *(f"- {_title(row)}: {row.source}" for row in PUBLISHED[results.dataset]), f"- {LEFT_OUT}"]
    return "\n".join(lines) + "\n"


def describe(settings: Settings) -> str:
    """A description of the settings."""
    training = "all training images" if settings.train_limit is None else f"at most {settings.train_limit} training images"
    test = "all test images" if settings.test_limit is None else f"at most {settings.test_limit} test images per class"
    return f"{settings.steps} steps, {training}, {test}, {settings.device}"


def _table(results: Results, settings: Settings) -> Table:
    entries = [entry for entry in results.entries if entry.settings == settings]
    columns = [column for column in results.recipes if any(entry.column == column for entry in entries)]
    names = CLASSES[results.dataset]
    rows = [name for name in names if any(entry.normal_class == name for entry in entries)]
    by_cell = {
        (column, name): [entry for entry in entries if (entry.column, entry.normal_class) == (column, name)]
        for column in columns
        for name in rows
    }
    published = PUBLISHED[results.dataset] if results.published else ()
    cells = [
        [name, *(_cell(by_cell[column, name]) for column in columns), *(f"{p.auroc[names.index(name)]:.1f}" for p in published)]
        for name in rows
    ]
    means = [_mean_cell([by_cell[column, name] for name in rows]) for column in columns]
    references = [f"{statistics.fmean(p.auroc[names.index(name)] for name in rows):.1f}" for p in published]
    cells.append(["mean", *means, *references])
    times = [statistics.median(entry.training_seconds for entry in entries if entry.column == column) for column in columns]
    cells.append(["training, s (median)", *(f"{seconds:.1f}" for seconds in times), *(NOTHING for _ in published)])
    return Table(settings, ["normal class", *columns, *map(_title, published)], cells)


def _cell(runs: list[Entry]) -> str:
    if not runs:
        return NOTHING
    failed = sum(run.auroc is None for run in runs)
    return f"{failed} of {len(runs)} failed" if failed else _spread(run.auroc for run in runs if run.auroc is not None)


def _mean_cell(by_class: list[list[Entry]]) -> str:
    """Mean over classes and its standard deviation over seeds; `NOTHING` unless every class has the same finished seeds."""
    figures = [{run.seed: run.auroc for run in runs if run.auroc is not None} for runs in by_class]
    seeds = figures[0].keys()
    if not seeds or any(
        len(found) != len(runs) or found.keys() != seeds for found, runs in zip(figures, by_class, strict=True)
    ):
        return NOTHING
    return _spread(statistics.fmean(found[seed] for found in figures) for seed in seeds)


def _spread(values: Iterable[float]) -> str:
    percent = [100 * value for value in values]
    spread = f" ± {statistics.stdev(percent):.1f}" if len(percent) > 1 else ""
    return f"{statistics.fmean(percent):.1f}{spread}"


def _title(published: Published) -> str:
    return f"{published.method} (published)"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _seeds(entries: list[Entry]) -> str:
    seeds = sorted({entry.seed for entry in entries})
    return f"Seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}."


def _failures(entries: list[Entry]) -> list[str]:
    failed = [entry for entry in entries if entry.failure is not None]
    lines = [f"- {entry.column}, {entry.normal_class}, seed {entry.seed} failed: {entry.failure}" for entry in failed]
    return ["", *lines] if lines else []

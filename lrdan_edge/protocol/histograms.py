"""Score histograms of normal and anomalous test images, one figure per class."""

import io
from pathlib import Path

from lrdan_edge.evaluation.figure import new_figure
from lrdan_edge.protocol.readers import CLASSES
from lrdan_edge.protocol.results import Entry, Results, Settings, write_file


def draw_histograms(folder: Path, stem: str, results: Results, settings: Settings) -> list[Path]:
    """Write ``<stem>-<class>.png``: a panel per column, with the run of the lowest seed.

    Args:
        folder: The folder to write to.
        stem: The start of their file names.
        results: All runs.
        settings: The settings of the runs to draw.

    Returns:
        The files written.
    """
    pictures = []
    for name in CLASSES[results.dataset]:
        runs: dict[str, Entry] = {}
        for entry in sorted(results.entries, key=lambda entry: entry.seed):
            if entry.normal_class == name and entry.settings == settings and entry.histogram is not None:
                runs.setdefault(entry.column, entry)
        if runs:
            columns = [column for column in results.recipes if column in runs]
            path = folder / f"{stem}-{name}.png"
            write_file(path, _picture(f"{results.dataset}: {name} is normal", [runs[column] for column in columns]))
            pictures.append(path)
    return pictures


def _picture(title: str, runs: list[Entry]) -> bytes:
    """The figure as PNG bytes."""
    figure = new_figure(2.6 * len(runs) + 0.6, 2.9)
    for axes, run in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs, strict=True):
        found = run.histogram
        if found is None or run.auroc is None:
            continue
        for counts, label, colour in ((found.normal, "normal", "#2ca02c"), (found.anomalous, "anomalous", "#d62728")):
            fractions = [count / sum(counts) for count in counts]
            axes.stairs(fractions, found.edges, fill=True, alpha=0.5, color=colour, label=label)
        axes.set_title(f"{run.column}\nAUROC {100 * run.auroc:.1f} %, seed {run.seed}", fontsize=9)
        axes.set_xlabel("score", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_yticks([])
    figure.axes[0].legend(fontsize=7)
    figure.suptitle(title, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    return buffer.getvalue()

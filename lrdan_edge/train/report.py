"""The training report: every epoch's losses as JSON, and as curves."""

from pathlib import Path

from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.evaluation.figure import new_figure

Epoch = dict[str, float]
"""An epoch's mean losses by term."""


def write_losses(path: Path, epochs: list[Epoch]) -> None:
    """Write the losses as JSON: ``{"epochs": [{"irec": …}, …]}``, first epoch first."""
    path.write_bytes(to_json({"epochs": epochs}))


def draw_losses(path: Path, epochs: list[Epoch]) -> None:
    """Draw one small panel per term into a PNG."""
    from matplotlib.ticker import MaxNLocator

    names = [name for name in epochs[0] if not name.startswith("spread")]
    columns = 2 if len(names) <= 4 else 3
    rows = -(-len(names) // columns)
    figure = new_figure(3 * columns, 2.4 * rows)
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.plot(range(1, len(epochs) + 1), [epoch[name] for epoch in epochs], marker="." if len(epochs) < 3 else None)
        axes.set_title(name, fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=6))
        if len(epochs) == 1:
            axes.set_xlim(0, 2)
            axes.set_xticks([1])
        axes.grid(alpha=0.3)
        if index >= len(names) - columns:
            axes.set_xlabel("epoch")
    figure.savefig(path, dpi=100, format="png")

"""Matplotlib without a display."""

from importlib.util import find_spec
from typing import Any


def matplotlib_found() -> bool:
    """Whether matplotlib is installed; without it, as on an edge device, reports have no plots."""
    return find_spec("matplotlib") is not None


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure that needs no display and leaves no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure

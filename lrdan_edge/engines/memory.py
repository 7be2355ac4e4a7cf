"""Refuses a bundle whose frames do not fit into this machine's memory, before a runtime makes room for them."""

from lrdan_edge.backends.processor import available_memory
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.errors import BackendError


def require_memory(bundle: Bundle) -> None:
    """Check that there is room for one frame: its pixels in uint8 and float32, and its heatmap in float32. Networks need more.

    Raises:
        BackendError: There is not.
    """
    (rows, columns, channels), heatmap = bundle.manifest.model.frame_shape, bundle.manifest.model.heatmap_shape
    needed = rows * columns * channels * 5 + heatmap[0] * heatmap[1] * 4
    available = available_memory()
    if available is not None and needed > available:
        raise BackendError(
            f"one frame of {rows}x{columns} pixels needs at least {needed / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB are free",
            "close other programs, use a machine with more memory, or train with smaller frames",
        )

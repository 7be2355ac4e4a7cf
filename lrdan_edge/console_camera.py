"""What `lrdan-edge camera` prints."""

from rich.console import Console
from rich.table import Table

from lrdan_edge.runtime.sources.probe import Found


def show_probe(uri: str, found: Found) -> None:
    """A table of what a source delivered."""
    table = Table(title=uri, show_header=False)
    rate, gaps = found.frames_per_s, found.interval_ms
    rows = {
        "size": "; ".join(f"{size} ({count} frames)" for size, count in found.sizes.most_common()),
        "rate": f"{rate:.1f} frames/s" if rate is not None else "one frame",
        "announced rate": f"{found.announced_fps:g} frames/s" if found.announced_fps else "none",
        "first frame after": f"{found.first_s:.2f} s",
        "between frames": f"p50 {gaps['p50']:.1f}, p95 {gaps['p95']:.1f}, max {gaps['max']:.1f} ms" if gaps else "",
        "same as the one before": f"{found.same} of {found.frames}" if found.same else "",
        "black": f"{found.black} of {found.frames}" if found.black else "",
        "missing": "; ".join(found.faults[:3]),
    }
    for name, said in rows.items():
        if said:
            table.add_row(name, said)
    Console().print(table)

"""What `lrdan-edge camera` prints."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lrdan_edge.runtime.sources.probe import ProbeResult


def show_probe(uri: str, found: ProbeResult) -> None:
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


@contextmanager
def record_progress(folder: Path, count: int) -> Iterator[Callable[[int, str | None], None]]:
    """A line that counts what is written, and what was missing when it was; at the end, how many there are."""
    console, written = Console(), 0
    with console.status("waiting for the first frame") as status:

        def report(number: int, fault: str | None) -> None:
            nonlocal written
            written = number
            if fault:
                print(f"Problem: {fault}", file=sys.stderr)
            else:
                status.update(f"{number} of {count} frames")

        yield report
    console.print(f"{written} frames in {folder}", soft_wrap=True)

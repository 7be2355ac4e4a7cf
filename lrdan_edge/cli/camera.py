"""`lrdan-edge camera`: check a camera, and record its frames, before training or inspecting."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrdan_edge.cli.console import show, status_line, table
from lrdan_edge.cli.options import certificate_options
from lrdan_edge.errors import SourceError

if TYPE_CHECKING:
    from lrdan_edge.runtime.sources.probe import ProbeResult


@click.group()
def camera() -> None:
    """Check cameras and streams, and record their frames."""


@camera.command()
@click.argument("source")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=3.0, show_default=True, help="How long to measure.")
@click.option(
    "--picture", type=click.Path(path_type=Path, dir_okay=False), help="Write the last frame to this file (.png, .jpg)."
)
@certificate_options
def probe(source: str, seconds: float, picture: Path | None, **trust: Any) -> None:
    """Show what SOURCE delivers: frame size, frame rate, intervals between frames, and a picture.

    SOURCE is any source that `run` takes: 0, '/dev/video0?size=1280x720&format=MJPG', rtsp://..., csi://0 (experimental), a video,
    a folder.
    """
    import cv2

    from lrdan_edge.runtime.sources import open_source
    from lrdan_edge.runtime.sources.probe import probe as run_probe

    with open_source(source, **trust) as opened:
        found = run_probe(opened, seconds)
        _print_probe(opened.uri, found)
    if picture is not None and found.picture is not None:
        try:
            written = cv2.imwrite(str(picture), found.picture)
        except cv2.error:  # the suffix names no image format
            written = False
        if not written:
            raise SourceError(f"{picture} cannot be written", "give a .png or .jpg in a folder that exists")
        click.echo(f"picture: {picture}")


@camera.command()
@click.argument("source")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--count", type=click.IntRange(min=1), default=100, show_default=True, help="Number of frames, at most.")
@click.option(
    "--every",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Shortest time between two frames. [default: write every frame]",
)
@certificate_options
def record(source: str, folder: Path, count: int, every: float, **trust: Any) -> None:
    """Write frames of SOURCE into FOLDER as PNG, to train on or to set a threshold with.

    Later recordings can go to the same folder. Ctrl-C ends the recording.
    """
    from lrdan_edge.runtime.sources import open_source
    from lrdan_edge.runtime.sources.record import record as run_record

    with open_source(source, realtime=every > 0, **trust) as opened, _record_progress(folder, count) as report:
        try:
            run_record(opened, folder, count, every, report)
        except KeyboardInterrupt:
            opened.close()


def _print_probe(uri: str, found: "ProbeResult") -> None:
    """Print a table of what a source delivered."""
    shown = table("", "", title=uri, header=False)
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
    for name, value in rows.items():
        if value:
            shown.add_row(name, value)
    show(shown)


@contextmanager
def _record_progress(folder: Path, count: int) -> Iterator[Callable[[int, str | None], None]]:
    """Show a line that counts the frames written, problems when they appear, and at the end the number of frames."""
    written = 0
    with status_line("waiting for the first frame") as update:

        def report(number: int, fault: str | None) -> None:
            nonlocal written
            written = number
            if fault:
                print(f"Problem: {fault}", file=sys.stderr)
            else:
                update(f"{number} of {count} frames")

        yield report
    show(f"{written} frames in {folder}")

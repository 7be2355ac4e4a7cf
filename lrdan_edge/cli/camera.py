"""`lrdan-edge camera`: what a camera delivers, before anything is trained or inspected."""

from pathlib import Path

import click


@click.group()
def camera() -> None:
    """Look at cameras and streams, and keep what they show."""


@camera.command()
@click.argument("source")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=3.0, show_default=True, help="How long to look.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Write the last frame here (.png, .jpg).")
def probe(source: str, seconds: float, picture: Path | None) -> None:
    """Show what SOURCE really delivers: size, rate, regularity, and a picture.

    SOURCE is whatever `run` takes: 0, '/dev/video0?size=1280x720&format=MJPG', rtsp://..., csi://0 (experimental), a video, a
    folder.
    """
    import cv2

    from lrdan_edge.cli.show_camera import show_probe
    from lrdan_edge.errors import SourceError
    from lrdan_edge.runtime.sources import open_source
    from lrdan_edge.runtime.sources.probe import probe as look

    with open_source(source) as opened:
        found = look(opened, seconds)
        show_probe(opened.uri, found)
    if picture is not None and found.picture is not None:
        try:
            written = cv2.imwrite(str(picture), found.picture)
        except cv2.error:  # a suffix that stands for no format
            written = False
        if not written:
            raise SourceError(f"{picture} cannot be written: give a .png or .jpg in a folder that exists")
        click.echo(f"picture: {picture}")


@camera.command()
@click.argument("source")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--count", type=click.IntRange(min=1), default=100, show_default=True, help="How many frames at most.")
@click.option(
    "--every",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Least time between two. [default: every frame]",
)
def record(source: str, folder: Path, count: int, every: float) -> None:
    """Write frames of SOURCE into FOLDER as PNG: images to train on, or to fit a threshold on.

    More can be added to the same folder later. Ctrl-C ends it.
    """
    from lrdan_edge.cli.show_camera import record_progress
    from lrdan_edge.runtime.sources import open_source
    from lrdan_edge.runtime.sources.record import record as write

    with open_source(source, realtime=every > 0) as opened, record_progress(folder, count) as report:
        try:
            write(opened, folder, count, every, report)
        except KeyboardInterrupt:
            opened.close()

"""Where frames come from: one grammar of addresses for files, cameras and streams."""

import glob
import os
from pathlib import Path
from typing import Any, NamedTuple

from lrdan_edge.data.images import SUFFIXES
from lrdan_edge.errors import SourceError
from lrdan_edge.runtime.sources import addresses, connect
from lrdan_edge.runtime.sources.base import CapturedFrame, Source
from lrdan_edge.runtime.sources.files import ImageSource, folder_images, glob_images
from lrdan_edge.runtime.sources.live import LiveSource
from lrdan_edge.runtime.sources.redact import scrubbed
from lrdan_edge.runtime.sources.signal_monitor import Limits
from lrdan_edge.runtime.sources.standard_input import StandardInput
from lrdan_edge.runtime.sources.video import VideoSource

__all__ = ["CapturedFrame", "Limits", "Source", "open_source"]


def open_source(
    uri: str | os.PathLike[str],
    *,
    realtime: bool = False,
    rate: float | None = None,
    loop: bool = False,
    open_timeout_s: float = 10,
    read_timeout_s: float = 10,
    limits: Limits | None = None,
    wait: bool = False,
    bit_depth: int = 16,
) -> Source:
    """Open whatever `uri` stands for.

    Args:
        uri: A folder of images; a glob of images (``parts/**/*.png``); an image or video file (``file://`` too); ``-`` for images
            on standard input; a camera (``0``, ``/dev/video0``, ``csi://0``, ``genicam://SERIAL``, ``gst:PIPELINE``; see
            `addresses.camera_job`); or ``rtsp://``, ``rtsps://``, ``http://``, ``https://``.
        realtime: Deliver a video file at its own frame rate; images and live sources have none to keep.
        rate: Deliver files, images or video, at so many frames per second; live sources come as they come.
        loop: Start files again at the end, until closed.
        open_timeout_s: How long connecting to a camera or stream may take.
        read_timeout_s: After how long without a frame a camera's or stream's signal counts as lost.
        limits: When a camera's or stream's pictures count as lost though they arrive: frozen, or black.
        wait: Whether a camera or stream that cannot be reached is waited for: it is a fault until it can.
        bit_depth: How many bits of 16-bit image files are used: the bundle's (`Inspector.bit_depth`).

    Returns:
        The source; close it, or use it in a ``with`` statement.

    Raises:
        SourceError: The address stands for nothing that exists, or it cannot be opened.
    """
    uri = os.fspath(uri)
    if uri == "-":
        return StandardInput(bit_depth=bit_depth)
    if found := addresses.camera_job(uri, read_timeout_s):
        return LiveSource(*found, open_timeout_s=open_timeout_s, limits=limits, wait=wait)
    scheme = addresses.scheme_of(uri)
    if scheme in addresses.STREAMS:
        return _open_stream(uri, _Playing(realtime, rate, loop), open_timeout_s, read_timeout_s, limits, wait=wait)
    if scheme == "file":
        uri = addresses.path_of_file_uri(uri)
    elif scheme is not None:
        raise addresses.unknown(uri)
    return _open_path(uri, _Playing(realtime, rate, loop), bit_depth)


class _Playing(NamedTuple):
    """How files are played."""

    realtime: bool
    rate: float | None
    loop: bool


def _open_stream(url: str, playing: _Playing, open_s: float, read_s: float, limits: Limits | None, *, wait: bool) -> Source:
    shown = scrubbed(url)
    over_http = url.lower().startswith("http")
    # For MJPEG over HTTP, which announces no rate, FFmpeg makes one up (25).
    fps = 0 if over_http else None
    job = connect.stream_job(url, open_s, read_s)
    stream = LiveSource(shown, job, open_timeout_s=open_s, fps=fps, limits=limits, wait=wait)
    if over_http and stream.frames:  # a finished video on a web server: it has an end, and is no loss when it ends
        stream.close()
        return VideoSource(shown, url, **playing._asdict(), open_timeout_s=open_s, read_timeout_s=read_s)
    return stream


def _open_path(uri: str, playing: _Playing, bit_depth: int) -> Source:
    path = Path(uri)
    images: dict[str, Any] = {"loop": playing.loop, "rate": playing.rate, "bit_depth": bit_depth}
    try:
        if uri and path.is_dir():
            return ImageSource(uri, folder_images(path), folder=path, **images)
        if path.is_file():
            if path.suffix.lower() in SUFFIXES:
                return ImageSource(uri, [path], **images)
            return VideoSource(uri, f"file:{path.absolute()}", path=path, **playing._asdict())
        if uri and path.exists():
            raise SourceError(f"{uri} is neither a folder, a file nor a camera: give {addresses.ACCEPTED}")
    except OSError as error:
        raise SourceError(f"{uri} cannot be read ({error.strerror}): check the path and its permissions") from error
    if glob.has_magic(uri):
        return ImageSource(uri, glob_images(uri), **images)
    raise addresses.unknown(uri)

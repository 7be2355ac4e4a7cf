"""Sources of frames: files, cameras and streams, each opened by its address."""

import glob
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

from lrdan_edge.data.listing import SUFFIXES
from lrdan_edge.errors import SourceAddressError, SourceRefusedError
from lrdan_edge.runtime.sources import addresses, connect
from lrdan_edge.runtime.sources.base import CapturedFrame, Source
from lrdan_edge.runtime.sources.files import ImageSource, folder_images, glob_images
from lrdan_edge.runtime.sources.hot_folder import open_hot_folder
from lrdan_edge.runtime.sources.live import LiveSource
from lrdan_edge.runtime.sources.redact import redact
from lrdan_edge.runtime.sources.signal_monitor import Limits
from lrdan_edge.runtime.sources.standard_input import StandardInput
from lrdan_edge.runtime.sources.tls import PLAIN, Trust
from lrdan_edge.runtime.sources.video import VideoSource

__all__ = ["CapturedFrame", "Limits", "Source", "open_source"]

_log = logging.getLogger(__name__)


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
    ca_file: str | os.PathLike[str] | None = None,
    insecure: bool = False,
) -> Source:
    """Open the source at an address.

    Args:
        uri: A folder or glob (``parts/**/*.png``) of images; an image or video file (``file://`` too); ``-`` for images on standard
            input; a watched folder (see `open_hot_folder`); a camera (``0``, ``csi://0``, …; see `addresses.camera_job`); or
            ``rtsp://``, ``rtsps://``, ``http://``, ``https://``, in which ``{NAME}`` stands for an environment variable.
        realtime: Deliver a video file at its frame rate. No effect on images and live sources.
        rate: Deliver images or a video file at this many frames per second. No effect on live sources.
        loop: Restart files at the end, until closed.
        open_timeout_s: Longest time for connecting to a camera or stream, in seconds.
        read_timeout_s: Longest time between frames of a camera or stream, in seconds, after which the signal counts as lost; for
            a watched folder, `HotFolder`'s ``damaged_s``.
        limits: When frozen or black images of a camera or stream count as a lost signal.
        wait: Wait for a camera or stream that cannot be reached yet (it delivers one fault first), or a folder that does not exist.
        bit_depth: Bits used of 16-bit image files; see `Inspector.bit_depth`.
        ca_file: See `Trust`; for ``https://`` and ``rtsps://``.
        insecure: See `Trust`: anyone on the network can then send other images.

    Returns:
        The source; close it, or use it in a ``with`` statement.

    Raises:
        SourceAddressError: The address is mistyped, or nothing exists there.
        SourceRefusedError: The source exists and refuses: no permission, nothing listens on its port, in use by another program.
        SourceCertificateError: The server has no valid certificate for its name.
        SourceTimeoutError: It does not answer in time.
        SourceFormatError: Its data cannot be decoded, or has another format than requested.
        SourceError: The software for such sources is not installed.
    """
    uri, playing = os.fspath(uri), _Playing(realtime, rate, loop)
    if uri == "-":
        return StandardInput(bit_depth=bit_depth)
    if uri.startswith("watch:"):
        return open_hot_folder(uri, damaged_s=read_timeout_s, wait=wait, bit_depth=bit_depth)
    if found := addresses.camera_job(uri, read_timeout_s):
        return LiveSource(*found, open_timeout_s=open_timeout_s, limits=limits, wait=wait)
    scheme = addresses.scheme_of(uri)
    if scheme in addresses.STREAMS:
        trust = Trust(None if ca_file is None else os.fspath(Path(ca_file).absolute()), insecure)
        return _open_stream(addresses.filled(uri), playing, trust, (open_timeout_s, read_timeout_s), limits, wait=wait)
    if scheme == "file":
        uri = addresses.path_of_file_uri(uri)
    elif scheme is not None:
        raise addresses.unknown(uri)
    return _open_path(uri, playing, bit_depth)


class _Playing(NamedTuple):
    """How files are played."""

    realtime: bool
    rate: float | None
    loop: bool


def _open_stream(
    url: str, playing: _Playing, trust: Trust, timeouts_s: tuple[float, float], limits: Limits | None, *, wait: bool
) -> Source:
    shown, scheme = redact(url), addresses.scheme_of(url)
    unverified = trust.insecure and scheme in PLAIN
    if unverified:
        _log.warning("%s: its certificate is not checked: anyone on the network can send other images", shown)
    elif scheme in PLAIN:
        trust.context()  # a file that cannot be read is the user's mistake, not the camera's
    over_http = scheme in {"http", "https"}
    # MJPEG over HTTP announces no rate, and FFmpeg reports 25.
    fps = 0 if over_http else None
    stream = LiveSource(
        shown, connect.stream_job(url, *timeouts_s, trust), open_timeout_s=timeouts_s[0], fps=fps, limits=limits, wait=wait
    )
    stream.unverified = unverified
    if over_http and stream.frames:  # a recorded video on a web server: its end is not a lost signal
        stream.close()
        return VideoSource(
            shown, url, **playing._asdict(), open_timeout_s=timeouts_s[0], read_timeout_s=timeouts_s[1], trust=trust
        )
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
            raise SourceAddressError(f"{uri} is not a folder, a file or a camera", addresses.GIVE)
    except OSError as error:
        raise SourceRefusedError(f"{uri} cannot be read ({error.strerror})", "check the path and its permissions") from error
    if glob.has_magic(uri):
        return ImageSource(uri, glob_images(uri), **images)
    raise addresses.unknown(uri)

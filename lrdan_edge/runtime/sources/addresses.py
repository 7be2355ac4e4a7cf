"""Addresses of sources: which kind of source each one names."""

import difflib
import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from lrdan_edge.errors import SourceAddressError, SourceError, SourceRefusedError
from lrdan_edge.runtime.sources import cameras, genicam
from lrdan_edge.runtime.sources.capture_process import CaptureJob
from lrdan_edge.runtime.sources.redact import redact

STREAMS = frozenset({"rtsp", "rtsps", "http", "https"})
GIVE = (
    "give a folder of images, a glob ('parts/*.png'), an image or video file, watch:DIR?existing=skip for images "
    "that will be written into a folder, - for images on standard input, a camera (0 or "
    "/dev/video0, csi://0, genicam://SERIAL, gst:PIPELINE), or rtsp://, rtsps://, http:// or https:// with an address"
)

_CAMERA = re.compile(r"(?:v4l2://)?/dev/video(\d+)|(\d+)")


def scheme_of(uri: str) -> str | None:
    """The address's scheme in lower case, or None for a path."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    return match[1].lower() if match else None


def filled(url: str) -> str:
    """A stream's address with ``{NAME}`` replaced by the environment variable of that name, percent-encoded.

    Credentials in an address are visible in the list of processes; those in the environment are not.

    Raises:
        SourceAddressError: A variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise SourceAddressError(f"{redact(url)}: the environment variable {match[1]} is not set", "set it")
        return quote(os.environ[match[1]], safe="")

    return re.sub(r"\{([A-Za-z_][A-Za-z0-9_]*)\}", value, url)


def camera_path(uri: str) -> str | None:
    """The device path of a Video4Linux camera, or None for other addresses. A link (/dev/v4l/by-id/…) is kept and need not exist."""
    path = uri.removeprefix("v4l2://")
    if match := _CAMERA.fullmatch(path):
        return f"/dev/video{match[1] or match[2]}"
    linked = path.startswith("/dev/") and Path(path).is_symlink() and _CAMERA.fullmatch(str(Path(path).resolve()))
    return path if linked or path.startswith("/dev/v4l/") else None


def camera_job(uri: str, read_timeout_s: float) -> tuple[str, CaptureJob] | None:
    """The name and the capture job of a camera of this machine; None if `uri` names no such camera.

    Args:
        uri: ``0``, ``/dev/video0``, ``v4l2:///dev/video0``, ``csi://0`` or ``genicam://SERIAL``, optionally with settings after a
            ``?`` (see `lrdan_edge.runtime.sources.cameras.settings_of`), or ``gst:PIPELINE``.
        read_timeout_s: See `CaptureJob`.

    Raises:
        SourceAddressError: A setting is not valid.
        SourceError: The software for such cameras is not installed.
    """
    plain, _, query = uri.partition("?")
    if uri.startswith("gst:"):
        text = uri.removeprefix("gst:").strip()
        cameras.pipeline(text)
        return redact(uri), _job("pipeline", read_timeout_s, text)
    if path := camera_path(plain):
        cameras.settings_of(query, plain)
        return path, _job("usb", read_timeout_s, path, query)
    if match := re.fullmatch(r"csi://(\d*)", plain):
        text = cameras.csi_pipeline(int(match[1] or 0), query)
        cameras.pipeline(text)
        return f"csi://{match[1] or 0}", _job("pipeline", read_timeout_s, text)
    if match := re.fullmatch(r"genicam://([^/]+)", plain):
        genicam.genicam(match[1], query)
        return redact(plain), CaptureJob(genicam.__name__, "genicam", (match[1], query, read_timeout_s), read_timeout_s)
    return None


def _job(function: str, read_timeout_s: float, *arguments: str | int) -> CaptureJob:
    return CaptureJob(cameras.__name__, function, arguments, read_timeout_s)


def path_of_file_uri(uri: str) -> str:
    """The path in ``file:///path`` or ``file://localhost/path``.

    Raises:
        SourceAddressError: The address names another machine, or no path.
    """
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise SourceAddressError(f"{redact(uri)} names no file on this machine", "write file:///path, or only the path")
    return unquote(parts.path)


def unknown(uri: str) -> SourceError:
    """The error for an address where nothing exists; it suggests the most similar name that exists."""
    scheme = scheme_of(uri)
    if scheme is not None:
        near = _suggest(scheme, [*STREAMS, "file", "v4l2", "csi", "genicam"])
        return SourceAddressError(f"{redact(uri)} is not a known source{near}", GIVE)
    path = Path(uri)
    folder = path.parent
    try:
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else None
    except OSError as error:
        return SourceRefusedError(
            f"the folder {redact(str(folder))} cannot be read ({error.strerror})", "check its permissions"
        )
    if names is None:
        return SourceAddressError(f"{redact(uri)} does not exist, nor does the folder {redact(str(folder))}", GIVE)
    if not uri:
        return SourceAddressError("the source's address is empty", GIVE)
    return SourceAddressError(f"{redact(uri)} does not exist{_suggest(path.name, names)}", GIVE)


def _suggest(word: str, words: list[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""

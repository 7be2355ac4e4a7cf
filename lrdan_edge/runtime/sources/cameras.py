"""Cameras of this machine: openers for USB (Video4Linux), CSI (Jetson) and GStreamer pipelines, called in the capture process."""

import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import cv2

from lrdan_edge.errors import SourceAddressError, SourceError, SourceFormatError, SourceRefusedError
from lrdan_edge.runtime.sources.native import VideoCapture
from lrdan_edge.runtime.sources.redact import redact

_APPSINK = "appsink drop=true max-buffers=2 sync=false"
_MANUAL, _AUTOMATIC = 1, 3  # V4L2_EXPOSURE_MANUAL, V4L2_EXPOSURE_APERTURE_PRIORITY
SYSTEM_VENV = "python3 -m venv --system-site-packages"
"""The command for a virtual environment that sees the packages of the system's Python."""


@dataclass(frozen=True)
class Settings:
    """The requested camera settings, written after the ``?`` of its address; None keeps the camera's value.

    Attributes:
        size: (columns, rows).
        rate: Frames per second.
        format: Four letters: ``MJPG``, ``YUYV``, ``GREY``.
        exposure: ``auto``, or a number in the camera's unit (V4L2: 100 µs; GenICam: µs).
    """

    size: tuple[int, int] | None = None
    rate: float | None = None
    format: str | None = None
    exposure: str | None = None


def settings_of(query: str, address: str) -> Settings:
    """Read ``size=1280x720&rate=30&format=MJPG&exposure=200``.

    Args:
        query: The text after the ``?``.
        address: The whole address, for messages.

    Raises:
        SourceAddressError: A setting is unknown, or its value is not valid.
    """
    found: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        pattern, read, example = _SETTINGS.get(name, (None, None, None))
        if pattern is None or read is None:
            raise SourceAddressError(f"{address}: there is no setting {name!r}", "use {known}", known=", ".join(_SETTINGS))
        if not re.fullmatch(pattern, value):
            raise SourceAddressError(f"{address}: {name} cannot be {value!r}", "write {example}", example=f"{name}={example}")
        found[name] = read(value)
    return Settings(**found)


def _size(text: str) -> tuple[int, int]:
    columns, rows = text.split("x")
    return int(columns), int(rows)


_SETTINGS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "size": (r"[1-9]\d{0,4}x[1-9]\d{0,4}", _size, "1280x720"),
    "rate": (r"(?!0+(\.0+)?$)\d{1,4}(\.\d+)?", float, "30"),
    "format": (r"[A-Za-z0-9]{4}", str.upper, "MJPG"),
    "exposure": (r"auto|[1-9]\d{0,7}", str, "200"),
}


def usb(path: str, query: str = "") -> Callable[[], VideoCapture]:
    """The opener for a Video4Linux camera; see `settings_of`.

    Args:
        path: ``/dev/video0``, or a link to it such as ``/dev/v4l/by-id/…``, resolved each time the camera is opened.
        query: The camera's settings, as `settings_of` takes them.

    Raises:
        SourceAddressError: A setting is not valid.
    """
    device = Path(path)
    settings = settings_of(query, str(device))

    def opener() -> VideoCapture:
        if not device.exists():
            found = ", ".join(sorted(str(path) for path in Path("/dev").glob("video[0-9]*"))) or "none"
            raise SourceAddressError(f"there is no camera {device} (found: {found})", "check its cable, or give another")
        if not os.access(device, os.R_OK | os.W_OK):
            group = "add your user to its group ('sudo usermod -aG video $USER')"
            raise SourceRefusedError(f"{device} cannot be opened without permission", group)
        if (number := re.fullmatch(r"/dev/video(\d+)", str(device.resolve()))) is None:
            raise SourceAddressError(f"{device} is not a Video4Linux camera", "give /dev/video0, or a link in /dev/v4l")
        try:
            capture = cv2.VideoCapture(int(number[1]), cv2.CAP_V4L2)
        except cv2.error as error:
            raise SourceRefusedError(f"{device} cannot be opened ({error.err})") from error
        if not capture.isOpened():
            capture.release()
            raise SourceRefusedError(
                f"{device} cannot be opened", "close other programs that use it, and check that it is a capture device"
            )
        try:
            apply(capture, settings, str(device))
        except SourceError:
            capture.release()
            raise
        return capture

    return opener


def apply(capture: Any, settings: Settings, name: str) -> None:
    """Apply settings to a Video4Linux capture, and check the size and format that it really delivers.

    Args:
        capture: A ``cv2.VideoCapture``.
        settings: The requested settings.
        name: The camera's name, for messages.

    Raises:
        SourceFormatError: The camera delivers another size or format, or does not accept the exposure.
    """
    if settings.format is not None:  # first: sizes and rates depend on it
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*settings.format))
    if settings.size is not None:
        for place, value in zip((cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT), settings.size, strict=True):
            capture.set(place, value)
    if settings.rate is not None:
        capture.set(cv2.CAP_PROP_FPS, settings.rate)
    if settings.exposure is not None:
        capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, _AUTOMATIC if settings.exposure == "auto" else _MANUAL)
        if settings.exposure != "auto" and not capture.set(cv2.CAP_PROP_EXPOSURE, float(settings.exposure)):
            raise SourceFormatError(
                f"{name} does not accept exposure={settings.exposure}", "leave it out, or run 'v4l2-ctl -l' to see its range"
            )
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    got = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
    if settings.size not in (None, got):
        raise SourceFormatError(
            f"{name} gives {got[0]}x{got[1]}, not size={settings.size[0]}x{settings.size[1]}",
            "run 'v4l2-ctl --list-formats-ext' to see its sizes; some need format=MJPG",
        )
    letters = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=False).decode("ascii", "replace")
    if settings.format not in (None, letters):
        raise SourceFormatError(
            f"{name} gives format {letters!r}, not {settings.format!r}", "run 'v4l2-ctl --list-formats' to see its formats"
        )


def csi_pipeline(sensor: int, query: str = "") -> str:
    """The GStreamer pipeline for a Jetson's CSI camera.

    Raises:
        SourceAddressError: A setting is not valid, or CSI cameras do not support it.
    """
    address = f"csi://{sensor}"
    settings = settings_of(query, address)
    if settings.format is not None:
        raise SourceAddressError(f"{address}: CSI cameras have no format", "leave it out")
    source = f"nvarguscamerasrc sensor-id={sensor}"
    if settings.exposure not in (None, "auto"):
        nanoseconds = int(settings.exposure) * 100_000  # the setting is in 100 µs, as for USB cameras
        source += f' exposuretimerange="{nanoseconds} {nanoseconds}"'
    caps = "video/x-raw(memory:NVMM)"
    if settings.size is not None:
        caps += f",width={settings.size[0]},height={settings.size[1]}"
    if settings.rate is not None:
        rate = Fraction(settings.rate).limit_denominator(1001)
        caps += f",framerate={rate.numerator}/{rate.denominator}"
    return f"{source} ! {caps} ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! {_APPSINK}"


def pipeline(text: str) -> Callable[[], VideoCapture]:
    """The opener for a GStreamer pipeline. Adds conversion to BGR and an ``appsink`` if the pipeline has no ``appsink``.

    Raises:
        SourceError: This OpenCV has no GStreamer.
    """
    if not has_gstreamer():
        raise SourceError(
            f"{shlex.quote(redact(text)[:60])} needs GStreamer, and this OpenCV has no GStreamer",
            "on a Jetson, use the system's OpenCV ('sudo apt-get install python3-opencv' and '{venv}', without "
            "opencv-python-headless); elsewhere, build OpenCV with GStreamer",
            venv=SYSTEM_VENV,
        )
    whole = text if re.search(r"\bappsink\b", text) else f"{text} ! videoconvert ! video/x-raw,format=BGR ! {_APPSINK}"

    def opener() -> VideoCapture:
        capture = cv2.VideoCapture(whole, cv2.CAP_GSTREAMER)
        if capture.isOpened():
            return capture
        capture.release()
        command = f"gst-launch-1.0 {shlex.quote(redact(text))}"
        raise SourceRefusedError("GStreamer cannot start this pipeline", "try it with {command}", command=command)

    return opener


def has_gstreamer() -> bool:
    """Whether OpenCV was built with GStreamer."""
    return re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None

"""Cameras on this machine: USB (Video4Linux), CSI (Jetson) and GStreamer pipelines; each an opener for the capture process."""

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

from lrdan_edge.errors import SourceError
from lrdan_edge.runtime.sources.native import Capture
from lrdan_edge.runtime.sources.redact import scrubbed

_APPSINK = "appsink drop=true max-buffers=2 sync=false"
_MANUAL, _AUTOMATIC = 1, 3  # V4L2_EXPOSURE_MANUAL, V4L2_EXPOSURE_APERTURE_PRIORITY
_NO_GSTREAMER = (
    "this OpenCV has no GStreamer. On a Jetson take the system's: 'sudo apt-get install python3-opencv', make the environment with "
    "'python3 -m venv --system-site-packages', and remove opencv-python-headless from it; elsewhere build OpenCV with GStreamer"
)


@dataclass(frozen=True)
class Settings:
    """What is asked of a camera, behind the ``?`` of its address; None is the camera's own choice.

    Attributes:
        size: (columns, rows).
        rate: Frames per second.
        format: Four letters: ``MJPG``, ``YUYV``, ``GREY``.
        exposure: ``auto``, or a number in the camera's own unit (V4L2: 100 µs; GenICam: µs).
    """

    size: tuple[int, int] | None = None
    rate: float | None = None
    format: str | None = None
    exposure: str | None = None


def settings_of(query: str, address: str) -> Settings:
    """Read ``size=1280x720&rate=30&format=MJPG&exposure=200``.

    Args:
        query: What stands behind the ``?``.
        address: The whole address, for messages.

    Raises:
        SourceError: A setting is unknown, or its value is none.
    """
    found: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        pattern, read, example = _SETTINGS.get(name, (None, None, None))
        if pattern is None or read is None:
            raise SourceError(f"{address}: there is no setting {name!r}: use {', '.join(_SETTINGS)}")
        if not re.fullmatch(pattern, value):
            raise SourceError(f"{address}: {name} is {value!r}: write {name}={example}")
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


def usb(path: str, query: str = "") -> Callable[[], Capture]:
    """The opener for a Video4Linux camera; see `settings_of`.

    Args:
        path: ``/dev/video0``, or a link to it such as ``/dev/v4l/by-id/…``, followed anew whenever the camera is opened.
        query: Its settings.

    Raises:
        SourceError: A setting is none.
    """
    device = Path(path)
    settings = settings_of(query, str(device))

    def opener() -> Capture:
        if not device.exists():
            found = ", ".join(sorted(str(path) for path in Path("/dev").glob("video[0-9]*"))) or "none"
            raise SourceError(f"there is no camera {device} (found: {found}): check its cable, or give another")
        if not os.access(device, os.R_OK | os.W_OK):
            raise SourceError(f"{device} may not be opened: add your user to its group ('sudo usermod -aG video $USER')")
        if (number := re.fullmatch(r"/dev/video(\d+)", str(device.resolve()))) is None:
            raise SourceError(f"{device} is no Video4Linux camera: give /dev/video0, or a link in /dev/v4l")
        try:
            capture = cv2.VideoCapture(int(number[1]), cv2.CAP_V4L2)
        except cv2.error as error:
            raise SourceError(f"{device} cannot be opened ({error.err})") from error
        if not capture.isOpened():
            capture.release()
            raise SourceError(f"{device} cannot be opened: it is in use by another program, or is no capture device")
        try:
            apply(capture, settings, str(device))
        except SourceError:
            capture.release()
            raise
        return capture

    return opener


def apply(capture: Any, settings: Settings, name: str) -> None:
    """Set a Video4Linux capture up, and read back what it made of it.

    Args:
        capture: A ``cv2.VideoCapture``.
        settings: What is asked.
        name: The camera's, for messages.

    Raises:
        SourceError: It delivers another size or format.
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
            raise SourceError(f"{name} does not take exposure={settings.exposure}: leave it out, or see 'v4l2-ctl -l'")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    got = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
    if settings.size not in (None, got):
        raise SourceError(
            f"{name} gives {got[0]}x{got[1]}, not size={settings.size[0]}x{settings.size[1]}: 'v4l2-ctl --list-formats-ext' "
            "lists what it can; some sizes need format=MJPG"
        )
    letters = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=False).decode("ascii", "replace")
    if settings.format not in (None, letters):
        raise SourceError(
            f"{name} gives format {letters!r}, not {settings.format!r}: 'v4l2-ctl --list-formats' lists what it can"
        )


def csi_pipeline(sensor: int, query: str = "") -> str:
    """The GStreamer pipeline for a Jetson's CSI camera.

    Raises:
        SourceError: A setting is none, or CSI cameras have no such setting.
    """
    address = f"csi://{sensor}"
    settings = settings_of(query, address)
    if settings.format is not None:
        raise SourceError(f"{address}: CSI cameras have no format: leave it out")
    source = f"nvarguscamerasrc sensor-id={sensor}"
    if settings.exposure not in (None, "auto"):
        nanoseconds = int(settings.exposure) * 100_000  # as of USB cameras, in 100 µs
        source += f' exposuretimerange="{nanoseconds} {nanoseconds}"'
    caps = "video/x-raw(memory:NVMM)"
    if settings.size is not None:
        caps += f",width={settings.size[0]},height={settings.size[1]}"
    if settings.rate is not None:
        rate = Fraction(settings.rate).limit_denominator(1001)
        caps += f",framerate={rate.numerator}/{rate.denominator}"
    return f"{source} ! {caps} ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! {_APPSINK}"


def pipeline(text: str) -> Callable[[], Capture]:
    """The opener for a GStreamer pipeline; where it names no ``appsink``, pictures are converted to BGR and handed to one.

    Raises:
        SourceError: This OpenCV has no GStreamer.
    """
    if not has_gstreamer():
        raise SourceError(f"{shlex.quote(scrubbed(text)[:60])} needs GStreamer, and {_NO_GSTREAMER}")
    whole = text if re.search(r"\bappsink\b", text) else f"{text} ! videoconvert ! video/x-raw,format=BGR ! {_APPSINK}"

    def opener() -> Capture:
        capture = cv2.VideoCapture(whole, cv2.CAP_GSTREAMER)
        if capture.isOpened():
            return capture
        capture.release()
        raise SourceError(f"GStreamer cannot start this pipeline: try it with gst-launch-1.0 {shlex.quote(scrubbed(text))}")

    return opener


def has_gstreamer() -> bool:
    """Whether OpenCV was built with it."""
    return re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None

"""Cameras on this machine: USB (Video4Linux), CSI (Jetson), GStreamer pipelines and GenICam; each an opener for the capture process."""

import importlib
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import cv2
import numpy as np

from lrdan_edge.errors import SourceError
from lrdan_edge.runtime.sources.native import Capture

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
    "rate": (r"[1-9]\d{0,3}(\.\d+)?", float, "30"),
    "format": (r"[A-Za-z0-9]{4}", str.upper, "MJPG"),
    "exposure": (r"auto|[1-9]\d{0,7}", str, "200"),
}


def usb(index: int, query: str = "") -> Callable[[], Capture]:
    """The opener for the Video4Linux camera ``/dev/video<index>``; see `settings_of`.

    Raises:
        SourceError: A setting is none.
    """
    device = Path(f"/dev/video{index}")
    settings = settings_of(query, str(device))

    def opener() -> Capture:
        if not device.exists():
            found = ", ".join(sorted(str(path) for path in Path("/dev").glob("video[0-9]*"))) or "none"
            raise SourceError(f"there is no camera {device} (found: {found}): check its cable, or give another")
        if not os.access(device, os.R_OK | os.W_OK):
            raise SourceError(f"{device} may not be opened: add your user to its group ('sudo usermod -aG video $USER')")
        try:
            capture = cv2.VideoCapture(index, cv2.CAP_V4L2)
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
        caps += f",framerate={round(settings.rate)}/1"
    return f"{source} ! {caps} ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! {_APPSINK}"


def pipeline(text: str) -> Callable[[], Capture]:
    """The opener for a GStreamer pipeline; where it names no ``appsink``, pictures are converted to BGR and handed to one.

    Raises:
        SourceError: This OpenCV has no GStreamer.
    """
    if not has_gstreamer():
        raise SourceError(f"{shlex.quote(text[:60])} needs GStreamer, and {_NO_GSTREAMER}")
    whole = text if re.search(r"\bappsink\b", text) else f"{text} ! videoconvert ! video/x-raw,format=BGR ! {_APPSINK}"

    def opener() -> Capture:
        capture = cv2.VideoCapture(whole, cv2.CAP_GSTREAMER)
        if capture.isOpened():
            return capture
        capture.release()
        raise SourceError(f"GStreamer cannot start this pipeline: try it with gst-launch-1.0 {shlex.quote(text)}")

    return opener


def has_gstreamer() -> bool:
    """Whether OpenCV was built with it."""
    return re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None


def genicam(name: str, query: str = "") -> Callable[[], Capture]:
    """The opener for a GenICam camera (GigE Vision, USB3 Vision), through Harvesters and the vendor's producer.

    Args:
        name: The camera's serial number or user-defined name, or a number from 0 in the order they are found.
        query: ``cti=/path/of/the/producer.cti``, else ``GENICAM_GENTL64_PATH`` is searched; and `Settings`' ``exposure`` and
            ``rate``.

    Raises:
        SourceError: Harvesters is not installed, there is no producer, or a setting is none.
    """
    address = f"genicam://{name}"
    words = dict(parse_qsl(query))
    producers = [words.pop("cti")] if "cti" in words else _producers()
    settings = settings_of("&".join(f"{key}={value}" for key, value in words.items()), address)
    if not producers:
        raise SourceError(f"{address} needs the vendor's GenTL producer: install it, and add ?cti=/path/of/it.cti")
    try:
        core: Any = importlib.import_module("harvesters.core")
    except ImportError as error:
        raise SourceError(f"{address} needs Harvesters: pip install harvesters") from error
    return lambda: _GenICam(core, producers, name, settings)


def _producers() -> list[str]:
    folders = [Path(folder) for folder in os.environ.get("GENICAM_GENTL64_PATH", "").split(os.pathsep) if folder]
    return [str(path) for folder in folders for path in sorted(folder.glob("*.cti"))]


class _GenICam:
    """A GenICam camera as a capture. Grey and Bayer pictures of 8 bits; others are refused."""

    def __init__(self, core: Any, producers: list[str], name: str, settings: Settings) -> None:
        self._harvester = core.Harvester()
        self._camera: Any = None
        try:
            for producer in producers:
                self._harvester.add_file(producer)
            self._harvester.update()
            self._camera = self._harvester.create(self._place(name))
            nodes = self._camera.remote_device.node_map
            if settings.exposure not in (None, "auto"):
                nodes.ExposureTime.value = float(settings.exposure)
            if settings.rate is not None:
                nodes.AcquisitionFrameRate.value = settings.rate
            self._rate = settings.rate or 0.0
            self._camera.start()
        except SourceError:
            self.release()
            raise
        except Exception as error:  # Harvesters hands every producer's own errors on
            self.release()
            raise SourceError(
                f"genicam://{name} cannot be opened ({str(error)[:200]}): is it in use, or its cable out?"
            ) from error

    def _place(self, name: str) -> int:
        found = [(info.serial_number, getattr(info, "user_defined_name", "")) for info in self._harvester.device_info_list]
        for place, names in enumerate(found):
            if name in names:
                return place
        if name.isdigit() and int(name) < len(found):
            return int(name)
        raise SourceError(f"there is no GenICam camera {name!r} (found: {', '.join(one for one, _ in found) or 'none'})")

    def read(self) -> tuple[bool, object]:
        """The next picture."""
        try:
            with self._camera.fetch(timeout=1.0) as buffer:
                part = buffer.payload.components[0]
                return True, _picture(part.data, part.height, part.width, part.data_format)
        except SourceError:
            raise
        except Exception:  # a time-out, or a picture that arrived in part
            return False, None

    def get(self, propId: int, /) -> float:  # noqa: N803 - OpenCV's name
        """The rate where it was asked for; nothing else is known."""
        return self._rate if propId == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        """Close it."""
        if self._camera is not None:
            self._camera.destroy()
        self._harvester.reset()


_BAYER = {
    "BayerRG8": cv2.COLOR_BayerBG2BGR,  # OpenCV names the pattern by its second row
    "BayerBG8": cv2.COLOR_BayerRG2BGR,
    "BayerGR8": cv2.COLOR_BayerGB2BGR,
    "BayerGB8": cv2.COLOR_BayerGR2BGR,
}


def _picture(data: Any, height: int, width: int, pixel_format: str) -> object:
    """A copy of a buffer as grey [H, W] or BGR [H, W, 3].

    Raises:
        SourceError: It has another pixel format.
    """
    if pixel_format == "Mono8":
        return np.array(data, np.uint8).reshape(height, width)
    if pixel_format in _BAYER:
        return cv2.cvtColor(np.array(data, np.uint8).reshape(height, width), _BAYER[pixel_format])
    if pixel_format in ("BGR8", "RGB8"):
        image = np.array(data, np.uint8).reshape(height, width, 3)
        return image if pixel_format == "BGR8" else np.ascontiguousarray(image[..., ::-1])
    raise SourceError(f"the camera's pixel format {pixel_format} is not supported: set it to Mono8, BayerRG8 or BGR8")

"""GenICam cameras (GigE Vision, USB3 Vision): through Harvesters and the vendor's producer, or through Aravis, which needs none."""

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import cv2
import numpy as np

from lrdan_edge.errors import SourceError
from lrdan_edge.runtime.sources.cameras import Settings, settings_of
from lrdan_edge.runtime.sources.native import Capture

_BUFFERS = 8
_ARAVIS = "'sudo apt-get install gir1.2-aravis-0.8 python3-gi', and make the environment with 'python3 -m venv --system-site-packages'"


def genicam(name: str, query: str = "", wait_s: float = 10) -> Callable[[], Capture]:
    """The opener for a GenICam camera: through Harvesters where a producer is named or found, else through Aravis.

    Args:
        name: The camera's serial number or user-defined name (with Aravis: its whole identifier too), or a number from 0 in the
            order they are found.
        query: ``cti=/path/of/the/producer.cti``, else ``GENICAM_GENTL64_PATH`` is searched; and `Settings`' ``exposure`` and
            ``rate``.
        wait_s: How long a read waits for a picture: a triggered camera gives one per part.

    Raises:
        SourceError: Neither Harvesters with a producer nor Aravis is installed, or a setting is none.
    """
    address = f"genicam://{name}"
    words = dict(parse_qsl(query))
    producers = [words.pop("cti")] if "cti" in words else _producers()
    settings = settings_of("&".join(f"{key}={value}" for key, value in words.items()), address)
    if settings.size is not None or settings.format is not None:
        raise SourceError(
            f"{address}: set size and format in the camera itself, with the vendor's program; leave them out here"
        )
    if producers:
        try:
            core: Any = importlib.import_module("harvesters.core")
        except ImportError as error:
            raise SourceError(f"{address} needs Harvesters for its producer: pip install harvesters") from error
        return lambda: _Harvested(core, producers, name, settings, wait_s)
    if importlib.util.find_spec("gi") is None:
        raise SourceError(
            f"{address} needs the vendor's GenTL producer (install it and Harvesters, and add ?cti=/path/of/it.cti) or Aravis "
            f"({_ARAVIS})"
        )
    return lambda: _Aravis(_find_aravis(address), name, settings, wait_s)


def _producers() -> list[str]:
    folders = [Path(folder) for folder in os.environ.get("GENICAM_GENTL64_PATH", "").split(os.pathsep) if folder]
    return [str(path) for folder in folders for path in sorted(folder.glob("*.cti"))]


def _find_aravis(address: str) -> Any:
    try:
        gi: Any = importlib.import_module("gi")
        gi.require_version("Aravis", "0.8")
        return importlib.import_module("gi.repository.Aravis")
    except (ImportError, ValueError) as error:
        raise SourceError(f"{address} needs Aravis ({error}): {_ARAVIS}") from error


def _place(name: str, found: Sequence[tuple[str, ...]]) -> int:
    """Which of the cameras that were found, each with its names, is called `name`.

    Raises:
        SourceError: None.
    """
    for place, names in enumerate(found):
        if name in names:
            return place
    if name.isdigit() and int(name) < len(found):
        return int(name)
    raise SourceError(f"there is no GenICam camera {name!r} (found: {', '.join(one[0] for one in found) or 'none'})")


class _Harvested:
    """A camera through Harvesters. Grey, Bayer and colour pictures of 8 bits; others are refused."""

    def __init__(self, core: Any, producers: list[str], name: str, settings: Settings, wait_s: float) -> None:
        self._wait_s = wait_s
        self._harvester = core.Harvester()
        self._camera: Any = None
        try:
            for producer in producers:
                self._harvester.add_file(producer)
            self._harvester.update()
            found = [(one.serial_number, getattr(one, "user_defined_name", "")) for one in self._harvester.device_info_list]
            self._camera = self._harvester.create(_place(name, found))
            nodes = self._camera.remote_device.node_map
            if settings.exposure == "auto":
                nodes.ExposureAuto.value = "Continuous"
            elif settings.exposure is not None:
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

    def read(self) -> tuple[bool, object]:
        """The next picture."""
        try:
            with self._camera.fetch(timeout=self._wait_s) as buffer:
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


class _Aravis:
    """A camera through Aravis. Grey, Bayer and colour pictures of 8 bits; others are refused."""

    def __init__(self, aravis: Any, name: str, settings: Settings, wait_s: float) -> None:
        self._aravis, self._wait_s = aravis, wait_s
        self._camera: Any = None
        self._stream: Any = None
        aravis.update_device_list()
        numbers = range(aravis.get_n_devices())
        found = [(aravis.get_device_serial_nbr(number), aravis.get_device_id(number)) for number in numbers]
        identifier = aravis.get_device_id(_place(name, found))
        try:
            self._open(identifier, settings)
        except Exception as error:  # GLib's, of whatever the camera or the network refuses
            self.release()
            raise SourceError(
                f"genicam://{name} cannot be opened ({str(error)[:200]}): is it in use, or its cable out?"
            ) from error

    def _open(self, identifier: str, settings: Settings) -> None:
        self._camera = self._aravis.Camera.new(identifier)
        if settings.exposure == "auto":
            self._camera.set_exposure_time_auto(self._aravis.Auto.CONTINUOUS)
        elif settings.exposure is not None:
            self._camera.set_exposure_time(float(settings.exposure))
        if settings.rate is not None:
            self._camera.set_frame_rate(settings.rate)
        self._format = str(self._camera.get_pixel_format_as_string())
        self._stream = self._camera.create_stream(None, None)
        if self._stream is None:
            raise SourceError("no stream")
        for _ in range(_BUFFERS):
            self._stream.push_buffer(self._aravis.Buffer.new_allocate(self._camera.get_payload()))
        self._camera.start_acquisition()

    def read(self) -> tuple[bool, object]:
        """The next picture."""
        buffer = self._stream.timeout_pop_buffer(int(1e6 * self._wait_s))
        if buffer is None:
            return False, None
        try:
            if buffer.get_status() != self._aravis.BufferStatus.SUCCESS:  # it arrived in part
                return False, None
            size = buffer.get_image_height(), buffer.get_image_width()
            return True, _picture(np.frombuffer(buffer.get_data(), np.uint8), *size, self._format)
        finally:
            self._stream.push_buffer(buffer)

    def get(self, propId: int, /) -> float:  # noqa: N803 - OpenCV's name
        """The rate; nothing else is known."""
        return float(self._camera.get_frame_rate()) if propId == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        """Close it: Aravis does with the last reference."""
        if self._stream is not None:
            with contextlib.suppress(Exception):  # the camera may have gone
                self._camera.stop_acquisition()
        self._stream = self._camera = None


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

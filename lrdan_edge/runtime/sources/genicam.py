"""GenICam cameras (GigE Vision, USB3 Vision) through Aravis, or (experimental) through Harvesters and the vendor's producer."""

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

from lrdan_edge.errors import SourceAddressError, SourceError, SourceFormatError, SourceRefusedError
from lrdan_edge.runtime.sources.cameras import SYSTEM_VENV, Settings, settings_of
from lrdan_edge.runtime.sources.native import VideoCapture
from lrdan_edge.runtime.sources.redact import redact

_BUFFERS = 8
_ARAVIS = f"'sudo apt-get install gir1.2-aravis-0.8 python3-gi', and make the environment with '{SYSTEM_VENV}'"


def genicam(name: str, query: str = "", wait_s: float = 10) -> Callable[[], VideoCapture]:
    """The opener for a GenICam camera: through Harvesters if a producer is named or found, else through Aravis.

    Args:
        name: The camera's serial number or user-defined name (with Aravis also its identifier), or a number from 0 in the order
            in which cameras are found.
        query: ``exposure`` and ``rate`` of `Settings`, and ``cti=/path/of/the/producer.cti``; without ``cti``, producers are
            searched in ``GENICAM_GENTL64_PATH``.
        wait_s: Longest time that a read waits for an image: a triggered camera gives one per part.

    Raises:
        SourceAddressError: A setting is not valid.
        SourceError: Neither Harvesters with a producer nor Aravis is installed.
    """
    address = redact(f"genicam://{name}")
    words = dict(parse_qsl(query))
    producers = [words.pop("cti")] if "cti" in words else _producers()
    settings = settings_of("&".join(f"{key}={value}" for key, value in words.items()), address)
    if settings.size is not None or settings.format is not None:
        fix = "set them in the camera itself with the vendor's program, and leave them out here"
        raise SourceAddressError(f"{address}: size and format cannot be set here", fix)
    if producers:
        try:
            core: Any = importlib.import_module("harvesters.core")
        except ImportError as error:
            raise SourceError(f"{address} needs Harvesters for its producer", "pip install harvesters") from error
        return lambda: _HarvestersCamera(core, producers, name, settings, wait_s)
    if importlib.util.find_spec("gi") is None:
        fix = "{aravis}; or (experimental) install Harvesters and the producer, and add ?cti=/path/of/it.cti"
        raise SourceError(f"{address} needs Aravis or the vendor's GenTL producer", fix, aravis=_ARAVIS)
    return lambda: _AravisCamera(_find_aravis(address), name, settings, wait_s)


def _producers() -> list[str]:
    folders = [Path(folder) for folder in os.environ.get("GENICAM_GENTL64_PATH", "").split(os.pathsep) if folder]
    return [str(path) for folder in folders for path in sorted(folder.glob("*.cti"))]


def _find_aravis(address: str) -> Any:
    try:
        gi: Any = importlib.import_module("gi")
        gi.require_version("Aravis", "0.8")
        return importlib.import_module("gi.repository.Aravis")
    except (ImportError, ValueError) as error:
        raise SourceError(f"{address} needs Aravis ({error})", "{aravis}", aravis=_ARAVIS) from error


def _position(name: str, found: Sequence[tuple[str, ...]]) -> int:
    """The position of camera `name` among the found cameras, each given by its names."""
    for place, names in enumerate(found):
        if name in names:
            return place
    if name.isdigit() and int(name) < len(found):
        return int(name)
    raise SourceAddressError(f"there is no GenICam camera {name!r} (found: {', '.join(one[0] for one in found) or 'none'})")


def _opening_error(name: str, error: Exception) -> SourceRefusedError:
    problem = f"genicam://{name} cannot be opened ({str(error)[:200]})"
    return SourceRefusedError(problem, "check its cable, and close other programs that use it")


class _HarvestersCamera:
    """A camera read by Harvesters: grey, Bayer and colour images of 8 bits."""

    def __init__(self, core: Any, producers: list[str], name: str, settings: Settings, wait_s: float) -> None:
        self._wait_s = wait_s
        self._harvester = core.Harvester()
        self._camera: Any = None
        try:
            for producer in producers:
                self._harvester.add_file(producer)
            self._harvester.update()
            found = [(one.serial_number, getattr(one, "user_defined_name", "")) for one in self._harvester.device_info_list]
            self._camera = self._harvester.create(_position(name, found))
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
        except Exception as error:  # each producer has its own error types
            self.release()
            raise _opening_error(name, error) from error

    def read(self) -> tuple[bool, object]:
        """Whether an image came, and the image."""
        try:
            with self._camera.fetch(timeout=self._wait_s) as buffer:
                part = buffer.payload.components[0]
                return True, _image(part.data, part.height, part.width, part.data_format)
        except SourceError:
            raise
        except Exception:  # a time-out, or an incomplete image
            return False, None

    def get(self, propId: int, /) -> float:  # noqa: N803 - OpenCV's name
        """The requested frame rate, 0 without one; no other property is known."""
        return self._rate if propId == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        """Close the camera."""
        if self._camera is not None:
            self._camera.destroy()
        self._harvester.reset()


class _AravisCamera:
    """A camera read by Aravis: grey, Bayer and colour images of 8 bits."""

    def __init__(self, aravis: Any, name: str, settings: Settings, wait_s: float) -> None:
        self._aravis, self._wait_s = aravis, wait_s
        self._camera: Any = None
        self._stream: Any = None
        aravis.update_device_list()
        numbers = range(aravis.get_n_devices())
        found = [(aravis.get_device_serial_nbr(number), aravis.get_device_id(number)) for number in numbers]
        identifier = aravis.get_device_id(_position(name, found))
        try:
            self._open(identifier, settings)
        except Exception as error:  # GLib's error, for every failure of the camera or the network
            self.release()
            raise _opening_error(name, error) from error

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
            raise SourceRefusedError("it provides no stream")
        for _ in range(_BUFFERS):
            self._stream.push_buffer(self._aravis.Buffer.new_allocate(self._camera.get_payload()))
        self._camera.start_acquisition()

    def read(self) -> tuple[bool, object]:
        """Whether an image came, and the image."""
        buffer = self._stream.timeout_pop_buffer(int(1e6 * self._wait_s))
        if buffer is None:
            return False, None
        try:
            if buffer.get_status() != self._aravis.BufferStatus.SUCCESS:  # incomplete
                return False, None
            size = buffer.get_image_height(), buffer.get_image_width()
            return True, _image(np.frombuffer(buffer.get_data(), np.uint8), *size, self._format)
        finally:
            self._stream.push_buffer(buffer)

    def get(self, propId: int, /) -> float:  # noqa: N803 - OpenCV's name
        """The frame rate; no other property is known."""
        return float(self._camera.get_frame_rate()) if propId == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        """Close the camera: Aravis closes it with the last reference."""
        if self._stream is not None:
            with contextlib.suppress(Exception):  # the camera may be gone
                self._camera.stop_acquisition()
        self._stream = self._camera = None


_BAYER = {
    "BayerRG8": cv2.COLOR_BayerBG2BGR,  # OpenCV names the pattern by its second row
    "BayerBG8": cv2.COLOR_BayerRG2BGR,
    "BayerGR8": cv2.COLOR_BayerGB2BGR,
    "BayerGB8": cv2.COLOR_BayerGR2BGR,
}


def _image(data: Any, height: int, width: int, pixel_format: str) -> object:
    """A copy of a buffer as grey [H, W] or BGR [H, W, 3]."""
    if pixel_format == "Mono8":
        return np.array(data, np.uint8).reshape(height, width)
    if pixel_format in _BAYER:
        return cv2.cvtColor(np.array(data, np.uint8).reshape(height, width), _BAYER[pixel_format])
    if pixel_format in ("BGR8", "RGB8"):
        image = np.array(data, np.uint8).reshape(height, width, 3)
        return image if pixel_format == "BGR8" else np.ascontiguousarray(image[..., ::-1])
    raise SourceFormatError(f"the camera's pixel format {pixel_format} is not supported", "set it to Mono8, BayerRG8 or BGR8")

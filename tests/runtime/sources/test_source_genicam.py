"""GenICam cameras: through Harvesters, which a stand-in plays, and through Aravis, against its own GigE Vision camera on loopback."""

import importlib.util
import itertools
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from lrdan_edge.errors import SourceAddressError, SourceError, SourceFormatError
from lrdan_edge.runtime.sources import genicam, open_source

# PyGObject's importer is of an older kind than Python asks for.
pytestmark = pytest.mark.filterwarnings("ignore:DynamicImporter:ImportWarning")
SYSTEM = Path("/usr/lib/python3/dist-packages")  # where Debian has PyGObject
CAMERA = "arv-fake-gv-camera-0.8"


def test_genicam_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENICAM_GENTL64_PATH", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SourceError, match=r"needs Aravis or the vendor's GenTL producer: 'sudo apt-get install"):
        open_source("genicam://0")
    monkeypatch.setitem(sys.modules, "harvesters.core", None)
    with pytest.raises(SourceError, match="pip install harvesters"):
        open_source("genicam://0?cti=/opt/vendor.cti")
    with pytest.raises(SourceError, match="size and format cannot be set here: set them in the camera itself"):
        open_source("genicam://0?size=640x480")


class Harvester:
    """The part of Harvesters' API that is used (its 1.4 documentation), over two cameras that give a ramp."""

    def __init__(self) -> None:
        self.device_info_list = [SimpleNamespace(serial_number=name, user_defined_name="") for name in ("S1", "S2")]
        self.files: list[str] = []
        self.log: list[str] = []
        Harvester.last = self

    last: "Harvester"
    pixel_format = "Mono8"

    def add_file(self, path: str) -> None:
        self.files.append(path)

    def update(self) -> None:
        assert self.files, "a producer first"

    def reset(self) -> None:
        self.log.append("reset")

    def create(self, place: int) -> Any:
        names = ("ExposureTime", "ExposureAuto", "AcquisitionFrameRate")
        node = SimpleNamespace(**{name: SimpleNamespace(value=0.0) for name in names})
        self.log.append(f"create {place}")
        return SimpleNamespace(
            remote_device=SimpleNamespace(node_map=node),
            start=lambda: self.log.append(f"start {node.ExposureTime.value:g} {node.ExposureAuto.value}"),
            fetch=lambda timeout: Buffer(self.pixel_format),  # noqa: ARG005
            destroy=lambda: self.log.append("destroy"),
        )


class Buffer:
    def __init__(self, pixel_format: str) -> None:
        data = np.arange(12, dtype=np.uint8)
        part = SimpleNamespace(data=data, height=3, width=4, data_format=pixel_format)
        self.data, self.payload = data, SimpleNamespace(components=[part])

    def __enter__(self) -> "Buffer":
        return self

    def __exit__(self, *_: object) -> None:
        self.data[:] = 0  # the camera writes its next picture there


def test_a_genicam_camera_is_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    core = ModuleType("harvesters.core")
    monkeypatch.setattr(core, "Harvester", Harvester, raising=False)
    monkeypatch.setitem(sys.modules, "harvesters.core", core)
    capture = genicam.genicam("S2", "cti=/opt/vendor.cti&exposure=900&rate=20")()
    arrived, image = capture.read()
    assert arrived
    assert isinstance(image, np.ndarray)
    assert np.array_equal(image, np.arange(12, dtype=np.uint8).reshape(3, 4)), "copied before the buffer went back"
    assert capture.get(cv2.CAP_PROP_FPS) == 20
    capture.release()
    assert Harvester.last.log == ["create 1", "start 900 0.0", "destroy", "reset"]
    genicam.genicam("S1", "cti=/opt/vendor.cti&exposure=auto")()
    assert Harvester.last.log[-1] == "start 0 Continuous"
    with pytest.raises(SourceAddressError, match="no GenICam camera 'S9' \\(found: S1, S2\\)"):
        genicam.genicam("S9", "cti=/opt/vendor.cti")()
    monkeypatch.setattr(Harvester, "pixel_format", "Mono12Packed")
    with pytest.raises(SourceFormatError, match="pixel format Mono12Packed is not supported"):
        genicam.genicam("0", "cti=/opt/vendor.cti")().read()


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
@pytest.mark.parametrize(("colour", "place"), [("B", 0), ("G", 1), ("R", 2)])
def test_bayer_images_have_their_colours(pattern: str, colour: str, place: int) -> None:
    """A surface of one colour: only that colour's cells are lit."""
    cell = np.array([200 if letter == colour else 0 for letter in pattern], np.uint8).reshape(2, 2)
    image = genicam._image(np.tile(cell, (6, 8)).reshape(-1), 12, 16, f"Bayer{pattern[:2]}8")
    assert isinstance(image, np.ndarray)
    middle = image[4:8, 4:12].reshape(-1, 3).astype(int)
    assert middle[:, place].min() > 150
    assert np.delete(middle, place, 1).max() == 0


class FakeCamera:
    """Aravis's camera in software: GigE Vision over UDP, 512x512 grey at 25 frames/s."""

    def __init__(self, serial: str) -> None:
        self.serial = serial
        self.start()

    def start(self) -> None:
        command = [str(shutil.which(CAMERA)), "-i", "127.0.0.1", "-s", self.serial]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.3)
        assert self._process.poll() is None, "another camera has this port"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCamera]:
    if shutil.which(CAMERA) is None:
        pytest.skip(f"{CAMERA} is not installed (Debian: aravis-tools)")
    monkeypatch.setattr(sys, "path", [*sys.path, str(SYSTEM)])  # last, so that it hides nothing
    try:
        genicam._find_aravis("genicam://0")
    except SourceError as error:
        pytest.skip(f"{error} (python3-gi serves only Python of the system's version)")
    monkeypatch.delenv("GENICAM_GENTL64_PATH", raising=False)
    camera = FakeCamera("LRDAN1")
    yield camera
    camera.kill()


def test_a_gige_vision_camera_without_a_producer(camera: FakeCamera) -> None:
    with open_source(f"genicam://{camera.serial}?rate=50&exposure=2000") as source:
        assert (source.live, source.fps) == (True, 50)
        frames = list(itertools.islice(source, 20))
    assert [frame.index for frame in frames] == list(range(20))
    assert all(frame.image is not None and frame.image.shape == (512, 512) for frame in frames)
    assert len({frame.image.tobytes() for frame in frames if frame.image is not None}) > 10, "its pattern moves"
    spans = np.diff([frame.capture_ns for frame in frames]) / 1e6
    assert 15 < np.median(spans) < 25
    with pytest.raises(SourceAddressError, match=f"no GenICam camera 'S9' .found: .*{camera.serial}"):
        open_source("genicam://S9")


def test_a_gige_vision_camera_that_loses_its_power(camera: FakeCamera) -> None:
    with open_source(f"genicam://{camera.serial}", read_timeout_s=2) as source:
        frames = iter(source)
        assert all(next(frames).image is not None for _ in range(5))
        camera.kill()
        lost = next(frame for frame in frames if frame.image is None)
        assert "signal lost" in str(lost.fault)
        camera.start()
        begun = time.monotonic()
        assert next(frames).image is not None
        assert time.monotonic() - begun < 10


def test_a_slow_camera_is_not_lost(camera: FakeCamera) -> None:
    """One part in four seconds: that used to be three failed reads of a second, and so a fault."""
    with open_source(f"genicam://{camera.serial}?rate=0.25", read_timeout_s=8) as source:
        assert all(frame.image is not None for frame in itertools.islice(source, 2))

"""Cameras of this machine: settings, pipelines, and what is said where hardware or software for them is missing."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from lrdan_edge.cli.main import cli
from lrdan_edge.data.images import read_image
from lrdan_edge.errors import SourceAddressError, SourceError, SourceFormatError
from lrdan_edge.runtime.sources import cameras, open_source
from lrdan_edge.runtime.sources.addresses import camera_job
from lrdan_edge.runtime.sources.cameras import Settings, apply, csi_pipeline, settings_of


def test_settings_are_read() -> None:
    found = settings_of("size=1280x720&rate=29.97&format=mjpg&exposure=200", "/dev/video0")
    assert found == Settings((1280, 720), 29.97, "MJPG", "200")
    assert settings_of("", "0") == Settings()


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("size=1280", "size cannot be '1280': write size=1280x720"),
        ("size=0x720", "write size="),
        ("rate=fast", "write rate=30"),
        ("format=MJPEG", "write format=MJPG"),
        ("exposure=-5", "write exposure=200"),
        ("speed=3", "there is no setting 'speed': use size, rate, format, exposure"),
    ],
)
def test_wrong_settings_are_reported_in_one_line(query: str, words: str) -> None:
    with pytest.raises(SourceAddressError, match=words) as caught:
        open_source(f"/dev/video0?{query}")
    assert "\n" not in str(caught.value)


class Device:
    """A Video4Linux capture that takes what it can do."""

    def __init__(self, sizes: set[tuple[int, int]], formats: set[str]) -> None:
        self.sizes, self.formats = sizes, formats
        self.values: dict[int, float] = {
            cv2.CAP_PROP_FRAME_WIDTH: 640,
            cv2.CAP_PROP_FRAME_HEIGHT: 480,
            cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*"YUYV"),
        }
        self.order: list[int] = []

    def set(self, place: int, value: float) -> bool:
        self.order.append(place)
        if place == cv2.CAP_PROP_FOURCC and int(value).to_bytes(4, "little").decode() not in self.formats:
            return False
        if place == cv2.CAP_PROP_FRAME_HEIGHT and (self.values[cv2.CAP_PROP_FRAME_WIDTH], value) not in self.sizes:
            self.values[cv2.CAP_PROP_FRAME_WIDTH] = 640
            return False
        self.values[place] = value
        return True

    def get(self, place: int) -> float:
        return self.values.get(place, 0.0)


def test_settings_are_applied_to_a_camera_and_read_back() -> None:
    device = Device({(1280, 720)}, {"YUYV", "MJPG"})
    apply(device, Settings((1280, 720), 30, "MJPG", "200"), "/dev/video0")
    assert device.get(cv2.CAP_PROP_AUTO_EXPOSURE) == 1
    assert device.get(cv2.CAP_PROP_EXPOSURE) == 200
    assert device.order[0] == cv2.CAP_PROP_FOURCC, "what sizes there are depends on the format"
    with pytest.raises(SourceFormatError, match="gives 640x480, not size=1920x1080"):
        apply(Device({(1280, 720)}, {"YUYV"}), Settings(size=(1920, 1080)), "/dev/video0")
    with pytest.raises(SourceFormatError, match="gives format 'YUYV', not 'MJPG'"):
        apply(Device({(640, 480)}, {"YUYV"}), Settings(format="MJPG"), "/dev/video0")


def test_a_csi_camera_is_a_jetson_pipeline() -> None:
    text = csi_pipeline(1, "size=1920x1080&rate=60&exposure=50")
    assert text.startswith('nvarguscamerasrc sensor-id=1 exposuretimerange="5000000 5000000" ! video/x-raw(memory:NVMM)')
    assert "width=1920,height=1080,framerate=60/1" in text
    assert text.endswith("video/x-raw,format=BGR ! appsink drop=true max-buffers=2 sync=false")
    with pytest.raises(SourceError, match="CSI cameras have no format"):
        csi_pipeline(0, "format=MJPG")


@pytest.mark.parametrize("uri", ["csi://0", "gst:videotestsrc"])
def test_without_gstreamer_the_error_says_what_to_install(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GStreamer:   NO\n")
    with pytest.raises(SourceError, match=r"has no GStreamer: on a Jetson, use the system's OpenCV \('sudo apt-get install"):
        open_source(uri)


def test_with_gstreamer_a_pipeline_ends_in_an_appsink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GStreamer:   YES (1.20)\n")
    asked: list[str] = []

    def capture(text: str, _api: int) -> Any:
        asked.append(text)
        return SimpleNamespace(isOpened=lambda: True, release=lambda: None)

    monkeypatch.setattr(cv2, "VideoCapture", capture)
    cameras.pipeline("videotestsrc")()
    cameras.pipeline("videotestsrc ! appsink")()
    assert asked == [f"videotestsrc ! videoconvert ! video/x-raw,format=BGR ! {cameras._APPSINK}", "videotestsrc ! appsink"]


def test_addresses_become_jobs() -> None:
    found = camera_job("v4l2:///dev/video2?rate=5", 3)
    assert found is not None
    assert (found[0], found[1].function, found[1].arguments) == ("/dev/video2", "usb", ("/dev/video2", "rate=5"))
    assert camera_job("rtsp://camera/1", 3) is None
    assert camera_job("parts/0?", 3) is None


def test_probe_reports_what_a_source_delivers(http_camera: Any, tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(cli, ["camera", "probe", http_camera.url, "--seconds", "0.5", "--picture", str(tmp_path / "seen.png")])
    assert done.exit_code == 0, done.output
    assert "64x48, colour" in done.output
    assert "frames/s" in done.output
    assert read_image(tmp_path / "seen.png").shape == (48, 64, 3)
    wrong = runner.invoke(cli, ["camera", "probe", str(tmp_path / "none.mp4")])
    assert wrong.exit_code == 1
    assert "Error: " in wrong.output
    refused = runner.invoke(
        cli, ["camera", "probe", http_camera.url, "--seconds", "0.2", "--picture", str(tmp_path / "seen.xyz")]
    )
    assert refused.exit_code == 1
    assert "give a .png or .jpg" in refused.output


def test_record_keeps_a_cameras_frames_unchanged(http_camera: Any, picture: Callable[[int], Any], tmp_path: Path) -> None:
    folder, runner = tmp_path / "parts" / "train" / "good", CliRunner()
    done = runner.invoke(cli, ["camera", "record", http_camera.url, str(folder), "--count", "4"])
    assert done.exit_code == 0, done.output
    assert "4 frames in " in done.output
    first = sorted(folder.iterdir())
    assert len(first) == 4
    shown = [read_image(path) for path in first]
    assert all(np.abs(image.astype(int) - picture(number)).mean() < 4 for number, image in enumerate(shown))
    begun = time.monotonic()
    assert (
        runner.invoke(cli, ["camera", "record", http_camera.url, str(folder), "--count", "3", "--every", "0.2"]).exit_code == 0
    )
    assert 0.4 < time.monotonic() - begun < 5
    assert sorted(folder.iterdir())[:4] == first
    assert len(list(folder.iterdir())) == 7


def test_record_says_what_cannot_be_read_or_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    cv2.imwrite(str(tmp_path / "part.png"), np.zeros((8, 8), np.uint8))
    refused = CliRunner().invoke(cli, ["camera", "record", str(tmp_path / "none.mp4"), str(tmp_path / "out")])
    assert (refused.exit_code, "does not exist" in refused.output) == (1, True)
    refused = CliRunner().invoke(cli, ["camera", "record", str(tmp_path / "part.png"), str(file / "below")])
    assert (refused.exit_code, "cannot be written" in refused.output) == (1, True)
    done = CliRunner().invoke(cli, ["camera", "record", str(tmp_path / "part.png"), str(tmp_path / "out")])
    assert "1 frames in" in done.output, "a source may end before"
    (tmp_path / "cut.png").write_bytes(b"not an image")
    empty = CliRunner().invoke(cli, ["camera", "record", str(tmp_path / "cut.png"), str(tmp_path / "none")])
    assert (empty.exit_code, "cut.png gives no frame: " in empty.output) == (1, True)

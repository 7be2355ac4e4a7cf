"""Images that are incomplete, or older than they seem."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lrdan_edge.errors import SourceFormatError, SourceTimeoutError
from lrdan_edge.runtime.sources import open_source
from lrdan_edge.runtime.sources.capture_process import CaptureJob
from lrdan_edge.runtime.sources.live import LiveSource


def scripted(log: Path, *scripts: str, read_timeout_s: float = 10) -> LiveSource:
    """A source whose n-th connection does what the n-th script says; see `scripted_captures`."""
    return LiveSource("camera", CaptureJob("scripted_captures", "opener", (str(log), *scripts), read_timeout_s))


def test_a_cut_image_is_a_fault_and_the_stream_goes_on(http_camera: Any, picture: Callable[[int], Any]) -> None:
    """FFmpeg fills the lower part from the image before; such images used to be judged."""
    http_camera.cut = {5, 6, 7, 8, 12}
    with open_source(http_camera.url) as source:
        frames = list(islice(source, 20))
    faults = [frame for frame in frames if frame.image is None]
    assert [frame.index for frame in faults] == [5, 6, 7, 8, 12]
    assert all("is not a complete image (" in (frame.fault or "") for frame in faults)
    assert all(isinstance(frame.error, SourceFormatError) for frame in faults)
    for frame in frames:
        assert frame.image is None or np.abs(frame.image.astype(int) - picture(frame.index)).mean() < 4


def test_an_image_that_the_decoder_kept_during_a_stall_is_not_delivered(tmp_path: Path) -> None:
    with scripted(tmp_path, "image, pause 1.1, image, image, pause 20", "pause 20", read_timeout_s=1) as source:
        first, second = islice(source, 2)
    assert first.image is not None
    assert isinstance(second.error, SourceTimeoutError)


def test_images_from_before_a_gap_are_not_delivered_after_it(tmp_path: Path) -> None:
    stream = (
        "at 1000, image, at 1040, image, pause 1.3, at 1080, image, at 1120, image, at 2500, image, at 2540, image, pause 20"
    )
    with scripted(tmp_path, stream) as source:
        frames = list(islice(source, 4))
    assert [int(np.max(np.asarray(frame.image))) - 40 for frame in frames] == [2, 4, 11, 13]


def test_many_damaged_frames_in_a_row_do_not_end_a_recording(tmp_path: Path) -> None:
    """Frames after them used to be lost without a word."""
    path, damaged = tmp_path / "recording.mjpeg", {*range(20, 32), 39}
    with path.open("wb") as file:
        for number in range(40):
            image = np.random.default_rng(number).integers(0, 255, (64, 96, 3), np.uint8)
            data = cv2.imencode(".jpg", image)[1].tobytes()
            file.write(data[: len(data) // 2] if number in damaged else data)
    with open_source(str(path)) as source:
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(40))
    assert {frame.index for frame in frames if frame.image is None} == damaged

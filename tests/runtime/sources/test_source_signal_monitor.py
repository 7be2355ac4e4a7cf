"""What is taken for a picture that shows nothing, and what is not."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from lrdan_edge.runtime.sources.capture_process import CaptureJob
from lrdan_edge.runtime.sources.live import LiveSource
from lrdan_edge.runtime.sources.signal_monitor import BLACK, Limits, SignalMonitor

SECOND = 1_000_000_000


def test_an_image_with_a_few_bright_pixels_is_not_black() -> None:
    """Dark-field lighting: only every fourth row and column used to be looked at."""
    picture = np.zeros((64, 64), np.uint8)
    picture[1::4, 1::4] = 200
    monitor = SignalMonitor(Limits(frozen_s=0, black_s=2))
    assert [monitor.check(picture, second * SECOND) for second in range(6)] == [None] * 6


def test_one_dark_image_of_a_triggered_camera_is_not_a_lost_signal() -> None:
    bright, dark = np.full((8, 8), 90, np.uint8), np.full((8, 8), BLACK, np.uint8)
    monitor = SignalMonitor(Limits(frozen_s=0, black_s=2))
    said = [monitor.check(image, 30 * place * SECOND) for place, image in enumerate((bright, dark, bright, dark, dark))]
    assert said[:4] == [None] * 4
    assert str(said[4]) == "black image for 30.0 s"


def test_times_restart_after_a_gap() -> None:
    dark = np.zeros((8, 8), np.uint8)
    monitor = SignalMonitor(Limits(frozen_s=3, black_s=2))
    assert monitor.check(dark, 0) is None
    monitor.interrupted(9 * SECOND)
    assert monitor.check(dark, 10 * SECOND) is None
    assert str(monitor.check(dark, 13 * SECOND)) == "frozen image for 3.0 s"


class Stream:
    """A camera seen through an encoder: it repeats the static parts for two seconds, then codes them again, with their noise."""

    def __init__(
        self, *, noise: float = 2, texture: float = 40, drift: float = 0, clock: bool = False, every_s: float = 2
    ) -> None:
        self.rng = np.random.default_rng(0)
        self.scene = self.rng.normal(120, texture, (128, 160, 3))
        self.noise, self.drift, self.clock, self.still = noise, drift, clock, False
        self.monitor, self.second = SignalMonitor(Limits()), 0.0
        self.coded, self.every_s = self.scene, every_s

    def run(self, seconds: float, *, moving: bool = False) -> list[float]:
        """The times at which the image counts as frozen."""
        frozen, end = [], self.second + seconds
        while self.second < end:
            if self.second % self.every_s < 0.2:
                self.coded = self.scene + self.rng.normal(0, self.drift if self.still else self.noise, self.scene.shape)
            image = np.clip(self.coded, 0, 255).astype(np.uint8)
            image[0, 0] = int(10 * self.second) % 256  # never the same, bit by bit
            if self.clock:
                image[:16, :32] = int(37 * self.second) % 256
            if moving:
                image[48:80] = np.roll(image[48:80], int(60 * self.second), axis=1)
            if self.monitor.check(image, int(self.second * SECOND)):
                frozen.append(self.second)
            self.second = round(self.second + 0.2, 1)
        return frozen


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("clock", [False, True])
def test_a_still_behind_an_encoder_is_frozen_although_it_drifts(*, moving: bool, clock: bool) -> None:
    stream = Stream(clock=clock)
    assert stream.run(25, moving=moving) == []
    stream.still, stream.drift = True, 0.5
    frozen = stream.run(20)
    assert 10 <= frozen[0] - 25 <= 13
    stream.still = False
    assert len(stream.run(10)) <= 5 * 5, "live again within some seconds, without motion"
    assert stream.run(20, moving=moving) == []


def test_motion_ends_a_still_at_once() -> None:
    stream = Stream()
    stream.run(25)
    stream.still = True
    assert stream.run(15)
    stream.still = False
    assert len(stream.run(5, moving=True)) <= 5 * 2


@pytest.mark.parametrize("noise", [1, 2, 3])
def test_a_belt_that_rests_is_not_frozen(noise: float) -> None:
    stream = Stream(noise=noise)
    assert stream.run(30, moving=True) + stream.run(120) == []
    assert stream.monitor.blind is None


def test_a_stream_without_noise_says_that_it_is_compared_bit_by_bit() -> None:
    stream = Stream(noise=0)
    assert stream.run(14) == []
    assert stream.monitor.blind is None, "it still learns"
    assert stream.run(120) == []
    assert "no noise" in (stream.monitor.blind or "")


def test_noise_that_falls_with_the_light_is_learnt_again() -> None:
    stream = Stream(noise=3)
    assert stream.run(30) == []
    stream.scene, stream.noise = stream.scene + 60, 0.5
    assert stream.run(120) == []


def test_a_stream_whose_noise_shows_only_in_key_frames_is_unreliable() -> None:
    """An encoder with few bits repeats static parts; how much it then changes them is not only the camera's doing."""
    stream = Stream()
    stream.run(14, moving=True)
    assert stream.monitor.unreliable is None, "it still learns"
    stream.run(4, moving=True)
    assert stream.monitor.unreliable == "this stream's compression hides the noise by which a frozen image is noticed"
    assert stream.monitor.blind is None


def test_a_stream_whose_noise_shows_in_each_image_is_reliable_also_once_it_freezes() -> None:
    stream = Stream(every_s=0.2)
    assert stream.run(25) == []
    stream.still = True
    assert stream.run(15)
    assert stream.monitor.unreliable is None


def test_a_source_warns_once_that_it_cannot_rely_on_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(SignalMonitor, "unreliable", "the noise is hidden")
    with LiveSource("camera", CaptureJob("scripted_captures", "opener", (str(tmp_path), "image*9, pause 20"), 10)) as source:
        assert len(list(itertools.islice(source, 9))) == 9
    assert [record.message for record in caplog.records] == [
        "camera: a frozen image may be noticed late or not at all: the noise is hidden (raise its bit rate)"
    ]

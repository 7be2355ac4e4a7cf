"""What is taken for a picture that shows nothing, and what is not."""

import numpy as np

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

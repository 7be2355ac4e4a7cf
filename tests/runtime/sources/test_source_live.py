import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from lrdan_edge.errors import SourceError
from lrdan_edge.runtime.sources import CapturedFrame, open_source
from lrdan_edge.runtime.sources.live import LiveSource

Camera = Any  # conftest's HttpCamera


class Consumer:
    """Takes a source's frames in a thread, as the inspection loop does."""

    def __init__(self, source: Any) -> None:
        self.frames: list[CapturedFrame] = []
        self.source = source
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for frame in self.source:
            self.frames.append(frame)

    @property
    def faults(self) -> list[CapturedFrame]:
        return [frame for frame in self.frames if frame.image is None]

    def wait(self, done: Callable[[], bool], seconds: float) -> float:
        started = time.monotonic()
        while not done():
            assert time.monotonic() - started < seconds, f"not within {seconds} s; faults: {self.faults}"
            time.sleep(0.01)
        return time.monotonic() - started

    def close(self) -> float:
        started = time.monotonic()
        self.source.close()
        self._thread.join(5)
        assert not self._thread.is_alive(), "close() did not end the iteration"
        return time.monotonic() - started


@pytest.fixture
def consume() -> Iterator[Callable[[Any], Consumer]]:
    consumers: list[Consumer] = []

    def start(source: Any) -> Consumer:
        consumers.append(Consumer(source))
        return consumers[-1]

    yield start
    for consumer in consumers:
        consumer.close()


def test_an_http_camera_delivers_whole_pictures(http_camera: Camera, picture: Callable[[int], Any]) -> None:
    with open_source(http_camera.url) as source:
        assert (source.live, source.fps, source.frames) == (True, None, None)
        frames = list(itertools.islice(source, 20))
    assert [frame.index for frame in frames] == list(range(20))
    assert frames[3].name == "frame 3"
    ages = [time.monotonic_ns() - frame.capture_ns for frame in frames]
    assert ages == sorted(ages, reverse=True)
    assert all(abs(frame.wall_time - time.time()) < 10 for frame in frames)
    assert np.abs(frames[0].image.astype(int) - picture(0)).mean() < 4


def test_a_killed_camera_is_one_fault_and_is_back_within_two_seconds(
    http_camera: Camera, consume: Callable[[Any], Consumer], capfd: pytest.CaptureFixture[str]
) -> None:
    consumer = consume(open_source(http_camera.url, read_timeout_s=2))
    consumer.wait(lambda: len(consumer.frames) >= 5, 5)
    for outages in (1, 2):
        http_camera.kill()
        consumer.wait(lambda wanted=outages: len(consumer.faults) == wanted, 3)
        time.sleep(1.5)  # long enough for the pauses between tries to have grown
        seen = len(consumer.frames)
        assert consumer.frames[-1].image is None
        http_camera.start()
        assert consumer.wait(lambda old=seen: len(consumer.frames) > old, 5) < 2
        consumer.wait(lambda old=seen: len(consumer.frames) > old + 5, 5)
    assert len(consumer.faults) == 2
    assert "signal lost (the connection ended); connecting again" in (consumer.faults[0].fault or "")
    assert [frame.index for frame in consumer.frames] == list(range(len(consumer.frames)))
    assert consumer.close() < 1
    assert capfd.readouterr() == ("", "")


def test_a_silent_camera_is_a_fault_after_the_read_timeout(http_camera: Camera, consume: Callable[[Any], Consumer]) -> None:
    consumer = consume(open_source(http_camera.url, read_timeout_s=0.6, open_timeout_s=1))
    consumer.wait(lambda: len(consumer.frames) >= 5, 5)
    http_camera.silent.set()
    assert consumer.wait(lambda: bool(consumer.faults), 3) >= 0.4
    assert "no frame for" in (consumer.faults[0].fault or "")
    time.sleep(0.5)
    seen = len(consumer.frames)
    http_camera.silent.clear()
    assert consumer.wait(lambda: len(consumer.frames) > seen, 4) < 2
    assert len(consumer.faults) == 1


def test_half_a_picture_is_never_delivered(
    http_camera: Camera, consume: Callable[[Any], Consumer], picture: Callable[[int], Any]
) -> None:
    http_camera.stop_mid_frame = True
    consumer = consume(open_source(http_camera.url))
    consumer.wait(lambda: len(consumer.faults) >= 3, 10)
    consumer.close()
    known = [picture(number) for number in range(10)]
    for frame in consumer.frames:
        if frame.image is not None:
            assert min(np.abs(frame.image.astype(int) - true).mean() for true in known) < 4


def test_a_wrong_path_says_that_the_host_answers(http_camera: Camera) -> None:
    with pytest.raises(SourceError, match="answers, but sends no video at this address: check path"):
        open_source(http_camera.url.replace("camera", "kamera"))


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_mute_server_does_not_hang_and_stops_nobody_else(scheme: str, http_camera: Camera) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        errors: list[SourceError] = []

        def attempt() -> None:
            with pytest.raises(SourceError, match=r"within 1\.5 s|does not answer") as caught:
                open_source(f"{scheme}://127.0.0.1:{mute.getsockname()[1]}/x", open_timeout_s=1.5)
            errors.append(caught.value)

        thread = threading.Thread(target=attempt)
        started = time.monotonic()
        thread.start()
        time.sleep(0.2)
        with open_source(http_camera.url) as source:  # OpenCV alone would wait here for the other to fail
            next(iter(source))
        assert time.monotonic() - started < 1.2
        thread.join(5)
        assert len(errors) == 1
        assert time.monotonic() - started < 3


class Scripted:
    """A capture that does what a test says: an image, a failed read, or a native call that hangs."""

    def __init__(self, script: list[str], released: list[int] | None = None) -> None:
        self.script = script
        self.hanging = threading.Event()
        self.released = released if released is not None else []

    def read(self) -> tuple[bool, object]:
        step = self.script.pop(0) if self.script else "fail"
        if step == "hang":
            self.hanging.wait(20)
        if step == "shape":
            raise cv2.error("a new picture size")
        return (True, np.zeros((2, 2, 3), np.uint8)) if step == "image" else (False, None)

    def get(self, propId: int, /) -> float:  # noqa: N803
        return 30.0 if propId == cv2.CAP_PROP_FPS else -1.0

    def release(self) -> None:
        self.released.append(1)


def test_a_native_read_that_hangs_is_abandoned(consume: Callable[[Any], Consumer]) -> None:
    hanging = Scripted(["image", "hang"])
    captures = [hanging, Scripted(["image"] * 3 + ["hang"])]
    consumer = consume(LiveSource("camera", lambda: captures.pop(0), read_timeout_s=0.2))
    consumer.wait(lambda: len(consumer.frames) == 5, 4)
    assert [frame.image is None for frame in consumer.frames] == [False, True, False, False, False]
    assert hanging.released == []
    hanging.hanging.set()
    consumer.wait(lambda: hanging.released == [1], 2)
    assert consumer.close() < 1


def test_a_failed_read_in_between_is_no_loss() -> None:
    with LiveSource("camera", lambda: Scripted(["image", "fail", "shape", "image", "image"])) as source:
        assert source.fps == 30
        assert [frame.fault for frame in itertools.islice(source, 3)] == [None] * 3


def test_a_camera_that_opens_and_gives_nothing_is_one_fault_and_tried_in_moderation(consume: Callable[[Any], Consumer]) -> None:
    opened: list[int] = []

    def opener() -> Scripted:
        opened.append(1)
        return Scripted(["image"] if len(opened) == 1 else [])

    consumer = consume(LiveSource("camera", opener))
    time.sleep(1.6)
    assert len(consumer.faults) == 1
    assert 3 <= len(opened) <= 10


def test_closing_while_it_reconnects(consume: Callable[[Any], Consumer]) -> None:
    attempts: list[int] = []

    def opener() -> Scripted:
        attempts.append(1)
        if len(attempts) > 1:
            time.sleep(3)
        return Scripted(["image"])

    consumer = consume(LiveSource("camera", opener))
    consumer.wait(lambda: len(attempts) == 2, 3)
    assert consumer.close() < 0.5
    consumer.source.close()


def test_captures_are_released(consume: Callable[[Any], Consumer]) -> None:
    released: list[int] = []
    consumer = consume(LiveSource("camera", lambda: Scripted(["image"] * 50, released)))
    consumer.wait(lambda: len(consumer.frames) > 60, 5)
    consumer.close()
    consumer.wait(lambda: len(released) >= 2, 2)


def test_a_bug_in_the_opener_is_not_taken_for_a_dead_camera() -> None:
    def opener() -> Scripted:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        LiveSource("camera", opener)


def test_a_process_ends_while_its_camera_is_silent(http_camera: Camera) -> None:
    """Nobody closed the source, and its thread sits in a native read: the interpreter must still end, cleanly."""
    program = (
        "from lrdan_edge.runtime.sources import open_source\n"
        f"frames = iter(open_source({http_camera.url!r}, read_timeout_s=60))\n"
        "[next(frames) for _ in range(5)]\n"
        "print('seen', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "seen\n"
    http_camera.silent.set()
    time.sleep(0.3)
    _, complaints = process.communicate("\n", timeout=10)
    assert (process.returncode, complaints) == (0, "")

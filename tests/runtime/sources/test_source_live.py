import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scripted_captures
from scripted_captures import count

from lrdan_edge.errors import (
    SourceEndedError,
    SourceError,
    SourceFormatError,
    SourceRefusedError,
    SourceSignalError,
    SourceTimeoutError,
)
from lrdan_edge.runtime.sources import CapturedFrame, Limits, open_source
from lrdan_edge.runtime.sources.capture_process import CaptureJob
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


def test_an_http_camera_delivers_complete_images(http_camera: Camera, picture: Callable[[int], Any]) -> None:
    with open_source(http_camera.url) as source:
        assert (source.live, source.fps, source.frames) == (True, None, None)
        frames = list(itertools.islice(source, 20))
    assert [frame.index for frame in frames] == list(range(20))
    assert frames[3].name == "frame 3"
    ages = [time.monotonic_ns() - frame.capture_ns for frame in frames]
    assert ages == sorted(ages, reverse=True)
    assert all(abs(frame.wall_time - time.time()) < 10 for frame in frames)
    assert frames[0].image is not None
    assert np.abs(frames[0].image.astype(int) - picture(0)).mean() < 4


def test_a_killed_camera_is_one_fault_and_returns_within_two_seconds(
    http_camera: Camera, consume: Callable[[Any], Consumer], capfd: pytest.CaptureFixture[str]
) -> None:
    consumer = consume(open_source(http_camera.url, read_timeout_s=2))
    consumer.wait(lambda: len(consumer.frames) >= 5, 5)

    def frames(least: int) -> Callable[[], bool]:
        return lambda: len(consumer.frames) > least

    def faults(count: int) -> Callable[[], bool]:
        return lambda: len(consumer.faults) == count

    for outages in (1, 2):
        http_camera.kill()
        consumer.wait(faults(outages), 3)
        time.sleep(1.5)  # long enough for the pauses between tries to have grown
        seen = len(consumer.frames)
        assert consumer.frames[-1].image is None
        http_camera.start()
        assert consumer.wait(frames(seen), 5) < 2
        consumer.wait(frames(seen + 5), 5)
    assert len(consumer.faults) == 2
    assert consumer.faults[0].fault != consumer.faults[1].fault, "each names its time"
    assert "signal lost (the connection ended); connecting again" in (consumer.faults[0].fault or "")
    assert isinstance(consumer.faults[0].error, SourceEndedError)
    assert [frame.index for frame in consumer.frames] == list(range(len(consumer.frames)))
    assert consumer.close() < 1
    assert capfd.readouterr() == ("", "")


def test_a_camera_that_comes_later_is_waited_for(http_camera: Camera, consume: Callable[[Any], Consumer]) -> None:
    http_camera.kill()
    with pytest.raises(SourceRefusedError, match=r"127\.0\.0\.1"):
        open_source(http_camera.url, open_timeout_s=1)
    source = open_source(http_camera.url, open_timeout_s=1, wait=True)
    assert (source.live, source.frames) == (True, None)
    consumer = consume(source)
    consumer.wait(lambda: bool(consumer.frames), 3)
    time.sleep(1.5)
    assert [frame.image for frame in consumer.frames] == [None], "one fault, however long it takes"
    assert "no signal yet" in (consumer.frames[0].fault or "")
    assert isinstance(consumer.frames[0].error, SourceRefusedError)
    http_camera.start()
    assert consumer.wait(lambda: len(consumer.frames) > 5, 5) < 3
    assert len(consumer.faults) == 1


def test_a_camera_that_was_waited_for_can_be_iterated_again(http_camera: Camera) -> None:
    http_camera.kill()
    with open_source(http_camera.url, open_timeout_s=1, wait=True) as source:
        frames = iter(source)
        assert next(frames).image is None
        http_camera.start()
        assert next(frames).image is not None
        assert [frame.image is not None for frame in itertools.islice(source, 3)] == [True] * 3


def test_a_silent_camera_is_a_fault_after_the_read_timeout(http_camera: Camera, consume: Callable[[Any], Consumer]) -> None:
    consumer = consume(open_source(http_camera.url, read_timeout_s=0.6, open_timeout_s=1))
    consumer.wait(lambda: len(consumer.frames) >= 5, 5)
    http_camera.silent.set()
    assert consumer.wait(lambda: bool(consumer.faults), 3) >= 0.4
    assert "no frame for" in (consumer.faults[0].fault or "")
    assert isinstance(consumer.faults[0].error, SourceTimeoutError)
    time.sleep(0.5)
    seen = len(consumer.frames)
    http_camera.silent.clear()
    assert consumer.wait(lambda: len(consumer.frames) > seen, 4) < 2
    assert len(consumer.faults) == 1


def test_an_incomplete_image_is_never_delivered(
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
    with pytest.raises(SourceRefusedError, match="answers, but sends no video at this address: check path"):
        open_source(http_camera.url.replace("camera", "kamera"))


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_silent_server_neither_hangs_nor_blocks_other_sources(scheme: str, http_camera: Camera) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        errors: list[SourceError] = []

        def attempt() -> None:
            with pytest.raises(SourceTimeoutError, match=r"within 3 s|does not answer") as caught:
                open_source(f"{scheme}://127.0.0.1:{mute.getsockname()[1]}/x", open_timeout_s=3)
            errors.append(caught.value)

        thread = threading.Thread(target=attempt)
        thread.start()
        time.sleep(0.2)
        with open_source(http_camera.url) as source:  # OpenCV alone would wait here for the other to fail
            next(iter(source))
        assert thread.is_alive(), "the camera delivers while the mute server is still waited for"
        thread.join(30)
        assert len(errors) == 1


def scripted(log: Path, *scripts: str, read_timeout_s: float = 10, limits: Limits | None = None) -> LiveSource:
    """A source whose n-th connection does what the n-th script says; see `scripted_captures`."""
    return LiveSource("camera", CaptureJob("scripted_captures", "opener", (str(log), *scripts), read_timeout_s), limits=limits)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_native_read_that_hangs_is_killed(tmp_path: Path, consume: Callable[[Any], Consumer]) -> None:
    source = scripted(tmp_path, "image, hang", "image*3, hang", read_timeout_s=0.2)
    hanging = source.pid
    assert hanging is not None
    consumer = consume(source)
    consumer.wait(lambda: len(consumer.frames) >= 5, 10)
    assert [frame.image is None for frame in consumer.frames[:5]] == [False, True, False, False, False]
    assert not alive(hanging)
    assert count(tmp_path, "released") == 0
    assert consumer.close() < 1


def test_a_capture_that_dies_is_one_fault_and_is_restarted(tmp_path: Path, consume: Callable[[Any], Consumer]) -> None:
    consumer = consume(scripted(tmp_path, "image*2, die", "image*3, pause 20"))
    consumer.wait(lambda: len(consumer.frames) == 6, 10)
    assert [frame.image is None for frame in consumer.frames] == [False, False, True, False, False, False]
    assert "the capture process died (signal 9)" in (consumer.faults[0].fault or "")
    assert isinstance(consumer.faults[0].error, SourceEndedError)
    assert consumer.source.pid is not None
    os.kill(consumer.source.pid, signal.SIGKILL)
    consumer.wait(lambda: len(consumer.frames) == 10, 10)
    assert len(consumer.faults) == 2


def test_an_opener_that_cannot_be_created_says_why() -> None:
    with pytest.raises(SourceFormatError, match=r"no driver for it here: set it to \{Mono8\}, not read_timeout_s") as caught:
        LiveSource("camera", CaptureJob("scripted_captures", "no_opener", ("no driver for it here",), 10))
    assert caught.value.values == {"format": "{Mono8}"}, "its parts cross, so that the command line can word them"


def test_frames_of_any_size_are_transferred_unchanged(tmp_path: Path) -> None:
    with scripted(tmp_path, "image*5") as source:
        frames = list(itertools.islice(source, 5))
    assert [np.unique(np.asarray(frame.image)).tolist() for frame in frames] == [[41], [42], [43], [44], [45]], (
        "no slot is used too early"
    )
    assert all(frame.image is not None and frame.image.flags.owndata for frame in frames), "the caller's own"


def descriptors() -> list[Path]:
    return list(Path("/proc/self/fd").iterdir())


def test_no_process_or_descriptor_is_left_behind(tmp_path: Path) -> None:
    before = descriptors()
    for _ in range(3):
        with scripted(tmp_path, "image*500") as source:
            next(iter(source))
            pid = source.pid
        assert pid is not None
        end = time.monotonic() + 5
        while alive(pid) and time.monotonic() < end:
            time.sleep(0.02)
        assert not alive(pid)
        del source
    end = time.monotonic() + 5
    while len(descriptors()) > len(before) and time.monotonic() < end:
        time.sleep(0.02)
    assert len(descriptors()) <= len(before)


def test_a_capture_process_ends_with_the_process_it_serves(tmp_path: Path) -> None:
    program = (
        "import sys, signal, os\n"
        f"sys.path.insert(0, {str(Path(scripted_captures.__file__).parent)!r})\n"
        "from lrdan_edge.runtime.sources.capture_process import CaptureJob\n"
        "from lrdan_edge.runtime.sources.live import LiveSource\n"
        f"source = LiveSource('camera', CaptureJob('scripted_captures', 'opener', ({str(tmp_path)!r}, 'image, hang'), 60))\n"
        "next(iter(source)); print(source.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    end = time.monotonic() + 5
    while alive(int(done.stdout)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(int(done.stdout))


def test_an_isolated_failed_read_is_not_a_lost_signal(tmp_path: Path) -> None:
    with scripted(tmp_path, "image, fail, shape, image, image") as source:
        assert source.fps == 30
        assert [frame.fault for frame in itertools.islice(source, 3)] == [None] * 3


def test_a_camera_that_opens_without_frames_is_one_fault_and_retried_slowly(
    tmp_path: Path, consume: Callable[[Any], Consumer]
) -> None:
    consumer = consume(scripted(tmp_path, "image", "fail"))
    consumer.wait(lambda: bool(consumer.faults), 5)
    opened = count(tmp_path, "opened")
    time.sleep(1.6)
    assert len(consumer.faults) == 1
    assert 2 <= count(tmp_path, "opened") - opened <= 10


def test_a_read_that_gives_up_early_is_not_a_lost_signal_before_the_timeout(
    tmp_path: Path, consume: Callable[[Any], Consumer]
) -> None:
    """V4L2 gives up after 10 s and GStreamer after 30 s, whatever `read_timeout_s` says."""
    slow = "pause 0.6, fail, pause 0.6, fail, pause 0.6, fail, pause 0.6, fail"
    consumer = consume(scripted(tmp_path, f"image, {slow}, image, pause 20", read_timeout_s=5))
    assert consumer.wait(lambda: len(consumer.frames) == 2, 6) > 1.5
    assert not consumer.faults


def test_another_image_size_is_one_fault_until_the_old_size_returns(tmp_path: Path, consume: Callable[[Any], Consumer]) -> None:
    consumer = consume(scripted(tmp_path, "image*2, large*2, pause 20", "large*3, image*2, pause 20"))
    consumer.wait(lambda: len(consumer.frames) == 5, 10)
    assert [frame.image is None for frame in consumer.frames] == [False, False, True, False, False]
    assert "the image size changed from 2x2 to 30x40" in (consumer.faults[0].fault or "")
    assert isinstance(consumer.faults[0].error, SourceSignalError)


def test_a_frozen_image_is_one_fault_until_it_changes(tmp_path: Path, consume: Callable[[Any], Consumer]) -> None:
    still = ", ".join(["grey 90, pause 0.05"] * 12)
    source = scripted(tmp_path, f"image, {still}", f"{still}, image*2, pause 20", limits=Limits(frozen_s=0.3))
    consumer = consume(source)
    consumer.wait(lambda: len(consumer.faults) == 1 and consumer.frames[-1].image is not None, 10)
    assert "frozen image for 0." in (consumer.faults[0].fault or "")
    later = consumer.frames[consumer.frames.index(consumer.faults[0]) + 1 :]
    assert all(frame.image is not None and frame.image.max() != 90 for frame in later)


def test_a_black_image_is_one_fault_until_it_is_bright_again(tmp_path: Path, consume: Callable[[Any], Consumer]) -> None:
    dark = ", ".join(["grey 3, pause 0.05", "grey 4, pause 0.05"] * 6)
    source = scripted(tmp_path, f"image, {dark}", f"{dark}, image*2, pause 20", limits=Limits(black_s=0.3))
    consumer = consume(source)
    consumer.wait(lambda: len(consumer.faults) == 1 and consumer.frames[-1].image is not None, 10)
    assert "black image for 0." in (consumer.faults[0].fault or "")
    later = consumer.frames[consumer.frames.index(consumer.faults[0]) + 1 :]
    assert all(frame.image is not None and frame.image.max() > 8 for frame in later)


def test_closing_while_it_reconnects(tmp_path: Path, consume: Callable[[Any], Consumer]) -> None:
    consumer = consume(scripted(tmp_path, "image", "slow"))
    consumer.wait(lambda: count(tmp_path, "opened") == 2, 5)
    assert consumer.close() < 0.5
    consumer.source.close()


def test_captures_are_released(tmp_path: Path, consume: Callable[[Any], Consumer]) -> None:
    consumer = consume(scripted(tmp_path, "image*50"))
    consumer.wait(lambda: len(consumer.frames) > 60, 5)
    consumer.close()
    consumer.wait(lambda: count(tmp_path, "released") >= 2, 2)


def test_a_bug_in_the_opener_is_not_mistaken_for_a_dead_camera(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a bug"):
        scripted(tmp_path, "refuse")


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

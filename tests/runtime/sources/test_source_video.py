import itertools
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrdan_edge.data.images import Frame
from lrdan_edge.errors import SourceError, SourceFormatError
from lrdan_edge.runtime.sources import CapturedFrame, open_source
from lrdan_edge.runtime.sources.native import log_level

FRAMES = 40
CONTAINERS = [
    ("avi", "MJPG"),
    ("avi", "FFV1"),
    ("avi", "XVID"),
    ("mkv", "FFV1"),
    ("mkv", "MJPG"),
    ("mp4", "mp4v"),
    ("fast.mp4", "mp4v"),
]


def boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    start = 0
    while start < len(data):
        size = int.from_bytes(data[start : start + 4], "big")
        yield data[start + 4 : start + 8], start, size
        start += size


def with_index_first(data: bytes) -> bytes:
    """The MP4 as streaming encoders lay it out: its index (moov) before the frames, so that it opens when cut."""
    parts = {name: data[start : start + size] for name, start, size in boxes(data)}
    moov = bytearray(parts.pop(b"moov"))
    table = moov.index(b"stco") + 8
    (count,) = struct.unpack_from(">I", moov, table)
    offsets = struct.unpack_from(f">{count}I", moov, table + 4)
    struct.pack_into(f">{count}I", moov, table + 4, *(offset + len(moov) for offset in offsets))
    return parts.pop(b"ftyp") + bytes(moov) + b"".join(parts.values())


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory, write_video: Callable[..., Path]) -> Callable[[str, str], Path]:
    folder = tmp_path_factory.mktemp("videos")

    def make(suffix: str, codec: str) -> Path:
        path = folder / f"{codec}.{suffix}"
        if not path.exists():
            write_video(path, codec, FRAMES)
            if suffix == "fast.mp4":
                path.write_bytes(with_index_first(path.read_bytes()))
        return path

    return make


def images(frames: list[CapturedFrame]) -> list[Frame]:
    return [frame.image for frame in frames if frame.image is not None]


def test_a_cut_image_of_a_recording_is_a_fault(video: Callable[[str, str], Path], tmp_path: Path) -> None:
    data = bytearray(video("avi", "MJPG").read_bytes())
    starts = [place for place in range(len(data)) if data[place : place + 3] == b"\xff\xd8\xff"]
    assert len(starts) == FRAMES
    data[starts[10] + 400 : starts[11] - 8] = bytes(starts[11] - 8 - starts[10] - 400)
    (tmp_path / "cut.avi").write_bytes(data)
    with open_source(tmp_path / "cut.avi") as source:
        frames = list(source)
    assert [frame.index for frame in frames if frame.image is None] == [10]
    assert len(frames) == FRAMES


@pytest.mark.parametrize(("suffix", "codec"), CONTAINERS)
def test_every_frame_in_order(
    video: Callable[[str, str], Path],
    picture: Callable[[int], Frame],
    suffix: str,
    codec: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with open_source(video(suffix, codec)) as source:
        assert (source.live, source.fps, source.frames) == (False, 25, FRAMES)
        frames = list(source)
        again = list(source)
    assert [frame.index for frame in frames] == list(range(FRAMES))
    assert [frame.name for frame in frames[:2]] == ["frame 0", "frame 1"]
    assert all(frame.fault is None for frame in frames)
    for number, image in enumerate(images(frames)):
        assert image.shape == (48, 64, 3)
        assert abs(float(image[:, 1:7].mean()) - float(picture(number)[:, 1:7].mean())) < 8
    assert len({id(image) for image in images(frames)}) == FRAMES, "frames share memory"
    assert len(again) == FRAMES
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("suffix", "codec"), CONTAINERS)
def test_a_truncated_video_is_an_error_or_ends_in_a_fault(
    video: Callable[[str, str], Path], tmp_path: Path, suffix: str, codec: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Wherever it is cut: no hang, no crash, no invented or half picture, and never taken for whole."""
    path = video(suffix, codec)
    data = path.read_bytes()
    whole = images(list(open_source(path)))
    shared = tmp_path / f"cut.{suffix}"
    opened = 0
    for size in [*range(0, 40, 7), *(int(len(data) * part) for part in np.linspace(0.01, 0.97, 23)), len(data) - 1]:
        shared.write_bytes(data[:size])
        try:
            frames = list(open_source(shared))
        except SourceError:
            continue
        opened += 1
        good = images(frames)
        assert len(good) <= FRAMES
        assert all(np.array_equal(ours, true) for ours, true in zip(good, whole, strict=False)), (
            f"cut at {size}: half a picture"
        )
        if len(good) < FRAMES:
            assert frames[-1].image is None, f"cut at {size} of {len(data)}: {len(good)} frames taken for the whole"
            assert f"video ends early: {len(good)} of {FRAMES} frames decoded" in (frames[-1].fault or "")
            assert frames[-1].index == len(frames) - 1
    assert opened or suffix == "mp4"
    assert capfd.readouterr() == ("", "")


def test_a_recording_without_index_is_reported(video: Callable[[str, str], Path], tmp_path: Path) -> None:
    data = video("mp4", "mp4v").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceFormatError, match=r"cut\.mp4 has no index \(moov\): it is truncated"):
        open_source(tmp_path / "cut.mp4")


@pytest.mark.parametrize(
    ("content", "words"), [(b"", r"is empty \(0 bytes\)"), (b"just text\n" * 99, "not a video that can be decoded")]
)
def test_a_non_video_is_refused(tmp_path: Path, content: bytes, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "line.mp4").write_bytes(content)
    with pytest.raises(SourceFormatError, match=words):
        open_source(tmp_path / "line.mp4")
    assert capfd.readouterr() == ("", "")


def test_a_damaged_frame_in_the_middle_is_a_fault_in_its_place(video: Callable[[str, str], Path], tmp_path: Path) -> None:
    """A read that fails is not the end: the frames behind it follow, under their own numbers."""
    data = bytearray(video("avi", "MJPG").read_bytes())
    starts = [
        place
        for place in range(len(data) - 4)
        if data[place : place + 4] == b"00dc" and data[place + 8 : place + 10] == b"\xff\xd8"
    ]
    size = int.from_bytes(data[starts[10] + 4 : starts[10] + 8], "little")
    data[starts[10] + 8 : starts[10] + 8 + size] = b"\xff" * size
    (tmp_path / "damaged.avi").write_bytes(data)
    frames = list(open_source(tmp_path / "damaged.avi"))
    assert len(images(frames)) == FRAMES - 1
    assert [frame.index for frame in frames if frame.fault] == [10]
    assert len(frames) == FRAMES


def test_realtime_keeps_the_rate_and_loop_repeats(write_video: Callable[..., Path], tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.avi", "MJPG", 10, fps=50)
    with open_source(path, realtime=True, loop=True) as source:
        assert source.frames is None
        started = time.monotonic()
        frames = list(itertools.islice(source, 26))
        seconds = time.monotonic() - started
    assert [frame.index for frame in frames] == list(range(26))
    assert frames[25].name == "frame 5"
    assert 0.4 < seconds < 2


def test_a_given_rate_overrides_the_videos_own(write_video: Callable[..., Path], tmp_path: Path) -> None:
    started = time.monotonic()
    assert len(list(open_source(write_video(tmp_path / "slow.avi", "MJPG", 11, fps=1), realtime=True, rate=25))) == 11
    assert 0.35 < time.monotonic() - started < 2


def test_close_from_another_thread_ends_the_iteration(write_video: Callable[..., Path], tmp_path: Path) -> None:
    source = open_source(write_video(tmp_path / "slow.avi", "MJPG", 5, fps=0.1), realtime=True)
    threading.Timer(0.3, source.close).start()
    started = time.monotonic()
    assert len(list(source)) == 1
    assert time.monotonic() - started < 3
    source.close()
    assert list(source) == []


def test_opencv_settings_are_restored(video: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "threads;1")
    before, level = dict(os.environ), log_level()
    for _ in open_source(video("avi", "MJPG")):
        assert os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] == "threads;1"
    assert dict(os.environ) == before
    assert log_level() == level


def test_a_finished_video_on_a_web_server_has_an_end(video: Callable[[str, str], Path]) -> None:
    """Were it taken for a camera, its end would be a lost signal and the video would be played for ever."""
    path = video("fast.mp4", "mp4v")

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(path.parent))

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            del format, arguments

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        source = open_source(f"http://127.0.0.1:{server.server_address[1]}/{path.name}")
        assert (source.live, source.frames) == (False, FRAMES)
        assert [frame.fault for frame in source] == [None] * FRAMES
        server.shutdown()

"""Real H.264, H.265 and MJPEG streams that are damaged or change their image size, and what FFmpeg says of them.

Some tests hold what the documentation says cannot be noticed. When one of them fails, a new FFmpeg or OpenCV can do more.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoded_streams import StreamCamera, clip, transport, with_flipped_bits, with_lost_packets
from rtsp_servers import RtspServer

from lrdan_edge.data.images import Frame
from lrdan_edge.errors import SourceFormatError, SourceSignalError
from lrdan_edge.runtime.sources import CapturedFrame, open_source
from lrdan_edge.runtime.sources.ffmpeg_log import DecoderWatch

RAW = {"h264": "h264", "h265": "hevc"}
SMALL = (240, 320, 3)


def until(frames: Iterator[CapturedFrame], done: Callable[[list[CapturedFrame]], bool], seconds: float) -> list[CapturedFrame]:
    """The frames up to the first that completes them."""
    taken, end = list[CapturedFrame](), time.monotonic() + seconds
    for frame in frames:
        taken.append(frame)
        if done(taken):
            return taken
        assert time.monotonic() < end, [frame.fault for frame in taken if frame.fault]
    raise AssertionError("the source ended")


def images(frames: list[CapturedFrame]) -> list[Frame]:
    return [frame.image for frame in frames if frame.image is not None]


def faults(frames: list[CapturedFrame]) -> list[CapturedFrame]:
    return [frame for frame in frames if frame.image is None]


def is_one_of(image: Frame, known: list[Frame]) -> bool:
    return any(np.array_equal(image, one) for one in known)


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_an_encoded_stream_that_changes_its_size_is_a_fault_until_the_old_size_returns(codec: str, tmp_path: Path) -> None:
    small = clip(RAW[codec], codec)
    large = clip(RAW[codec], codec, "640x480")
    there, back = (transport(tmp_path / "stream.ts", *parts, codec=codec) for parts in ((small, large), (large, small)))
    with (
        StreamCamera(there, back, transport(tmp_path / "stream.ts", small, codec=codec)) as camera,
        open_source(camera.url) as source,
    ):
        frames = until(iter(source), lambda taken: len(faults(taken)) == 1 and len(images(taken)) >= 80, 20)
    assert [frame.image is None for frame in frames].index(True) in range(30, 51), (
        "no image of the new size is scaled to the old"
    )
    assert "the image size changed from 240x320 to 480x640" in (faults(frames)[0].fault or "")
    assert isinstance(faults(frames)[0].error, SourceSignalError)
    assert {image.shape for image in images(frames)} == {SMALL}


def test_an_mjpeg_stream_that_changes_its_size_is_a_fault(http_camera: Any, picture: Callable[[int], Frame]) -> None:
    import cv2

    def jpeg(number: int) -> bytes:
        image = picture(number)
        return bytes(cv2.imencode(".jpg", cv2.resize(image, (128, 96)) if number >= 20 else image)[1])

    http_camera._jpeg = jpeg
    with open_source(http_camera.url) as source:
        frames = until(iter(source), lambda taken: taken[-1].image is None, 10)
    assert len(frames) == 21
    assert "the image size changed from 48x64 to 96x128" in (frames[-1].fault or "")


@pytest.mark.parametrize(("codec", "place"), [("h264", 0.2), ("h264", 0.35), ("h265", 0.2), ("h265", 0.35)])
def test_missing_parts_are_one_fault_until_the_next_key_frame(codec: str, place: float, tmp_path: Path) -> None:
    frames, known = through(with_lost_packets, codec, place, tmp_path)
    assert len(faults(frames)) == 1
    assert "the image is damaged (FFmpeg: " in (faults(frames)[0].fault or "")
    assert isinstance(faults(frames)[0].error, SourceFormatError)
    assert all(is_one_of(image, known) for image in images(frames)), "nothing that FFmpeg made up"
    assert frames.index(faults(frames)[0]) >= 8, "the frames before it are inspected"


def test_wrong_bits_on_which_the_decoder_stumbles_are_a_fault_until_the_next_key_frame(tmp_path: Path) -> None:
    frames, known = through(with_flipped_bits, "h264", 0.2, tmp_path)
    assert len(faults(frames)) == 1
    assert "the image is damaged (FFmpeg: concealing" in (faults(frames)[0].fault or "")
    after = frames[frames.index(faults(frames)[0]) :]
    assert all(is_one_of(image, known) for image in images(after)), "nothing that FFmpeg made up"


def through(
    damaged: Callable[[bytes, float], bytes], codec: str, place: float, folder: Path
) -> tuple[list[CapturedFrame], list[Frame]]:
    """The frames of a stream that was damaged at `place`, and the images of the intact one."""
    part = clip(RAW[codec], codec)
    whole = transport(folder / "stream.ts", part, part, codec=codec)
    known = images(list(open_source(folder / "stream.ts")))
    assert len(known) == 100
    with StreamCamera(damaged(whole, place), speed=3) as camera, open_source(camera.url) as source:
        return until(iter(source), lambda taken: len(images(taken)) >= 70, 20), known


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_an_intact_stream_has_no_fault(codec: str, tmp_path: Path) -> None:
    part = clip(RAW[codec], codec)
    whole = transport(tmp_path / "stream.ts", part, part, codec=codec)
    with StreamCamera(whole) as camera, open_source(camera.url) as source:
        assert faults(until(iter(source), lambda taken: len(taken) >= 90, 20)) == []


def test_frames_lost_on_the_way_are_a_fault_of_an_rtsp_stream() -> None:
    with RtspServer(element="! identity drop-probability=0.04 ") as server:
        with open_source(f"rtsp://127.0.0.1:{server.port}/main") as source:
            frames = until(iter(source), lambda taken: len(faults(taken)) >= 2 and taken[-1].image is not None, 30)
        assert "the image is damaged (FFmpeg: Frame num gap" in (faults(frames)[0].fault or "")
        assert len(images(frames)) > 10


def test_a_stream_that_is_joined_between_key_frames_has_no_fault() -> None:
    with RtspServer() as server, open_source(f"rtsp://127.0.0.1:{server.port}/main") as first:
        until(iter(first), lambda taken: len(taken) >= 7, 10)
        with open_source(f"rtsp://127.0.0.1:{server.port}/main") as second:
            assert faults(until(iter(second), lambda taken: len(taken) >= 40, 10)) == []


def test_what_ffmpeg_does_not_say_is_documented(tmp_path: Path) -> None:
    """H.265 with wrong bits, and recordings that change their size or are damaged: see docs/reference/sources.md."""
    frames, known = through(with_flipped_bits, "h265", 0.2, tmp_path)
    assert faults(frames) == []
    assert not all(is_one_of(image, known) for image in images(frames)), "wrong images are delivered"
    small, large = clip("h264"), clip("h264", size="640x480")
    (tmp_path / "line.ts").write_bytes(with_flipped_bits(transport(tmp_path / "stream.ts", small, large), 0.1))
    recorded = list(open_source(tmp_path / "line.ts"))
    assert {image.shape for image in images(recorded)} == {SMALL}
    assert len(images(recorded)) == 100


def test_a_decoder_without_key_frames_in_its_log() -> None:
    watch = DecoderWatch(threads=1)
    assert not watch.see("concealing 1 DC, 1 AC, 1 MV errors in P frame\n", arrived=True)
    assert watch.damage is None, "what is written before the first image does not count"
    assert watch.see("x\nconcealing 3 DC, 3 AC, 3 MV errors in P frame\n", arrived=True)
    assert str(watch.damage) == "concealing 3 DC, 3 AC, 3 MV errors in P frame"
    assert not watch.has_key_frames


def test_a_key_frame_ends_the_damage_once_the_decoder_has_given_it_out() -> None:
    watch = DecoderWatch(threads=2)
    watch.see("nal_unit_type: 5(IDR), nal_ref_idc: 3\n", arrived=True)
    assert watch.see("Frame num gap 3 1\n", arrived=True)
    assert not watch.see("nal_unit_type: 1(Coded slice of a non-IDR picture), nal_ref_idc: 2\n", arrived=True)
    said = [watch.damage is not None]
    for text in ["nal_unit_type: 5(IDR), nal_ref_idc: 3\n", *[""] * 9]:
        watch.see(text, arrived=True)
        said.append(watch.damage is not None)
    assert said == [True] * 7 + [False] * 4, "two threads and four images in the decoder's order"

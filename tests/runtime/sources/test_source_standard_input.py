"""Images on standard input, against OpenCV's own encoder and a real pipe."""

import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrdan_edge.errors import SourceFormatError
from lrdan_edge.runtime.sources import standard_input
from lrdan_edge.runtime.sources.standard_input import StandardInput, next_image


def stream(data: bytes, size: int = 64) -> io.BufferedReader:
    """Through a small buffer, so that images lie across its ends."""
    return io.BufferedReader(io.BytesIO(data), size)


def encoded(kind: str, seed: int, side: int = 24, **options: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (side, side + 3, 3)).astype(np.uint8)
    parameters = [value for name, number in options.items() for value in (getattr(cv2, name), number)]
    done, data = cv2.imencode(f".{kind}", noise, parameters)
    assert done
    return bytes(data.tobytes())


@given(st.lists(st.tuples(st.sampled_from(["png", "jpg"]), st.integers(0, 10_000), st.integers(1, 40)), max_size=5))
@settings(max_examples=60, deadline=None)
def test_concatenated_images_are_separated_again(kinds: list[tuple[str, int, int]]) -> None:
    files = [encoded(kind, seed, side) for kind, seed, side in kinds]
    pipe = stream(b"".join(files))
    assert [next_image(pipe) for _ in files] == files
    assert next_image(pipe) is None


@pytest.mark.parametrize(
    "options", [{"IMWRITE_JPEG_PROGRESSIVE": 1}, {"IMWRITE_JPEG_RST_INTERVAL": 2}, {"IMWRITE_JPEG_OPTIMIZE": 1}]
)
def test_every_kind_of_jpeg(options: dict[str, int]) -> None:
    files = [encoded("jpg", seed, 80, **options) for seed in (1, 2)]
    pipe = stream(b"".join(files))
    assert [next_image(pipe), next_image(pipe)] == files


@given(
    st.lists(st.tuples(st.sampled_from(["png", "jpg"]), st.integers(0, 300)), min_size=1, max_size=4),
    st.sampled_from(["\0", "\xff"]),
)
@settings(max_examples=40, deadline=None)
def test_padding_behind_an_image_is_skipped(kinds: list[tuple[str, int]], byte: str) -> None:
    """Stills of a Raspberry Pi end with zeros, which used to end the source as "neither JPEG nor PNG"."""
    files = [encoded(kind, 1) for kind, _ in kinds]
    padding = [byte.encode("latin-1") * count for _, count in kinds]
    ending = "" if byte == "\xff" else "\0" * 9000
    pipe = stream(b"".join(file + behind for file, behind in zip(files, [*padding[1:], ending.encode()], strict=True)))
    assert [next_image(pipe) for _ in files] == files
    assert next_image(pipe) is None


def test_endless_zeros_are_not_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard_input, "MOST_BYTES", 1000)
    with pytest.raises(SourceFormatError, match="neither JPEG nor PNG"):
        next_image(stream(encoded("jpg", 1)[:0] + b"\0" * 5000))


@contextmanager
def piped(data: bytes) -> Iterator[int]:
    """A file descriptor that gives these bytes and ends."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        yield file.fileno()


@given(st.sampled_from(["png", "jpg"]), st.integers(1, 400))
@settings(max_examples=40, deadline=None)
def test_a_truncated_image_is_a_fault_and_ends_the_source(kind: str, missing: int) -> None:
    whole = encoded(kind, 1)
    with piped(whole + whole[: max(1, len(whole) - missing)]) as descriptor:
        frames = list(StandardInput(descriptor))
    assert [frame.image is None for frame in frames] == [False, True]
    assert frames[1].fault == "standard input ended within an image"


def test_a_non_image_is_refused_and_a_broken_image_is_a_fault() -> None:
    with piped(b"BM not an image") as descriptor, pytest.raises(SourceFormatError, match="neither JPEG nor PNG"):
        list(StandardInput(descriptor))
    broken = bytearray(encoded("png", 1))
    broken[len(broken) // 2] ^= 0xFF
    with piped(bytes(broken) + encoded("png", 2)) as descriptor:
        frames = list(StandardInput(descriptor))
    assert frames[1].image is not None
    assert [frame.index for frame in frames] == [0, 1]


def test_a_real_pipe() -> None:
    files = [encoded("jpg", 3), encoded("png", 4)]
    program = "from lrdan_edge import open_source\nfor frame in open_source('-'): print(frame.name, frame.image.shape)"
    done = subprocess.run([sys.executable, "-c", program], input=b"".join(files), capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == ["image 0 (24, 27, 3)", "image 1 (24, 27, 3)"]


@pytest.mark.parametrize("begun", [b"", encoded("jpg", 1)[:30]], ids=["between images", "within one"])
def test_closing_ends_a_read_that_waits(begun: bytes) -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, encoded("png", 1) + begun)
        source = StandardInput(reading)
        frames = iter(source)
        assert next(frames).image is not None
        threading.Timer(0.2, source.close).start()
        started = time.monotonic()
        assert list(frames) == []
        assert time.monotonic() - started < 2
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("kind", ["entropy-coded data", "segments", "restarts", "fill bytes", "chunks", "announced chunk"])
def test_an_image_without_an_end_does_not_fill_the_memory(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera's broken encoder, or a stranger, may send one image forever."""
    monkeypatch.setattr(standard_input, "MOST_BYTES", 1 << 20)
    png = b"\x89PNG\r\n\x1a\n"
    endless = {
        "entropy-coded data": (b"\xff\xd8\xff\xda\0\x02", b"x" * 4096),
        "segments": (b"\xff\xd8", b"\xff\xe0\x10\x00" + bytes(0xFFE)),
        "restarts": (b"\xff\xd8\xff\xda\0\x02", b"\xff\xd0" * 2048),
        "fill bytes": (b"\xff\xd8", b"\xff" * 4096),
        "chunks": (png, b"\0\0\x10\0tEXt" + bytes(0x1004)),
        "announced chunk": (png, b"\xff\xff\xff\xffIDAT"),
    }[kind]

    class Endless(io.RawIOBase):
        sent = 0
        rest = endless[0]

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any, /) -> int:
            self.rest = self.rest or endless[1]
            count = min(len(buffer), len(self.rest))
            buffer[:count], self.rest = self.rest[:count], self.rest[count:]
            Endless.sent += count
            return count

    with pytest.raises(SourceFormatError, match="an image of more than 1 MiB"):
        next_image(io.BufferedReader(Endless(), 4096))
    assert Endless.sent < 2 << 20

"""The size of an image is known, and checked, before anything is decoded."""

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from lrdan_edge.data import images
from lrdan_edge.data.image_size import MOST_PIXELS, image_size
from lrdan_edge.data.images import decode_image, read_image, read_mask
from lrdan_edge.data.listing import SUFFIXES
from lrdan_edge.data.scan import Scan
from lrdan_edge.errors import DataError
from lrdan_edge.runtime.sources import open_source

ENCODINGS: list[tuple[str, dict[str, Any]]] = [
    *((suffix, {}) for suffix in sorted(SUFFIXES)),
    (".jpg", {"progressive": True, "comment": b"x" * 60_000, "icc_profile": b"y" * 200_000}),
    (".webp", {"lossless": True}),
    (".webp", {"exif": b"Exif\0\0"}),
    (".tif", {"big_tiff": True}),
    (".tif", {"compression": "tiff_lzw"}),
]


@pytest.mark.parametrize(("suffix", "options"), ENCODINGS, ids=str)
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7)])
def test_the_size_is_the_decoders(
    tmp_path: Path, suffix: str, options: dict[str, Any], mode: str, size: tuple[int, int]
) -> None:
    path = tmp_path / f"x{suffix}"
    Image.new(mode, (size[1], size[0]), 90 if mode == "L" else (10, 90, 200)).save(path, **options)
    data = path.read_bytes()
    assert image_size(data) == size == read_image(path).shape[:2]
    assert all(image_size(data[:count]) in (None, size) for count in range(0, len(data), 1 + len(data) // 300))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm", ".bmp", ".jpg"])
def test_the_size_of_what_opencv_writes(suffix: str) -> None:
    done, data = cv2.imencode(suffix, np.zeros((5, 9), np.uint8))
    assert done
    assert image_size(data.data) == (5, 9)


def test_sizes_in_text_may_have_comments() -> None:
    assert image_size(b"P5\n# made by hand\n9 5\n# more\n255\n" + bytes(45)) == (5, 9)
    assert image_size(b"P5 9") is None


def bomb(rows: int, columns: int) -> bytes:
    """A valid PNG of black pixels, a thousandth of their size."""
    packed = zlib.compressobj(9)
    body = b"".join(packed.compress(bytes(columns + 1)) for _ in range(rows)) + packed.flush()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("data", [bomb(8192, 16384)], ids=["16384x8192"])
def test_an_image_that_is_too_large_is_decoded_nowhere(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(data) < 1 << 20
    path = tmp_path / "x.png"
    path.write_bytes(data)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    said = r"has 8192x16384 pixels, at most 100 million are decoded: crop or shrink it"
    for read in (read_image, read_mask, lambda path: decode_image(path.read_bytes(), "x.png")):
        with pytest.raises(DataError, match=said):
            read(path)
    scan = Scan()
    scan.add([path])
    assert "at most 100 million" in str(scan.broken[path])
    (frame,) = open_source(tmp_path)
    assert frame.image is None
    assert "at most 100 million" in str(frame.fault)


def test_images_up_to_the_limit_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST_PIXELS", 100)
    assert decode_image(bomb(10, 10), "x").shape == (10, 10)
    with pytest.raises(DataError, match="has 10x11 pixels"):
        decode_image(bomb(10, 11), "x")
    assert MOST_PIXELS == 10**8


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with path.open("wb") as file:
        file.truncate(1 << 42)  # sparse
    with pytest.raises(DataError, match="has 4398046511104 bytes, at most"):
        read_image(path)

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import Array
from PIL import Image

from lrdan_edge.data.images import decode_image, fit_frame, list_images, natural_key, read_image, to_eight_bits
from lrdan_edge.data.jpeg import end_of_jpeg
from lrdan_edge.errors import DataError


def test_natural_order() -> None:
    names = ["tile_10.png", "tile_2.png", "Tile_1.png", "tile_2b.png"]
    assert [path.name for path in sorted(map(Path, names), key=natural_key)] == [
        "Tile_1.png",
        "tile_2.png",
        "tile_2b.png",
        "tile_10.png",
    ]


def test_listing_errors_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no image"):
        list_images(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        list_images(tmp_path / "none")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_reads_what_pillow_wrote(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    rgb = cv2.GaussianBlur(rng.integers(0, 256, (40, 60, 3), np.uint8), (0, 0), 3)
    options: dict[str, Any] = {"quality": 95} if suffix in {"jpg", "webp"} else {}
    Image.fromarray(rgb).save(tmp_path / f"x.{suffix}", **options)
    read = read_image(tmp_path / f"x.{suffix}")
    assert read.dtype == np.uint8
    assert np.abs(read[..., ::-1].astype(int) - rgb).mean() < 2


def test_sixteen_bits_and_alpha(tmp_path: Path) -> None:
    deep = np.array([[0, 257, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    assert read_image(tmp_path / "deep.png").tolist() == [[0, 1, 255]]
    cv2.imwrite(str(tmp_path / "alpha.png"), np.full((4, 4, 4), 9, np.uint8))
    assert read_image(tmp_path / "alpha.png").shape == (4, 4, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_image_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"x.{suffix}"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match="is not a complete image"):
        read_image(path)


def jpeg(side: int = 64) -> bytes:
    data = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))[1]
    return bytes(data.tobytes())


@pytest.mark.parametrize("behind", [b"\0" * 100_000, b"\xff" * 9000, b"@BRCM" + bytes(range(256)) * 100, jpeg(16)])
def test_what_follows_a_whole_jpeg_does_not_matter(tmp_path: Path, behind: bytes) -> None:
    """The end marker was searched in the last 4096 bytes, so a still of a Raspberry Pi counted as cut off."""
    (tmp_path / "x.jpg").write_bytes(jpeg() + behind)
    assert np.array_equal(read_image(tmp_path / "x.jpg"), decode_image(jpeg(), "x"))


def test_the_end_of_a_thumbnail_does_not_end_its_image() -> None:
    """A file cut off soon after its thumbnail counted as whole."""
    inner = jpeg(16)
    whole = jpeg()
    photo = whole[:2] + b"\xff\xe1" + (len(inner) + 2).to_bytes(2, "big") + inner + whole[2:]
    assert np.array_equal(decode_image(photo, "x"), decode_image(whole, "x"))
    for missing in (1, 2, 500, 3000):
        with pytest.raises(DataError, match="is not a complete image"):
            decode_image(photo[:-missing] + b"\0" * 100, "x")


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), progressive=st.booleans(), restart=st.integers(0, 3))
def test_the_end_of_every_jpeg_is_found(seed: int, progressive: bool, restart: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (40, 56, 3), np.uint8)
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive), cv2.IMWRITE_JPEG_RST_INTERVAL, restart]
    data = bytes(cv2.imencode(".jpg", noise, options)[1].tobytes())
    assert end_of_jpeg(data) == len(data)
    assert end_of_jpeg(data + data) == len(data)
    assert end_of_jpeg(data[:-1]) is None


def test_the_file_type_comes_from_the_bytes_not_the_name(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for suffix, other in (("png", "jpg"), ("jpg", "png")):
        path = tmp_path / f"whole.{suffix}"
        cv2.imwrite(str(path), image)
        path.rename(tmp_path / f"called.{other}")
        assert read_image(tmp_path / f"called.{other}").shape == (64, 64, 3)
        cut = (tmp_path / f"called.{other}").read_bytes()[:-100]
        with pytest.raises(DataError, match="is not a complete image"):
            decode_image(cut, "frame")


def test_a_header_that_claims_a_huge_image_is_one_clear_error() -> None:
    """OpenCV raises its own error there, and one such frame used to end `run -` with a traceback."""
    data = bytearray(cv2.imencode(".jpg", np.zeros((64, 64), np.uint8))[1].tobytes())
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = b"\xff\x20\xff\x20"
    with pytest.raises(DataError, match="has 65312x65312 pixels, at most 100 million are decoded"):
        decode_image(bytes(data), "frame 2")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32, bool])
def test_pixels_of_another_type_are_refused_not_read_as_16_bit(dtype: type) -> None:
    with pytest.raises(DataError, match="cannot be judged: give uint8, or uint16"):
        to_eight_bits(np.ones((4, 4), dtype), 16)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    source=st.sampled_from([None, 1, 3, 4]),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 9),
)
def test_any_frame_is_converted(height: int, width: int, source: int | None, channels: int, seed: int) -> None:
    shape = (height, width) if source is None else (height, width, source)
    frame = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    fitted = fit_frame(frame, (32, 48, channels))
    assert fitted.shape == (32, 48, channels)
    assert fitted.dtype == np.uint8
    assert fitted.flags.c_contiguous
    again = fit_frame(fitted, (32, 48, channels))
    assert np.array_equal(again, fitted), "a frame that fits must not change"


def test_shrinking_averages_every_pixel() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    blocks = frame.reshape(16, 4, 16, 4).mean((1, 3))
    assert np.abs(fit_frame(frame, (16, 16, 1))[..., 0] - blocks).max() <= 0.5


@pytest.mark.parametrize("frame", [np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8)])
def test_what_is_no_frame_is_refused(frame: Array) -> None:
    with pytest.raises(DataError, match="a frame"):
        fit_frame(frame, (8, 8, 3))

"""A video with rotation metadata is turned as FFmpeg turns it."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lrdan_edge.runtime.sources import open_source

pytestmark = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg")


def ffmpeg(*options: object) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, options)], check=True)


def rotated(folder: Path, codec: str, suffix: str, angle: int) -> tuple[Path, Any]:
    """A video of five frames that is to be shown rotated, and its first frame as FFmpeg shows it."""
    image = np.full((48, 64, 3), 30, np.uint8)
    image[:24, :32] = 200  # grey, since decoders enlarge colours differently
    image[30:, 50:] = 250
    assert cv2.imwrite(str(folder / "frame.png"), image)
    flat, video = folder / f"flat{suffix}", folder / f"video{suffix}"
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    ffmpeg("-loop", 1, "-i", folder / "frame.png", "-frames:v", 5, "-c:v", codec, "-pix_fmt", pixels, "-q:v", 2, flat)
    version = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout.split()[2]
    if version[:1].isdigit() and int(version.split(".")[0]) >= 6:
        ffmpeg("-display_rotation", -angle, "-i", flat, "-c", "copy", video)
    else:
        ffmpeg("-i", flat, "-c", "copy", "-metadata:s:v", f"rotate={angle}", video)
    ffmpeg("-i", video, "-frames:v", 1, folder / "shown.png")
    return video, cv2.imread(str(folder / "shown.png"))


@pytest.mark.parametrize("angle", [90, 180, 270])
@pytest.mark.parametrize(("codec", "suffix"), [("mpeg4", ".mp4"), ("mjpeg", ".mov")])
def test_is_turned_as_ffmpeg_turns_it(tmp_path: Path, codec: str, suffix: str, angle: int) -> None:
    video, expected = rotated(tmp_path, codec, suffix, angle)
    with open_source(video) as source:
        frames = list(source)
    assert [frame.fault for frame in frames] == [None] * 5
    for frame in frames:
        assert frame.image is not None
        assert frame.image.shape == expected.shape == ((48, 64, 3) if angle == 180 else (64, 48, 3))
    first: Any = frames[0].image
    assert np.abs(first.astype(int) - expected).max() <= 12

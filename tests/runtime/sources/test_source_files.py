import itertools
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from lrdan_edge.errors import SourceError
from lrdan_edge.runtime.sources import open_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """part_1, part_2 (corrupt), part_10 (cut off), part_20, each filled with its number."""
    for number in (20, 10, 2, 1):
        cv2.imwrite(str(tmp_path / f"part_{number}.png"), np.full((12, 16, 3), number, np.uint8))
    (tmp_path / "part_2.png").write_bytes(b"no picture at all")
    whole = (tmp_path / "part_10.png").read_bytes()
    (tmp_path / "part_10.png").write_bytes(whole[:-20])
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_a_folder_in_natural_order_with_faults_in_their_place(folder: Path) -> None:
    with open_source(folder) as source:
        assert (source.live, source.fps, source.frames) == (False, None, 4)
        frames = list(source)
    assert [frame.name for frame in frames] == ["part_1.png", "part_2.png", "part_10.png", "part_20.png"]
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert [None if frame.image is None else int(frame.image.flat[0]) for frame in frames] == [1, None, None, 20]
    for frame in frames[1:3]:
        assert frame.fault is not None
        assert frame.name in frame.fault
    assert frames[0].fault is None
    assert frames[0].capture_ns <= frames[3].capture_ns


def test_names_in_subfolders_are_distinguished(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "1.png"), np.zeros((4, 4), np.uint8))
    assert [frame.name for frame in open_source(tmp_path)] == ["a/1.png", "b/1.png"]


def test_a_glob_and_a_single_file(folder: Path) -> None:
    assert [frame.name for frame in open_source(f"{folder}/part_?.png")] == ["part_1.png", "part_2.png"]
    assert [frame.name for frame in open_source(f"file://{folder}/part_20.png")] == ["part_20.png"]
    with pytest.raises(SourceError, match=r"matches .*notes\.txt, which is not an image"):
        open_source(f"{folder}/*")


def test_a_file_whose_name_looks_like_a_glob(folder: Path) -> None:
    (folder / "part_1.png").rename(folder / "part[1].png")
    assert [frame.fault for frame in open_source(folder / "part[1].png")] == [None]


def test_a_file_that_vanishes_is_a_fault(folder: Path) -> None:
    source = open_source(folder)
    (folder / "part_20.png").unlink()
    assert "cannot be read" in (list(source)[-1].fault or "")


def test_an_empty_folder_and_no_match_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no image"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match="no file matches"):
        open_source(tmp_path / "*.png")


def test_loop_counts_on_until_closed(folder: Path) -> None:
    source = open_source(folder, loop=True)
    assert source.frames is None
    frames = list(itertools.islice(source, 9))
    assert [frame.index for frame in frames] == list(range(9))
    assert frames[8].name == frames[0].name
    source.close()
    source.close()
    assert list(source) == []


def test_images_are_delivered_at_the_requested_rate(folder: Path) -> None:
    with open_source(folder, rate=20, loop=True) as source:
        assert source.fps == 20
        began = time.monotonic()
        frames = list(itertools.islice(source, 11))
        assert 0.45 < time.monotonic() - began < 2
        assert np.median(np.diff([frame.capture_ns for frame in frames])) == pytest.approx(50e6, rel=0.3)
        source.close()
        assert list(source) == []


def test_a_name_that_is_not_utf8_can_be_recorded(tmp_path: Path) -> None:
    """One such file used to stop the verdicts of the whole run: its name could not be encoded."""
    for number, data in ((1, cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes()), (2, b"damaged")):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/%d_gr\xfcn.png" % number)).write_bytes(data)
    whole, damaged = open_source(tmp_path)
    assert whole.name == "1_gr\ufffdn.png"
    assert whole.image is not None
    assert "2_gr\ufffdn.png is not a complete image" in (damaged.fault or "")
    assert (whole.name + str(damaged.fault)).encode()

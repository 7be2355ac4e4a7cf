"""The conveyor: nothing seen twice, defects whole and visible, video and pictures the same."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lrdan_edge.data.dataset import good_images
from lrdan_edge.data.dataset import test_images as images_to_test  # a name that pytest does not take for a test
from lrdan_edge.data.images import read_image
from lrdan_edge.demo.conveyor import CALIBRATION_STRIP, TILE, TRAINING_STRIPS, VIDEO_STRIP, Conveyor, make_conveyor
from lrdan_edge.demo.defects import KINDS, paint
from lrdan_edge.errors import DataError
from lrdan_edge.runtime.sources import open_source


@pytest.fixture(scope="module")
def conveyor(tmp_path_factory: pytest.TempPathFactory) -> Conveyor:
    folder = tmp_path_factory.mktemp("conveyor")
    return make_conveyor(folder, seed=3)


def test_strips_share_no_pixel() -> None:
    strips = sorted([*TRAINING_STRIPS, CALIBRATION_STRIP, VIDEO_STRIP])
    assert all(right - left >= TILE for left, right in strips)
    assert all(one[1] <= other[0] for one, other in pairwise(strips))
    assert strips[0][0] >= 0
    assert strips[-1][1] <= 512


def test_the_conveyor_has_enough_frames_and_defects(conveyor: Conveyor) -> None:
    images = good_images(conveyor.data)
    assert len(images.training) == 600
    assert len(images.held_out) == 400
    labels = Counter(frame.label for frame in conveyor.frames)
    assert labels["good"] >= 300
    assert sum(labels[kind] for kind in KINDS) >= 150
    assert len(conveyor.defects) == 24
    assert Counter(conveyor.defects) == dict.fromkeys(KINDS, 6)
    assert {frame.defect for frame in conveyor.frames} == {None, *range(24)}


def test_labels_follow_the_masks(conveyor: Conveyor) -> None:
    for frame in conveyor.frames:
        if frame.label == "good":
            assert (frame.defect, frame.mask_pixels) == (None, 0)
        elif frame.label == "boundary":
            assert frame.defect is None
        else:
            assert frame.defect is not None
            assert conveyor.defects[frame.defect] == frame.label
            assert frame.mask_pixels >= 40


def test_test_folder_holds_every_frame_but_the_boundary_with_its_mask(conveyor: Conveyor) -> None:
    listed = {(int(image.path.stem), image.kind): image for image in images_to_test(conveyor.data)}
    expected = {(frame.frame, frame.label): frame for frame in conveyor.frames if frame.label != "boundary"}
    assert listed.keys() == expected.keys()
    for key, image in listed.items():
        if image.defective:
            assert image.mask is not None
            assert np.count_nonzero(read_image(image.mask)) == expected[key].mask_pixels


def test_video_is_the_frames_pixel_by_pixel(conveyor: Conveyor) -> None:
    with open_source(str(conveyor.video)) as source:
        images = [captured.image for captured in source]
    for frame, image in zip(conveyor.frames, images, strict=True):
        assert image is not None
        path = conveyor.data / "test" / frame.label / f"{frame.frame:04d}.png"
        if path.exists():
            assert np.array_equal(image, np.repeat(read_image(path)[:, :, None], 3, axis=2))


def test_the_ground_truth_is_on_disk(conveyor: Conveyor) -> None:
    truth = json.loads(conveyor.truth.read_text())
    assert truth["defects"] == conveyor.defects
    assert len(truth["frames"]) == len(conveyor.frames)
    assert truth["frames"][5]["label"] == conveyor.frames[5].label


def test_same_seed_same_conveyor(conveyor: Conveyor, tmp_path: Path) -> None:
    again = make_conveyor(tmp_path, seed=3)
    assert again.frames == conveyor.frames
    assert again.video.read_bytes() == conveyor.video.read_bytes()
    with pytest.raises(DataError, match="exists already"):
        make_conveyor(tmp_path, seed=4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_is_visible_and_complete(kind: str) -> None:
    ground = np.full((104, 96), 90, np.float32)
    for seed in range(20):
        painted, opacity = paint(kind, ground, np.random.default_rng(seed))
        assert painted.dtype == opacity.dtype == np.float32
        assert not opacity[:3].any()
        assert not opacity[-3:].any()
        assert not opacity[:, :3].any()
        assert not opacity[:, -3:].any()
        assert np.abs(painted - ground)[opacity > 0.8].mean() > 50
        assert np.array_equal(painted[opacity == 0], ground[opacity == 0])

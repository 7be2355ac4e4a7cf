"""Masks are found whatever they are called, and those that cannot be meant as they are are told."""

from pathlib import Path

import numpy as np
import pytest
from parts import defective_image, good_image, write

from lrdan_edge.data.check import check, evaluation_notes
from lrdan_edge.data.dataset import test_images as labelled
from lrdan_edge.data.masks import masks_beside
from lrdan_edge.train.known_defects import known_images


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Good parts, and four defects with masks."""
    rng = np.random.default_rng(0)
    for index in range(6):
        write(tmp_path / "train/good" / f"{index}.png", good_image(rng))
        write(tmp_path / "test/good" / f"{index}.png", good_image(rng))
    for index in range(4):
        image, mask = defective_image(rng)
        write(tmp_path / "test/blob" / f"{index}.png", image)
        write(tmp_path / "ground_truth/blob" / f"{index}_mask.png", mask)
    return tmp_path


def notes(data: Path) -> list[str]:
    """What the check and an evaluation say about masks, which is the same."""
    own = [[note for note in of if "mask" in note] for of in (check(data).warnings, evaluation_notes(data, labelled(data), []))]
    assert own[0] == own[1]
    return own[0]


@pytest.mark.parametrize(
    "name",
    [
        "0_mask.png",
        "0.png",
        "0_gt.png",
        "0_GT.PNG",
        "0_mask.bmp",
        "0.tif",
        "0-mask.jpg",
        "0.png.png",
        "mask_0.png",
        "0_ground_truth.png",
    ],
)
def test_masks_are_found_by_their_usual_names(tmp_path: Path, name: str) -> None:
    image, mask = defective_image(np.random.default_rng(0))
    write(tmp_path / "test/good/0.png", image)
    write(tmp_path / "test/blob/0.png", image)
    where = write(tmp_path / "ground_truth/blob" / name, mask)
    assert [one.mask for one in labelled(tmp_path) if one.defective] == [where]
    write(tmp_path / "known/blob/0.png", image)
    where = write(tmp_path / "known/masks/blob" / name, mask)
    assert [one.mask for one in known_images(tmp_path / "known")] == [where]


def test_masks_as_they_should_be_are_not_talked_about(data: Path) -> None:
    assert notes(data) == []


def test_masks_that_are_wrong_are_told(data: Path) -> None:
    folder = data / "ground_truth/blob"
    for index, mask in enumerate((np.full((32, 32), 255), np.zeros((32, 32)), np.eye(64)[:32] * 255)):
        write(folder / f"{index}_mask.png", mask.astype(np.uint8))
    alpha = np.zeros((32, 32, 4), np.uint8)
    alpha[4:9, 4:9, 3] = 255
    write(folder / "3_mask.png", alpha)
    said = notes(data)
    assert len(said) == 4
    for found, problem in zip(said, ("may be inverted", "mark nothing", "another aspect ratio", "alpha channel"), strict=True):
        assert problem in found
        assert "1 of 4 masks" in found
    (folder / "3_mask.png").write_bytes(b"none")
    assert any("cannot be read" in note for note in notes(data))


def test_missing_and_left_over_masks_are_told(data: Path) -> None:
    (data / "ground_truth/blob/1_mask.png").rename(data / "ground_truth/blob/scan1.png")
    said = notes(data)
    assert any("1 of 4 images of defects have no mask" in note for note in said)
    assert any("1 masks belong to no image by their names" in note and "scan1.png" in note for note in said)


def test_masks_of_good_parts_may_be_empty(data: Path) -> None:
    write(data / "ground_truth/good/0.png", np.zeros((32, 32), np.uint8))
    assert notes(data) == []


def test_masks_beside_images_are_not_images(tmp_path: Path) -> None:
    image, mask = defective_image(np.random.default_rng(0))
    paths = [write(tmp_path / name, image) for name in ("a.jpg", "b.png", "b_label.png", "c_mask.png")]
    write(tmp_path / "a_mask.png", mask)
    assert masks_beside([*paths, tmp_path / "a_mask.png"]) == {
        tmp_path / "a.jpg": tmp_path / "a_mask.png",
        tmp_path / "b.png": tmp_path / "b_label.png",
    }

from pathlib import Path

import numpy as np
import pytest
from parts import good_image, write

from lrdan_edge.data.dataset import good_images
from lrdan_edge.data.dataset import test_images as labelled_images
from lrdan_edge.errors import DataError


def fill(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for index in range(count):
        write(folder / f"{index}.png", good_image(rng))


def test_a_plain_folder_is_split_by_seed(tmp_path: Path) -> None:
    fill(tmp_path, 50)
    first, same, other = good_images(tmp_path, 1), good_images(tmp_path, 1), good_images(tmp_path, 2)
    assert first == same
    assert first.held_out != other.held_out
    assert len(first.held_out) == 10
    assert not set(first.held_out) & set(first.training)
    assert len(first.training) == 40


def test_a_calibration_folder_is_held_out_whole(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "good", 6)
    fill(tmp_path / "calibration" / "good", 4)
    images = good_images(tmp_path)
    assert (len(images.training), len(images.held_out)) == (6, 4)


def test_labels_and_masks(tmp_path: Path) -> None:
    fill(tmp_path / "test" / "good", 2)
    fill(tmp_path / "test" / "crack", 3)
    write(tmp_path / "ground_truth" / "crack" / "0_mask.png", np.zeros((4, 4), np.uint8))
    write(tmp_path / "ground_truth" / "crack" / "1.png", np.zeros((4, 4), np.uint8))
    images = labelled_images(tmp_path)
    assert [image.kind for image in images] == ["crack"] * 3 + ["good"] * 2
    assert [image.mask is not None for image in images] == [True, True, False, False, False]


def test_masks_of_nested_folders_are_their_own(tmp_path: Path) -> None:
    fill(tmp_path / "test" / "good", 1)
    for part in ("a", "b"):
        fill(tmp_path / "test" / "crack" / part, 1)
        write(tmp_path / "ground_truth" / "crack" / part / "0.png", np.zeros((4, 4), np.uint8))
    masks = [image.mask for image in labelled_images(tmp_path) if image.defective]
    assert masks == [tmp_path / "ground_truth" / "crack" / part / "0.png" for part in ("a", "b")]


@pytest.mark.parametrize("other", ["test", "ground_truth", "calibration"])
def test_a_layout_without_train_good_is_refused(tmp_path: Path, other: str) -> None:
    """`parts/Train/good` with `parts/test/scratch` beside it used to be learnt with all its defects and masks as good parts."""
    fill(tmp_path / "Train" / "good", 9)
    fill(tmp_path / other / "scratch", 2)
    with pytest.raises(DataError, match=f"has a folder '{other}' but no train/good"):
        good_images(tmp_path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        good_images(tmp_path / "none")
    fill(tmp_path / "few", 3)
    with pytest.raises(DataError, match="holds 3 images"):
        good_images(tmp_path / "few")
    fill(tmp_path / "layout" / "train" / "parts", 9)
    with pytest.raises(DataError, match="has no folder 'good'"):
        good_images(tmp_path / "layout")
    fill(tmp_path / "half" / "test" / "good", 2)
    with pytest.raises(DataError, match=r"no image in test/<defect>"):
        labelled_images(tmp_path / "half")

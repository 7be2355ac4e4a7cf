"""What is wrong with a data folder is said, with what to do; what is right is not talked about."""

import hashlib
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from parts import exposed, good_image, surface, write

from lrdan_edge.cli.main import cli
from lrdan_edge.data.check import DatasetReport, check, evaluation_notes, training_notes
from lrdan_edge.data.dataset import good_images
from lrdan_edge.data.dataset import test_images as labelled_images
from lrdan_edge.data.scan import Scan
from lrdan_edge.errors import DataError


def fill(folder: Path, parts: int, exposures: int = 1, seed: int = 0) -> None:
    """``<part>-<exposure>.png``, every part with a surface of its own."""
    rng = np.random.default_rng(seed)
    for part in range(parts):
        own = surface(rng, 48)
        for exposure in range(exposures):
            write(folder / f"{part}-{exposure}.png", exposed(own, rng))


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    fill(tmp_path / "data/train/good", 250)
    fill(tmp_path / "data/test/good", 20, seed=1)
    fill(tmp_path / "data/test/crack", 10, seed=2)
    return tmp_path / "data"


def test_clean_data_gives_no_warning(clean: Path) -> None:
    found = check(clean)
    assert found.warnings == []
    assert [(folder.name, folder.images) for folder in found.folders] == [
        ("train/good", 250),
        ("test/good", 20),
        ("test/crack", 10),
    ]
    images = good_images(clean)
    assert training_notes(clean, images, Scan()) == []
    assert evaluation_notes(clean, labelled_images(clean), images.training) == []


def test_a_test_part_used_for_training_is_found(clean: Path) -> None:
    image = cv2.imread(str(clean / "train/good/7-0.png"), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    write(clean / "test/good/again.png", np.clip(0.7 * image + 20, 0, 255).astype(np.uint8))
    found = check(clean)
    assert found.copies.across == {"train/good and test/good": 1}
    assert found.copies.examples[0][:2] == ("train/good/7-0.png", "test/good/again.png")
    (warning,) = found.warnings
    assert "train/good and test/good share parts: 1 image" in warning
    (note,) = evaluation_notes(clean, labelled_images(clean), sorted((clean / "train/good").iterdir()))
    assert "share parts" in note


def test_several_images_of_a_part_name_the_option(tmp_path: Path) -> None:
    fill(tmp_path, 60, 5)
    (warning,) = check(tmp_path).warnings
    assert warning.startswith("300 of 300 good images have near-copies")
    assert "--group-by auto" in warning
    assert any("--group-by" in note for note in training_notes(tmp_path, good_images(tmp_path), Scan()))
    grouped = good_images(tmp_path, group_by="auto")
    notes = training_notes(tmp_path, grouped, Scan())
    assert not any("near-copies" in note for note in notes)
    assert any(f"{len(grouped.held_out)} held-out good images of 12 parts can promise" in note for note in notes)


def test_formats_that_differ_by_class_are_reported(clean: Path) -> None:
    image = surface(np.random.default_rng(5), 48)
    write(clean / "test/crack/deep.png", (30000 + 5000 * image).astype(np.uint16))
    write(clean / "test/crack/colour.png", np.random.default_rng(6).integers(0, 255, (48, 48, 3)).astype(np.uint8))
    write(clean / "test/crack/photo.jpg", np.repeat(exposed(image, np.random.default_rng(7))[..., None], 3, 2))
    write(clean / "test/crack/large.png", np.zeros((96, 96), np.uint8))
    text = "\n".join(check(clean).warnings)
    for said in ("16-bit grey (1)", "8-bit colour (1)", "file type .jpg (1)", "test/crack's images"):
        assert said in text
    assert len(check(clean).warnings) == 3


def test_broken_files_are_listed_and_fail_the_command(clean: Path) -> None:
    (clean / "test/crack/0-0.png").write_bytes(b"no image")
    result = CliRunner().invoke(cli, ["dataset", "check", str(clean)])
    assert result.exit_code == 1
    assert "0-0.png is not a complete image" in result.output
    as_json = CliRunner().invoke(cli, ["dataset", "check", str(clean), "--json"])
    assert msgspec.json.decode(as_json.output, type=DatasetReport) == check(clean)


def test_too_few_images_name_the_possible_rate(tmp_path: Path) -> None:
    fill(tmp_path, 40)
    few, promise = check(tmp_path).warnings
    assert "40 good images are few" in few
    assert "8 held-out good images can promise a false-reject rate of 11.1% at best: 2% needs 49 images (245 good" in promise


def test_defects_used_in_training_are_counted(clean: Path) -> None:
    shown = [hashlib.sha256((clean / f"test/crack/{part}-0.png").read_bytes()).hexdigest() for part in (2, 5)]
    (note,) = evaluation_notes(clean, labelled_images(clean), good_images(clean).training, shown)
    assert "training used 2 of these defects" in note


def test_missing_images_are_reported(clean: Path) -> None:
    (note,) = evaluation_notes(clean, labelled_images(clean), [clean / "gone.png"])
    assert "are missing" in note


@pytest.mark.parametrize("group_by", ["auto", r"(\d+)-\d", r"\d+(?=-)"])
def test_whole_groups_are_held_out(tmp_path: Path, group_by: str) -> None:
    fill(tmp_path, 20, 4)
    images = good_images(tmp_path, 3, group_by)
    training, held_out = ({path.name.split("-")[0] for path in part} for part in (images.training, images.held_out))
    assert not training & held_out
    assert (len(images.training), len(images.held_out), images.held_out_groups) == (64, 16, 4)
    assert good_images(tmp_path, 3, group_by) == images
    assert good_images(tmp_path, 4, group_by) != images


def test_invalid_groups_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "plain", 10)
    for group_by, said in (
        ("(", "not a valid regular expression"),
        (r"part(\d+)", "finds no group in '0-0.png'"),
        ("png", "are one group"),
    ):
        with pytest.raises(DataError, match=said):
            good_images(tmp_path / "plain", 0, group_by)
    fill(tmp_path / "split/train/good", 10)
    rng = np.random.default_rng(0)
    write(tmp_path / "split/calibration/good/3-1.png", good_image(rng))
    with pytest.raises(DataError, match="1 of the 1 groups"):
        good_images(tmp_path / "split", 0, r"(\d+)-")
    assert good_images(tmp_path / "split", 0, r"good/(.*)\.png").held_out_groups == 1


def test_with_one_large_group_the_smaller_ones_are_held_out(tmp_path: Path) -> None:
    fill(tmp_path, 1, 17)
    rng = np.random.default_rng(1)
    for part in (1, 2, 3):
        write(tmp_path / f"{part}-0.png", good_image(rng))
    held_out = good_images(tmp_path, 0, r"(\d+)-").held_out
    assert {path.name for path in held_out} == {"1-0.png", "2-0.png", "3-0.png"}


def test_auto_holds_out_the_same_images_where_each_is_a_part_of_its_own(clean: Path) -> None:
    alone, auto = good_images(clean, 5), good_images(clean, 5, "auto")
    assert (auto.training, auto.held_out, auto.grouped) == (alone.training, alone.held_out, False)
    assert auto.held_out_groups == 50
    assert auto.groups == list(range(50))
    (note,) = training_notes(clean, auto, Scan())
    assert note == (
        "50 held-out images of 50 parts (told apart by image similarity) set the threshold, and none of these parts is trained on: "
        "the promised false-reject rate holds for new parts like these"
    )


def test_none_holds_out_single_images(clean: Path) -> None:
    assert good_images(clean, 5, "none") == good_images(clean, 5)


@pytest.mark.parametrize(
    ("sizes", "said"), [([40], "1 group,"), ([20, 20], "2 groups"), ([30, 5, 5], "3 groups"), ([13] * 3, "3")]
)
def test_auto_falls_back_to_single_images_and_says_so(
    tmp_path: Path, sizes: list[int], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, sum(sizes))
    names = [str(group) for group, size in enumerate(sizes) for _ in range(size)]
    monkeypatch.setattr("lrdan_edge.data.dataset.group_names", lambda *_: names)
    scan, single = Scan(), good_images(tmp_path, 0)
    found = good_images(tmp_path, 0, "auto", scan)
    assert (found.training, found.held_out, found.groups) == (single.training, single.held_out, None)
    (note,) = [note for note in training_notes(tmp_path, found, scan) if "single images are held out" in note]
    assert said in note
    assert "new parts may be rejected more often" in note


def test_few_parts_limit_the_promise_in_words(tmp_path: Path) -> None:
    fill(tmp_path, 60, 5)
    images = good_images(tmp_path, group_by="auto")
    said = training_notes(tmp_path, images, Scan())[-1]
    assert said.endswith("holds for new parts like these from 7.7% up; a lower one holds only for more images of these parts")
    assert images.groups is not None
    names = [path.name.split("-")[0] for path in images.held_out]
    assert len(set(zip(names, images.groups, strict=True))) == len(set(names)) == 12


def test_auto_accepts_a_calibration_folder_that_shares_parts(tmp_path: Path) -> None:
    fill(tmp_path / "train/good", 60, 5)
    rng = np.random.default_rng(0)
    own = surface(rng, 48)
    for exposure in range(4):
        write(tmp_path / f"calibration/good/0-{exposure}.png", exposed(own, rng))
    found = good_images(tmp_path, 0, "auto")
    assert (len(found.held_out), found.groups) == (4, None)
    assert "1 of the 1 groups" in str(found.by_image)
    assert any("so single images are held out" in note for note in training_notes(tmp_path, found, Scan()))

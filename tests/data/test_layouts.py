"""Folders as people and other programs make them: read where their names are clear, refused with what to type where they are not."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from parts import defective_image, good_image, write

from lrdan_edge.calibration.images import labelled_images as given_defects
from lrdan_edge.cli.main import cli
from lrdan_edge.data.check import check, training_notes
from lrdan_edge.data.dataset import good_images
from lrdan_edge.data.dataset import test_images as labelled
from lrdan_edge.data.layout import good_part, only_good_images
from lrdan_edge.data.names import label_in, meaning_of
from lrdan_edge.data.scan import Scan
from lrdan_edge.errors import DataError


def fill(folder: Path, count: int = 6, suffix: str = ".png") -> None:
    rng = np.random.default_rng(0)
    for index in range(count):
        write(folder / f"{index}{suffix}", good_image(rng))


def mark(folder: Path, name: str, *, empty: bool = False) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[4:9, 4:9] = 0 if empty else 255
    write(folder / name, mask)


def used(data: Path) -> set[str]:
    """The folders whose images are trained on or held out."""
    images = good_images(data)
    return {path.parent.relative_to(data).as_posix() for path in [*images.training, *images.held_out]}


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("OK", "NG"),
        ("ok", "nok"),
        ("normal", "abnormal"),
        ("good", "defect"),
        ("Good parts", "scratches"),
        ("ok_front", "def_front"),
        ("non-defective", "defective"),
        ("i.O", "n.i.O"),
        ("OK_images", "notOK_images"),
        ("良品", "不良品"),
    ],
)
def test_good_and_defective_folders_side_by_side(tmp_path: Path, good: str, bad: str) -> None:
    """Defects and masks used to be learnt as good parts."""
    fill(tmp_path / good)
    fill(tmp_path / bad, 2)
    mark(tmp_path / "mask", "0.png")
    assert used(tmp_path) == {good}
    images = labelled(tmp_path)
    assert [image.kind for image in images if image.defective] == [bad] * 2
    assert [image.mask is not None for image in images if image.defective] == [True, False]
    notes = training_notes(tmp_path, good_images(tmp_path), Scan())
    assert any(f"only {good} (6) of {tmp_path} is trained on, not {bad} (2) and mask (1)" in note for note in notes)
    report = check(tmp_path)
    assert [(folder.name, folder.images) for folder in report.folders] == [(good, 6), (bad, 2)]
    assert any("is trained on" in warning for warning in report.warnings)


def test_the_layout_of_visa(tmp_path: Path) -> None:
    data = tmp_path / "VisA" / "candle" / "Data"
    fill(data / "Images/Normal", suffix=".JPG")
    fill(data / "Images/Anomaly", 2, suffix=".JPG")
    mark(data / "Masks/Anomaly", "1.png")
    assert used(tmp_path / "VisA/candle") == {"Data/Images/Normal"}
    images = [image for image in labelled(tmp_path / "VisA/candle") if image.defective]
    assert [(image.kind, image.mask) for image in images] == [("Anomaly", None), ("Anomaly", data / "Masks/Anomaly/1.png")]
    fill(tmp_path / "VisA/pcb1/Data/Images/Normal")
    with pytest.raises(DataError, match=r"holds data sets \(candle, pcb1\).* give one, \S+/candle"):
        good_images(tmp_path / "VisA")


def test_the_layout_of_btad(tmp_path: Path) -> None:
    fill(tmp_path / "train/ok", suffix=".bmp")
    fill(tmp_path / "test/ok", 2, suffix=".bmp")
    fill(tmp_path / "test/ko", 2, suffix=".bmp")
    mark(tmp_path / "ground_truth/ko", "0.png")
    mark(tmp_path / "ground_truth/ko", "1.bmp")
    assert used(tmp_path) == {"train/ok"}
    images = labelled(tmp_path)
    assert [(image.kind, image.mask is not None) for image in images] == [("good", False)] * 2 + [("ko", True)] * 2
    assert [folder.name for folder in check(tmp_path).folders] == ["train/ok", "test/good", "test/ko"]


@pytest.mark.parametrize("name", ["bottle", "pcb1"])
def test_several_data_sets_are_not_one(tmp_path: Path, name: str) -> None:
    fill(tmp_path / name / "train/good")
    fill(tmp_path / "cable" / "train/good")
    with pytest.raises(DataError, match="holds data sets"):
        good_images(tmp_path)


def test_several_products_with_their_own_good_and_bad_are_not_one(tmp_path: Path) -> None:
    for product in ("nut", "screw"):
        fill(tmp_path / product / "good")
        fill(tmp_path / product / "bad")
    with pytest.raises(DataError, match=r"holds data sets \(nut, screw\)"):
        good_images(tmp_path)


def kolektor(folder: Path, ending: str, suffix: str) -> None:
    fill(folder, 8)
    for index in range(8):
        mark(folder, f"{index}{ending}{suffix}", empty=index > 1)


def test_the_layout_of_kolektor_sdd2(tmp_path: Path) -> None:
    kolektor(tmp_path / "train", "_GT", ".png")
    kolektor(tmp_path / "test", "_GT", ".png")
    images = good_images(tmp_path)
    assert sorted(path.name for path in [*images.training, *images.held_out]) == [f"{index}.png" for index in range(2, 8)]
    tests = labelled(tmp_path)
    assert [(image.kind, image.path.name) for image in tests if image.defective] == [("defect", "0.png"), ("defect", "1.png")]
    assert all(image.mask for image in tests if image.defective)
    assert any("2 images of" in note for note in training_notes(tmp_path, images, Scan()))


def test_the_layout_of_kolektor_sdd(tmp_path: Path) -> None:
    for part in ("kos01", "kos02"):
        kolektor(tmp_path / part, "_label", ".bmp")
    assert len(good_images(tmp_path).training) + len(good_images(tmp_path).held_out) == 12
    assert sum(image.defective for image in labelled(tmp_path)) == 4


def test_masks_beside_some_images_are_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    mark(tmp_path, "3_mask.png")
    with pytest.raises(DataError, match="has a mask beside 1 of its images"):
        good_images(tmp_path)


def test_classes_of_roboflow(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        fill(tmp_path / part / "good")
        fill(tmp_path / part / "bad", 3)
    assert used(tmp_path) == {"train/good"}
    assert sum(image.defective for image in labelled(tmp_path)) == 3
    (note, *_) = training_notes(tmp_path, good_images(tmp_path), Scan())
    assert "not those in train/bad (3), valid/good (6)" in note


def test_boxes_of_roboflow_name_the_lines_that_convert_them(tmp_path: Path) -> None:
    data = tmp_path / "my data"
    fill(data / "train/images", suffix=".jpg")
    (data / "train/labels").mkdir()
    for index in range(6):
        (data / "train/labels" / f"{index}.txt").write_text("0 .5 .5 .1 .1\n" if index == 0 else "")
    with pytest.raises(DataError, match=r"boxes \(YOLO\)") as caught:
        good_images(data)
    subprocess.run(["bash", "-ec", str(caught.value.values["lines"])], check=True)
    assert sorted(path.name for path in (data / "train/good").iterdir()) == [f"{index}.jpg" for index in range(1, 6)]
    assert used(data) == {"train/good"}
    fill(tmp_path / "coco" / "train")
    (tmp_path / "coco/train/_annotations.coco.json").write_text("{}")
    with pytest.raises(DataError, match=r"_annotations\.coco\.json"):
        good_images(tmp_path / "coco")


@pytest.mark.parametrize(
    "names",
    [
        ["lot1", "lot2"],
        ["2024-05-01", "2024-05-02"],
        ["cam0", "cam1"],
        ["camera_left", "camera_right", "top"],
        ["monday", "tuesday/morning", "tuesday/late shift"],
        ["batch A", "batch B"],
        ["a", "b"],
        ["IMG_20240501", "."],
        ["frames"],
        ["widget/frames"],
        ["good"],
        ["good/lot1", "good/smith"],
        ["lot1/OK", "lot2/OK"],
    ],
)
def test_lots_days_and_cameras_are_read_as_before(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        fill(tmp_path / name)
    assert used(tmp_path) == set(names)
    assert only_good_images(tmp_path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["smith", "jones"], r"folders of unknown meaning, jones, smith \(found: jones \(6\), smith \(6\); expected: .*mkdir"),
        ([".", "old"], r"unknown meaning, old"),
        (["0", "1"], r"unknown meaning, 0, 1"),
        (["class_a", "class_b"], r"unknown meaning"),
        (["valid/x"], r"unknown meaning, valid"),
        ([".", "NG"], r"has NG \(6\) beside the folder itself \(6\), and nothing says"),
        (["images", "masks"], r"has masks \(6\) beside images \(6\)"),
        (["good", "mixed"], r"has good \(6\) beside mixed \(6\)"),
        (["good", "lot2"], r"has good \(6\) beside lot2 \(6\)"),
        (["NG"], r"no image of a good part, only NG \(6\)"),
        (["scratch", "dent"], r"no image of a good part, only dent \(6\), scratch \(6\)"),
        (["train/good/NG", "train/good"], r"holds folders of defects or masks, NG \(6\)"),
        (["train/ok", "train/normal"], r"several folders of good images \(normal, ok\)"),
    ],
)
def test_what_is_unclear_is_refused(tmp_path: Path, names: list[str], said: str) -> None:
    for name in names:
        fill(tmp_path / "data" / name)
    with pytest.raises(DataError, match=said):
        good_images(tmp_path / "data")
    for command in (["dataset", "check"], ["train", "--bundle", str(tmp_path / "bundle")]):
        result = CliRunner().invoke(cli, [*command, str(tmp_path / "data")])
        assert result.exit_code == 1
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("names", [["smith", "jones"], ["."], [".", "sub dir/x"]])
def test_the_line_that_a_refusal_names_makes_the_folder_readable(tmp_path: Path, names: list[str]) -> None:
    data = tmp_path / "my parts"
    for name in names:
        fill(data / name)
    fill(data / "NG", 2)
    with pytest.raises(DataError) as caught:
        good_images(data)
    subprocess.run(["bash", "-ec", str(caught.value.values["lines"])], check=True)
    images = good_images(data)
    assert len(images.training) + len(images.held_out) == 6 * len(names)


def test_file_names_that_say_ng_among_others_are_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    write(tmp_path / "NG_7.png", good_image(np.random.default_rng(0)))
    with pytest.raises(DataError, match=r"1 images that by their names show defects, such as NG_7\.png"):
        good_images(tmp_path)
    (tmp_path / "NG_7.png").rename(tmp_path / "no_defect_7.png")
    assert used(tmp_path) == {"."}


def test_defects_beside_good_parts_are_refused_as_defects(tmp_path: Path) -> None:
    fill(tmp_path / "OK")
    fill(tmp_path / "NG")
    with pytest.raises(DataError, match=r"has a folder 'OK' beside \S+/NG: give a folder of only defective images"):
        given_defects(tmp_path)
    rng = np.random.default_rng(0)
    write(tmp_path / "NG" / "0_mask.png", defective_image(rng)[1])
    assert len(given_defects(tmp_path / "NG")[0]) == 6
    with pytest.raises(DataError, match="also has other images"):
        only_good_images(tmp_path)


def test_only_good_is_good_where_there_is_such_a_folder(tmp_path: Path) -> None:
    for kind in ("good", "clean_cut", "crack"):
        fill(tmp_path / "test" / kind, 1)
    assert [image.kind for image in labelled(tmp_path)] == ["clean_cut", "crack", "good"]


def test_names() -> None:
    assert [meaning_of(name) for name in ("OK", "NG_2", "mask_NG", "Train", "lot", "widget", "defect_dataset")] == [
        "good",
        "bad",
        "mask",
        "split",
        "lot",
        None,
        None,
    ]
    assert [label_in(name) for name in ("NG_1", "ok1", "not_ok", "dent_3", "x")] == ["bad", "good", "bad", None, None]


@pytest.mark.parametrize(
    "name", ["划痕", "汚れ", "black_spots", "light_leak", "oil_line", "spots2", "kratzer_1", "burnt_edge_left"]
)
def test_a_folder_whose_name_says_more_than_a_lot_is_not_taken_for_one(tmp_path: Path, name: str) -> None:
    assert meaning_of(name) is None
    fill(tmp_path, 5)
    fill(tmp_path / name, 2)
    with pytest.raises(DataError, match="of unknown meaning"):
        good_part(tmp_path)
    fill(tmp_path / "good", 5)
    with pytest.raises(DataError, match="nothing says which") as refused:
        good_part(tmp_path)
    assert "if they show defects, move them into" in str(refused.value)


def test_a_numbered_series_of_folders_tells_nothing_apart(tmp_path: Path) -> None:
    for number in range(3):
        fill(tmp_path / f"tile_{number:03}", 2)
    assert len(good_part(tmp_path).training) == 6
    fill(tmp_path / "spot_1", 2)
    with pytest.raises(DataError, match="of unknown meaning"):
        good_part(tmp_path)


def test_hashes_in_names_spell_nothing() -> None:
    names = [
        "44d50172-6227-4051-813b-c6bad8a9f8f4",
        "419def82-2154-4354-a5f9-672969617062",
        "a_jpg.rf.0bad4c1e0def4c1e0bad4c1e0def4c1e",
    ]
    assert [label_in(name) for name in names] == [None] * 3
    assert label_in("bad_44d50172-6227-4051-813b-c6bad8a9f8f4") == "bad"


def test_images_of_labels_in_train_good_are_told(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "good", 3)
    for path in list((tmp_path / "train" / "good").iterdir()):
        path.with_stem(f"{path.stem}_label").write_bytes(path.read_bytes())
    found = good_part(tmp_path)
    assert len(found.training) == 3
    assert "3 images in" in found.notes[-1]
    assert "are masks by their names" in found.notes[-1]

"""What computers leave behind is skipped and told once; linked folders are followed, without loops."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from parts import Line, good_image, write
from PIL import Image

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.cli.main import cli
from lrdan_edge.data.check import check, evaluation_notes, training_notes
from lrdan_edge.data.dataset import good_images
from lrdan_edge.data.dataset import test_images as labelled
from lrdan_edge.data.images import list_images
from lrdan_edge.data.listing import listing_notes, subfolders
from lrdan_edge.data.scan import Scan
from lrdan_edge.runtime.sources import open_source


def fill(folder: Path, count: int = 6) -> None:
    rng = np.random.default_rng(0)
    for index in range(count):
        write(folder / f"{index}.png", good_image(rng))


def litter(folder: Path) -> None:
    """What macOS, Windows, Jupyter, a Synology NAS and Linux leave in a folder."""
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    for name in (".ipynb_checkpoints", "@eaDir", ".Trash-1000", "__MACOSX", "lost+found"):
        fill(folder / name, 1)


def test_what_computers_leave_behind_is_skipped_everywhere_and_told_once(tmp_path: Path) -> None:
    """`._0.png` of macOS is not an image: it used to end training as a broken file, and `@eaDir` was a kind of defect."""
    for part in ("train/good", "test/good", "test/crack"):
        fill(tmp_path / part)
        litter(tmp_path / part)
    litter(tmp_path / "test")
    images = good_images(tmp_path)
    assert len(images.training) + len(images.held_out) == 6
    assert [folder.name for folder in check(tmp_path).folders] == ["train/good", "test/good", "test/crack"]
    assert [image.kind for image in labelled(tmp_path)] == ["crack"] * 6 + ["good"] * 6
    assert [path.name for path in subfolders(tmp_path / "test")] == ["crack", "good"]
    for notes in (
        check(tmp_path).warnings,
        training_notes(tmp_path, images, Scan()),
        evaluation_notes(tmp_path, labelled(tmp_path), images.training),
    ):
        (note,) = (note for note in notes if "left behind" in note)
        assert "._* (4)" in note
        assert "(36 in all)" in note


def test_sources_skip_it_too(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    litter(tmp_path)
    names = ["0.png", "1.png"]
    assert [frame.name for frame in open_source(tmp_path)] == names
    assert [frame.name for frame in open_source(f"{tmp_path}/*")] == names
    assert [frame.name for frame in open_source(f"{tmp_path}/**/*.png")] == names


def test_linked_folders_are_followed_without_loops(tmp_path: Path) -> None:
    """`lots/today -> /mnt/camera/today` used to be passed over without a word."""
    data = tmp_path / "data"
    fill(data / "lot1", 3)
    fill(tmp_path / "elsewhere" / "deep", 2)
    (data / "lot2").symlink_to(tmp_path / "elsewhere")
    (data / "lot0").symlink_to(data / "lot1")
    (data / "lot1" / "up").symlink_to(data)
    (data / "outside").symlink_to(tmp_path)
    (tmp_path / "elsewhere" / "back").symlink_to(data / "lot1")
    found = [path.relative_to(data).as_posix() for path in list_images(data)]
    assert found == ["lot1/0.png", "lot1/1.png", "lot1/2.png", "lot2/deep/0.png", "lot2/deep/1.png"]
    (note,) = listing_notes(data)
    assert "linked folders" in note
    images = good_images(data)
    assert len(images.training) + len(images.held_out) == 5


def test_a_linked_data_folder_is_read(tmp_path: Path) -> None:
    fill(tmp_path / "real", 5)
    (tmp_path / "data").symlink_to(tmp_path / "real")
    assert list_images(tmp_path / "data")[0] == tmp_path / "data" / "0.png"
    assert listing_notes(tmp_path / "data") == []


def test_a_hidden_data_folder_is_read(tmp_path: Path) -> None:
    fill(tmp_path / ".data" / "parts", 5)
    assert len(list_images(tmp_path / ".data" / "parts")) == 5


@pytest.mark.parametrize("name", ["", "0", "-", "gst:" + "videotestsrc ! " * 600, "rtsp://camera/1"])
def test_what_is_no_folder_has_no_notes(name: str) -> None:
    assert listing_notes(Path(name) / "none" if not name else Path(name)) == []


def test_the_check_tells_it(tmp_path: Path) -> None:
    fill(tmp_path)
    litter(tmp_path)
    result = CliRunner().invoke(cli, ["dataset", "check", str(tmp_path)])
    assert result.exit_code == 0
    assert result.output.count("left behind") == 1


def litter_of_labels(folder: Path) -> None:
    """Files that are not images: annotations, photos of a telephone, a raw image, a broken link."""
    for name in ("0.json", "1.json", "0.xml", "IMG_1.HEIC", "IMG_2.heic", "0.raw", "README"):
        (folder / name).write_bytes(b"x")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")


def test_files_that_are_not_images_are_counted_by_suffix(tmp_path: Path) -> None:
    """A folder of 400 HEIC and 20 JPEG files used to be learnt as 20 images without a word."""
    for part in ("train/good", "test/good", "test/crack"):
        fill(tmp_path / part)
    litter_of_labels(tmp_path / "train/good")
    images = good_images(tmp_path)
    said = "8 files below"
    for notes in (
        check(tmp_path).warnings,
        training_notes(tmp_path, images, Scan()),
        evaluation_notes(tmp_path, labelled(tmp_path), images.training),
    ):
        (note,) = (note for note in notes if "not images" in note)
        assert said in note
        assert ".heic (2), .json (2), .raw (1), .xml (1), … (8 in all)" in note


@pytest.mark.parametrize("big", [False, True])
def test_second_pages_of_tiff_files_are_told(tmp_path: Path, *, big: bool) -> None:
    page = Image.fromarray(good_image(np.random.default_rng(0)))
    page.save(tmp_path / "two.tif", save_all=True, append_images=[page], big_tiff=big)
    page.save(tmp_path / "one.tiff", big_tiff=big)
    (tmp_path / "none.tif").write_bytes(b"II")
    (tmp_path / "empty.tif").write_bytes(b"")
    (note,) = listing_notes(tmp_path)
    assert note.startswith("1 TIFF files below")
    assert note.endswith("two.tif")


def test_every_command_that_reads_a_folder_tells_what_it_passes_over(line: Line, own_bundle: Bundle, tmp_path: Path) -> None:
    fill(tmp_path / "parts", 1)
    litter_of_labels(tmp_path / "parts")
    bundle = str(own_bundle.path)
    for command in (["run", "--output", str(tmp_path / "out")], ["explain", "--output", str(tmp_path / "page.html")]):
        result = CliRunner().invoke(cli, [*command, "-b", bundle, str(tmp_path / "parts")])
        assert result.output.count("8 files below") == 1, result.output
    shutil.copytree(line.data / "test/good", tmp_path / "good")
    (tmp_path / "good" / "notes.csv").write_text("x")
    for more in ([], ["--decision-only"]):
        given = ["--good", str(tmp_path / "good"), "--false-reject-rate", "0.1", "--no-int8", *more]
        result = CliRunner().invoke(cli, ["calibrate", "-b", bundle, *given])
        assert result.output.count(".csv (1)") == 1, result.output

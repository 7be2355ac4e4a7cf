"""Frames unlike the training images are judged with a note, or are faults."""

import json
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from parts import Line, good_image, rewrite_manifest, write

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.image_kinds import KEY, ImageKinds, recorded_kinds
from lrdan_edge.data.form import Form
from lrdan_edge.data.images import read_image
from lrdan_edge.data.scan import Scan, kinds_of
from lrdan_edge.evaluation.evaluate import evaluate
from lrdan_edge.runtime.explain import explain
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.recorded_run import RecordedRun
from lrdan_edge.runtime.sources import open_source
from lrdan_edge.runtime.unlike import FrameCheck, UnlikeCounts

KINDS = ImageKinds(
    images=10,
    heights=(480, 480),
    widths=(640, 640),
    aspects=(4 / 3, 4 / 3),
    colour=0,
    sixteen_bit=0,
    turned=0,
    depth_known=False,
)
DEEP = msgspec.structs.replace(KINDS, sixteen_bit=10, depth_known=True)
COLOUR = msgspec.structs.replace(KINDS, colour=10)
GREY = Form(480, 640, colour=False, largest=None)


def form(**changes: Any) -> Form:
    return Form(**{name: getattr(GREY, name) for name in ("height", "width", "colour", "largest", "orientation")} | changes)


def found(kinds: ImageKinds | None, seen: Form, bit_depth: int = 16) -> dict[str, bool]:
    """The kinds of difference, and whether each is a fault."""
    return {one.kind: one.fault for one in FrameCheck(kinds, (256, 256, 1), bit_depth).check(seen)}


@pytest.mark.parametrize(
    ("kinds", "seen", "bit_depth", "expected"),
    [
        (KINDS, GREY, 16, {}),
        (KINDS, form(height=960, width=1280), 16, {}),  # the same view, finer
        (KINDS, form(height=482, width=640), 16, {}),
        (KINDS, form(height=480, width=720), 16, {"aspect ratio": False}),
        (KINDS, form(height=640, width=480), 16, {"aspect ratio": True}),
        (KINDS, form(height=240, width=320), 16, {}),  # still about as fine as the graph
        (KINDS, form(height=120, width=160), 16, {"size": False}),
        (KINDS, form(height=24, width=32), 16, {"size": True}),
        (KINDS, form(colour=True), 16, {"colour": False}),
        (KINDS, form(colour=None), 16, {}),
        (COLOUR, GREY, 16, {"colour": False}),
        (COLOUR, form(colour=None), 16, {}),  # a black image has no colours to miss
        (KINDS, form(largest=65000), 16, {"bit depth": False}),
        (KINDS, form(largest=4095), 16, {"bit depth": True}),
        (DEEP, form(largest=4095), 12, {}),
        (DEEP, form(largest=4096), 12, {"bit depth": False}),
        (DEEP, form(largest=65535), 12, {"bit depth": True}),
        (DEEP, GREY, 12, {"bit depth": False}),
        (msgspec.structs.replace(KINDS, depth_known=True), form(largest=900), 10, {"bit depth": False}),
        (KINDS, form(orientation=6), 16, {"orientation": False}),
        (msgspec.structs.replace(KINDS, turned=10), GREY, 16, {"orientation": False}),
        (msgspec.structs.replace(KINDS, turned=5), form(orientation=3), 16, {}),
        (None, GREY, 16, {}),
        (None, form(height=10, colour=True), 16, {}),
        (None, form(orientation=8), 16, {"orientation": False}),
    ],
)
def test_what_differs(kinds: ImageKinds | None, seen: Form, bit_depth: int, expected: dict[str, bool]) -> None:
    assert found(kinds, seen, bit_depth) == expected


def test_a_turned_frame_is_told_to_be_turned() -> None:
    (unlike,) = FrameCheck(KINDS, (256, 256, 1), 16).check(form(height=640, width=480))
    assert unlike.sentence.endswith("resizing distorts them; turn them by 90°")


def test_counts_say_how_many_and_what_the_first_was() -> None:
    counts, check = UnlikeCounts(), FrameCheck(KINDS, (256, 256, 1), 16)
    reasons = [counts.add(check.check(one)) for one in (GREY, form(colour=True), form(colour=True, largest=90))]
    assert [reason is None for reason in reasons] == [True, True, False]
    notes = counts.notes()
    assert notes[0].startswith("2 of 3 images are unlike the training images in colour: ")
    assert notes[1].startswith("1 of 3 images are unlike the training images in bit depth, and 1 are faults: ")


def test_the_kinds_of_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write(tmp_path / "a.png", rng.integers(0, 256, (20, 40), np.uint8))
    write(tmp_path / "b.png", rng.integers(0, 256, (30, 30, 3), np.uint8))
    write(tmp_path / "c.png", rng.integers(0, 1024, (20, 40), np.uint16))
    scan = Scan()
    scan.require(sorted(tmp_path.iterdir()))
    kinds = kinds_of(list(scan.images.values()), depth_known=False)
    assert kinds == ImageKinds(
        images=3, heights=(20, 30), widths=(30, 40), aspects=(1.0, 2.0), colour=1, sixteen_bit=1, turned=0, depth_known=True
    )


def test_training_records_them(line: Line) -> None:
    kinds = recorded_kinds(Bundle.open(line.bundle).manifest.stages["train"].results)
    assert kinds is not None
    assert (kinds.images, kinds.heights, kinds.aspects, kinds.colour) == (156, (32, 32), (1.0, 1.0), 0)


@pytest.mark.parametrize("wrong", [[0, 0], [-1, 5], [5, 1], [1, 10**400], [1.0, 1e400]])
@pytest.mark.parametrize("name", ["heights", "widths", "aspects"])
def test_values_that_no_image_has_are_no_record(name: str, wrong: list[float]) -> None:
    valid = msgspec.to_builtins(KINDS)
    assert recorded_kinds({KEY: valid}) == KINDS
    assert recorded_kinds({KEY: valid | {name: wrong}}) is None


def test_a_bundle_without_them_is_opened(own_line: Line) -> None:
    rewrite_manifest(own_line.bundle, lambda fields: fields["stages"]["train"]["results"].pop(KEY))
    with Inspector.open(own_line.bundle) as inspector:
        assert inspector.inspect(np.zeros((64, 32), np.uint8))[0].outcome != "fault"
        assert inspector.notes == []


def test_inspect_notes_each_kind_once(line: Line) -> None:
    rng = np.random.default_rng(1)
    wide = np.asarray(cv2.resize(good_image(rng), (40, 32)), np.uint8)
    with Inspector.open(line.bundle) as inspector:
        verdicts = inspector.inspect([wide, wide, good_image(rng), np.zeros((32, 96), np.uint8)])
        assert [verdict.outcome == "fault" for verdict in verdicts] == [False, False, False, True]
        assert verdicts[3].fault is not None
        assert "3.00 times as wide as high" in verdicts[3].fault
        assert [note.partition(":")[0] for note in inspector.notes] == ["aspect ratio"]


def test_a_run_says_it_once_per_source(line: Line, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for index in range(5):
        write(tmp_path / "wide" / f"{index}.png", cv2.resize(good_image(rng), (40, 32)))
        write(tmp_path / "strips" / f"{index}.png", np.full((32, 96 + index), 90, np.uint8))
    with Inspector.open(line.bundle) as inspector:
        run = RecordedRun(inspector, [open_source(tmp_path / name) for name in ("wide", "strips")], tmp_path / "run")
        progress = run.run()
    assert progress.outcomes["fault"] == 5
    (fault,), (remark,) = progress.problems, progress.remarks
    assert "frames of 32x96 are 3.00 times as wide as high" in fault
    assert "frames of 32x40 are 1.25 times as wide as high" in remark
    lines = [json.loads(text) for text in (tmp_path / "run" / "verdicts.jsonl").read_text().splitlines()]
    assert sum("times as wide" in line.get("fault", "") for line in lines) == 5


def photograph(path: Path, image: Any) -> Path:
    """An image of a part, stored as a phone held sideways would (orientation 6)."""
    pillow = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = pillow.Exif()
    exif[274] = 6
    pillow.fromarray(cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE)).save(path, "PNG", exif=exif)
    return path


def test_photographs_are_turned_alike_everywhere(line: Line, own_line: Line, tmp_path: Path) -> None:
    """`run`, `evaluate`, `explain` and a frame in memory give a photograph the score of the upright image, and say what they did."""
    image = good_image(np.random.default_rng(3))
    path = photograph(tmp_path / "data" / "test" / "good" / "p.png", image)
    assert (read_image(path) == image).all()
    write(tmp_path / "data" / "test" / "blob" / "d.png", read_image(next((line.data / "test" / "blob").iterdir())))
    with Inspector.open(own_line.bundle) as inspector:
        score = inspector.inspect(image)[0].score
        progress = RecordedRun(inspector, [open_source(path.parent)], None).run()
    ((_, verdict),) = progress.last
    assert verdict.score == score
    (remark,) = progress.remarks
    assert "turned by 90° clockwise, as their EXIF orientation says" in remark
    result, _ = evaluate(Bundle.open(own_line.bundle), tmp_path / "data", write=False)
    assert any("1 of 2 images are unlike the training images in orientation" in note for note in result.notes)
    page = explain(Bundle.open(own_line.bundle), [path], tmp_path / "page.html")
    assert any("in orientation" in note for note in page.notes)
    assert f'value="{score}"' in page.path.read_text()

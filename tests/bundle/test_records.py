"""What a stage recorded in the manifest is checked before it is used, since a bundle may come from anyone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from earlier import unpack
from mutations import checked
from parts import rewrite_manifest
from strangers import new_bundle

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.calibration.device import last_target
from lrdan_edge.calibration.images import groups_of
from lrdan_edge.data.dataset import recorded_images
from lrdan_edge.errors import BundleError, ChangedFileError, MissingStageError
from lrdan_edge.evaluation.evaluate import evaluate


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return unpack(tmp_path)


def recorded(bundle: Path, stage: str, part: str, **values: object) -> Bundle:
    """The bundle with other values in a stage's record; ``...`` removes one."""

    def change(manifest: dict[str, Any]) -> None:
        record = manifest["stages"][stage][part]
        record |= values
        for name in [name for name, value in values.items() if value is ...]:
            del record[name]

    rewrite_manifest(bundle, change)
    return Bundle.open(bundle)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data", ...),
        ("data", 7),
        ("data", ""),
        ("data", "a\0b"),
        ("data", "x" * 300),
        ("data", "x/" * 3000),
        ("training", ...),
        ("training", "train/good"),
        ("training", [1]),
        ("training", ["/etc/passwd"]),
        ("training", ["a/../../b"]),
        ("training", ["a\0b"]),
        ("training", ["x" * 300]),
    ],
)
def test_training_images_are_names_below_a_folder(bundle: Path, name: str, value: object) -> None:
    changed = recorded(bundle, "train", "results", **{name: value})
    with pytest.raises(BundleError):
        recorded_images(changed, "training")


def test_evaluate_reads_no_image_elsewhere_for_a_bundle(bundle: Path, tmp_path: Path) -> None:
    """A stranger's bundle could name any file of the user as an image that training used, and `evaluate` opened it."""
    secret = tmp_path / "secret.png"
    secret.write_bytes((bundle / "golden/00.png").read_bytes())
    for kind in ("good", "defect"):
        (tmp_path / "data/test" / kind).mkdir(parents=True)
        (tmp_path / "data/test" / kind / "0.png").write_bytes(secret.read_bytes())
    changed = recorded(bundle, "train", "results", training=[str(secret)])
    with pytest.raises(BundleError, match="names a file outside the bundle"):
        evaluate(changed, tmp_path / "data", backend="onnxruntime", write=False)


@pytest.mark.parametrize(("name", "value"), [("rule", ...), ("rule", "best"), ("false_reject_rate", "0.1"), ("recall", None)])
def test_a_target_is_one_that_calibrate_records(bundle: Path, name: str, value: object) -> None:
    with pytest.raises(BundleError, match=f"no valid record of {name} by calibrate"):
        last_target(recorded(bundle, "calibrate", "options", **{name: value}))


def test_a_bundle_without_the_record_is_refused(bundle: Path) -> None:
    rewrite_manifest(bundle, lambda manifest: manifest["stages"].pop("train"))
    with pytest.raises(MissingStageError, match="has no record of train"):
        recorded_images(Bundle.open(bundle), "training")


@pytest.mark.parametrize("value", ["x", [1], [None] * 3, 3])
def test_groups_are_of_the_held_out_images(bundle: Path, value: object) -> None:
    changed = recorded(bundle, "train", "results", held_out_group_of=value)
    with pytest.raises(BundleError):
        groups_of(changed, recorded_images(changed, "held_out"), None)


def test_a_negative_size_is_refused(tmp_path: Path) -> None:
    new_bundle(tmp_path / "b")
    rewrite_manifest(tmp_path / "b", lambda manifest: manifest["files"]["decision.json"].update(bytes=-1))
    with pytest.raises(ChangedFileError, match="has -1 bytes in the manifest"):
        Bundle.open(tmp_path / "b").read("decision.json", "x")


LONG = "A" * 5000
LONG_TEXTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "file": lambda manifest: manifest["files"].update({LONG: {"sha256": "", "bytes": 1}}),
    "file outside": lambda manifest: manifest["files"].update({f"../{LONG}": {"sha256": "", "bytes": 1}}),
    "key": lambda manifest: manifest["scoring"].update({LONG: 1}),
    "version": lambda manifest: manifest.update(schema_version=LONG),
    "colour": lambda manifest: manifest["preprocessing"].update(colour=LONG),
}


@pytest.mark.parametrize("change", LONG_TEXTS.values(), ids=LONG_TEXTS)
def test_a_message_does_not_repeat_a_long_text(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    new_bundle(tmp_path / "b")
    fields = json.loads((tmp_path / "b/manifest.json").read_text())
    change(fields)
    (tmp_path / "b/manifest.json").write_bytes(checked(json.dumps(fields | {"checksum": ""}).encode()))
    with pytest.raises(BundleError) as caught:
        Bundle.open(tmp_path / "b")
    assert len(str(caught.value)) < 1000

"""A commit that was cut off is finished, and a journal of another's making moves nothing."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from parts import snapshot
from read_only import read_only
from strangers import ENGINE, new_bundle, tried, write_all

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.files import Folder
from lrdan_edge.bundle.journal import Journal
from lrdan_edge.bundle.manifest import FileRecord, manifest_from_json, manifest_to_json
from lrdan_edge.cli.main import cli
from lrdan_edge.errors import BundleError

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_flushing")]  # a FIFO that somebody waits for hangs


def journal_for(bundle: Path, **changes: Any) -> Journal:
    """A journal that fits the bundle: a new training's weights are staged."""
    data = (bundle / "manifest.json").read_bytes()
    manifest = manifest_from_json(data, "manifest.json")
    record = FileRecord(sha256(b"new weights").hexdigest(), len(b"new weights"))
    manifest.files["weights.safetensors"] = record
    (bundle / ".staging").mkdir(exist_ok=True)
    (bundle / ".staging" / "weights.safetensors").write_bytes(b"new weights")
    journal = Journal(replaces=sha256(data).hexdigest(), staged={"weights.safetensors": record.sha256}, manifest=manifest)
    return msgspec.structs.replace(journal, **changes)


@pytest.fixture
def cut_off(tmp_path: Path) -> Path:
    """A bundle whose last commit was cut off after its journal was written."""
    folder = new_bundle(tmp_path / "b").path
    (folder / ".journal.json").write_bytes(to_json(journal_for(folder)))
    return folder


def test_a_commit_that_was_cut_off_is_read_in_place_and_finished_by_the_next_writer(cut_off: Path) -> None:
    before = snapshot(cut_off)
    bundle = Bundle.open(cut_off)
    assert bundle.pending == {"weights.safetensors"}
    assert bundle.read("weights.safetensors", "x") == b"new weights"
    assert bundle.file("weights.safetensors", "x").read_bytes() == b"new weights"
    assert bundle.read(ENGINE, "x") == b"engine"
    info = CliRunner().invoke(cli, ["info", "-b", str(cut_off)])
    assert "the next command that writes to the bundle completes it" in info.output
    assert "weights.safetensors" not in info.output, "it is not damaged"
    assert snapshot(cut_off) == before
    with bundle.stage("bench", command="x") as stage:
        stage.path("reports/benchmark.json").write_bytes(b"{}")
    assert not bundle.pending
    assert (cut_off / "weights.safetensors").read_bytes() == b"new weights"
    assert not (cut_off / ".journal.json").exists()
    assert not (cut_off / ".staging").exists()
    assert Bundle.open(cut_off).read("reports/benchmark.json", "x") == b"{}"


def test_a_huge_staged_file_is_not_read(cut_off: Path) -> None:
    """A writer computed the sha256 of whatever lay there, for hours."""
    os.truncate(cut_off / ".staging/weights.safetensors", 1 << 42)
    with pytest.raises(BundleError, match=r"there is no weights\.safetensors with the sha256"):
        write_all(Bundle.open(cut_off))


def test_a_reader_that_opened_before_the_next_writer_came_goes_on(cut_off: Path) -> None:
    reader = Bundle.open(cut_off)
    write_all(Bundle.open(cut_off), "evaluate", b"new weights")
    assert reader.read("weights.safetensors", "x") == b"new weights"


def test_a_commit_that_was_cut_off_is_read_on_a_read_only_disk(cut_off: Path) -> None:
    with read_only(cut_off):
        assert Bundle.open(cut_off).read("weights.safetensors", "x") == b"new weights"


def test_the_manifest_of_a_journal_is_the_one_that_is_written(cut_off: Path) -> None:
    expected = Bundle.open(cut_off).manifest
    write = msgspec.structs.replace(expected)
    with Bundle.open(cut_off).stage("bench", command="x"):
        assert (cut_off / "manifest.json").read_bytes() == manifest_to_json(write)


def test_a_full_disk_after_the_journal_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The staged files used to be removed then, although the journal still named them."""
    bundle = new_bundle(tmp_path / "b", b"old weights")
    move = Folder.move

    def full(self: Folder, source: str, target: str) -> None:
        if target.startswith("reports"):
            raise OSError(errno.ENOSPC, "No space left on device", target)
        move(self, source, target)

    monkeypatch.setattr(Folder, "move", full)
    written = ("weights.safetensors", "reports/training.json", ENGINE)

    def write() -> None:
        with bundle.stage("train", command="x") as stage:
            for each in written:
                stage.path(each).write_text(f"new {each}")

    with pytest.raises(BundleError, match="No space left on device"):
        write()
    monkeypatch.undo()
    again = Bundle.open(tmp_path / "b")
    for each in written:
        assert again.file(each, "x").read_text() == again.read(each, "x").decode() == f"new {each}"
    write_all(again, "bench", b"newest weights")
    assert Bundle.open(tmp_path / "b").read("weights.safetensors", "x") == b"newest weights"


def other_manifest(bundle: Path) -> Journal:
    return journal_for(bundle, replaces=sha256(b"other").hexdigest())


def no_manifest(bundle: Path) -> Journal:
    return journal_for(bundle, replaces="")


def outside_name(bundle: Path) -> Journal:
    (bundle / ".staging").mkdir()
    return journal_for(bundle, staged={"../outside/file": sha256(b"new weights").hexdigest()})


def absolute_name(bundle: Path) -> Journal:
    return journal_for(bundle, staged={str(bundle.parent / "outside" / "file"): sha256(b"new weights").hexdigest()})


def no_stages_name(bundle: Path) -> Journal:
    staged = {name: sha256(b"new weights").hexdigest() for name in ("reports/.profile", "weights.safetensors")}
    return journal_for(bundle, staged=staged)


def own_machinery(bundle: Path) -> Journal:
    return journal_for(bundle, staged={".lock": sha256(b"new weights").hexdigest()})


def other_bytes(bundle: Path) -> Journal:
    journal = journal_for(bundle)
    (bundle / ".staging" / "weights.safetensors").write_bytes(b"other weights")
    return journal


def nothing_staged(bundle: Path) -> Journal:
    journal = journal_for(bundle)
    (bundle / ".staging" / "weights.safetensors").unlink()
    return journal


def staged_link(bundle: Path) -> Journal:
    journal = journal_for(bundle)
    (bundle / ".staging" / "weights.safetensors").unlink()
    (bundle.parent / "outside" / "weights").write_bytes(b"new weights")
    (bundle / ".staging" / "weights.safetensors").symlink_to(bundle.parent / "outside" / "weights")
    return journal


def staged_hard_link(bundle: Path) -> Journal:
    journal = journal_for(bundle)
    (bundle / ".staging" / "weights.safetensors").unlink()
    (bundle.parent / "outside" / "weights").write_bytes(b"new weights")
    (bundle / ".staging" / "weights.safetensors").hardlink_to(bundle.parent / "outside" / "weights")
    return journal


def staging_elsewhere(bundle: Path) -> Journal:
    journal = journal_for(bundle)
    (bundle / ".staging").rename(bundle.parent / "outside" / "staging")
    (bundle / ".staging").symlink_to(bundle.parent / "outside" / "staging", target_is_directory=True)
    return journal


def renames_of_its_own(bundle: Path) -> bytes:
    """The format that named places."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "x").write_bytes(b"owned")
    (bundle / "reports").rename(bundle / "was-reports")
    (bundle / "reports").symlink_to(bundle.parent / "outside", target_is_directory=True)
    return json.dumps({"renames": {"x": "reports/file"}, "manifest": manifest}).encode()


def no_json(bundle: Path) -> bytes:  # noqa: ARG001
    return b"{"


FOREIGN = [
    other_manifest,
    no_manifest,
    outside_name,
    absolute_name,
    no_stages_name,
    own_machinery,
    other_bytes,
    nothing_staged,
    staged_link,
    staged_hard_link,
    staging_elsewhere,
    renames_of_its_own,
    no_json,
]


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
def test_a_journal_that_does_not_fit_is_not_obeyed(
    tmp_path: Path, outside: Path, make: Callable[[Path], Journal | bytes]
) -> None:
    folder = new_bundle(tmp_path / "b").path
    opened = Bundle.open(folder)
    journal = make(folder)
    (folder / ".journal.json").write_bytes(journal if isinstance(journal, bytes) else to_json(journal))
    before, away = snapshot(folder), snapshot(outside)

    def read() -> None:
        bundle = Bundle.open(folder)
        for each in bundle.manifest.files:
            bundle.read(each, "x")

    assert tried(read) is not None
    assert snapshot(folder) == before
    said = tried(lambda: write_all(opened, "bench", b"newest weights"))
    assert said is not None
    assert "is not the journal of a commit to this bundle" in said
    assert "delete it" in said
    after = snapshot(folder)
    assert {name: after[name] for name in before if name != "."} == {name: before[name] for name in before if name != "."}
    assert snapshot(outside) == away
    (folder / ".journal.json").unlink()  # as it says
    if make is not renames_of_its_own:
        write_all(Bundle.open(folder), "bench", b"newest weights")
        assert Bundle.open(folder).read("weights.safetensors", "x") == b"newest weights"
    assert snapshot(outside) == away


def test_a_new_model_is_made_over_a_foreign_journal(tmp_path: Path, outside: Path) -> None:
    folder = new_bundle(tmp_path / "b").path
    (folder / ".journal.json").write_bytes(to_json(other_manifest(folder)))
    away = snapshot(outside)
    new_bundle(folder, b"newest weights")
    assert Bundle.open(folder).read("weights.safetensors", "x") == b"newest weights"
    assert snapshot(outside) == away


def test_a_foreign_journal_that_fits_moves_files_inside_the_bundle_only(tmp_path: Path, outside: Path) -> None:
    """All that it can do is what its maker could have done to the bundle directly."""
    folder = new_bundle(tmp_path / "b").path
    (folder / ".journal.json").write_bytes(to_json(journal_for(folder)))
    away = snapshot(outside)
    write_all(Bundle.open(folder), "bench", b"newest weights")
    assert Bundle.open(folder).read("weights.safetensors", "x") == b"newest weights"
    assert snapshot(outside) == away


KILLED = """
import os, sys
from pathlib import Path
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.files import Folder
Folder.move = lambda *_: os._exit(9)
bundle = Bundle.create(sys.argv[1], *map(Bundle.open(sys.argv[2]).manifest.__getattribute__, ("model", "preprocessing", "scoring")))
with bundle.stage("train", command="x") as stage:
    stage.path("weights.safetensors").write_bytes(b"first weights")
    stage.path("reports/training.json").write_bytes(b"[]")
"""


def test_a_first_training_killed_while_it_commits_is_there_and_can_be_trained_over(tmp_path: Path) -> None:
    """It used to be refused as a folder with other files."""
    new_bundle(tmp_path / "other")
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "b", tmp_path / "other"], check=False)
    assert done.returncode == 9
    assert not (tmp_path / "b" / "manifest.json").exists()
    assert Bundle.open(tmp_path / "b").read("weights.safetensors", "x") == b"first weights"
    new_bundle(tmp_path / "b", b"second weights")
    assert Bundle.open(tmp_path / "b").read("weights.safetensors", "x") == b"second weights"

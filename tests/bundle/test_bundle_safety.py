"""A stranger's bundle is read without writing, waiting or looking for long, whatever lies where its files should be."""

import os
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from parts import snapshot
from read_only import read_only
from strangers import (
    ENGINE,
    FILES,
    FOLDERS,
    Put,
    new_bundle,
    planted,
    put_fifo,
    put_folder,
    put_hard_link,
    put_symlink,
    put_symlink_to_folder,
    tried,
    write_all,
)

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.journal import JOURNAL
from lrdan_edge.bundle.manifest import FileRecord, StageRecord
from lrdan_edge.cli.main import cli
from lrdan_edge.engines.trust import trust_in
from lrdan_edge.errors import BundleError, ChangedFileError

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_flushing")]  # a FIFO that somebody waits for hangs


def test_reading_writes_nothing_and_refuses_special_files(tmp_path: Path, outside: Path, name: str, put: Put) -> None:
    new_bundle(tmp_path / "b")
    planted(tmp_path / "b", name, put, outside)
    before = snapshot(tmp_path)

    def read() -> None:
        bundle = Bundle.open(tmp_path / "b")
        trust_in(bundle, "e.onnx", b"{}")
        for each in bundle.manifest.files:
            bundle.file(each, "x")
            bundle.read(each, "x")

    said = tried(read)
    info = CliRunner().invoke(cli, ["info", "-b", str(tmp_path / "b")])
    assert snapshot(tmp_path) == before
    assert info.exit_code in (0, 1)
    assert info.exception is None or isinstance(info.exception, SystemExit)
    read_at_open = name in (*FILES, "manifest.json", ".journal.json")
    if read_at_open or (name in FOLDERS and put is not put_folder):
        assert said is not None
        assert info.exit_code == 1
    if read_at_open and put is put_fifo:
        assert "it is a FIFO, not a file" in str(said)
    if read_at_open and put is put_symlink:
        assert "it is a symbolic link, not a file" in str(said)
    if read_at_open and put is put_hard_link:
        assert "it is a hard link" in str(said)
    if name in FOLDERS and put is put_symlink_to_folder:
        assert f"{name} is a symbolic link, not a folder" in str(said)


def test_the_bundles_own_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "disk")
    new_bundle(tmp_path / "b")
    write_all(Bundle.open(tmp_path / "b"))
    assert Bundle.open(tmp_path / "disk").read(ENGINE, "x") == b"engine"


def test_descriptors_are_closed(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "b")
    (bundle.path / "decision.json").unlink()
    os.mkfifo(bundle.path / "decision.json")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(20):
        bundle.read(ENGINE, "x")
        with pytest.raises(ChangedFileError):
            bundle.read("decision.json", "x")
        Bundle.open(bundle.path)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_bundle_on_a_read_only_disk_is_read(tmp_path: Path) -> None:
    new_bundle(tmp_path / "b")

    def info() -> Result:
        return CliRunner().invoke(cli, ["info", "--json", "-b", str(tmp_path / "b")])

    usual = info().output
    with read_only(tmp_path / "b"):
        bundle = Bundle.open(tmp_path / "b")
        assert not bundle.writable
        assert bundle.file(ENGINE, "x").read_bytes() == b"engine"
        shown = info()
        with pytest.raises(BundleError, match=r"cannot be written \(Permission denied"):
            write_all(bundle)
    assert bundle.writable
    assert (shown.exit_code, shown.output) == (0, usual)


def test_stages_that_rest_on_each_other_are_looked_at_once(tmp_path: Path) -> None:
    """A stranger's manifest may have a circle of stages, or a ladder with more ways through it than anybody can walk."""
    bundle = new_bundle(tmp_path / "b")
    record = StageRecord(finished="", seconds=0, command="x", versions={}, inputs={}, outputs=[], options={}, results={})
    for step in range(60):
        inputs = {f"a{step - 1}": "0", f"b{step - 1}": "0"} if step else {"a59": "0"}
        bundle.manifest.stages[f"s{step}"] = msgspec.structs.replace(record, inputs=inputs, outputs=[f"a{step}", f"b{step}"])
        bundle.manifest.files |= {f"{name}{step}": FileRecord("0", 0) for name in "ab"}
    assert bundle.staleness("s59") is None
    del bundle.manifest.files["a30"]
    assert bundle.staleness("s59") == "a30 is newer"


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "b")
    write_all(bundle, "train", b"weights")
    os.truncate(bundle.path / "weights.safetensors", 1 << 42)  # sparse: it takes no room
    with pytest.raises(ChangedFileError, match="4398046511104 bytes, the manifest says 7"):
        Bundle.open(bundle.path).file("weights.safetensors", "lrdan-edge train")
    (bundle.path / JOURNAL).touch()
    os.truncate(bundle.path / JOURNAL, 1 << 42)
    with pytest.raises(BundleError, match="4398046511104 bytes"):
        Bundle.open(bundle.path)


def test_control_codes_do_not_reach_the_terminal(tmp_path: Path) -> None:
    """A stranger's bundle could otherwise clear the line of an error, or name the terminal."""
    new_bundle(tmp_path / "b", stage="\x1b[2K\x1b]0;title\x07train")
    (tmp_path / "b" / "weights.safetensors").write_bytes(b"changed")
    info = CliRunner().invoke(cli, ["info", "-b", str(tmp_path / "b")])
    assert info.exit_code == 1
    assert "[2K" in info.output, "the name is shown"
    assert "\x1b" not in info.output
    assert "\x07" not in info.output
    assert "\x1b" not in CliRunner().invoke(cli, ["run", str(tmp_path / "\x1b[2K"), "-b", str(tmp_path / "b")]).output

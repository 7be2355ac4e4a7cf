"""A stranger's bundle writes nothing outside itself, whatever lies where its files should be; and reading writes nothing at all."""

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from parts import snapshot
from read_only import read_only

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.files import Folder
from lrdan_edge.bundle.journal import JOURNAL, Journal, is_bundle_file
from lrdan_edge.bundle.manifest import FileRecord, StageRecord, manifest_from_json, manifest_to_json
from lrdan_edge.bundle.spec import ModelSpec, Preprocessing, Scoring
from lrdan_edge.cli.main import cli
from lrdan_edge.engines.tensorrt.timing_cache import load_timing_cache, save_timing_cache
from lrdan_edge.engines.trust import accept, trust_in
from lrdan_edge.errors import BundleError, ChangedFileError, LrdanError

pytestmark = pytest.mark.timeout(60)  # a FIFO that somebody waits for hangs

MODEL = ModelSpec(
    recipe="lrdan", height=32, width=32, channels=1, base_channels=8, latent_channels=4, downsamplings=2, decoder="resize"
)
PREPROCESSING = Preprocessing(colour="grey", resize="area", scale=2 / 255, offset=-1.0)
SCORING = Scoring(normalise=True, smoothing_sigma=2.0, pooling="max")

ENGINE = "engines/e.onnx"
FILES = {
    "weights.safetensors": b"weights",
    "model.fp32.onnx": b"graph",
    "decision.json": b"{}",
    "golden/00.png": b"picture",
    "reports/training.json": b"[]",
    ENGINE: b"engine",
    f"{ENGINE}.json": b"{}",
}
OWN = [
    ".lock",
    ".staging",
    ".journal.json",
    ".journal.json.tmp",
    "manifest.json",
    "manifest.json.tmp",
    ".timing.cache",
    ".checkpoint.safetensors",
    ".checkpoint.safetensors.tmp",
    f"{ENGINE}.sig",
]
FOLDERS = ["golden", "reports", "engines"]
NAMES = [*FILES, *OWN, *FOLDERS]


def new_bundle(folder: Path, weights: bytes = b"weights", stage: str = "train") -> Bundle:
    bundle = Bundle.create(folder, MODEL, PREPROCESSING, SCORING)
    write_all(bundle, stage, weights)
    return bundle


def write_all(bundle: Bundle, stage: str = "bench", weights: bytes = b"weights") -> None:
    """Commit every kind of file that a stage writes."""
    with bundle.stage(stage, command=f"lrdan-edge {stage}") as work:
        for name, data in FILES.items():
            work.path(name).write_bytes(weights if name == "weights.safetensors" else data)
        work.unlisted_path(f"{ENGINE}.sig").write_bytes(b"signature")


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about a power cut, and flushing takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What is not the bundle's: a file, and a folder with files of the names that a bundle has."""
    folder = tmp_path / "outside"
    for name in ("file", *(name.rpartition("/")[2] for name in NAMES)):
        path = folder / "folder" / name if name != "file" else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"somebody's own {name}")
        os.utime(path, ns=(10**18, 10**18))
    return folder


def put_symlink(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "file")


def put_symlink_to_folder(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "folder", target_is_directory=True)


def put_dangling_symlink(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "new")


def put_hard_link(path: Path, outside: Path) -> None:
    path.hardlink_to(outside / "file")


def put_fifo(path: Path, outside: Path) -> None:  # noqa: ARG001
    os.mkfifo(path)


def put_folder(path: Path, outside: Path) -> None:  # noqa: ARG001
    path.mkdir()
    (path / "inside").write_text("x")


def put_socket(path: Path, outside: Path) -> None:  # noqa: ARG001
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may not be long
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


KINDS = [put_symlink, put_symlink_to_folder, put_dangling_symlink, put_hard_link, put_fifo, put_folder, put_socket]
Put = Callable[[Path, Path], None]


def planted(bundle: Path, name: str, put: Put, outside: Path) -> None:
    """Put something in the place of one of the bundle's files or folders."""
    path = bundle / name
    if path.is_dir():
        path.rename(bundle.parent / "aside")
    path.unlink(missing_ok=True)
    put(path, outside)


def tried(work: Callable[[], object]) -> str | None:
    """What the refusal says, if it is one."""
    try:
        work()
    except LrdanError as error:
        said = str(error)
        assert "\n" not in said
        assert 20 < len(said) < 600
        return said
    return None


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=KINDS, ids=lambda put: put.__name__.removeprefix("put_"))
def put(request: pytest.FixtureRequest) -> Put:
    chosen: Put = request.param
    return chosen


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
    if name in FOLDERS and put is put_symlink_to_folder:
        assert f"{name} is a symbolic link, not a folder" in str(said)


@pytest.mark.parametrize("stage", ["train", "bench"])
def test_a_stage_writes_into_the_bundle_only(tmp_path: Path, outside: Path, name: str, put: Put, stage: str) -> None:
    new_bundle(tmp_path / "b")
    bundle = Bundle.open(tmp_path / "b")
    planted(tmp_path / "b", name, put, outside)
    before = snapshot(outside)

    def write() -> None:
        if stage == "train":
            new_bundle(tmp_path / "b", b"new weights")
        else:
            write_all(bundle, stage, b"new weights")

    said = tried(write)
    assert snapshot(outside) == before
    if said is None:
        again = Bundle.open(tmp_path / "b")
        assert again.read("weights.safetensors", "x") == b"new weights"
        for each in again.manifest.files:
            path = again.file(each, "x")
            assert path.is_file()
            assert path.lstat().st_nlink == 1
            assert not path.is_symlink()
    else:
        assert str(tmp_path / "b") in said
        assert not (tmp_path / "b" / ".staging" / "weights.safetensors").exists()
    replaced = name in FILES or name in (".staging", "manifest.json.tmp", ".journal.json.tmp", f"{ENGINE}.sig")
    if put in (put_symlink, put_symlink_to_folder, put_hard_link, put_fifo) and replaced:
        assert said is None, "what is only in the way of a file is replaced itself"
    if name in FOLDERS and put is not put_folder:
        assert "not a folder" in str(said)


KEPT_BESIDE = [".timing.cache", ".checkpoint.safetensors", ".checkpoint.safetensors.tmp", f"{ENGINE}.sig", "engines"]


@pytest.mark.parametrize("name", KEPT_BESIDE)
def test_files_beside_the_manifest_are_written_safely_too(tmp_path: Path, outside: Path, name: str, put: Put) -> None:
    torch = pytest.importorskip("torch")
    from lrdan_edge.train.checkpoint import Checkpoint, State

    bundle = new_bundle(tmp_path / "b")
    planted(bundle.path, name, put, outside)
    before = snapshot(outside)
    cache, trt = bundle.path / ".timing.cache", SimpleNamespace(__name__="tensorrt")
    seen: list[bytes] = []
    config = SimpleNamespace(create_timing_cache=seen.append)
    network = torch.nn.Linear(2, 2)
    checkpoint = Checkpoint(bundle.path / ".checkpoint.safetensors", {"seed": 1}, {}, 0)

    def write_checkpoint() -> None:
        checkpoint.read()
        try:
            checkpoint.write(network, [], State(step=3))
        except OSError as error:  # training says it as the bundle's error: its loop runs in the stage
            raise BundleError(str(error)) from error
        saved, said = checkpoint.read()
        assert (saved and saved.state.step, said) == (3, None)
        checkpoint.remove()

    tried(write_checkpoint)
    load_timing_cache(trt, config, cache)
    if tried(lambda: save_timing_cache(cache, SimpleNamespace(serialize=lambda: b"timings"))) is None:
        load_timing_cache(trt, config, cache)
        assert b"timings" in seen
    tried(lambda: accept(bundle, "e.onnx", b"{}"))
    assert snapshot(outside) == before


def test_the_bundles_own_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "disk")
    new_bundle(tmp_path / "b")
    write_all(Bundle.open(tmp_path / "b"))
    assert Bundle.open(tmp_path / "disk").read(ENGINE, "x") == b"engine"


@pytest.mark.parametrize("step", range(14))
def test_a_folder_replaced_by_a_link_between_check_and_use_is_not_followed(
    tmp_path: Path, outside: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = new_bundle(tmp_path / "b")
    before = snapshot(outside)
    left = step
    replace = os.replace

    def swap_then_replace(*args: Any, **kwargs: Any) -> None:
        nonlocal left
        if left == 0:
            for name in (*FOLDERS, ".staging"):
                (bundle.path / name).rename(tmp_path / f"aside-{name}")
                (bundle.path / name).symlink_to(outside / "folder", target_is_directory=True)
        left -= 1
        replace(*args, **kwargs)

    monkeypatch.setattr(os, "replace", swap_then_replace)
    tried(lambda: write_all(bundle, "bench", b"new weights"))
    monkeypatch.undo()
    assert left < step, "nothing was replaced"
    tried(lambda: write_all(bundle, "bench", b"newer weights"))
    assert snapshot(outside) == before


@pytest.mark.parametrize("use", [Folder.open, Folder.open_lock], ids=["open", "lock"])
def test_a_file_replaced_between_check_and_use_is_refused(
    tmp_path: Path, outside: Path, put: Put, use: Callable[[Folder, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "file").write_bytes(b"own")
    before, look = snapshot(outside), os.lstat

    def look_then_swap(path: Any, **folder: Any) -> os.stat_result:
        found = look(path, **folder)
        if path == "file" and (tmp_path / "b" / "file").stat().st_nlink == 1:
            monkeypatch.undo()
            (tmp_path / "b" / "file").unlink()
            put(tmp_path / "b" / "file", outside)
        return found

    monkeypatch.setattr(os, "lstat", look_then_swap)
    with Folder(tmp_path / "b") as folder:
        if put is put_hard_link:
            use(folder, "file").close()
        else:
            with pytest.raises(OSError, match=r"FIFO|folder|symbolic links|No such device|Is a directory"):
                use(folder, "file")
    assert snapshot(outside) == before


def test_a_planted_temporary_file_is_not_written(
    tmp_path: Path, outside: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b").mkdir()
    before, unlink = snapshot(outside), os.unlink

    def unlink_then_put(path: Any, **folder: Any) -> None:
        monkeypatch.undo()
        put(tmp_path / "b" / "file.tmp", outside)
        unlink(path + ".none", **folder)  # as where there was none

    monkeypatch.setattr(os, "unlink", unlink_then_put)
    with Folder(tmp_path / "b") as folder, pytest.raises(FileExistsError):
        folder.write("file", b"new")
    assert snapshot(outside) == before


# Journals


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


def test_an_interrupted_commit_is_readable_and_finished_by_the_next_writer(cut_off: Path) -> None:
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


def test_a_reader_opened_before_the_next_writer_keeps_working(cut_off: Path) -> None:
    reader = Bundle.open(cut_off)
    write_all(Bundle.open(cut_off), "evaluate", b"new weights")
    assert reader.read("weights.safetensors", "x") == b"new weights"


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
    staging_elsewhere,
    renames_of_its_own,
    no_json,
]


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
def test_an_invalid_journal_is_not_followed(tmp_path: Path, outside: Path, make: Callable[[Path], Journal | bytes]) -> None:
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


def test_a_new_model_replaces_a_foreign_journal(tmp_path: Path, outside: Path) -> None:
    folder = new_bundle(tmp_path / "b").path
    (folder / ".journal.json").write_bytes(to_json(other_manifest(folder)))
    away = snapshot(outside)
    new_bundle(folder, b"newest weights")
    assert Bundle.open(folder).read("weights.safetensors", "x") == b"newest weights"
    assert snapshot(outside) == away


def test_a_forged_journal_moves_files_only_inside_the_bundle(tmp_path: Path, outside: Path) -> None:
    """All that it can do is what its maker could have done to the bundle directly."""
    folder = new_bundle(tmp_path / "b").path
    journal = journal_for(folder)
    (folder / ".staging" / "weights.safetensors").unlink()
    (outside / "weights").write_bytes(b"new weights")
    (folder / ".staging" / "weights.safetensors").hardlink_to(outside / "weights")
    (folder / ".journal.json").write_bytes(to_json(journal))
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


def test_a_first_training_killed_during_its_commit_is_complete_and_replaceable(tmp_path: Path) -> None:
    """It used to be refused as a folder with other files."""
    new_bundle(tmp_path / "other")
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "b", tmp_path / "other"], check=False)
    assert done.returncode == 9
    assert not (tmp_path / "b" / "manifest.json").exists()
    assert Bundle.open(tmp_path / "b").read("weights.safetensors", "x") == b"first weights"
    new_bundle(tmp_path / "b", b"second weights")
    assert Bundle.open(tmp_path / "b").read("weights.safetensors", "x") == b"second weights"


# Names


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "reports/../x",
        "manifest.json",
        ".lock",
        "reports/.x.json",
        "engines/a/b",
        "",
        "x",
        "golden/a\0.png",
    ],
)
def test_a_stage_writes_only_files_of_a_bundle(tmp_path: Path, name: str) -> None:
    assert not is_bundle_file(name)
    with (
        pytest.raises(ValueError, match="not the name of a bundle's file"),
        new_bundle(tmp_path / "b").stage("x", command="x") as stage,
    ):
        stage.path(name)


@pytest.mark.parametrize("name", ["../outside/file", "/etc/passwd", "", "a/../../outside/file"])
def test_a_name_cannot_leave_its_folder(tmp_path: Path, outside: Path, name: str) -> None:
    (tmp_path / "b" / "a").mkdir(parents=True)
    before = snapshot(outside)
    uses: list[Callable[[Folder], object]] = [
        lambda folder: folder.open(name),
        lambda folder: folder.write(name, b"x"),
        lambda folder: folder.remove(name),
        lambda folder: folder.remove_tree(name),
        lambda folder: folder.move("a", name),
        lambda folder: folder.open_lock(name),
    ]
    with Folder(tmp_path / "b") as folder:
        for use in uses:
            with pytest.raises(ValueError, match="not a name below a folder"):
                use(folder)
    assert snapshot(outside) == before


def test_removing_a_tree_removes_links_but_not_their_targets(tmp_path: Path, outside: Path) -> None:
    before = snapshot(outside)
    tree = tmp_path / "b" / "tree"
    (tree / "deep").mkdir(parents=True)
    for put in KINDS:
        put(tree / "deep" / put.__name__, outside)
    with Folder(tmp_path / "b") as folder:
        folder.remove_tree("tree")
        folder.remove_tree("tree")
    assert not tree.exists()
    assert snapshot(outside) == before


def test_too_deeply_nested_folders_give_one_clear_error(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "b")
    (bundle.path / ".staging" / "/".join("d" * 60)).mkdir(parents=True)
    with pytest.raises(BundleError, match="levels of folders"):
        write_all(bundle)


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


# Read-only disks


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


def test_an_interrupted_commit_is_readable_on_a_read_only_disk(cut_off: Path) -> None:
    with read_only(cut_off):
        assert Bundle.open(cut_off).read("weights.safetensors", "x") == b"new weights"


def test_a_commit_writes_the_manifest_of_its_journal(cut_off: Path) -> None:
    expected = Bundle.open(cut_off).manifest
    write = msgspec.structs.replace(expected)
    with Bundle.open(cut_off).stage("bench", command="x"):
        assert (cut_off / "manifest.json").read_bytes() == manifest_to_json(write)


def test_each_stage_is_checked_once_even_in_a_cycle(tmp_path: Path) -> None:
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

"""A stage writes into its bundle only, whatever lies where its files should be."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from parts import snapshot
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
from lrdan_edge.bundle.journal import is_bundle_file
from lrdan_edge.engines.tensorrt.timing_cache import load_timing_cache, save_timing_cache
from lrdan_edge.engines.trust import accept
from lrdan_edge.errors import BundleError

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_flushing")]  # a FIFO that somebody waits for hangs


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
def test_what_is_kept_beside_the_manifest_is_written_likewise(tmp_path: Path, outside: Path, name: str, put: Put) -> None:
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


@pytest.mark.parametrize("step", range(14))
def test_a_folder_swapped_for_a_link_between_check_and_use_leads_nowhere(
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


def test_folders_far_too_deep_give_one_clear_error(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "b")
    (bundle.path / ".staging" / "/".join("d" * 60)).mkdir(parents=True)
    with pytest.raises(BundleError, match="levels of folders"):
        write_all(bundle)

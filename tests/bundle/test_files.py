"""A folder's files are opened, written and removed inside it only."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parts import snapshot
from strangers import KINDS, Put, put_hard_link

from lrdan_edge.bundle.files import Folder

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_flushing")]  # a FIFO that somebody waits for hangs


@pytest.mark.parametrize("use", [Folder.open, Folder.open_lock], ids=["open", "lock"])
def test_a_file_swapped_between_check_and_use_is_refused(
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
    expected = r"hard link" if put is put_hard_link else r"FIFO|folder|symbolic links|No such device|Is a directory"
    with Folder(tmp_path / "b") as folder, pytest.raises(OSError, match=expected):
        use(folder, "file")
    assert snapshot(outside) == before


def test_a_temporary_file_that_is_put_there_first_is_not_written(
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


@pytest.mark.parametrize("name", ["../outside/file", "/etc/passwd", "", "a/../../outside/file"])
def test_a_name_cannot_lead_out_of_a_folder(tmp_path: Path, outside: Path, name: str) -> None:
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


def test_removing_a_tree_removes_links_and_not_what_they_lead_to(tmp_path: Path, outside: Path) -> None:
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

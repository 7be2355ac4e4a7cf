"""A folder that a camera writes into: images are judged once they are whole, in order, and none is lost without a word."""

import errno
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from lrdan_edge.data.images import read_with_form
from lrdan_edge.errors import SourceAddressError
from lrdan_edge.runtime.sources import CapturedFrame, open_source
from lrdan_edge.runtime.sources.base import Source

JPEG = bytes(cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))[1])


class Reader:
    """Collects what a source delivers, in a thread."""

    def __init__(self, source: Source) -> None:
        self.source, self.frames = source, queue.Queue[CapturedFrame]()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        for frame in self.source:
            self.frames.put(frame)

    def next(self) -> CapturedFrame:
        return self.frames.get(timeout=20)

    def names(self, count: int) -> list[str]:
        return [self.next().name for _ in range(count)]

    def nothing(self, seconds: float = 0.6) -> bool:
        time.sleep(seconds)
        return self.frames.empty()


Watch = Callable[..., Reader]


@pytest.fixture
def watch() -> Iterator[Watch]:
    readers: list[Reader] = []

    def start(folder: Path, settings: str = "existing=skip&settle=0.1", **options: float | bool) -> Reader:
        readers.append(Reader(open_source(f"watch:{folder}?{settings}", **options)))  # type: ignore[arg-type]
        return readers[-1]

    yield start
    for reader in readers:
        reader.source.close()
        reader.thread.join(10)
        assert not reader.thread.is_alive()


def test_images_are_delivered_as_they_arrive_and_those_from_before_by_choice(tmp_path: Path, watch: Watch) -> None:
    (tmp_path / "before.jpg").write_bytes(JPEG)
    skips, judges = watch(tmp_path), watch(tmp_path, "existing=judge&settle=0.1")
    assert judges.names(1) == ["before.jpg"]
    assert skips.nothing(0.3)
    for name in ("z.jpg", "a.jpg", "m/10.jpg", "m/9.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(JPEG)
        time.sleep(0.02)
    assert skips.names(4) == judges.names(4) == ["z.jpg", "a.jpg", "m/10.jpg", "m/9.jpg"]
    assert not skips.source.live


def test_an_upload_is_judged_when_it_is_whole_and_only_then(tmp_path: Path, watch: Watch) -> None:
    reader = watch(tmp_path, read_timeout_s=3)
    with (tmp_path / "slow.jpg").open("wb") as file:
        for start in range(0, len(JPEG), 500):
            file.write(JPEG[start : start + 500])
            file.flush()
            time.sleep(0.3)  # it stands still for longer than an image takes to settle
            if start == 1000:
                (tmp_path / "other.jpg").write_bytes(JPEG)
    assert reader.names(2) == ["other.jpg", "slow.jpg"]
    assert reader.nothing()


def test_an_image_that_stays_damaged_is_a_fault_and_stops_no_other(tmp_path: Path, watch: Watch) -> None:
    reader = watch(tmp_path, read_timeout_s=1.5)
    (tmp_path / "cut.jpg").write_bytes(JPEG[:1000])
    (tmp_path / "empty.png").write_bytes(b"")
    started = time.monotonic()
    time.sleep(0.1)
    (tmp_path / "whole.jpg").write_bytes(JPEG)
    assert reader.names(1) == ["whole.jpg"]
    faults = [reader.next(), reader.next()]
    assert time.monotonic() - started > 1.4
    assert {(one.name, one.image is None) for one in faults} == {("cut.jpg", True), ("empty.png", True)}
    assert all("is not a complete image" in str(one.fault) for one in faults)
    (tmp_path / "cut.jpg").write_bytes(JPEG)
    again = reader.next()
    assert (again.name, again.fault) == ("cut.jpg (written again)", None)


def test_temporary_and_hidden_names_are_skipped_until_they_are_renamed(tmp_path: Path, watch: Watch) -> None:
    reader = watch(tmp_path)
    for name in ("a.jpg.part", "b.jpg.tmp", ".c.jpg", "d.part.jpg", "e.filepart", "f.txt"):
        (tmp_path / name).write_bytes(JPEG)
    assert reader.nothing(0.4)
    (tmp_path / "a.jpg.part").rename(tmp_path / "a.jpg")
    assert reader.names(1) == ["a.jpg"]
    (tmp_path / ".c.jpg").rename(tmp_path / "c.jpg")
    assert reader.names(1) == ["c.jpg"]


def test_a_file_written_again_is_judged_again_and_says_so(tmp_path: Path, watch: Watch) -> None:
    reader = watch(tmp_path)
    for expected in ("latest.jpg", "latest.jpg (written again)", "latest.jpg (written again)"):
        (tmp_path / "latest.jpg").write_bytes(JPEG)
        assert reader.names(1) == [expected]
    (tmp_path / "latest.jpg").unlink()
    assert reader.nothing(0.3)
    (tmp_path / "latest.jpg").write_bytes(JPEG)
    assert reader.names(1) == ["latest.jpg"]


def test_a_file_deleted_before_it_was_read_is_a_fault_but_a_renamed_one_is_not(tmp_path: Path, watch: Watch) -> None:
    reader = watch(tmp_path, "existing=skip&settle=1")
    (tmp_path / "gone.jpg").write_bytes(JPEG)
    (tmp_path / "old.jpg").write_bytes(JPEG)
    time.sleep(0.7)
    (tmp_path / "gone.jpg").unlink()
    (tmp_path / "old.jpg").rename(tmp_path / "new.jpg")
    fault = reader.next()
    assert fault.name == "gone.jpg"
    assert "was deleted before it was judged" in str(fault.fault)
    assert reader.names(1) == ["new.jpg"]


def test_a_folder_that_is_deleted_and_made_again_goes_on(tmp_path: Path, watch: Watch) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    reader = watch(folder)
    shutil.rmtree(folder)
    fault = reader.next()
    assert "cannot be read (No such file or directory); images may be missed" in str(fault.fault)
    assert reader.nothing(0.3), "said once"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(JPEG)
    assert reader.names(1) == ["a.jpg"]


def test_an_unmounted_disk_is_noticed_and_its_images_are_not_judged_twice(tmp_path: Path, watch: Watch) -> None:
    folder, aside = tmp_path / "in", tmp_path / "aside"
    folder.mkdir()
    reader = watch(folder)
    (folder / "a.jpg").write_bytes(JPEG)
    assert reader.names(1) == ["a.jpg"]
    folder.rename(aside)  # for the path, the same as when the empty mount point shows
    folder.mkdir()
    assert "another folder or file system is in its place" in str(reader.next().fault)
    (folder / "b.jpg").write_bytes(JPEG)
    assert reader.names(1) == ["b.jpg"]
    shutil.rmtree(folder)
    aside.rename(folder)
    assert reader.next().image is None
    (folder / "c.jpg").write_bytes(JPEG)
    assert reader.names(1) == ["c.jpg"], "a.jpg was judged before"


def test_a_file_that_never_settles_is_told(tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrdan_edge.runtime.sources.hot_folder._LONG_S", 0.5)
    reader = watch(tmp_path)
    deadline = time.monotonic() + 20
    while reader.frames.empty():
        assert time.monotonic() < deadline
        with (tmp_path / "a.jpg").open("ab") as file:
            file.write(JPEG[:10])
        time.sleep(0.03)
    assert "is not judged until it settles" in str(reader.next().fault)


@pytest.mark.parametrize("settings", ["", "?existing=maybe", "?existing=skip&settle=x", "?existing=skip&rate=3", "?settle=1"])
def test_the_address_says_what_to_do_with_images_from_before(tmp_path: Path, settings: str) -> None:
    with pytest.raises(SourceAddressError, match=r"existing=|settle="):
        open_source(f"watch:{tmp_path}{settings}")


def test_a_folder_must_exist_unless_it_is_waited_for(tmp_path: Path, watch: Watch) -> None:
    with pytest.raises(SourceAddressError, match="does not exist"):
        open_source(f"watch:{tmp_path / 'in'}?existing=skip")
    reader = watch(tmp_path / "in", wait=True)
    assert reader.next().image is None
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(JPEG)
    assert reader.names(1) == ["a.jpg"]


def test_a_real_unmount(tmp_path: Path, watch: Watch) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], capture_output=True).returncode:
        pytest.skip("only root may mount")
    try:
        reader = watch(folder)
        (folder / "a.jpg").write_bytes(JPEG)
        assert reader.names(1) == ["a.jpg"]
    finally:
        for _ in range(50):
            if not subprocess.run(["umount", str(folder)], capture_output=True).returncode:
                break
            time.sleep(0.1)
    assert "another folder or file system is in its place" in str(reader.next().fault)


def test_what_is_judged_may_be_moved_within_the_folder(tmp_path: Path, watch: Watch) -> None:
    reader = watch(tmp_path)
    (tmp_path / "a.jpg").write_bytes(JPEG)
    assert reader.names(1) == ["a.jpg"]
    (tmp_path / "done").mkdir()
    (tmp_path / "a.jpg").rename(tmp_path / "done" / "a.jpg")
    assert reader.nothing(0.5)
    (tmp_path / "done" / "a.jpg").write_bytes(JPEG)
    assert reader.names(1) == ["done/a.jpg (written again)"]


def test_a_subfolder_that_cannot_be_read_is_a_fault_and_is_not_judged_twice(
    tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, broken, listed = watch(tmp_path), threading.Event(), os.scandir

    def scandir(path: Path) -> object:
        if broken.is_set() and path.name == "sub":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return listed(path)

    monkeypatch.setattr("lrdan_edge.runtime.sources.hot_folder.os.scandir", scandir)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jpg").write_bytes(JPEG)
    assert reader.names(1) == ["sub/a.jpg"]
    broken.set()
    fault = reader.next()
    assert fault.image is None
    assert str(fault.fault).endswith("sub cannot be read (Input/output error); images may be missed")
    (tmp_path / "sub" / "b.jpg").write_bytes(JPEG)
    assert reader.nothing(0.4), "said once"
    broken.clear()
    assert reader.names(1) == ["sub/b.jpg"], "a.jpg was judged before"


def test_a_fifo_put_in_an_images_place_stops_nothing(tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, read = watch(tmp_path), read_with_form

    def exchanged(path: Path, bit_depth: int) -> object:
        if path.name == "a.jpg":
            path.unlink()
            os.mkfifo(path)
        return read(path, bit_depth)

    monkeypatch.setattr("lrdan_edge.runtime.sources.hot_folder.read_with_form", exchanged)
    (tmp_path / "a.jpg").write_bytes(JPEG)
    assert "was deleted before it was judged" in str(reader.next().fault)
    (tmp_path / "b.jpg").write_bytes(JPEG)
    assert reader.names(1) == ["b.jpg"]

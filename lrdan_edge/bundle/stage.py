"""How a stage writes: its files go to a hidden folder inside the bundle, and are committed together when it has succeeded."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from lrdan_edge import __version__
from lrdan_edge.bundle.files import Folder, UnexpectedKindError, digest_of
from lrdan_edge.bundle.journal import (
    JOURNAL,
    MANIFEST,
    STAGING,
    cannot_write,
    commit,
    is_bundle_file,
    locked,
    read_state,
    recover,
    staged,
)
from lrdan_edge.bundle.manifest import FileRecord, Manifest, StageRecord
from lrdan_edge.bundle.names import CHECKPOINT, DECISION, ENGINES, GOLDEN, REPORTS, WEIGHTS
from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.errors import BundleError

_VERSIONED = ("numpy", "torch", "onnx", "onnxruntime", "opencv-python-headless", "openvino", "tensorrt")


class Stage:
    """One stage at work: where its files go until they are committed, and what it reports.

    Attributes:
        outputs: The files it writes that the manifest lists, and where they are for now.
        unlisted: The names of those that the manifest does not list.
        results: What is recorded of it: figures, choices made.
        model: The manifest's model from this stage on, where the stage changes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.outputs: dict[str, Path] = {}
        self.unlisted: set[str] = set()
        self.results: dict[str, Any] = {}
        self.model: ModelSpec | None = None

    def path(self, name: str) -> Path:
        """Where to write the bundle's file `name` (a relative POSIX path) for now."""
        path = self._place(name)
        self.outputs[name] = path
        return path

    def unlisted_path(self, name: str) -> Path:
        """Where to write a file that is committed with the others but is not in the manifest, such as a signature."""
        path = self._place(name)
        self.unlisted.add(name)
        return path

    def _place(self, name: str) -> Path:
        if not is_bundle_file(name):
            raise ValueError(f"{name!r} is not the name of a bundle's file: see lrdan_edge.bundle.journal")
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        return path


@contextmanager
def staging(path: Path, name: str) -> Iterator[tuple[Folder, Stage]]:
    """Lock a bundle for a stage, and remove what is staged at the end unless a commit has taken place.

    Args:
        path: The bundle's folder, made where there is none.
        name: The stage's name in the manifest.

    Yields:
        The folder held open, and the stage.

    Raises:
        BundleError: The folder cannot be written, or another command is writing to it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BundleError(f"{path} cannot be made ({error.strerror})", "choose another {bundle}") from error
    try:
        with Folder(path) as folder, locked(folder):
            _clear(folder, name)
            try:
                folder.make_folder(STAGING)
                yield folder, Stage(path / STAGING)
            finally:
                with suppress(OSError):
                    if not folder.has(JOURNAL):  # else the commit has taken place, and the staged files are part of it
                        folder.remove_tree(STAGING)
    except OSError as error:
        raise cannot_write(path, error) from error


def commit_stage(folder: Folder, name: str, stage: Stage, record: StageRecord, manifest: Manifest) -> Manifest:
    """Make a stage's files the bundle's.

    Args:
        folder: The bundle, locked.
        name: The stage's name in the manifest.
        stage: The stage.
        record: What it did.
        manifest: The manifest it adds to. Where the bundle has a newer one, that counts, except for the stage ``train``,
            which begins a new model.

    Returns:
        The manifest that was written.
    """
    if name != "train":
        # Another command may have committed while this one waited for the lock: add to what is there now.
        manifest = read_state(folder)[0] or manifest
    files, stages = dict(manifest.files), dict(manifest.stages)
    for key in stages.pop(name).outputs if name in stages else ():
        files.pop(key, None)
    for other in [key for key, made in stages.items() if made.outputs and stage.outputs.keys() >= set(made.outputs)]:
        stages.pop(other)  # nothing of what it made is left
    made = {key: _flushed(folder, staged(key)) for key in (*stage.outputs, *stage.unlisted)}
    for place in sorted({str(Path(staged(key)).parent) for key in made} | {STAGING}):
        folder.flush(place)
    files |= {key: made[key] for key in stage.outputs}
    model = stage.model or manifest.model
    manifest = msgspec.structs.replace(manifest, model=model, files=files, stages=stages | {name: record})
    commit(folder, {key: found.sha256 for key, found in made.items()}, manifest)
    return manifest


def _clear(folder: Folder, stage: str) -> None:
    """Finish what a killed stage committed, remove what it only began, and refuse a folder that could not be written at the end.

    Raises:
        BundleError: There is a journal of another bundle.
        OSError: The folder cannot be written, or something is in the way of the bundle's files.
    """
    try:
        recover(folder)
    except (BundleError, UnexpectedKindError):
        if stage != "train" or _has_valid_journal(folder):
            raise
        folder.remove(JOURNAL)  # not this bundle's, and a new model needs nothing of it
    folder.remove_tree(STAGING)  # the lock says that nobody is using it
    checkpoint = (CHECKPOINT, f"{CHECKPOINT}.tmp") if stage == "train" else ()
    temporary = (f"{MANIFEST}.tmp", f"{JOURNAL}.tmp")
    parts = (f"{part}/x" for part in (GOLDEN, ENGINES, REPORTS))
    for name in (MANIFEST, JOURNAL, *temporary, WEIGHTS, DECISION, *checkpoint, *parts):
        folder.require_replaceable(name)


def _has_valid_journal(folder: Folder) -> bool:
    """Whether the journal is this bundle's, so that the current model may be among the staged files."""
    try:
        read_state(folder)
    except (BundleError, OSError):
        return False
    return True


def _flushed(folder: Folder, name: str) -> FileRecord:
    """A staged file's record, after the file was flushed to the disk."""
    with folder.open(name) as file:
        os.fsync(file.fileno())
        return FileRecord(digest_of(file), os.fstat(file.fileno()).st_size)


def versions() -> dict[str, str]:
    """Versions of Python, of lrdan-edge and of the packages that make or run its files, where installed."""
    found = {"python": ".".join(map(str, sys.version_info[:3])), "lrdan-edge": __version__}
    for package in _VERSIONED:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found

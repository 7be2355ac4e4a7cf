"""Stages: each writes to a hidden folder inside the bundle, and its files are committed together on success."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from lrdan_edge import __version__
from lrdan_edge.bundle.files import MOST_JSON, Folder, UnexpectedKindError, digest_of
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
from lrdan_edge.bundle.names import (
    CHECKPOINT,
    DECISION,
    ENGINES,
    GOLDEN,
    REPORTS,
    SIGNATURE,
    SIGNED_MANIFEST,
    WEIGHTS,
    affects_verdicts,
)
from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.errors import BundleError

_VERSIONED = ("numpy", "torch", "onnx", "onnxruntime", "opencv-python-headless", "openvino", "tensorrt")


class Stage:
    """A running stage: its uncommitted files and its results.

    Attributes:
        outputs: Files to list in the manifest, with their temporary paths.
        unlisted: Names of files that the manifest does not list.
        results: Measured values and automatic choices for the record.
        model: The manifest's new model, if the stage changes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.outputs: dict[str, Path] = {}
        self.unlisted: set[str] = set()
        self.results: dict[str, Any] = {}
        self.model: ModelSpec | None = None

    def path(self, name: str) -> Path:
        """Temporary path for the bundle's file `name` (a relative POSIX path)."""
        path = self._place(name)
        self.outputs[name] = path
        return path

    def unlisted_path(self, name: str) -> Path:
        """Temporary path for a file that is committed with the others but not listed in the manifest, such as a signature."""
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
    """Lock a bundle for a stage, and remove the staged files at the end unless they were committed.

    Args:
        path: The bundle's folder; created if missing.
        name: The stage's name in the manifest.

    Yields:
        The open folder, and the stage.

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
                    if not folder.has(JOURNAL):  # with a journal, the commit counts and needs the staged files
                        folder.remove_tree(STAGING)
    except OSError as error:
        raise cannot_write(path, error) from error


def commit_stage(folder: Folder, name: str, stage: Stage, record: StageRecord, manifest: Manifest) -> Manifest:
    """Commit a stage's files to the bundle. Removes its signature, except for stages that write only reports or an engine.

    Args:
        folder: The bundle, locked.
        name: The stage's name in the manifest.
        stage: The stage.
        record: The stage's record.
        manifest: The manifest to extend. A newer one in the bundle takes precedence, except for the stage ``train``, which
            begins a new model.

    Returns:
        The new manifest.
    """
    if name != "train":
        # Another command may have committed while this one waited for the lock: extend the current manifest.
        manifest = read_state(folder).manifest or manifest
    files, stages = dict(manifest.files), dict(manifest.stages)
    for key in stages.pop(name).outputs if name in stages else ():
        files.pop(key, None)
    for other in [key for key, made in stages.items() if made.outputs and stage.outputs.keys() >= set(made.outputs)]:
        stages.pop(other)  # all of its files are replaced
    if stage.model is None and not any(map(affects_verdicts, stage.outputs)) and (signed := _signed_manifest(folder)):
        folder.write(staged(SIGNED_MANIFEST), signed)
        stage.unlisted.add(SIGNED_MANIFEST)
    made = {key: _flushed(folder, staged(key)) for key in (*stage.outputs, *stage.unlisted)}
    for place in sorted({str(Path(staged(key)).parent) for key in made} | {STAGING}):
        folder.flush(place)
    files |= {key: made[key] for key in stage.outputs}
    model = stage.model or manifest.model
    manifest = msgspec.structs.replace(manifest, model=model, files=files, stages=stages | {name: record})
    commit(folder, {key: found.sha256 for key, found in made.items()}, manifest)
    return manifest


def _signed_manifest(folder: Folder) -> bytes | None:
    """The manifest that the bundle's signature is of: kept by an earlier commit, or the current one; None without a signature."""
    if not folder.has(SIGNATURE):
        return None
    with suppress(OSError):  # not a regular file: the signature is not valid anyway
        return folder.read(SIGNED_MANIFEST if folder.has(SIGNED_MANIFEST) else MANIFEST, MOST_JSON)
    return None


def _clear(folder: Folder, stage: str) -> None:
    """Finish the commit of a killed stage, remove its uncommitted files, and refuse a folder that cannot be written."""
    try:
        recover(folder)
    except (BundleError, UnexpectedKindError):
        if stage != "train" or _has_valid_journal(folder):
            raise
        folder.remove(JOURNAL)  # of another bundle; a new model does not need it
    folder.remove_tree(STAGING)  # not in use, since this process holds the lock
    checkpoint = (CHECKPOINT, f"{CHECKPOINT}.tmp") if stage == "train" else ()
    temporary = (f"{MANIFEST}.tmp", f"{JOURNAL}.tmp")
    parts = (f"{part}/x" for part in (GOLDEN, ENGINES, REPORTS))
    for name in (MANIFEST, SIGNATURE, SIGNED_MANIFEST, JOURNAL, *temporary, WEIGHTS, DECISION, *checkpoint, *parts):
        folder.require_replaceable(name)


def _has_valid_journal(folder: Folder) -> bool:
    """Whether the journal belongs to this bundle; the current model may then be among the staged files."""
    try:
        read_state(folder)
    except (BundleError, OSError):
        return False
    return True


def _flushed(folder: Folder, name: str) -> FileRecord:
    """Flush a staged file to disk and return its record."""
    with folder.open(name) as file:
        os.fsync(file.fileno())
        return FileRecord(digest_of(file), os.fstat(file.fileno()).st_size)


def versions() -> dict[str, str]:
    """Versions of Python, lrdan-edge and the installed packages that make or run the stage's files."""
    found = {"python": ".".join(map(str, sys.version_info[:3])), "lrdan-edge": __version__}
    for package in _VERSIONED:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found

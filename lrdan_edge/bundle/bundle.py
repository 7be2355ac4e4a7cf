"""The bundle: the folder that every command reads and adds to.

A stage works in a hidden folder inside the bundle. When it has succeeded, its files are flushed to disk, a journal says which
files follow with which manifest, they are renamed into place, and the manifest is replaced. A stage killed before the journal
leaves the old bundle whole. One killed after it leaves the new one: reading it needs no further step and writes nothing, and the
next stage that writes finishes the renames (`lrdan_edge.bundle.journal`).

Opening and reading a bundle writes nothing at all, no lock either, so a bundle may be on a read-only disk. Reading and writing
follow no symbolic link below the bundle's folder, and open regular files only (`lrdan_edge.bundle.files`); the folder itself may
be a link.
"""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from lrdan_edge import __version__
from lrdan_edge.bundle.files import Folder, UnexpectedKindError
from lrdan_edge.bundle.journal import (
    JOURNAL,
    LOCK,
    MANIFEST,
    STAGING,
    cannot_write,
    commit,
    digest_of,
    is_bundle_file,
    locked,
    read_state,
    recover,
    staged,
)
from lrdan_edge.bundle.manifest import (
    SCHEMA_VERSION,
    Decision,
    FileRecord,
    GraphDecision,
    Manifest,
    ModelSpec,
    Precision,
    Preprocessing,
    Scoring,
    StageRecord,
    from_json,
)
from lrdan_edge.errors import BundleError, ChangedFileError, MissingStageError, StaleStageError

WEIGHTS = "weights.safetensors"
RECONSTRUCTION = "reconstruction.onnx"
DECISION = "decision.json"
GOLDEN = "golden"
ENGINES = "engines"
REPORTS = "reports"
BENCHMARK = "reports/benchmark.json"
TIMING_CACHE = ".timing.cache"
CHECKPOINT = ".checkpoint.safetensors"

T = TypeVar("T")

_VERSIONED = ("numpy", "torch", "onnx", "onnxruntime", "opencv-python-headless", "openvino", "tensorrt")


def graph_name(precision: Precision) -> str:
    """File name of the deploy graph at `precision`."""
    return f"model.{precision}.onnx"


def processor_graph_name(precision: Precision) -> str:
    """File name of the graph that processors run at `precision`: int8 has unsigned activations there."""
    return "model.int8.cpu.onnx" if precision == "int8" else graph_name(precision)


def engine_stage(name: str) -> str:
    """Name of the manifest's stage for the engine file ``engines/<name>``."""
    return f"build-engine {name}"


def decide_stage(name: str) -> str:
    """Name of the manifest's stage that fitted the threshold of the engine file ``engines/<name>``."""
    return f"decide {name}"


def engine_decision_name(name: str) -> str:
    """File name of the decision fitted on the scores of the engine file ``engines/<name>``."""
    return f"{ENGINES}/{name}.decision.json"


def sha256_of(path: Path) -> str:
    """Sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return digest_of(file)


def _read_and_digest(file: BinaryIO) -> tuple[str, bytes]:
    data = file.read()
    return hashlib.sha256(data).hexdigest(), data


class Stage:
    """One stage at work: where its files go until they are committed, and what it reports."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.outputs: dict[str, Path] = {}
        self.unlisted: set[str] = set()
        self.results: dict[str, Any] = {}
        self.model: ModelSpec | None = None
        """The manifest's model from this stage on, where the stage changes it."""

    def path(self, name: str) -> Path:
        """Where to write the bundle's file `name` (a relative POSIX path) for now."""
        path = self._place(name)
        self.outputs[name] = path
        return path

    def unlisted_path(self, name: str) -> Path:
        """The same for a file that is committed with the others but is not in the manifest: it answers for itself."""
        path = self._place(name)
        self.unlisted.add(name)
        return path

    def _place(self, name: str) -> Path:
        if not is_bundle_file(name):
            raise ValueError(f"{name!r} is not a name of a bundle's file: see lrdan_edge.bundle.journal")
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        return path


class Bundle:
    """A bundle on disk, opened for reading; stages add to it through `stage`.

    Attributes:
        path: The folder.
        manifest: Its manifest, as last read or written.
        pending: The files of a commit that was cut off, which may still be staged; the next stage moves them.
    """

    def __init__(self, path: Path, manifest: Manifest, pending: frozenset[str] = frozenset()) -> None:
        self.path = path
        self.manifest = manifest
        self.pending = pending

    @classmethod
    def open(cls, path: str | os.PathLike[str] = "bundle") -> "Bundle":
        """Open an existing bundle. Nothing is written; a commit that was cut off is read as if it were finished.

        Args:
            path: The folder.

        Raises:
            MissingStageError: There is no bundle there.
            BundleError: Its manifest is damaged, of another schema version, or cannot be read.
        """
        folder = Path(path)
        manifest, pending = None, frozenset[str]()
        try:
            if folder.is_dir():
                with Folder(folder) as files:
                    manifest, pending = read_state(files)
        except OSError as error:
            raise BundleError(
                f"{error.filename or folder} cannot be read ({error.strerror}): restore the bundle from a copy"
            ) from error
        if manifest is None:
            raise MissingStageError(f"no bundle at {folder}: make one with 'lrdan-edge train DATA --bundle {folder}'")
        return cls(folder, manifest, pending)

    @property
    def writable(self) -> bool:
        """Whether this user may write into the folder; a disk may be mounted read-only."""
        return os.access(self.path, os.W_OK | os.X_OK, effective_ids=True)

    @classmethod
    def create(cls, path: str | os.PathLike[str], model: ModelSpec, preprocessing: Preprocessing, scoring: Scoring) -> "Bundle":
        """A bundle for a new model.

        Nothing of an older bundle at `path` is touched until the first stage commits; its later stages are then stale.

        Raises:
            BundleError: `path` is a file, or a folder that holds something else.
        """
        folder = Path(path)
        if folder.exists() and not folder.is_dir():
            raise BundleError(f"{folder} is a file; a bundle is a folder: choose another --bundle")
        entries = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        if not entries & {MANIFEST, JOURNAL}:  # a journal: the first training was killed while it committed
            replaced = {f"{name}.tmp" for name in (MANIFEST, JOURNAL, CHECKPOINT)}
            if foreign := sorted(entries - replaced - {LOCK, STAGING, TIMING_CACHE, CHECKPOINT}):
                raise BundleError(
                    f"{folder} holds other files ({foreign[0]}) and is not a bundle: choose another --bundle or an empty folder"
                )
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            written_by=f"lrdan-edge {__version__}",
            model=model,
            preprocessing=preprocessing,
            scoring=scoring,
            files={},
            stages={},
        )
        try:
            older = cls.open(folder).manifest
        except BundleError:  # none, damaged, or of another schema: nothing of it can be told stale
            return cls(folder, manifest)
        manifest.files, manifest.stages = older.files, older.stages
        return cls(folder, manifest)

    def file(self, name: str, made_by: str) -> Path:
        """Path of the bundle's file `name`, its sha256 checked.

        Args:
            name: Relative POSIX path in the bundle.
            made_by: The command that makes it, without ``--bundle``, for the message.

        Raises:
            MissingStageError: The file's stage has not run.
            ChangedFileError: The file is missing or not the one in the manifest.
        """
        return self._checked(name, made_by, lambda file: (digest_of(file), None))[0]

    def read(self, name: str, made_by: str) -> bytes:
        """Bytes of the bundle's file `name`, read once: those whose sha256 was checked, whatever happens to the file.

        Args:
            name: Relative POSIX path in the bundle.
            made_by: The command that makes it, without ``--bundle``, for the message.

        Raises:
            MissingStageError: The file's stage has not run.
            ChangedFileError: The file is missing or not the one in the manifest.
        """
        return self._checked(name, made_by, _read_and_digest)[1]

    def _checked(self, name: str, made_by: str, load: Callable[[BinaryIO], tuple[str, T]]) -> tuple[Path, T]:
        """Where the file is, and what `load` gives beside its sha256, if that is the manifest's."""
        record = self.manifest.files.get(name)
        if record is None:
            raise MissingStageError(f"{self.path} has no {name}: run '{made_by} --bundle {self.path}' first")
        wrong: ChangedFileError | None = None
        for place in (name, staged(name)) if name in self.pending else (name,):
            path = self.path / place
            try:
                with Folder(self.path) as folder, folder.open(place) as file:
                    size = os.fstat(file.fileno()).st_size
                    if size != record.bytes:  # before it is read: it may be of any size
                        differs = f"{size} bytes, the manifest says {record.bytes}"
                        wrong = wrong or self._changed(name, made_by, f"was changed after it was made ({differs})")
                        continue
                    actual, loaded = load(file)
            except (OSError, ValueError) as error:  # ValueError: a name with a null byte
                reason = error.strerror if isinstance(error, OSError) else str(error)
                wrong = wrong or self._changed(name, made_by, f"is in the manifest but cannot be read ({reason})")
                continue
            if actual == record.sha256:
                return path, loaded
            differs = f"sha256 {actual[:12]}…, the manifest says {record.sha256[:12]}…"
            wrong = wrong or self._changed(name, made_by, f"was changed after it was made ({differs})")
        assert wrong
        raise wrong

    def _changed(self, name: str, made_by: str, what: str) -> ChangedFileError:
        maker = next((record.command for record in self.manifest.stages.values() if name in record.outputs), made_by)
        return ChangedFileError(f"{self.path / name} {what}: restore it, or run '{self._again(maker)}' again")

    def _again(self, command: str) -> str:
        """The command that repeats a stage in this very bundle."""
        overwrite = " --overwrite" if command.startswith("lrdan-edge train") else ""
        return f"{command}{overwrite} --bundle {self.path}"

    def graph(self, precision: Precision) -> Path:
        """Path of the deploy graph at `precision`, checked and not stale."""
        stage = "calibrate" if precision == "int8" else "export"
        path = self.file(graph_name(precision), f"lrdan-edge {stage}")
        self.require_fresh(stage)
        return path

    def processor_graph(self, precision: Precision) -> Path:
        """Path of the graph that processors run at `precision`, checked and not stale; `graph` in bundles older than that file."""
        graph, name = self.graph(precision), processor_graph_name(precision)
        twin = precision == "int8" and name in self.manifest.files
        return self.file(name, "lrdan-edge calibrate") if twin else graph

    def decision(self) -> Decision:
        """The decision, checked and not stale."""
        data = self.read(DECISION, "lrdan-edge calibrate")
        self.require_fresh("calibrate")
        return from_json(data, Decision, str(self.path / DECISION))

    def engine_decision(self, engine: str) -> GraphDecision | None:
        """The decision fitted on an engine's own scores, checked; None where there is none, or it is another engine's by now.

        Args:
            engine: The engine's file name below ``engines/``.
        """
        name = engine_decision_name(engine)
        if name not in self.manifest.files or self.staleness(decide_stage(engine)):
            return None
        return from_json(self.read(name, "lrdan-edge calibrate --decision-only"), GraphDecision, str(self.path / name))

    def staleness(self, stage: str) -> str | None:
        """Why `stage` is older than its inputs, in a few words, or None when it is fresh (or has not run)."""
        first = self._first_stale(stage, {})
        return first and first[1]

    def _first_stale(self, stage: str, seen: dict[str, tuple[str, str] | None]) -> tuple[str, str] | None:
        """The earliest stale stage that `stage` rests on (perhaps itself), and why; None when all are fresh.

        `seen` holds what was found of other stages: each is looked at once, whatever a stranger's manifest says rests on what.
        """
        record = self.manifest.stages.get(stage)
        if record is None or stage in seen:
            return seen.get(stage)
        seen[stage] = None
        for name, sha256 in record.inputs.items():
            maker = next((key for key, other in self.manifest.stages.items() if name in other.outputs), stage)
            found = self._first_stale(maker, seen) if maker != stage else None
            now = self.manifest.files.get(name)
            if found is None and (now is None or now.sha256 != sha256):
                found = stage, f"{name} is newer"
            if found:
                seen[stage] = found
                return found
        return None

    def require_fresh(self, stage: str) -> None:
        """Raise StaleStageError, naming the command to begin again with, when `stage` is older than what it was made from."""
        if first := self._first_stale(stage, {}):
            earliest, why = first
            command = self.manifest.stages[earliest].command
            then = "" if earliest == stage else f", then {stage}"
            raise StaleStageError(f"{stage} in {self.path} is stale ({why}): run '{self._again(command)}' again{then}")

    @contextmanager
    def stage(
        self,
        name: str,
        *,
        command: str,
        inputs: Mapping[str, Path] | None = None,
        options: Mapping[str, Any] | None = None,
        started: float | None = None,
    ) -> Iterator[Stage]:
        """Run a stage: write files through the `Stage` given; on success they are committed, on failure nothing changed.

        Args:
            name: The stage's name in the manifest.
            command: The command that repeats it, without ``--bundle``: bundles are copied to other places.
            inputs: Bundle files it reads, by name, as returned by `file`.
            options: What the user asked for.
            started: When the work began, by `time.monotonic`, if before this call; the recorded seconds count from there.

        Raises:
            BundleError: The folder cannot be written, or another command is writing to it.
        """
        started = time.monotonic() if started is None else started
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BundleError(f"{self.path} cannot be made ({error.strerror}): choose another --bundle") from error
        try:
            with Folder(self.path) as folder, locked(folder):
                _clear(folder, name)
                try:
                    folder.make_folder(STAGING)
                    stage = Stage(self.path / STAGING)
                    yield stage
                    record = StageRecord(
                        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                        seconds=round(time.monotonic() - started, 3),
                        command=command,
                        versions=versions(),
                        inputs={key: self.manifest.files[key].sha256 for key in inputs or {}},
                        outputs=sorted(stage.outputs),
                        options=dict(options or {}),
                        results=stage.results,
                    )
                    self._commit(folder, name, stage, record)
                finally:
                    with suppress(OSError):
                        if not folder.has(JOURNAL):  # else the commit has taken place, and the staged files are part of it
                            folder.remove_tree(STAGING)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _commit(self, folder: Folder, name: str, stage: Stage, record: StageRecord) -> None:
        if name != "train":
            # Another command may have committed while this one waited for the lock: add to what is there now.
            self.manifest = read_state(folder)[0] or self.manifest
        files, stages = dict(self.manifest.files), dict(self.manifest.stages)
        for key in stages.pop(name).outputs if name in stages else ():
            files.pop(key, None)
        for other in [key for key, made in stages.items() if made.outputs and stage.outputs.keys() >= set(made.outputs)]:
            stages.pop(other)  # nothing of what it made is left
        made = {key: _flushed(folder, staged(key)) for key in (*stage.outputs, *stage.unlisted)}
        for place in sorted({str(Path(staged(key)).parent) for key in made} | {STAGING}):
            folder.flush(place)
        files |= {key: made[key] for key in stage.outputs}
        model = stage.model or self.manifest.model
        manifest = msgspec.structs.replace(self.manifest, model=model, files=files, stages=stages | {name: record})
        commit(folder, {key: found.sha256 for key, found in made.items()}, manifest)
        self.manifest, self.pending = manifest, frozenset()


def _clear(folder: Folder, stage: str) -> None:
    """Finish what a killed stage committed, remove what it only began, and refuse a folder that could not be written at the end.

    Raises:
        BundleError: There is a journal that is not this bundle's.
        OSError: The folder cannot be written, or something is in the way of the bundle's files.
    """
    try:
        recover(folder)
    except (BundleError, UnexpectedKindError):
        if stage != "train" or _is_own(folder):
            raise
        folder.remove(JOURNAL)  # not this bundle's, and a new model needs nothing of it
    folder.remove_tree(STAGING)  # the lock says that nobody is using it
    checkpoint = (CHECKPOINT, f"{CHECKPOINT}.tmp") if stage == "train" else ()
    temporary = (f"{MANIFEST}.tmp", f"{JOURNAL}.tmp")
    parts = (f"{part}/x" for part in (GOLDEN, ENGINES, REPORTS))
    for name in (MANIFEST, JOURNAL, *temporary, WEIGHTS, DECISION, *checkpoint, *parts):
        folder.require_replaceable(name)


def _is_own(folder: Folder) -> bool:
    """Whether the journal is this bundle's, so that the model that counts may be among the staged files."""
    try:
        read_state(folder)
    except (BundleError, OSError):
        return False
    return True


def _flushed(folder: Folder, name: str) -> FileRecord:
    """A staged file's record, the file on the disk."""
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

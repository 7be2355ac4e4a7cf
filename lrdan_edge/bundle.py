"""The bundle: the folder that every command reads and adds to.

A stage works in a hidden folder inside the bundle. When it has succeeded, its files are flushed to disk, a journal says
what will be renamed where, the renames happen, and the manifest follows. A stage killed before the journal leaves the old
bundle whole; one killed after it is finished by whoever opens the bundle next.
"""

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from lrdan_edge import __version__
from lrdan_edge.errors import BundleError, ChangedFileError, MissingStageError, StaleStageError
from lrdan_edge.manifest import (
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
    manifest_from_json,
    manifest_to_json,
    to_json,
)

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
RECONSTRUCTION = "reconstruction.onnx"
DECISION = "decision.json"
GOLDEN = "golden"
ENGINES = "engines"
REPORTS = "reports"
BENCHMARK = "reports/benchmark.json"
JOURNAL = ".journal.json"
LOCK = ".lock"
TIMING_CACHE = ".timing.cache"
STAGING = ".staging"
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
        return _digest(file).hexdigest()


def _digest(file: Any) -> "hashlib._Hash":
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest


def _read_and_digest(path: Path) -> tuple[str, bytes]:
    data = path.read_bytes()
    return hashlib.sha256(data).hexdigest(), data


class _Journal(msgspec.Struct, forbid_unknown_fields=True):
    """What a finished stage is about to rename, and the manifest that follows."""

    renames: dict[str, str]
    manifest: Manifest


class Stage:
    """One stage at work: where its files go until they are committed, and what it reports."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.outputs: dict[str, Path] = {}
        self.results: dict[str, Any] = {}
        self.model: ModelSpec | None = None
        """The manifest's model from this stage on, where the stage changes it."""

    def path(self, name: str) -> Path:
        """Where to write the bundle's file `name` (a relative POSIX path) for now."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.outputs[name] = path
        return path


class Bundle:
    """A bundle on disk, opened for reading; stages add to it through `stage`.

    Attributes:
        path: The folder.
        manifest: Its manifest, as last read or written.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str] = "bundle") -> "Bundle":
        """Open an existing bundle.

        Args:
            path: The folder.

        Raises:
            MissingStageError: There is no bundle there.
            BundleError: Its manifest is damaged or of another schema version.
        """
        folder = Path(path)
        if (folder / JOURNAL).exists():
            with _locked(folder):
                _roll_forward(folder)
        if not (folder / MANIFEST).is_file():
            raise MissingStageError(f"no bundle at {folder}: make one with 'lrdan-edge train DATA --bundle {folder}'")
        manifest = manifest_from_json(_read(folder / MANIFEST), str(folder / MANIFEST))
        _require_inside(folder / MANIFEST, manifest.files)
        return cls(folder, manifest)

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
        if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
            ours = {LOCK, STAGING, JOURNAL, TIMING_CACHE, CHECKPOINT, f"{CHECKPOINT}.tmp"}
            if foreign := sorted(entry.name for entry in folder.iterdir() if entry.name not in ours):
                raise BundleError(
                    f"{folder} holds other files ({foreign[0]}) and is no bundle: choose another --bundle or an empty folder"
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
        return self._checked(name, made_by, lambda path: (sha256_of(path), path))

    def read(self, name: str, made_by: str) -> bytes:
        """Bytes of the bundle's file `name`, read once: those whose sha256 was checked, whatever happens to the file.

        Args:
            name: Relative POSIX path in the bundle.
            made_by: The command that makes it, without ``--bundle``, for the message.

        Raises:
            MissingStageError: The file's stage has not run.
            ChangedFileError: The file is missing or not the one in the manifest.
        """
        return self._checked(name, made_by, _read_and_digest)

    def _checked(self, name: str, made_by: str, load: Callable[[Path], tuple[str, T]]) -> T:
        """What `load` gives beside the sha256 of the file, if that is the manifest's."""
        record = self.manifest.files.get(name)
        if record is None:
            raise MissingStageError(f"{self.path} has no {name}: run '{made_by} --bundle {self.path}' first")
        path = self.path / name
        try:
            actual, loaded = load(path)
        except (OSError, ValueError) as error:  # ValueError: a name with a null byte
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ChangedFileError(
                f"{path} is in the manifest but cannot be read ({reason}): "
                f"restore it, or run '{made_by} --bundle {self.path}' again"
            ) from error
        if actual != record.sha256:
            raise ChangedFileError(
                f"{path} was changed after it was made (sha256 {actual[:12]}…, the manifest says {record.sha256[:12]}…): "
                f"restore it, or run '{made_by} --bundle {self.path}' again"
            )
        return loaded

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
        path = self.file(DECISION, "lrdan-edge calibrate")
        self.require_fresh("calibrate")
        return from_json(_read(path), Decision, str(path))

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
        first = self._first_stale(stage)
        return first and first[1]

    def _first_stale(self, stage: str) -> tuple[str, str] | None:
        """The earliest stale stage that `stage` rests on (perhaps itself), and why; None when all are fresh."""
        record = self.manifest.stages.get(stage)
        if record is None:
            return None
        for name, sha256 in record.inputs.items():
            maker = next((key for key, other in self.manifest.stages.items() if name in other.outputs), stage)
            if maker != stage and (earlier := self._first_stale(maker)):
                return earlier
            now = self.manifest.files.get(name)
            if now is None or now.sha256 != sha256:
                return stage, f"{name} is newer"
        return None

    def require_fresh(self, stage: str) -> None:
        """Raise StaleStageError, naming the command to begin again with, when `stage` is older than what it was made from."""
        if first := self._first_stale(stage):
            earliest, why = first
            command = self.manifest.stages[earliest].command
            then = "" if earliest == stage else f", then {stage}"
            raise StaleStageError(f"{stage} in {self.path} is stale ({why}): run '{command} --bundle {self.path}' again{then}")

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
        with _locked(self.path):
            try:
                _roll_forward(self.path)
            except BundleError:
                if name != "train":
                    raise
                (self.path / JOURNAL).unlink()  # unreadable, and a new model needs nothing of it
            staging = self.path / STAGING
            shutil.rmtree(staging, ignore_errors=True)  # what a killed stage left; the lock says nobody is using it
            try:
                staging.mkdir()
                stage = Stage(staging)
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
                self._commit(name, stage, record)
            except OSError as error:
                raise BundleError(f"{self.path} cannot be written ({error.strerror}: {error.filename})") from error
            finally:
                shutil.rmtree(staging, ignore_errors=True)

    def _commit(self, name: str, stage: Stage, record: StageRecord) -> None:
        if (self.path / MANIFEST).exists() and name != "train":
            # Another command may have committed while this one waited for the lock: add to what is there now.
            self.manifest = Bundle.open(self.path).manifest
        files, stages = dict(self.manifest.files), dict(self.manifest.stages)
        for key in stages.pop(name).outputs if name in stages else ():
            files.pop(key, None)
        for other in [key for key, made in stages.items() if made.outputs and stage.outputs.keys() >= set(made.outputs)]:
            stages.pop(other)  # nothing of what it made is left
        for key, path in stage.outputs.items():
            flush(path)
            files[key] = FileRecord(sha256_of(path), path.stat().st_size)
        model = stage.model or self.manifest.model
        manifest = msgspec.structs.replace(self.manifest, model=model, files=files, stages=stages | {name: record})
        renames = {path.relative_to(self.path).as_posix(): key for key, path in stage.outputs.items()}
        write_durably(self.path / JOURNAL, to_json(_Journal(renames, manifest)))
        _roll_forward(self.path)
        self.manifest = manifest


def _require_inside(where: Path, names: Iterable[str]) -> None:
    """Refuse a manifest or journal that names files outside its bundle: it did not come from us."""
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BundleError(f"{where} names a file outside the bundle ({name!r}): restore it from a copy")


def _roll_forward(folder: Path) -> None:
    """Finish a commit whose journal was written; every step may be repeated."""
    journal_path = folder / JOURNAL
    if not journal_path.exists():
        return
    journal = from_json(_read(journal_path), _Journal, str(journal_path))
    _require_inside(journal_path, [*journal.renames, *journal.renames.values()])
    for source, target in journal.renames.items():
        if (folder / source).exists():
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder / source, folder / target)
            flush((folder / target).parent)
    write_durably(folder / MANIFEST, manifest_to_json(journal.manifest))
    journal_path.unlink()
    flush(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the bundle's write lock; the kernel drops it with the process, however that ends."""
    import fcntl

    try:
        file = (folder / LOCK).open("w")
    except OSError as error:
        raise BundleError(f"{folder} cannot be written ({error.strerror}): check its permissions") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BundleError(f"another lrdan-edge command is writing to {folder}: wait for it to end") from None
        yield


def versions() -> dict[str, str]:
    """Versions of Python, of lrdan-edge and of the packages that make or run its files, where installed."""
    found = {"python": ".".join(map(str, sys.version_info[:3])), "lrdan-edge": __version__}
    for package in _VERSIONED:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror})") from error


def flush(path: Path) -> None:
    """Have a file, or a folder's names, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file at once and for good: whoever reads it, even after a crash, finds the old bytes or these."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    flush(temporary)
    os.replace(temporary, path)
    flush(path.parent)

"""The bundle: the folder that every command reads and adds to.

A stage writes to a hidden folder inside the bundle. On success, its files are flushed to disk, a journal with their names and the
new manifest is written, the files are renamed into place, and the manifest is replaced. If a stage is killed before the journal
is written, the old bundle remains. If it is killed later, the new bundle counts: readers can use it at once, and the next stage
finishes the renames (`lrdan_edge.bundle.journal`).

Opening and reading a bundle writes nothing, not even a lock, so a bundle may be on a read-only disk. Reading and writing follow no
symbolic link below the bundle's folder and open only regular files (`lrdan_edge.bundle.files`). The folder itself may be a link.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from lrdan_edge import __version__
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.decision import Decision, GraphDecision, require_plausible
from lrdan_edge.bundle.encoding import SCHEMA_VERSION, from_json, shown
from lrdan_edge.bundle.files import Folder, digest_of, most_bytes
from lrdan_edge.bundle.graph_check import Ports, check_graph, require_shapes
from lrdan_edge.bundle.journal import JOURNAL, LOCK, MANIFEST, STAGING, State, read_state, staged
from lrdan_edge.bundle.manifest import Manifest, StageRecord, sha256_of_manifest
from lrdan_edge.bundle.names import (
    CHECKPOINT,
    DECISION,
    TIMING_CACHE,
    decide_stage,
    engine_decision_name,
    graph_name,
    is_graph,
    processor_graph_name,
)
from lrdan_edge.bundle.signature import read_signed_state
from lrdan_edge.bundle.spec import ModelSpec, Precision, Preprocessing, Scoring
from lrdan_edge.bundle.stage import Stage, commit_stage, staging, versions
from lrdan_edge.errors import BundleError, ChangedFileError, MissingStageError, StaleStageError
from lrdan_edge.keys import read_public_key


class Bundle:
    """A bundle on disk, opened for reading; stages add to it through `stage`.

    Attributes:
        path: The folder.
        manifest: The manifest, as last read or written.
        pending: Files of an interrupted commit that may still be staged; the next stage moves them.
        sha256: Sha256 of the manifest's bytes, as last read or written; empty before the first stage. With a required signature,
            of the bytes that are signed.
        signed_by: The public key (64 hex digits) that `open` required and whose signature it checked, or None. A stage resets it.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        pending: frozenset[str] = frozenset(),
        sha256: str = "",
        signed_by: str | None = None,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.pending = pending
        self.sha256 = sha256
        self.signed_by = signed_by
        self._ports: dict[str, Ports] = {}  # of the graphs that were read

    @classmethod
    def open(
        cls, path: str | os.PathLike[str] = "bundle", *, require_signature: str | os.PathLike[str] | None = None
    ) -> "Bundle":
        """Open an existing bundle. Nothing is written. An interrupted commit is read as if it were finished.

        Args:
            path: The folder.
            require_signature: A PEM file with an Ed25519 public key: refuse the bundle unless the owner of the key signed it
                (`lrdan_edge.bundle.signature`), and use only what was signed, and engines, which have signatures of their own.

        Raises:
            MissingStageError: There is no bundle at `path`.
            BundleError: The manifest is damaged, has another schema version, or cannot be read.
            SignatureError: The signature is missing, not valid, or by another key; or a commit was interrupted.
            KeyFileError: The file of the public key cannot be used.
            MissingExtraError: A signature is required, and the ``signing`` extra is not installed.
        """
        folder = Path(path)
        key = None if require_signature is None else read_public_key(Path(require_signature))
        state = State(None, frozenset(), "")
        try:
            if folder.is_dir():
                with Folder(folder) as files:
                    state = read_state(files) if key is None else read_signed_state(files, key)
        except OSError as error:
            raise BundleError(
                f"{error.filename or folder} cannot be read ({error.strerror})", "restore the bundle from a copy"
            ) from error
        if state.manifest is None:
            raise MissingStageError(
                f"no bundle at {folder}", "make one with '{train}'", train=Command("train", "DATA", bundle=folder)
            )
        return cls(folder, state.manifest, state.pending, state.sha256, key)

    @property
    def writable(self) -> bool:
        """Whether this user may write to the folder; False on a read-only disk."""
        return os.access(self.path, os.W_OK | os.X_OK, effective_ids=True)

    @classmethod
    def create(cls, path: str | os.PathLike[str], model: ModelSpec, preprocessing: Preprocessing, scoring: Scoring) -> "Bundle":
        """Create a bundle for a new model.

        An older bundle at `path` is not changed until the first stage commits. Its later stages are then stale.

        Raises:
            BundleError: `path` is a file, or a folder with other files.
        """
        folder = Path(path)
        if folder.exists() and not folder.is_dir():
            raise BundleError(f"{folder} is a file; a bundle is a folder", "choose another {bundle}")
        entries = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        if not entries & {MANIFEST, JOURNAL}:  # only a journal: the first training was killed during its commit
            replaced = {f"{name}.tmp" for name in (MANIFEST, JOURNAL, CHECKPOINT)}
            if foreign := sorted(entries - replaced - {LOCK, STAGING, TIMING_CACHE, CHECKPOINT}):
                raise BundleError(
                    f"{folder} holds other files ({foreign[0]}) and is not a bundle",
                    "choose another {bundle} or an empty folder",
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
        except BundleError:  # no usable older bundle, so no stages of it can become stale
            return cls(folder, manifest)
        manifest.files, manifest.stages = older.files, older.stages
        return cls(folder, manifest)

    def file(self, name: str, made_by: str | Command) -> Path:
        """Check the sha256 of the bundle's file `name` and return its path.

        The file may be replaced before the path is opened: use `read` for what a parser gets.

        Args:
            name: Relative POSIX path in the bundle.
            made_by: The command that makes it, without the bundle's path, for the message.

        Raises:
            MissingStageError: The file's stage has not run.
            ChangedFileError: The file is missing or not the one in the manifest.
            BundleError: It is a graph that lrdan-edge does not write (`lrdan_edge.bundle.graph_check`).
        """
        return self._checked(name, made_by, whole=is_graph(name))[0]

    def read(self, name: str, made_by: str | Command) -> bytes:
        """As `file`, but return the file's bytes, read once: they are the ones whose sha256 was checked."""
        return self._checked(name, made_by, whole=True)[1]

    def _checked(self, name: str, made_by: str | Command, *, whole: bool) -> tuple[Path, bytes]:
        """Return the file's path and, if `whole`, the bytes whose sha256 was compared with the manifest's."""
        record = self.manifest.files.get(name)
        if record is None:
            command = Command.recorded(made_by).with_options(bundle=self.path)
            raise MissingStageError(f"{self.path} has no {name}", "run '{command}' first", command=command)
        most = most_bytes(name)
        if not 0 <= record.bytes <= most:
            raise self._changed(name, made_by, f"has {record.bytes} bytes in the manifest, at most {most} are valid")
        wrong: ChangedFileError | None = None
        for place in (name, staged(name)) if name in self.pending else (name,):
            path = self.path / place
            try:
                with Folder(self.path) as folder, folder.open(place) as file:
                    size = os.fstat(file.fileno()).st_size
                    if size != record.bytes:  # checked before reading: the file may be huge
                        differs = f"{size} bytes, the manifest says {record.bytes}"
                        wrong = wrong or self._changed(name, made_by, f"was changed after it was made ({differs})")
                        continue
                    loaded = file.read(size + 1) if whole else b""  # one more, in case it grows
                    actual = hashlib.sha256(loaded).hexdigest() if whole else digest_of(file)
            except (OSError, ValueError) as error:  # ValueError: a name with a null byte
                reason = error.strerror if isinstance(error, OSError) else str(error)
                wrong = wrong or self._changed(name, made_by, f"is in the manifest but cannot be read ({reason})")
                continue
            if actual == record.sha256:
                if is_graph(name):
                    self._ports[name] = check_graph(loaded, path)
                return path, loaded
            differs = f"sha256 {actual[:12]}…, the manifest says {record.sha256[:12]}…"
            wrong = wrong or self._changed(name, made_by, f"was changed after it was made ({differs})")
        assert wrong
        raise wrong

    def _changed(self, name: str, made_by: str | Command, what: str) -> ChangedFileError:
        maker = next((record.command for record in self.manifest.stages.values() if name in record.outputs), made_by)
        return ChangedFileError(
            f"{self.path / name} {what}", "restore it, or run '{command}' again", command=self._again(maker)
        )

    def _again(self, recorded: str | Command) -> Command:
        """The command that runs a stage of this bundle again."""
        command = Command.recorded(recorded)
        return command.with_options(overwrite=command.name == "train", bundle=self.path)

    def graph(self, precision: Precision) -> Path:
        """Path of the deploy graph at `precision`; its sha256 is checked, and it is not stale. See `file`."""
        self.read_graph(precision)
        return self.file(graph_name(precision), Command(_stage_of(precision)))

    def read_graph(self, precision: Precision) -> bytes:
        """The deploy graph at `precision`, read once: these bytes are checked, and they are not stale."""
        data = self.read(graph_name(precision), Command(_stage_of(precision)))
        self.require_fresh(_stage_of(precision))
        self._require_shapes(graph_name(precision))
        return data

    def read_processor_graph(self, precision: Precision) -> bytes:
        """The graph for processors at `precision`, as `read_graph`; for bundles of earlier versions, that of `read_graph`."""
        graph, name = self.read_graph(precision), processor_graph_name(precision)
        twin = precision == "int8" and name in self.manifest.files
        if not twin:
            return graph
        data = self.read(name, Command("calibrate"))
        self._require_shapes(name)
        return data

    def _require_shapes(self, name: str) -> None:
        require_shapes(self._ports[name], self.path / name, self.manifest.model.frame_shape, self.manifest.model.heatmap_shape)

    def decision(self) -> Decision:
        """The decision; its sha256 is checked, and it is not stale."""
        data = self.read(DECISION, Command("calibrate"))
        self.require_fresh("calibrate")
        found = from_json(data, Decision, str(self.path / DECISION))
        for graph in found.graphs.values():
            require_plausible(graph, self.path / DECISION)
        return found

    def engine_decision(self, engine: str) -> GraphDecision | None:
        """The decision fitted on an engine's own scores, checked; None if there is none or the engine was replaced since.

        Args:
            engine: The engine's file name below ``engines/``.
        """
        name = engine_decision_name(engine)
        if name not in self.manifest.files or self.staleness(decide_stage(engine)):
            return None
        data = self.read(name, Command("calibrate", decision_only=True))
        return require_plausible(from_json(data, GraphDecision, str(self.path / name)), self.path / name)

    def recorded(self, stage: str, name: str, kind: Any, default: object = None, *, option: bool = False) -> Any:
        """A result or an option that a stage recorded, of the type that the stage writes; a bundle may come from anyone.

        Args:
            stage: The stage's name in the manifest.
            name: The result's name.
            kind: Its type, for msgspec.
            default: Taken where the stage did not record it, as in bundles from earlier versions.
            option: Whether it is an option.

        Raises:
            MissingStageError: The stage has not run.
            BundleError: It has another type.
        """
        record = self.manifest.stages.get(stage)
        if record is None:
            raise MissingStageError(
                f"{self.path} has no record of {stage}", "run '{command}' first", command=Command(stage, bundle=self.path)
            )
        try:
            return msgspec.convert((record.options if option else record.results).get(name, default), kind)
        except msgspec.ValidationError as error:
            raise BundleError(
                f"{self.path / MANIFEST} has no valid record of {name} by {stage} ({shown(str(error))})",
                "restore it from a copy, or run '{command}' again",
                command=self._again(record.command),
            ) from error

    def staleness(self, stage: str) -> str | None:
        """Why `stage` is older than its inputs, in a few words, or None if it is fresh or has not run."""
        first = self._first_stale(stage, {})
        return first and first[1]

    def _first_stale(self, stage: str, seen: dict[str, tuple[str, str] | None]) -> tuple[str, str] | None:
        """The earliest stale stage that `stage` depends on (or `stage` itself), and why; None if all are fresh."""
        # `seen` holds the results for other stages. Each stage is visited once, so a manifest with circular inputs does no harm.
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
        """Raise StaleStageError if `stage` is older than its inputs; the error names the first command to run again."""
        if first := self._first_stale(stage, {}):
            earliest, why = first
            command = self.manifest.stages[earliest].command
            then = "" if earliest == stage else f", then {stage}"
            raise StaleStageError(
                f"{stage} in {self.path} is stale ({why})",
                "run '{command}' again{then}",
                command=self._again(command),
                then=then,
            )

    @contextmanager
    def stage(
        self,
        name: str,
        *,
        command: str | Command,
        inputs: Mapping[str, Path] | None = None,
        options: Mapping[str, Any] | None = None,
        started: float | None = None,
    ) -> Iterator[Stage]:
        """Run a stage that writes its files through the yielded `Stage`: commit them on success, change nothing on failure.

        The bundle's signature is removed, except by stages that write only reports or an engine.

        Args:
            name: The stage's name in the manifest.
            command: The command that repeats the stage, without the bundle's path, since bundles are copied.
            inputs: Bundle files that the stage reads, by name, as returned by `file`.
            options: The user's options.
            started: Start of the work by `time.monotonic`, if it began before this call; the recorded seconds count from then.

        Raises:
            BundleError: The folder cannot be written, or another command is writing to it.
        """
        started = time.monotonic() if started is None else started
        with staging(self.path, name) as (folder, stage):
            yield stage
            record = StageRecord(
                finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                seconds=round(time.monotonic() - started, 3),
                command=str(command),
                versions=versions(),
                inputs={key: self.manifest.files[key].sha256 for key in inputs or {}},
                outputs=sorted(stage.outputs),
                options=dict(options or {}),
                results=stage.results,
            )
            self.manifest, self.pending = commit_stage(folder, name, stage, record, self.manifest), frozenset()
            self.sha256, self.signed_by = sha256_of_manifest(self.manifest), None


def _stage_of(precision: Precision) -> str:
    """The stage that makes the deploy graph at `precision`."""
    return "calibrate" if precision == "int8" else "export"

"""Atomic commits of a stage's files to the bundle, and recovery of an interrupted commit.

A commit writes a journal, renames the staged files into place, replaces the manifest and removes the journal. Once the journal is
complete, the new bundle counts: readers take the journal's manifest, find each file in place or still staged, and write nothing.
The next writer finishes the commit.

A bundle and its journal may come from an untrusted source. So a journal contains no paths: it has names from a closed list of
bundle files, their sha256, and the sha256 of the manifest it replaces. A journal that does not match the bundle is refused. One
that matches can only rename regular files from ``.staging`` to their place in the same bundle.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import msgspec

from lrdan_edge.bundle.encoding import SCHEMA_VERSION, decode, is_our_version, shown, to_json
from lrdan_edge.bundle.files import MOST_JSON, Folder, UnexpectedKindError, digest_of, most_bytes
from lrdan_edge.bundle.manifest import Manifest, manifest_from_json, manifest_to_json, sha256_of_manifest
from lrdan_edge.bundle.names import SIGNATURE, SIGNED_MANIFEST
from lrdan_edge.errors import BundleError

MANIFEST = "manifest.json"
JOURNAL = ".journal.json"
LOCK = ".lock"
STAGING = ".staging"

_BUNDLE_FILES = re.compile(
    r"weights\.safetensors|out-of-fold\.json|signed-manifest\.json|decision\.json|reconstruction\.onnx|model\.(fp32|fp16|int8|int8\.cpu)\.onnx"
    r"|golden/(\d{1,8}\.png|scores\.json)"
    r"|reports/[A-Za-z0-9][\w-]{0,80}\.(json|md|png)"
    r"|engines/[A-Za-z0-9][\w.-]{0,200}",
    re.ASCII,
)


_LONGEST = 1024  # characters of a name; lrdan-edge writes fewer than 256


class Journal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A commit in progress.

    Attributes:
        replaces: Sha256 of the ``manifest.json`` before the commit, or empty if there was none.
        staged: The files to rename into place, with their sha256; until then each is in ``.staging`` under the same name.
        manifest: The new manifest.
    """

    replaces: str
    staged: dict[str, str]
    manifest: Manifest


def is_bundle_file(name: str) -> bool:
    """Whether a stage may write a file of this name."""
    return _BUNDLE_FILES.fullmatch(name) is not None


def staged(name: str) -> str:
    """Path of a bundle file until it is committed."""
    return f"{STAGING}/{name}"


def cannot_write(path: Path, error: OSError) -> BundleError:
    """The error for a bundle that cannot be written."""
    fix = "remove what is in the way" if isinstance(error, UnexpectedKindError) else "check its permissions and the disk"
    where = f": {error.filename}" if error.filename and str(error.filename) != str(path) else ""
    return BundleError(f"{path} cannot be written ({error.strerror or error}{where})", fix)


@contextmanager
def locked(folder: Folder) -> Iterator[None]:
    """Hold the bundle's write lock; the kernel releases it when the process ends.

    Raises:
        BundleError: Another process holds it, or the folder cannot be written.
    """
    import fcntl

    try:
        file = folder.open_lock(LOCK)
    except OSError as error:
        raise cannot_write(folder.path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BundleError(f"another lrdan-edge command is writing to {folder.path}", "wait for it to end") from None
        yield


class State(NamedTuple):
    """A bundle's manifest at one moment.

    Attributes:
        manifest: The manifest of the interrupted commit if there is one, else the bundle's; None if there is no bundle.
        pending: The names of files that may still be staged.
        sha256: Sha256 of the manifest's bytes; empty if there is no bundle.
    """

    manifest: Manifest | None
    pending: frozenset[str]
    sha256: str


def read_state(folder: Folder) -> State:
    """Read the current manifest; write nothing.

    Raises:
        BundleError: Manifest or journal is damaged, or the journal belongs to another bundle.
        OSError: One of them cannot be read.
    """
    journal, manifest = snapshot(folder)
    if journal is not None:
        own = _own(folder, journal, manifest)
        return State(own.manifest, frozenset(own.staged), sha256_of_manifest(own.manifest))
    if manifest is None:
        return State(None, frozenset(), "")
    return State(parse_manifest(manifest, folder.path / MANIFEST), frozenset(), hashlib.sha256(manifest).hexdigest())


def parse_manifest(data: bytes, where: Path) -> Manifest:
    """Parse a manifest that names no file outside its bundle; raises BundleError."""
    found = manifest_from_json(data, str(where))
    require_inside(where, found.files)
    return found


def recover(folder: Folder) -> None:
    """Finish an interrupted commit, if there is one. The caller holds the lock.

    Raises:
        BundleError: The journal is damaged or belongs to another bundle; nothing was written.
        OSError: The folder cannot be written.
    """
    data, manifest = snapshot(folder) if folder.has(JOURNAL) else (None, None)
    if data is None:
        return
    journal = _own(folder, data, manifest)
    for name in (MANIFEST, f"{MANIFEST}.tmp", SIGNATURE, SIGNED_MANIFEST):  # before the first file is moved
        folder.require_replaceable(name)
    for name, sha256 in journal.staged.items():
        if not (_holds(folder, staged(name), sha256) or _holds(folder, name, sha256)):
            raise _foreign(folder, f"there is no {name} with the sha256 that it names")
        folder.require_replaceable(name, make=True)
    _finish(folder, journal)


def commit(folder: Folder, files: dict[str, str], manifest: Manifest) -> None:
    """Commit staged files and a manifest. The caller holds the lock and has flushed the files.

    Args:
        folder: The bundle.
        files: The files' names, with their sha256.
        manifest: The new manifest.

    Raises:
        OSError: The folder cannot be written. If a journal is left, the commit counts, and the next writer finishes it.
    """
    # Write no journal whose renames would fail.
    for name in (*files, MANIFEST, f"{MANIFEST}.tmp", JOURNAL, f"{JOURNAL}.tmp", SIGNATURE, SIGNED_MANIFEST):
        folder.require_replaceable(name, make=True)
    try:
        replaced = hashlib.sha256(folder.read(MANIFEST)).hexdigest()
    except FileNotFoundError:
        replaced = ""
    except UnexpectedKindError:  # `Bundle.create` replaces an entry that is not a manifest
        folder.remove(MANIFEST)
        replaced = ""
    journal = Journal(replaces=replaced, staged=files, manifest=manifest)
    folder.write(JOURNAL, to_json(journal))
    _finish(folder, journal)


def require_inside(where: Path, names: Iterable[str]) -> None:
    """Refuse a manifest that names files outside its bundle; lrdan-edge writes no such manifest."""
    for name in names:
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise BundleError(f"{where} names a file outside the bundle ({shown(repr(name))})", "restore it from a copy")
        if len(name) > _LONGEST:
            raise BundleError(f"{where} has a file name of {len(name)} characters ({shown(name)})", "restore it from a copy")


def _finish(folder: Folder, journal: Journal) -> None:
    """Finish the remaining steps of a commit; every step may be repeated.

    The bundle's signature stays only if the commit keeps the manifest that was signed.
    """
    for name in journal.staged:
        if folder.has(staged(name)):
            folder.move(staged(name), name)
    folder.write(MANIFEST, manifest_to_json(journal.manifest))
    for name in () if SIGNED_MANIFEST in journal.staged else (SIGNATURE, SIGNED_MANIFEST):
        folder.remove(name)
    folder.remove(JOURNAL)
    folder.flush()


def snapshot(folder: Folder) -> tuple[bytes | None, bytes | None]:
    """Journal and manifest as they were at one moment, even while another process writes."""
    journal = _read(folder, JOURNAL)
    while True:
        manifest = _read(folder, MANIFEST)
        if (again := _read(folder, JOURNAL)) == journal:
            return journal, manifest
        journal = again


def _read(folder: Folder, name: str) -> bytes | None:
    try:
        return folder.read(name, MOST_JSON)
    except FileNotFoundError:
        return None


def _own(folder: Folder, data: bytes, manifest: bytes | None) -> Journal:
    """Parse the journal and check that it was written for the bundle in its current state."""
    try:
        raw = decode(data)
        journal = msgspec.convert(raw, Journal)
    except (ValueError, RecursionError) as error:
        raise _foreign(folder, f"it cannot be read: {shown(str(error))}") from error
    if not is_our_version(version := raw["manifest"]["schema_version"]):
        raise _foreign(folder, f"its manifest has schema version {shown(repr(version))}, not {SCHEMA_VERSION}")
    if odd := next((name for name in journal.staged if not is_bundle_file(name)), None):
        raise _foreign(folder, f"it names {shown(repr(odd))}, which no stage writes")
    if odd := next((name for name, sha256 in journal.staged.items() if _listed(journal, name) not in (None, sha256)), None):
        raise _foreign(folder, f"its manifest lists a different sha256 for {odd}")
    require_inside(folder.path / JOURNAL, journal.manifest.files)
    now = "" if manifest is None else hashlib.sha256(manifest).hexdigest()
    if now not in (journal.replaces, sha256_of_manifest(journal.manifest)):
        raise _foreign(folder, f"it was written for a different {MANIFEST}")
    return journal


def _listed(journal: Journal, name: str) -> str | None:
    """The sha256 of a file in the journal's manifest; None if it is not listed (a signature)."""
    record = journal.manifest.files.get(name)
    return None if record is None else record.sha256


def _holds(folder: Folder, name: str, sha256: str) -> bool:
    try:
        with folder.open(name) as file:
            return os.fstat(file.fileno()).st_size <= most_bytes(name) and digest_of(file) == sha256
    except (FileNotFoundError, UnexpectedKindError):
        return False


def _foreign(folder: Folder, why: str) -> BundleError:
    return BundleError(
        f"{folder.path / JOURNAL} is not the journal of a commit to this bundle ({why})",
        "delete it, or restore the bundle from a copy",
    )

"""How a stage's files become the bundle's, all or none, and how a commit that was cut off is read and finished.

A commit writes a journal, renames the staged files into place, replaces the manifest and removes the journal. From the moment
the journal is whole, the bundle is the new one: readers take its manifest, and find each file in its place or still staged,
without writing anything; the next writer does what is left.

A bundle may come from a stranger, and its journal with it. Therefore a journal names no places: it names files of the bundle out
of a closed list, their sha256, and the manifest it replaces. One that does not fit what is in the bundle is refused. One that
fits can rename regular files from ``.staging`` to their own place in the same bundle, and nothing else.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import msgspec

from lrdan_edge.bundle.encoding import SCHEMA_VERSION, to_json
from lrdan_edge.bundle.files import Folder, UnexpectedKindError, digest_of
from lrdan_edge.bundle.manifest import Manifest, manifest_from_json, manifest_to_json
from lrdan_edge.errors import BundleError

MANIFEST = "manifest.json"
JOURNAL = ".journal.json"
LOCK = ".lock"
STAGING = ".staging"

_BUNDLE_FILES = re.compile(
    r"weights\.safetensors|decision\.json|reconstruction\.onnx|model\.(fp32|fp16|int8|int8\.cpu)\.onnx"
    r"|golden/(\d{1,8}\.png|scores\.json)"
    r"|reports/[A-Za-z0-9][\w-]{0,80}\.(json|md|png)"
    r"|engines/[A-Za-z0-9][\w.-]{0,200}",
    re.ASCII,
)


class Journal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A commit that has begun.

    Attributes:
        replaces: Sha256 of the ``manifest.json`` that the commit found, or empty where there was none.
        staged: The files it puts into place, with their sha256; until then each is in ``.staging`` under the same name.
        manifest: The manifest that follows.
    """

    replaces: str
    staged: dict[str, str]
    manifest: Manifest


def is_bundle_file(name: str) -> bool:
    """Whether a stage may write a file of this name."""
    return _BUNDLE_FILES.fullmatch(name) is not None


def staged(name: str) -> str:
    """Where a file of the bundle is until it is committed."""
    return f"{STAGING}/{name}"


def cannot_write(path: Path, error: OSError) -> BundleError:
    """The error for a bundle that cannot be written."""
    fix = "remove what is in the way" if isinstance(error, UnexpectedKindError) else "check its permissions and the disk"
    where = f": {error.filename}" if error.filename and str(error.filename) != str(path) else ""
    return BundleError(f"{path} cannot be written ({error.strerror or error}{where})", fix)


@contextmanager
def locked(folder: Folder) -> Iterator[None]:
    """Hold the bundle's write lock; the kernel drops it with the process, however that ends.

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


def read_state(folder: Folder) -> tuple[Manifest | None, frozenset[str]]:
    """The manifest that counts, and the files that may still be staged; nothing is written.

    Returns:
        The manifest of the interrupted commit if there is one, else the bundle's; None and nothing where there is no bundle.

    Raises:
        BundleError: Manifest or journal are damaged, or the journal is not this bundle's.
        OSError: One of them cannot be read.
    """
    journal, manifest = _snapshot(folder)
    if journal is not None:
        own = _own(folder, journal, manifest)
        return own.manifest, frozenset(own.staged)
    if manifest is None:
        return None, frozenset()
    where = folder.path / MANIFEST
    found = manifest_from_json(manifest, str(where))
    require_inside(where, found.files)
    return found, frozenset()


def recover(folder: Folder) -> None:
    """Finish a commit that was cut off, if there is one. Whoever calls holds the lock.

    Raises:
        BundleError: The journal is damaged or not this bundle's; nothing was written.
        OSError: The folder cannot be written.
    """
    data, manifest = _snapshot(folder) if folder.has(JOURNAL) else (None, None)
    if data is None:
        return
    journal = _own(folder, data, manifest)
    for name in (MANIFEST, f"{MANIFEST}.tmp"):  # before the first file is moved
        folder.require_replaceable(name)
    for name, sha256 in journal.staged.items():
        if not (_holds(folder, staged(name), sha256) or _holds(folder, name, sha256)):
            raise _foreign(folder, f"there is no {name} with the sha256 that it names")
        folder.require_replaceable(name, make=True)
    _finish(folder, journal)


def commit(folder: Folder, files: dict[str, str], manifest: Manifest) -> None:
    """Make staged files and a manifest the bundle's. Whoever calls holds the lock, and has flushed the files.

    Args:
        folder: The bundle.
        files: The files' names, with their sha256.
        manifest: The manifest that follows.

    Raises:
        OSError: The folder cannot be written. If a journal is left, the commit has taken place, and the next writer finishes it.
    """
    # A journal that cannot be carried out must not be written.
    for name in (*files, MANIFEST, f"{MANIFEST}.tmp", JOURNAL, f"{JOURNAL}.tmp"):
        folder.require_replaceable(name, make=True)
    try:
        replaced = hashlib.sha256(folder.read(MANIFEST)).hexdigest()
    except FileNotFoundError:
        replaced = ""
    except UnexpectedKindError:  # `Bundle.create` is replacing something that was never a manifest of ours
        folder.remove(MANIFEST)
        replaced = ""
    journal = Journal(replaces=replaced, staged=files, manifest=manifest)
    folder.write(JOURNAL, to_json(journal))
    _finish(folder, journal)


def require_inside(where: Path, names: Iterable[str]) -> None:
    """Refuse a manifest that names files outside its bundle: it did not come from us."""
    for name in names:
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise BundleError(f"{where} names a file outside the bundle ({name!r})", "restore it from a copy")


def _finish(folder: Folder, journal: Journal) -> None:
    """Do what is left of a commit; every step may be repeated."""
    for name in journal.staged:
        if folder.has(staged(name)):
            folder.move(staged(name), name)
    folder.write(MANIFEST, manifest_to_json(journal.manifest))
    folder.remove(JOURNAL)
    folder.flush()


def _snapshot(folder: Folder) -> tuple[bytes | None, bytes | None]:
    """Journal and manifest as they were at one moment: a writer may be at work."""
    journal = _read(folder, JOURNAL)
    while True:
        manifest = _read(folder, MANIFEST)
        if (again := _read(folder, JOURNAL)) == journal:
            return journal, manifest
        journal = again


def _read(folder: Folder, name: str) -> bytes | None:
    try:
        return folder.read(name)
    except FileNotFoundError:
        return None


def _own(folder: Folder, data: bytes, manifest: bytes | None) -> Journal:
    """The journal, if it was written for the bundle as it is now.

    Raises:
        BundleError: It was not, or it is damaged.
    """
    try:
        journal = msgspec.json.decode(data, type=Journal)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _foreign(folder, f"it cannot be read: {error}") from error
    if journal.manifest.schema_version != SCHEMA_VERSION:
        raise _foreign(folder, f"its manifest has schema version {journal.manifest.schema_version}, not {SCHEMA_VERSION}")
    if odd := next((name for name in journal.staged if not is_bundle_file(name)), None):
        raise _foreign(folder, f"it names {odd!r}, which no stage writes")
    if odd := next((name for name, sha256 in journal.staged.items() if _listed(journal, name) not in (None, sha256)), None):
        raise _foreign(folder, f"its manifest lists a different sha256 for {odd}")
    require_inside(folder.path / JOURNAL, journal.manifest.files)
    now = "" if manifest is None else hashlib.sha256(manifest).hexdigest()
    if now not in (journal.replaces, hashlib.sha256(manifest_to_json(journal.manifest)).hexdigest()):
        raise _foreign(folder, f"it was written for a different {MANIFEST}")
    return journal


def _listed(journal: Journal, name: str) -> str | None:
    """The sha256 that the journal's manifest has for a file; None where it does not list it (a signature)."""
    record = journal.manifest.files.get(name)
    return None if record is None else record.sha256


def _holds(folder: Folder, name: str, sha256: str) -> bool:
    try:
        with folder.open(name) as file:
            return digest_of(file) == sha256
    except (FileNotFoundError, UnexpectedKindError):
        return False


def _foreign(folder: Folder, why: str) -> BundleError:
    return BundleError(
        f"{folder.path / JOURNAL} is not the journal of a commit to this bundle ({why})",
        "delete it, or restore the bundle from a copy",
    )

"""Key files, which other users must not be able to replace or read, and Ed25519 signatures.

A key is read only from a regular file, not through a link, in a folder that other users cannot write to, and its permissions are those
of the opened file. Ed25519 (RFC 8032) needs the ``signing`` extra; its key files are PEM (RFC 8410), as OpenSSL writes them.
"""

import errno
import importlib
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from lrdan_edge.errors import KeyFileError, MissingExtraError

_MOST_BYTES = 1 << 20  # of a key file


def new_key(path: Path) -> Path:
    """Make an Ed25519 key pair: the private key in `path`, which only this user may read, and the public key beside it.

    Args:
        path: A file that does not exist.

    Returns:
        The file of the public key, `path` with ``.pub`` appended.

    Raises:
        KeyFileError: One of the files exists, or cannot be written.
        MissingExtraError: The ``signing`` extra is not installed.
    """
    private = _required("making a key").Ed25519PrivateKey.generate()
    text = importlib.import_module("cryptography.hazmat.primitives.serialization")
    public_path = path.with_name(f"{path.name}.pub")
    secret = private.private_bytes(text.Encoding.PEM, text.PrivateFormat.PKCS8, text.NoEncryption())
    public = private.public_key().public_bytes(text.Encoding.PEM, text.PublicFormat.SubjectPublicKeyInfo)
    if os.path.lexists(public_path):
        raise KeyFileError(f"{public_path} exists", "choose another {key}: an overwritten key is lost")
    for new, data, mode in ((path, secret, 0o600), (public_path, public, 0o644)):
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise KeyFileError(f"the key {new} cannot be written ({error.strerror})", "choose another {key}") from error
    return public_path


def sign_with(path: Path, data: bytes, purpose: str) -> tuple[str, str]:
    """Sign bytes with the private key in a PEM file.

    Args:
        path: The file; only this user may read it.
        data: The bytes.
        purpose: What the bytes are; a signature is valid for only one purpose.

    Returns:
        The public key (64 hex digits) and the signature (128 hex digits).

    Raises:
        KeyFileError: The file cannot be read, others can read it, or it is not an Ed25519 private key.
        MissingExtraError: The ``signing`` extra is not installed.
    """
    kind = _required("signing").Ed25519PrivateKey
    text = _read(path, "private", others_may_read, "read", "600")
    private = _parsed(path, "private", kind, lambda pem: pem.load_pem_private_key(text, password=None))
    return private.public_key().public_bytes_raw().hex(), private.sign(message(data, purpose)).hex()


def read_public_key(path: Path) -> str:
    """The public key in a PEM file, 64 hex digits.

    Raises:
        KeyFileError: The file cannot be read, others can write to it, or it is not an Ed25519 public key.
        MissingExtraError: The ``signing`` extra is not installed.
    """
    kind = _required("checking a signature").Ed25519PublicKey
    text = _read(path, "public", others_may_write, "write to", "644")
    return str(_parsed(path, "public", kind, lambda pem: pem.load_pem_public_key(text)).public_bytes_raw().hex())


def is_signed_by(data: bytes, public_key: str, signature: str, purpose: str) -> bool:
    """Whether the owner of a public key signed these bytes.

    Args:
        data: The bytes.
        public_key: Ed25519, 64 hex digits.
        signature: Ed25519, 128 hex digits.
        purpose: What the bytes are.

    Raises:
        MissingExtraError: The ``signing`` extra is not installed.
    """
    kind = _required("checking a signature").Ed25519PublicKey
    invalid = importlib.import_module("cryptography.exceptions").InvalidSignature
    try:
        kind.from_public_bytes(bytes.fromhex(public_key)).verify(bytes.fromhex(signature), message(data, purpose))
    except (invalid, ValueError):
        return False
    return True


def ed25519() -> Any:
    """The module of ``cryptography`` for Ed25519, or None if it is not installed."""
    try:
        return importlib.import_module("cryptography.hazmat.primitives.asymmetric.ed25519")
    except ImportError:
        return None


def message(data: bytes, purpose: str) -> bytes:
    """What is signed: the bytes after their purpose, so that no signature is valid for bytes of another kind."""
    return f"lrdan-edge {purpose}\0".encode() + data


def open_own(path: Path, flags: int = os.O_RDONLY) -> BinaryIO:
    """Open a key file, which may not be a link, in a folder that others cannot write to.

    Raises:
        OSError: It cannot be opened, is not a regular file, or others may put another file in its place.
    """
    mode = path.parent.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise PermissionError(errno.EPERM, f"other users may write to its folder, mode {mode & 0o7777:04o}", str(path))
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o644)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        return os.fdopen(descriptor, "rb" if flags == os.O_RDONLY else "a+b")
    except BaseException:
        os.close(descriptor)
        raise


def others_may_read(file: BinaryIO) -> bool:
    """Whether users other than this one and root own an opened file, or may read it."""
    return _open_to_others(file, 0o077)


def others_may_write(file: BinaryIO) -> bool:
    """Whether users other than this one and root own an opened file, or may write to it."""
    return _open_to_others(file, 0o022)


def text_of(file: BinaryIO, encoding: str) -> str:
    """The text of an opened key file.

    Raises:
        OSError: It is too large for keys.
        UnicodeDecodeError: It has another encoding.
    """
    if len(data := file.read(_MOST_BYTES + 1)) > _MOST_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {_MOST_BYTES} bytes")
    return data.decode(encoding)


def _open_to_others(file: BinaryIO, bits: int) -> bool:
    status = os.fstat(file.fileno())
    return bool(status.st_mode & bits) or status.st_uid not in (os.getuid(), 0)


def _required(purpose: str) -> Any:
    """The module of `ed25519`; raises MissingExtraError."""
    found = ed25519()
    if found is None:
        raise MissingExtraError("cryptography", "signing", purpose)
    return found


def _read(path: Path, what: str, unsafe: Any, verb: str, mode: str) -> bytes:
    """The text of a key file that is not `unsafe`, a function that looks at the opened file."""
    try:
        with open_own(path) as file:
            opened = unsafe(file)
            text = text_of(file, "ascii")
    except (OSError, UnicodeDecodeError, ValueError) as error:  # ValueError: a null byte in the path
        raise KeyFileError(f"the {what} key {path} cannot be read ({error})", "give a PEM file of your own") from error
    if opened:
        raise KeyFileError(
            f"other users may {verb} the {what} key {path}, or own it",
            "check where it comes from, then run 'chmod {mode} {path}' as its owner",
            mode=mode,
            path=path,
        )
    return text.encode()


def _parsed(path: Path, what: str, kind: Any, parse: Any) -> Any:
    """The key that `parse` makes with the module of ``cryptography`` for key files."""
    pem = importlib.import_module("cryptography.hazmat.primitives.serialization")
    unsupported = importlib.import_module("cryptography.exceptions").UnsupportedAlgorithm
    try:
        key = parse(pem)
    except (ValueError, TypeError, unsupported) as error:  # TypeError: it needs a password
        raise KeyFileError(
            f"{path} is not a {what} key in PEM ({' '.join(str(error).split())[:120]})",
            "make a pair with '{command}'",
            command=_NEW,
        ) from error
    if not isinstance(key, kind):
        raise KeyFileError(f"{path} is not an Ed25519 key", "make a pair with '{command}'", command=_NEW)
    return key


_NEW = "lrdan-edge bundle new-key FILE"

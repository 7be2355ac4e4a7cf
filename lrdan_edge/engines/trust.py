"""Which engines may be loaded: those that this machine built, or that somebody here has vouched for.

Loading an engine runs code from it, and a hash in a bundle only says that the bundle is as its maker left it. So the builder
signs each engine's sidecar, which holds the engine's own sha256, by HMAC-SHA256 with a key that never leaves the user's
configuration folder. Machines that shall trust each other's engines share that file.
"""

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from lrdan_edge.errors import EngineError

KEY_VARIABLE = "LRDAN_ENGINE_KEY"
SIDECAR = "engine sidecar"


def key_path() -> Path:
    """Where the key is: ``$LRDAN_ENGINE_KEY``, else ``lrdan-edge/engine.key`` in ``$XDG_CONFIG_HOME`` or ``~/.config``.

    Raises:
        EngineError: This user has no home.
    """
    if given := os.environ.get(KEY_VARIABLE):
        return Path(given)
    try:
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    except RuntimeError as error:
        raise EngineError(f"this user has no home for the key that signs engines: set {KEY_VARIABLE} to a file") from error
    return folder / "lrdan-edge" / "engine.key"


def ensure_key() -> bytes:
    """The key; made when there is none yet. A build calls this before its minutes begin.

    Raises:
        EngineError: The key cannot be made or read, or others can read it.
    """
    key = _read_key()
    if key is None:
        _make_key()
        key = _read_key()
    if key is None:
        raise EngineError(f"the key {key_path()} vanished while it was made: build again")
    return key


def sign(data: bytes, purpose: str = SIDECAR) -> str:
    """The signature of bytes, in hex; makes the key when there is none yet.

    Args:
        data: What to vouch for.
        purpose: What it is, so that a signature fits nothing else.

    Raises:
        EngineError: As `ensure_key`.
    """
    return _signature(ensure_key(), data, purpose)


def is_trusted(data: bytes, signature: str, purpose: str = SIDECAR) -> bool:
    """Whether the signature was made over these bytes with this machine's key; without a key, none was.

    Raises:
        EngineError: The key cannot be read, or others can read it.
    """
    key = _read_key()
    return key is not None and hmac.compare_digest(_signature(key, data, purpose).encode(), signature.encode())


def _signature(key: bytes, data: bytes, purpose: str) -> str:
    return hmac.new(key, f"lrdan-edge {purpose}\0".encode() + data, hashlib.sha256).hexdigest()


def _read_key() -> bytes | None:
    path = key_path()
    try:
        status = path.stat()
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(
            f"the key that signs engines, {path}, cannot be read ({error}): mend it, or set {KEY_VARIABLE} to another file"
        ) from error
    if status.st_mode & 0o077 or status.st_uid not in (os.getuid(), 0):
        raise EngineError(
            f"others may read the key that signs engines, {path} (mode {status.st_mode & 0o777:03o}), so anybody could have "
            f"signed: delete it and build the engines anew, or, if it is only newly copied, 'chmod 600 {path}'"
        )
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise EngineError(f"{path} holds no key that signs engines: delete it and build the engines anew")
    return bytes.fromhex(text)


def _make_key() -> None:
    """Write a new key whole, or leave the one that another build has just made."""
    path = key_path()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    except OSError as error:
        raise EngineError(
            f"the key that signs engines cannot be written to {path} ({error.strerror}): set {KEY_VARIABLE} to a file that can"
        ) from error

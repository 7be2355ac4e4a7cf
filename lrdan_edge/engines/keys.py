"""The keys of this user, all in one folder.

engine.key    The secret key of this machine, for HMAC-SHA256 signatures that only this machine can make and check.
signing.key   The Ed25519 private key of a build machine, which signs engines for the machines that trust its public key.
trusted-keys  The public keys of the build machines whose engines are loaded here, one per line in hex.

Keys are read only from regular files, not through links, in folders that other users cannot write to.

Secret keys are 32 bytes in hex. They are made when first needed, and only this user may read them. Ed25519 needs the ``signing``
extra. Sources: RFC 8032 (Ed25519), RFC 2104 (HMAC).
"""

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

import platformdirs

from lrdan_edge.errors import EngineError
from lrdan_edge.keys import ed25519, message, open_own, others_may_read, others_may_write, text_of

KEY_VARIABLE = "LRDAN_ENGINE_KEY"
SIDECAR = "engine sidecar"


def key_path() -> Path:
    """The file of this machine's key: ``$LRDAN_ENGINE_KEY``, or ``engine.key`` in the user's configuration folder.

    Raises:
        EngineError: This user has no home folder.
    """
    if given := os.environ.get(KEY_VARIABLE):
        return Path(given)
    folder = platformdirs.user_config_path("lrdan-edge")
    if not folder.is_absolute():
        raise EngineError(
            "this user has no home folder for the key that signs engines", "set {variable} to a file", variable=KEY_VARIABLE
        )
    return folder / "engine.key"


def ensure_keys() -> None:
    """Make the keys that sign engines, if they do not exist. A build calls this first, to fail before it takes minutes.

    Raises:
        EngineError: A key cannot be made or read, or others can read it.
    """
    _ensure_key(key_path())
    if ed25519() is not None:
        _ensure_key(_signing_path())


def sign(data: bytes, purpose: str = SIDECAR) -> str:
    """Sign bytes for this machine, with HMAC-SHA256; makes the key if it does not exist.

    Args:
        data: The bytes.
        purpose: What the bytes are; a signature is valid for only one purpose.

    Returns:
        The signature, 64 hex digits.

    Raises:
        EngineError: As `ensure_keys`.
    """
    return _hmac(_ensure_key(key_path()), data, purpose)


def is_signed_here(data: bytes, signature: str, purpose: str = SIDECAR) -> bool:
    """Whether `sign` made this signature for these bytes, with this machine's key.

    Raises:
        EngineError: The key cannot be read, or others can read it.
    """
    key = _read_key(key_path())
    return key is not None and hmac.compare_digest(_hmac(key, data, purpose).encode(), signature.encode())


def sign_for_others(data: bytes) -> tuple[str, str] | None:
    """Sign an engine's sidecar for the machines that trust this one, with Ed25519; makes the key if it does not exist.

    Returns:
        The public key (64 hex digits) and the signature (128 hex digits); None without the ``signing`` extra.

    Raises:
        EngineError: As `ensure_keys`.
    """
    module = ed25519()
    if module is None:
        return None
    private = module.Ed25519PrivateKey.from_private_bytes(_ensure_key(_signing_path()))
    return private.public_key().public_bytes_raw().hex(), private.sign(message(data, SIDECAR)).hex()


def own_public_key() -> str | None:
    """The public key of this machine, 64 hex digits; None if it has not signed for other machines, or cannot.

    Raises:
        EngineError: The private key cannot be read, or others can read it.
    """
    module, key = ed25519(), _read_key(_signing_path())
    if module is None or key is None:
        return None
    return str(module.Ed25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw().hex())


def trusted_keys() -> set[str]:
    """The public keys of the machines whose engines are loaded here, in hex.

    Raises:
        EngineError: The list cannot be read, others can write to it, or a line is not a key.
    """
    path = _trusted_path()
    try:
        with open_own(path) as file:
            unsafe = others_may_write(file)
            lines = text_of(file, "utf-8").splitlines()
    except FileNotFoundError:
        return set()
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"the list of trusted keys, {path}, cannot be read ({error})", "restore it or delete it") from error
    if unsafe:
        raise EngineError(
            f"other users may write to the list of trusted keys, {path}", "check it, then run 'chmod 644 {path}'", path=path
        )
    keys = {words[0].lower() for line in lines if (words := line.partition("#")[0].split())}
    if wrong := [key for key in keys if not _is_key(key)]:
        raise EngineError(f"{path} has a line that is not a public key ({wrong[0][:80]!r})", "write 64 hex digits per line")
    return keys


def trust_key(public_key: str) -> None:
    """Trust engines that the owner of this public key signed, from now on.

    Args:
        public_key: Ed25519, 64 hex digits, as ``engine verify`` shows it on the machine that builds.

    Raises:
        EngineError: It is not a key, or the list cannot be read or written.
    """
    key, path = public_key.strip().lower(), _trusted_path()
    if not _is_key(key):
        raise EngineError(f"a public key must be 64 hex digits, got {public_key!r}", "copy it from 'engine verify'")
    if key in trusted_keys():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open_own(path, os.O_RDWR | os.O_CREAT | os.O_APPEND) as file:
            file.seek(0)
            unfinished = file.read()[-1:] not in (b"", b"\n")  # a list edited by hand
            file.write(("\n" if unfinished else "").encode() + f"{key}\n".encode())
    except OSError as error:
        raise EngineError(
            f"the list of trusted keys, {path}, cannot be written ({error.strerror})", "check its folder"
        ) from error


def _is_key(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", text) is not None


def _signing_path() -> Path:
    return key_path().with_name("signing.key")


def _trusted_path() -> Path:
    return key_path().with_name("trusted-keys")


def _hmac(key: bytes, data: bytes, purpose: str) -> str:
    return hmac.new(key, message(data, purpose), hashlib.sha256).hexdigest()


def _ensure_key(path: Path) -> bytes:
    key = _read_key(path)
    if key is None:
        _make_key(path)
        key = _read_key(path)
    if key is None:
        raise EngineError(f"the key {path} was deleted while it was made", "build again")
    return key


def _read_key(path: Path) -> bytes | None:
    try:
        with open_own(path) as file:
            unsafe, mode = others_may_read(file), os.fstat(file.fileno()).st_mode & 0o777
            text = text_of(file, "ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(
            f"the key that signs engines, {path}, cannot be read ({error})",
            "fix it, or set {variable} to another file",
            variable=KEY_VARIABLE,
        ) from error
    if unsafe:
        raise EngineError(
            f"other users may read the key that signs engines, {path} (mode {mode:03o}), so anyone may have used it",
            "delete it and build the engines again, or, if you have just copied it, run 'chmod 600 {path}'",
            path=path,
        )
    if not _is_key(text):
        raise EngineError(f"{path} is not a key that signs engines", "delete it and build the engines again")
    return bytes.fromhex(text)


def _make_key(path: Path) -> None:
    """Write a complete new key, or keep the one that another build has just made."""
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
            f"the key that signs engines cannot be written to {path} ({error.strerror})",
            "set {variable} to a file that can be written",
            variable=KEY_VARIABLE,
        ) from error

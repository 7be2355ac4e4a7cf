"""TensorRT's kernel timings, kept between builds beside the bundle.

TensorRT parses the file itself, so this machine signs it: files that were changed or come from another machine are not read.
"""

from pathlib import Path
from typing import Any

from lrdan_edge.bundle.files import Folder
from lrdan_edge.engines.keys import is_signed_here, sign
from lrdan_edge.engines.tensorrt.configure import is_rtx
from lrdan_edge.errors import EngineError

_PURPOSE = "timing cache"


def load_timing_cache(trt: Any, config: Any, path: Path | None) -> Any:
    """Give the cache to the builder; start an empty one if the file is damaged or from another device.

    Returns:
        The cache in use, or None with TensorRT for RTX, which does not use one.

    Raises:
        EngineError: The key that signs the file cannot be read.
    """
    if path is None or is_rtx(trt):
        return None
    for data in (_read(path), b""):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def save_timing_cache(path: Path, cache: Any) -> None:
    """Save the cache for the next build, completely or not at all.

    Raises:
        EngineError: The file or the key that signs it cannot be written.
    """
    data = bytes(cache.serialize())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with Folder(path.parent) as folder:
            folder.write(path.name, sign(data, _PURPOSE).encode() + b"\n" + data, shared=True)
    except OSError as error:
        raise EngineError(
            f"the timing cache {path} cannot be written ({error.strerror})", "check its folder and the disk"
        ) from error


def _read(path: Path) -> bytes:
    """The data that `save_timing_cache` wrote on this machine; empty if missing, unreadable or not from here."""
    try:
        with Folder(path.parent) as folder:
            signature, _, data = folder.read(path.name).partition(b"\n")
    except OSError:
        return b""
    return data if is_signed_here(data, signature.decode("ascii", "replace"), _PURPOSE) else b""

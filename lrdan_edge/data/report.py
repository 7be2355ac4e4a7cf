"""What image folders hold: sizes, bit depths, file types, what is broken, and near-copies among the good images."""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from lrdan_edge.data.images import Pixels, bits_used, read_pixels, to_eight_bits
from lrdan_edge.data.similarity import Features, NearCopies, find_near_copies, join, thumbnail
from lrdan_edge.errors import DataError

_EXAMPLES = 5


class Folder(msgspec.Struct, frozen=True, kw_only=True):
    """One folder of images.

    Attributes:
        name: Relative to the data folder; ``.`` for a plain folder.
        images: How many.
        sizes: How many of each size (``height x width``).
        forms: How many of each form (``8-bit grey``, ``16-bit colour``, ``8-bit grey stored as colour``).
        suffixes: How many of each file type.
        broken: Files that cannot be decoded, with the reason.
        side: Median of the longer side, in pixels.
    """

    name: str
    images: int
    sizes: dict[str, int]
    forms: dict[str, int]
    suffixes: dict[str, int]
    broken: list[str]
    side: float


class Copies(msgspec.Struct, frozen=True, kw_only=True):
    """Near-copies among the good images.

    Attributes:
        threshold: Similarity above which images count as near-copies, or None if none do.
        pairs: How many pairs.
        images: How many images have a near-copy in their own folder, by folder.
        groups: How many groups each folder's images fall into, copies of one part being one group.
        across: For every two folders that share groups: how many images of the second have a near-copy in the first's.
        examples: A few pairs with their similarity, the ones across folders first.
    """

    threshold: float | None
    pairs: int
    images: dict[str, int]
    groups: dict[str, int]
    across: dict[str, int]
    examples: list[tuple[str, str, float]]


def look(name: str, paths: Sequence[Path]) -> tuple[Folder, dict[Path, Features]]:
    """Decode a folder's images.

    Args:
        name: What the folder is called in messages.
        paths: Its images.

    Returns:
        Its facts, and the thumbnails of those images that could be decoded.
    """

    def one(path: Path) -> tuple[tuple[int, int], str, Features] | str:
        try:
            image = read_pixels(path)
        except DataError as error:
            return str(error)
        return (image.shape[0], image.shape[1]), form_of(image), thumbnail(to_eight_bits(image, bits_used(image)))

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(one, paths))
    whole = [result for result in found if not isinstance(result, str)]
    folder = Folder(
        name=name,
        images=len(paths),
        sizes=_counted(f"{height}x{width}" for (height, width), _, _ in whole),
        forms=_counted(form for _, form, _ in whole),
        suffixes=_counted(path.suffix.lower() for path in paths),
        broken=[result for result in found if isinstance(result, str)],
        side=float(np.median([max(size) for size, _, _ in whole])) if whole else 0.0,
    )
    return folder, {path: result[2] for path, result in zip(paths, found, strict=True) if not isinstance(result, str)}


def form_of(image: Pixels) -> str:
    """Bit depth and colour in words: ``8-bit grey``, ``16-bit colour``, ``8-bit grey stored as colour``."""
    grey = "grey" if image.ndim == 2 else "colour"
    if image.ndim == 3 and bool((image == image[:, :, :1]).all()):
        grey = "grey stored as colour"
    return f"{8 * image.dtype.itemsize}-bit {grey}"


def compare(looks: dict[str, dict[Path, Features]], data: Path) -> Copies:
    """Near-copies within and across folders.

    Args:
        looks: Each folder's thumbnails by path, as `look` gives them; at least one in all.
        data: Paths are shown relative to it, where they lie below it.
    """
    names = list(looks)
    paths = [path for look in looks.values() for path in look]
    origin = np.repeat(np.arange(len(names)), [len(look) for look in looks.values()])
    copies = find_near_copies(np.stack([thumb for look in looks.values() for thumb in look.values()]))
    label = join(len(origin), copies.pairs)
    first, second = origin[copies.pairs[:, 0]], origin[copies.pairs[:, 1]]
    across = {}
    for left, right in sorted(set(zip(first.tolist(), second.tolist(), strict=True))):
        if left != right:
            shared = copies.pairs[(first == left) & (second == right)]
            across[f"{names[left]} and {names[right]}"] = len(set(shared[:, 1].tolist()))
    paired = np.unique(copies.pairs[first == second])
    return Copies(
        threshold=copies.threshold,
        pairs=len(copies.pairs),
        images={name: int((origin[paired] == place).sum()) for place, name in enumerate(names)},
        groups={name: len(np.unique(label[origin == place])) for place, name in enumerate(names)},
        across=across,
        examples=_examples(copies, first != second, [_shown(path, data) for path in paths]),
    )


def _examples(copies: NearCopies, apart: npt.NDArray[np.bool_], names: list[str]) -> list[tuple[str, str, float]]:
    order = np.lexsort((-copies.similarity, ~apart))[:_EXAMPLES]
    return [
        (names[a], names[b], round(float(similarity), 3))
        for (a, b), similarity in zip(copies.pairs[order].tolist(), copies.similarity[order], strict=True)
    ]


def _shown(path: Path, data: Path) -> str:
    return path.relative_to(data).as_posix() if path.is_relative_to(data) else str(path)


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())

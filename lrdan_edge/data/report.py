"""What image folders hold: sizes, bit depths, file types, what is broken, and near-copies among the good images."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from lrdan_edge.data.scan import Scan
from lrdan_edge.data.similarity import join

_EXAMPLES = 5


class FolderReport(msgspec.Struct, frozen=True, kw_only=True):
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


class NearCopyReport(msgspec.Struct, frozen=True, kw_only=True):
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


def describe_folder(name: str, paths: Sequence[Path], scan: Scan) -> FolderReport:
    """Summarise a folder's images, which are scanned unless they were before.

    Args:
        name: What the folder is called in messages.
        paths: Its images.
        scan: Where they are scanned.
    """
    scan.add(paths)
    whole = [scan.images[path] for path in paths if path in scan.images]
    return FolderReport(
        name=name,
        images=len(paths),
        sizes=_counted("{}x{}".format(*image.size) for image in whole),
        forms=_counted(image.form for image in whole),
        suffixes=_counted(path.suffix.lower() for path in paths),
        broken=[str(scan.broken[path]) for path in paths if path in scan.broken],
        side=float(np.median([max(image.size) for image in whole])) if whole else 0.0,
    )


def describe_near_copies(folders: Mapping[str, Sequence[Path]], scan: Scan, data: Path) -> NearCopyReport:
    """Near-copies within and across folders.

    Args:
        folders: Each folder's scanned images.
        scan: Where they were scanned.
        data: Paths are shown relative to it, where they lie below it.
    """
    names = list(folders)
    folder_of = {path: place for place, name in enumerate(names) for path in folders[name]}
    paths, copies = scan.near_copies(folder_of)
    origin = np.array([folder_of[path] for path in paths], np.int64)
    label = join(len(origin), copies.pairs)
    pairs = np.take_along_axis(copies.pairs, np.argsort(origin[copies.pairs], axis=1, kind="stable"), axis=1)
    first, second = origin[pairs[:, 0]], origin[pairs[:, 1]]
    across = {}
    for left, right in sorted(set(zip(first.tolist(), second.tolist(), strict=True))):
        if left != right:
            shared = pairs[(first == left) & (second == right)]
            across[f"{names[left]} and {names[right]}"] = len(set(shared[:, 1].tolist()))
    paired = np.unique(pairs[first == second])
    order = np.lexsort((-copies.similarity, first == second))[:_EXAMPLES]
    shown = [path.relative_to(data).as_posix() if path.is_relative_to(data) else str(path) for path in paths]
    return NearCopyReport(
        threshold=copies.threshold,
        pairs=len(pairs),
        images={name: int((origin[paired] == place).sum()) for place, name in enumerate(names)},
        groups={name: len(np.unique(label[origin == place])) for place, name in enumerate(names)},
        across=across,
        examples=[
            (shown[a], shown[b], round(float(copies.similarity[place]), 3))
            for place, (a, b) in zip(order, pairs[order].tolist(), strict=True)
        ],
    )


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())

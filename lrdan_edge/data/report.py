"""The dataset report: sizes, bit depths, file types and broken files of image folders, and near-copies among good images."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from lrdan_edge.data.orientation import IN_WORDS
from lrdan_edge.data.scan import Scan
from lrdan_edge.data.similarity import join

_EXAMPLES = 5


class FolderReport(msgspec.Struct, frozen=True, kw_only=True):
    """One folder of images.

    Attributes:
        name: Relative to the data folder; ``.`` for a plain folder.
        images: Number of images.
        sizes: Number of images of each size (``height x width``).
        forms: Number of images of each form (``8-bit grey``, ``16-bit colour``, ``8-bit grey stored as colour``).
        suffixes: Number of images of each file type.
        broken: Files that cannot be decoded, with the reason.
        side: Median of the longer side, in pixels.
        turned: Number of images by how their EXIF orientation turned them.
    """

    name: str
    images: int
    sizes: dict[str, int]
    forms: dict[str, int]
    suffixes: dict[str, int]
    broken: list[str]
    side: float
    turned: dict[str, int] = {}


class NearCopyReport(msgspec.Struct, frozen=True, kw_only=True):
    """Near-copies among the good images.

    Attributes:
        threshold: Similarity above which two images count as near-copies, or None if there are none.
        pairs: Number of pairs.
        images: Number of images with a near-copy in their own folder, by folder.
        groups: Number of groups of images, by folder; all copies of one part form one group.
        across: For each pair of folders that share groups: number of images of the second with a near-copy in the first.
        examples: A few pairs with their similarity; pairs across folders come first.
    """

    threshold: float | None
    pairs: int
    images: dict[str, int]
    groups: dict[str, int]
    across: dict[str, int]
    examples: list[tuple[str, str, float]]


def describe_folder(name: str, paths: Sequence[Path], scan: Scan) -> FolderReport:
    """Summarise a folder's images.

    Args:
        name: The folder's name in messages.
        paths: The folder's images.
        scan: Scans the images that were not scanned before.
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
        turned=_counted(IN_WORDS[image.orientation] for image in whole if image.orientation in IN_WORDS),
    )


def describe_near_copies(folders: Mapping[str, Sequence[Path]], scan: Scan, data: Path) -> NearCopyReport:
    """Find near-copies within and across folders.

    Args:
        folders: The scanned images of each folder.
        scan: The scan of these images.
        data: The data folder; paths below it are shown relative to it.
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

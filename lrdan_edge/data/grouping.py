"""Grouping of images that belong together, such as several pictures of one part, by file name or by similarity."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lrdan_edge.data.scan import Scan
from lrdan_edge.data.similarity import join
from lrdan_edge.errors import DataError

AUTO, NONE = "auto", "none"
_FIX = "fix {group_by}, or give {group_by:auto}"


def group_names(paths: Sequence[Path], data: Path, group_by: str, scan: Scan) -> list[str]:
    """The name of each image's group.

    Args:
        paths: The images, below `data`.
        data: The data folder.
        group_by: ``auto``: near-copies form a group (see `lrdan_edge.data.similarity`), named after its first image. Otherwise a
            regular expression, searched in the path relative to `data` (with ``/``): its first capturing group, or the whole match
            if it has none, is the group's name.
        scan: Scans the images for ``auto``.

    Raises:
        DataError: The expression is not valid or does not match an image, or an image cannot be read.
    """
    names = [path.relative_to(data).as_posix() for path in paths]
    if group_by == AUTO:
        scan.require(paths)
        scanned, copies = scan.near_copies(paths)
        labels = dict(zip(scanned, join(len(scanned), copies.pairs).tolist(), strict=True))
        first: dict[int, str] = {}
        return [first.setdefault(labels[path], name) for path, name in zip(paths, names, strict=True)]
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise DataError(f"{group_by!r} is not a valid regular expression ({error})", _FIX) from error
    return [_matched(pattern, name) for name in names]


def numbered(names: Sequence[str]) -> list[int]:
    """The number of each image's group, from 0 in the order of first appearance."""
    order = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return [order[name] for name in names]


def _matched(pattern: re.Pattern[str], name: str) -> str:
    found = pattern.search(name)
    group = found and (found.group(1) if pattern.groups else found.group(0))
    if not group:
        raise DataError(f"{pattern.pattern!r} finds no group in {name!r}, and every image needs one", _FIX)
    return group


def fold_numbers(groups: Sequence[int], folds: int, seed: int = 0) -> list[int]:
    """The fold of each image, 0 to `folds` - 1, for cross-fitting: groups in random order, each whole and into the smallest fold.

    Args:
        groups: The group of each image.
        folds: Number of folds, 2 or more.
        seed: Random seed of the order.

    Raises:
        DataError: There are fewer groups than folds.
    """
    sizes = Counter(groups)
    if len(sizes) < folds:
        raise DataError(f"{len(sizes)} groups of images cannot make {folds} folds", "give more parts, or fewer folds")
    names = list(sizes)
    images, own = [0] * folds, {}
    for place in np.random.default_rng(seed).permutation(len(names)).tolist():
        fold = images.index(min(images))
        own[names[place]] = fold
        images[fold] += sizes[names[place]]
    return [own[group] for group in groups]

"""Which images belong together, such as several pictures of one part: by their names, or by what they show."""

import re
from collections.abc import Sequence
from pathlib import Path

from lrdan_edge.data.similarity import features, find_near_copies, join
from lrdan_edge.errors import DataError

AUTO = "auto"


def group_names(paths: Sequence[Path], data: Path, group_by: str) -> list[str]:
    """Each image's group, by name.

    Args:
        paths: The images, below `data`.
        data: The folder that the user gave.
        group_by: ``auto``: near-copies are a group (see `lrdan_edge.data.similarity`), named by its first image. Otherwise a regular
            expression, searched in the path relative to `data` (with ``/``): what its first group matched names the image's
            group, or the whole match where it has none.

    Raises:
        DataError: The expression is not valid or does not match an image, or an image cannot be read.
    """
    names = [path.relative_to(data).as_posix() for path in paths]
    if group_by == AUTO:
        labels = join(len(paths), find_near_copies(features(paths)).pairs).tolist()
        first: dict[int, str] = {}
        return [first.setdefault(label, name) for label, name in zip(labels, names, strict=True)]
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise DataError(f"--group-by {group_by!r} is no regular expression ({error}): mend it, or use auto") from error
    return [_matched(pattern, name) for name in names]


def _matched(pattern: re.Pattern[str], name: str) -> str:
    found = pattern.search(name)
    group = found and (found.group(1) if pattern.groups else found.group(0))
    if not group:
        raise DataError(
            f"--group-by {pattern.pattern!r} finds no group in {name!r}: every image needs one; mend the expression, or use auto"
        )
    return group

"""The protocol's results: a JSON file that grows by one entry per finished run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from lrdan_edge.errors import DataError
from lrdan_edge.protocol.readers import DatasetName

SCHEMA_VERSION = 1
_BINS = 60
_TAIL = 0.002  # fraction of the scores at either end that goes to the outermost bins


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings that all runs in one table share.

    Attributes:
        steps: Optimiser steps per run.
        train_limit: Number of training images per run, at most, or None for all.
        test_limit: Number of test images per class, at most, or None for all.
        device: ``cpu`` or ``cuda``.
    """

    steps: int
    train_limit: int | None
    test_limit: int | None
    device: str


class Histogram(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Test scores in equal bins: `edges` [k + 1] ascending, counts [k] of normal and anomalous images; end bins hold outliers."""

    edges: list[float]
    normal: list[int]
    anomalous: list[int]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run: one detector, one normal class, one seed.

    Attributes:
        column: The detector's column.
        normal_class: The class that was normal.
        seed: The run's seed.
        settings: The settings of the run.
        auroc: Image AUROC in [0, 1]; None if the run failed.
        failure: The reason of a failure, or None.
        training_seconds: Duration of `fit` in seconds.
        images: Number of images: ``training``, ``normal`` and ``anomalous`` test images.
        histogram: Histogram of the test images' scores; None if the run failed.
        processor: Name of the processor or GPU.
        versions: Versions of Python and of packages.
    """

    column: str
    normal_class: str
    seed: int
    settings: Settings
    auroc: float | None
    failure: str | None
    training_seconds: float
    images: dict[str, int]
    histogram: Histogram | None
    processor: str
    versions: dict[str, str]

    @property
    def key(self) -> tuple[str, str, int, Settings]:
        """Identifies the run: no two runs have the same key."""
        return self.column, self.normal_class, self.seed, self.settings


class Results(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The results file.

    Attributes:
        schema_version: Version of this layout.
        title: The title of the comparison.
        remark: A remark about the columns for the reader.
        dataset: The data set.
        fingerprint: Sha256 of its pixels and labels.
        published: Whether to show published figures next to it.
        recipes: The recipe of each column, or empty if the detector has none.
        commands: The commands that wrote it, oldest first.
        entries: Finished runs, oldest first.
    """

    schema_version: int
    title: str
    remark: str
    dataset: DatasetName
    fingerprint: str
    published: bool
    recipes: dict[str, str]
    commands: list[str]
    entries: list[Entry]


def histogram(normal: npt.NDArray[np.float32], anomalous: npt.NDArray[np.float32]) -> Histogram:
    """Count scores of normal [n] and anomalous [m] images in the same bins."""
    low, high = (
        float(edge) for edge in np.quantile(np.concatenate([normal, anomalous]).astype(np.float64), [_TAIL, 1 - _TAIL])
    )
    edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
    counts = [np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0].tolist() for scores in (normal, anomalous)]
    return Histogram(edges=edges.tolist(), normal=counts[0], anomalous=counts[1])


def open_results(path: Path, fresh: Results) -> Results:
    """The earlier results at `path`, with the new columns and command, or `fresh` if there are none.

    Raises:
        DataError: The file is damaged, or was made from other data or with other recipes.
    """
    if not path.exists():
        return fresh
    fix = "choose another {output}, or move the file away"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Results)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", fix) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} holds no results of this lrdan-edge ({error})", fix) from error
    if found.schema_version != SCHEMA_VERSION:
        raise DataError(f"{path} has schema version {found.schema_version}, this lrdan-edge writes {SCHEMA_VERSION}", fix)
    if (found.dataset, found.fingerprint) != (fresh.dataset, fresh.fingerprint):
        raise DataError(f"{path} was measured on data other than this {fresh.dataset}", fix)
    for column, recipe in fresh.recipes.items():
        if (before := found.recipes.get(column, recipe)) != recipe:
            raise DataError(f"{path} has {column} by another recipe ({before}) than the current one ({recipe})", fix)
    found.recipes = found.recipes | fresh.recipes
    found.commands += [command for command in fresh.commands if command not in found.commands]
    return found


def write_file(path: Path, content: bytes) -> None:
    """Replace a file atomically.

    Raises:
        DataError: It cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror})", "free some space, or choose another {output}"
        ) from error


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Make `folder`, and hold its lock, which the kernel releases when the process ends.

    Raises:
        DataError: The folder cannot be written.
    """
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror})", "choose another {output}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems have no locks
            raise DataError(f"{folder} cannot be locked ({error.strerror})", "choose another {output}") from error
        yield

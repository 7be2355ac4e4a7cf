"""The one-class protocol of Deep SVDD (Ruff et al., ICML 2018) and LRDAN (arXiv 2002.01607).

One class is normal: a detector is trained only on its training images and scores the test images of all ten classes. Those of the
other nine classes are anomalous. The result is the image AUROC after the last step; no epoch is selected by its result.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.stage import versions
from lrdan_edge.errors import DataError, TrainingError
from lrdan_edge.metrics import auroc
from lrdan_edge.protocol.baselines.base import Detector, Training
from lrdan_edge.protocol.columns import Study
from lrdan_edge.protocol.histograms import draw_histograms
from lrdan_edge.protocol.readers import Dataset, Part
from lrdan_edge.protocol.results import SCHEMA_VERSION, Entry, Results, Settings, histogram, open_results, write_file, writing
from lrdan_edge.protocol.table import as_markdown
from lrdan_edge.train.options import choose_device

STEPS = 1500  # of 32 images: about a minute per class for LRDAN on one core, at 28 x 28
_LIMIT_SEED = 0  # random seed of the images of `train_limit` and `test_limit`, the same for all detectors and seeds


@dataclass(frozen=True)
class ProtocolOptions:
    """Options of `run_protocol`.

    Attributes:
        seeds: Random seeds of the detectors; every class is run with each seed.
        classes: Names of the normal classes to run, or empty for all.
        steps: Optimiser steps per run, the same for every detector.
        train_limit: Number of training images per run, at most, or None for all of the class.
        test_limit: Number of test images per class, at most, or None for all.
        device: As in `TrainOptions`.
    """

    seeds: tuple[int, ...] = (0,)
    classes: tuple[str, ...] = ()
    steps: int = STEPS
    train_limit: int | None = None
    test_limit: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("train_limit", 2), ("test_limit", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise DataError(f"{name} is {value}", "give at least {least}", least=least)


@dataclass(frozen=True)
class Written:
    """The results of `run_protocol`, and their files."""

    results: Results
    json: Path
    markdown: Path
    pictures: list[Path]


Report = Callable[[Entry, int, int], None]
"""Called with each finished run, the number of finished runs, and the number of all runs."""


def run_protocol(
    dataset: Dataset,
    study: Study,
    output: Path,
    options: ProtocolOptions,
    *,
    processor: str,
    report: Report = lambda _entry, _done, _total: None,
) -> Written:
    """Do the runs that are not yet in `output`, and write JSON and Markdown after every finished run.

    Several processes may share an output: each adds its runs, and no process starts a run that another has finished. A process
    does not know the unfinished runs of others, so give each different classes, seeds or detectors.

    Args:
        dataset: The data.
        study: The comparison.
        output: Folder of ``<dataset><study's suffix>.json``, ``.md`` and figures; earlier results there are continued.
        options: The options.
        processor: Name of the CPU, for the results; a GPU reports its own name.
        report: Called after each run.

    Raises:
        DataError: A class is unknown, or `output` cannot be written or holds results of other data or recipes.
        TrainingError: The device is ``cuda``, but PyTorch finds no GPU.
    """
    device = choose_device(options.device)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else processor
    settings = Settings(steps=options.steps, train_limit=options.train_limit, test_limit=options.test_limit, device=device.type)
    labels = _labels(dataset, options.classes)
    wanted = [(column, label, seed) for seed in dict.fromkeys(options.seeds) for label in labels for column in study.columns]
    test, test_labels = draw(dataset.test, range(len(dataset.classes)), options.test_limit)
    path = output / f"{dataset.name}{study.suffix}.json"
    fresh = _fresh(dataset, study, command_of(dataset, study, output, options))
    results = _add(path, fresh)
    for done, (column, label, seed) in enumerate(wanted, start=1):
        name = dataset.classes[label]
        if (column, name, seed, settings) in {entry.key for entry in results.entries}:
            continue
        good, _ = draw(dataset.train, [label], options.train_limit)
        detector = study.columns[column]()
        defects = draw_labelled(dataset.train, label, seed, detector.labelled_ratio, len(good))
        training = Training(good=good, steps=options.steps, seed=seed, device=device, defects=defects)
        figures = measure(detector, training, test, test_labels == label)
        entry = Entry(
            column=column,
            normal_class=name,
            seed=seed,
            settings=settings,
            processor=machine,
            versions=versions(),
            **figures,
        )
        results = _add(path, fresh, entry)
        report(entry, done, len(wanted))
    with writing(output):
        results = open_results(path, fresh)
        pictures = draw_histograms(output, path.stem, results, settings) if study.histograms else []
    return Written(results, path, path.with_suffix(".md"), pictures)


def _add(path: Path, fresh: Results, entry: Entry | None = None) -> Results:
    """Add a run to the results at `path`, which other processes may also extend; returns all results.

    The JSON file is written first, then the Markdown page.
    """
    with writing(path.parent):
        results = open_results(path, fresh)
        if entry and entry.key not in {before.key for before in results.entries}:
            results.entries.append(entry)
        write_file(path, to_json(results))
        write_file(path.with_suffix(".md"), as_markdown(results).encode())
    return results


def command_of(dataset: Dataset, study: Study, output: Path, options: ProtocolOptions) -> Command:
    """The command that repeats a run of the protocol."""
    return Command(
        "protocol",
        dataset.name,
        root=dataset.root,
        **study.command_options,
        seed=options.seeds,
        classes=",".join(options.classes) or None,
        steps=options.steps,
        train_limit=options.train_limit,
        test_limit=options.test_limit,
        device=None if options.device == "auto" else options.device,
        output=output,
    )


def _fresh(dataset: Dataset, study: Study, command: Command) -> Results:
    """Results without runs."""
    return Results(
        schema_version=SCHEMA_VERSION,
        title=study.title,
        remark=study.remark,
        dataset=dataset.name,
        fingerprint=dataset.fingerprint(),
        published=study.published,
        recipes={name: make().recipe for name, make in study.columns.items()},
        commands=[str(command)],
        entries=[],
    )


def measure(detector: Detector, training: Training, test: Tensor, is_normal: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Train, and score `test`; returns the measured fields of an `Entry`.

    Args:
        detector: A new, untrained detector.
        training: What it learns from.
        test: Test images, uint8 [M, C, H, W].
        is_normal: Whether each is normal, bool [M].
    """
    images = {"training": len(training.good), "normal": int(is_normal.sum()), "anomalous": int((~is_normal).sum())}
    if training.defects is not None:
        images["labelled"] = len(training.defects)
    started = time.monotonic()
    failure = None
    scores = np.empty(0, np.float32)
    try:
        detector.fit(training)
        if training.device.type == "cuda":
            torch.cuda.synchronize(training.device)
        seconds = time.monotonic() - started
        scores = detector.score(test).numpy()
        if not np.isfinite(scores).all():
            failure = f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite"
    except TrainingError as error:
        seconds, failure = time.monotonic() - started, str(error)
    found: dict[str, Any] = {"training_seconds": seconds, "images": images, "failure": failure}
    if failure is not None:
        return found | {"auroc": None, "histogram": None}
    normal, anomalous = scores[is_normal], scores[~is_normal]
    return found | {"auroc": auroc(normal, anomalous), "histogram": histogram(normal, anomalous)}


def draw(part: Part, labels: Iterable[int], limit: int | None) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Images of some classes, at most `limit` of each, drawn with a fixed random seed.

    Args:
        part: Training or test images.
        labels: The classes.
        limit: Number of images of each class, at most, or None for all.

    Returns:
        Images uint8 [N, C, H, W] in the data set's order, and their labels int64 [N].
    """
    chosen = []
    for label in labels:
        places = np.flatnonzero(part.labels == label)
        if limit is not None and limit < len(places):
            places = np.random.default_rng([_LIMIT_SEED, label]).choice(places, limit, replace=False)
        chosen.append(places)
    order = np.sort(np.concatenate(chosen))
    return torch.from_numpy(part.frames[order]), part.labels[order]


def draw_labelled(train: Part, normal: int, seed: int, ratio: float, good: int) -> Tensor | None:
    """Draw labelled anomalies as in Deep SAD: from the training images of one other class, chosen by the run's seed.

    Args:
        train: Training images.
        normal: The normal class.
        seed: Random seed of the run; nine consecutive seeds use each other class once.
        ratio: γ_l, the fraction of labelled images among all training images; 0 for none.
        good: Number of good images.

    Returns:
        uint8 [K, C, H, W], or None for a ratio of 0.
    """
    if ratio == 0:
        return None
    classes = int(train.labels.max()) + 1
    other = (normal + 1 + seed % (classes - 1)) % classes
    places = np.flatnonzero(train.labels == other)
    count = min(len(places), max(1, round(ratio / (1 - ratio) * good)))
    chosen = np.random.default_rng([_LIMIT_SEED, normal, seed]).choice(places, count, replace=False)
    return torch.from_numpy(train.frames[np.sort(chosen)])


def _labels(dataset: Dataset, names: tuple[str, ...]) -> list[int]:
    for name in names:
        if name not in dataset.classes:
            raise DataError(f"{dataset.name} has no class {name!r}", "choose from {known}", known=", ".join(dataset.classes))
    return [label for label, name in enumerate(dataset.classes) if not names or name in names]

"""Cross-fitting in a training run: what is written, what the scores are, and interrupted runs."""

import shutil
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.names import CHECKPOINT, OUT_OF_FOLD, WEIGHTS
from lrdan_edge.bundle.out_of_fold import OutOfFold, read_out_of_fold
from lrdan_edge.data.dataset import GoodImages, training_folds
from lrdan_edge.errors import InterruptedTrainingError
from lrdan_edge.model.deployed import load_network
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.progress import Progress
from lrdan_edge.train.trainer import train
from lrdan_edge.train.view import View

PADIM = TrainOptions(recipe="padim", device="cpu")


class Stopped(Exception):  # noqa: N818
    """What a test ends a run with, in place of a kill."""


class During(Progress):
    """Does something after the first of the fits."""

    def __init__(self, act: Any = None) -> None:
        self.act, self.seen, self.notes = act, list[tuple[int, int]](), list[str]()

    def cross_fit(self, done: int, fits: int) -> None:
        self.seen.append((done, fits))
        if done == 1 and self.act:
            self.act()

    def note(self, text: str) -> None:
        self.notes.append(text)


def kill() -> None:
    raise Stopped


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def data(tmp_path: Path, write_stripes: Any) -> Path:
    write_stripes(tmp_path / "data", 36, (32, 40))
    return tmp_path / "data"


def scores_of(bundle: Bundle, images: list[Path]) -> list[float]:
    frames = np.stack([np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) for path in images])
    with torch.inference_mode():
        found: list[float] = load_network(bundle)(torch.from_numpy(frames)[..., None])[0].tolist()
    return found


def found_in(bundle: Bundle) -> OutOfFold:
    found = read_out_of_fold(Bundle.open(bundle.path))
    assert found
    return found


def test_each_image_is_scored_by_a_network_that_did_not_learn_from_its_fold(tmp_path: Path, data: Path) -> None:
    progress = During()
    bundle = train(data, tmp_path / "bundle", PADIM, progress)
    assert progress.seen == [(done, 4) for done in range(5)]
    found, results = found_in(bundle), bundle.manifest.stages["train"].results
    assert found.images == results["held_out"] + results["training"]
    assert sorted(np.bincount(found.folds).tolist()) == [7, 7, 7, 7, 8]
    assert found.held_out == len(results["held_out"])
    assert found.scores[: found.held_out] == pytest.approx(
        scores_of(bundle, [data / name for name in results["held_out"]]), rel=1e-4
    )
    for name, fold in zip(found.images, found.folds, strict=True):  # the same by folders: fold 3 is given, the rest learnt from
        part = "calibration" if fold == 3 else "train"
        (tmp_path / "apart" / part / "good").mkdir(parents=True, exist_ok=True)
        shutil.copy(data / name, tmp_path / "apart" / part / "good" / name)
    seen = During()
    other = train(tmp_path / "apart", tmp_path / "other", PADIM, seen)
    own = [name for name, fold in zip(found.images, found.folds, strict=True) if fold == 3]
    expected = scores_of(other, [data / name for name in own])
    recorded = dict(zip(found.images, found.scores, strict=True))
    assert [recorded[name] for name in own] == pytest.approx(expected, rel=1e-3)
    assert OUT_OF_FOLD not in other.manifest.files
    assert any("calibration/good" in note for note in seen.notes)


@pytest.mark.parametrize("name", ["padim", "patchcore"])
def test_tiles_and_parts_are_kept_together(tmp_path: Path, write_stripes: Any, name: str) -> None:
    write_stripes(tmp_path / "data", 24, (64, 96))
    options = TrainOptions(
        recipe=name, device="cpu", view=View(tiles=(1, 2)), image_size=(32, 28), group_by=r"(part\d+)", seed=1
    )
    for place, path in enumerate(sorted((tmp_path / "data").iterdir())):
        path.rename(path.with_name(f"part{place // 2:02}-{place % 2}.png"))
    bundle = train(tmp_path / "data", tmp_path / "bundle", options, Progress())
    found = found_in(bundle)
    assert found.groups
    assert len(set(found.groups)) == 12
    assert len(set(zip([one.split("-")[0] for one in found.images], found.folds, strict=True))) == 12
    with torch.inference_mode():
        paths = [tmp_path / "data" / one for one in found.images[: found.held_out]]
        frames = np.stack([np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) for path in paths])
        own = load_network(bundle)(torch.from_numpy(frames)[..., None])[0].tolist()
    assert found.scores[: found.held_out] == pytest.approx(own, rel=1e-3)


@pytest.mark.parametrize("act", [kill, ctrl_c])
def test_an_interrupted_run_resumes_and_writes_the_same(tmp_path: Path, data: Path, act: Any) -> None:
    whole = train(data, tmp_path / "whole", PADIM, Progress())
    path = tmp_path / "stopped"
    if act is kill:
        with pytest.raises(Stopped):
            train(data, path, PADIM, During(act))
        assert not (path / WEIGHTS).exists()
    else:
        stopped = train(data, path, PADIM, During(act))
        assert stopped.manifest.stages["train"].results["interrupted"] is True
        assert OUT_OF_FOLD not in stopped.manifest.files
        assert read_out_of_fold(stopped) is None
        assert (path / CHECKPOINT).exists()
    bundle = train(data, path, PADIM, Progress())
    assert bundle.manifest.stages["train"].results["interrupted"] is False
    assert not (path / CHECKPOINT).exists()
    for name in (WEIGHTS, OUT_OF_FOLD):
        assert (path / name).read_bytes() == (whole.path / name).read_bytes()


def test_an_interrupted_run_leaves_a_complete_bundle_alone(tmp_path: Path, data: Path) -> None:
    bundle = train(data, tmp_path / "bundle", PADIM, Progress())
    before = {path.name: path.read_bytes() for path in bundle.path.iterdir() if path.is_file()}
    with pytest.raises(InterruptedTrainingError, match="is unchanged"):
        train(data, bundle.path, TrainOptions(recipe="padim", device="cpu", seed=1, overwrite=True), During(ctrl_c))
    assert {name: (bundle.path / name).read_bytes() for name in before} == before


def test_other_recipes_and_few_parts_are_not_cross_fitted(tmp_path: Path, data: Path) -> None:
    bundle = train(data, tmp_path / "bundle", TrainOptions(recipe="lrdan", epochs=1, device="cpu"), During(kill))
    assert OUT_OF_FOLD not in bundle.manifest.files
    images = [Path(f"{place}.png") for place in range(8)]
    few = GoodImages(images[2:], images[:2], [0, 0], drawn=True, training_groups=[1, 1, 2, 2, 3, 3])
    assert training_folds(few) is None
    assert sorted(set(training_folds(GoodImages(images[2:], images[:2], drawn=True)) or [])) == [1, 2, 3, 4]

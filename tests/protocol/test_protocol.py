"""The protocol with a detector that takes no time, and with LRDAN for two steps."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import cv2
import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lrdan_edge.cli.main import cli
from lrdan_edge.errors import DataError, TrainingError
from lrdan_edge.protocol import columns
from lrdan_edge.protocol.baselines import DETECTORS
from lrdan_edge.protocol.baselines.base import Detector, Training
from lrdan_edge.protocol.baselines.lrdan import Lrdan
from lrdan_edge.protocol.columns import Study
from lrdan_edge.protocol.protocol import ProtocolOptions, Written, draw, run_protocol
from lrdan_edge.protocol.readers import Dataset, read_dataset
from lrdan_edge.protocol.results import Results, histogram

FITS: list[int] = []


class MeanImage(Detector):
    """Scores by the distance from the mean good image, blurred by the seed."""

    recipe = "distance from the mean"

    def _fit(self, training: Training) -> None:
        FITS.append(len(training.good))
        generator = torch.Generator().manual_seed(training.seed)
        self.mean = training.good.float().mean(0) + 20 * torch.randn(training.good.shape[1:], generator=generator)

    def _score(self, frames: Tensor, device: torch.device) -> Tensor:  # noqa: ARG002
        return (frames.float() - self.mean).square().mean((1, 2, 3))


class Fails(MeanImage):
    def _score(self, frames: Tensor, device: torch.device) -> Tensor:
        return super()._score(frames, device) * torch.nan


class Diverges(MeanImage):
    def _fit(self, training: Training) -> None:  # noqa: ARG002
        raise TrainingError("loss irec became nan")


@pytest.fixture(scope="module")
def dataset(tiny: Path) -> Dataset:
    return read_dataset("mnist", tiny)


@pytest.fixture(autouse=True)
def _forget() -> None:
    FITS.clear()


def study(*makers: Callable[[], MeanImage]) -> Study:
    return Study("A test", "", {"detector": "mean"}, {make.__name__: make for make in makers or (MeanImage,)}, published=True)


def run(dataset: Dataset, output: Path, chosen: Study, **options: Any) -> Written:
    return run_protocol(dataset, chosen, output, ProtocolOptions(**options), processor="a processor")


def test_auroc_is_scikit_learns_for_each_class(dataset: Dataset, tmp_path: Path) -> None:
    results = run(dataset, tmp_path, study(), seeds=(3,)).results
    assert [entry.normal_class for entry in results.entries] == list(dataset.classes)
    for label, entry in enumerate(results.entries):
        detector = MeanImage()
        good = torch.from_numpy(dataset.train.frames[dataset.train.labels == label])
        detector.fit(Training(good=good, steps=1, seed=3, device=torch.device("cpu")))
        scores = detector.score(torch.from_numpy(dataset.test.frames.copy()))
        assert entry.auroc == pytest.approx(roc_auc_score(dataset.test.labels != label, scores))
        assert entry.images == {"training": 20, "normal": 6, "anomalous": 54}
        assert entry.histogram is not None
        assert (sum(entry.histogram.normal), sum(entry.histogram.anomalous)) == (6, 54)


def test_finished_runs_are_not_repeated(dataset: Dataset, tmp_path: Path) -> None:
    def stop(_entry: object, done: int, _total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    options = ProtocolOptions(seeds=(0, 1), classes=("2", "4", "7"), steps=5)
    twice = study(MeanImage, type("Other", (MeanImage,), {}))
    with pytest.raises(KeyboardInterrupt):
        run_protocol(dataset, twice, tmp_path, options, processor="a processor", report=stop)
    path = tmp_path / "mnist.json"
    kept = msgspec.json.decode(path.read_bytes(), type=Results)
    assert len(kept.entries) == len(FITS) == 7
    written = run_protocol(dataset, twice, tmp_path, options, processor="another")
    assert len(FITS) == 12
    assert written.results.entries[:7] == kept.entries
    assert len({entry.key for entry in written.results.entries}) == 12
    assert written.results.commands == kept.commands
    run_protocol(dataset, twice, tmp_path, options, processor="another")
    assert len(FITS) == 12
    run(dataset, tmp_path, twice, classes=("2",), steps=6)
    assert len(FITS) == 14  # other settings are other runs
    page = written.markdown.read_text()
    assert page.count("\n## ") >= 3
    assert "processor: another" in page


def test_limits_draw_the_same_images_for_every_seed(dataset: Dataset, tmp_path: Path) -> None:
    results = run(dataset, tmp_path, study(), seeds=(0, 1), classes=("5",), train_limit=4, test_limit=2).results
    assert FITS == [4, 4]
    assert [entry.images for entry in results.entries] == [{"training": 4, "normal": 2, "anomalous": 18}] * 2
    frames, labels = draw(dataset.test, range(10), 2)
    again, _ = draw(dataset.test, range(10), 2)
    assert torch.equal(frames, again)
    assert np.bincount(labels).tolist() == [2] * 10
    whole = {frame.tobytes() for frame in dataset.test.frames}
    assert {frame.numpy().tobytes() for frame in frames} < whole


def test_a_failed_run_is_reported_and_stops_no_other(dataset: Dataset, tmp_path: Path) -> None:
    written = run(dataset, tmp_path, study(Fails, Diverges, MeanImage), classes=("0", "1"))
    failures = [entry.failure for entry in written.results.entries]
    assert failures == ["60 of 60 scores are not finite", "loss irec became nan", None] * 2
    page = written.markdown.read_text()
    assert "| 0 | 1 of 1 failed | 1 of 1 failed |" in page
    assert "- Diverges, 1, seed 0 failed: loss irec became nan" in page
    assert "| mean | — | — |" in page


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "holds no results"),
        (lambda text: text.replace(b'"schema_version": 1', b'"schema_version": 2'), "schema version 2"),
        (lambda text: text.replace(b'"fingerprint": "', b'"fingerprint": "0'), "data other than"),
        (lambda text: text.replace(b"distance from", b"nearness to"), "another recipe"),
        (lambda _text: b"[" * 100_000, "holds no results"),
    ],
)
def test_incompatible_results_are_kept_and_refused(
    dataset: Dataset, tmp_path: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = run(dataset, tmp_path, study(), classes=("0",)).json
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(DataError, match=message):
        run(dataset, tmp_path, study(), classes=("0",))
    assert path.read_bytes() == before


def test_two_runs_add_to_one_folder(dataset: Dataset, tmp_path: Path) -> None:
    """While one trains on its first class, the other runs: neither loses what the other found, nor runs it again."""

    class Meanwhile(MeanImage):
        def _fit(self, training: Training) -> None:
            if not FITS:
                super()._fit(training)
                run(dataset, tmp_path, study(type("Meanwhile", (MeanImage,), {})), classes=("0", "1"))
            super()._fit(training)

    results = run(dataset, tmp_path, study(Meanwhile), classes=("0", "1", "2")).results
    assert sorted(entry.normal_class for entry in results.entries) == ["0", "1", "2"]
    assert len(FITS) == 5  # 0 by both, once more by itself; 1 by the other; 2
    assert len(results.commands) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [({"classes": ("11",)}, "no class '11'"), ({"steps": 0}, "steps is 0"), ({"train_limit": 1}, "train_limit is 1")],
)
def test_invalid_options_are_refused(dataset: Dataset, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        run(dataset, tmp_path, study(), **options)
    assert not (tmp_path / "mnist.json").exists()


def test_histograms_count_every_score() -> None:
    rng = np.random.default_rng(0)
    normal, anomalous = rng.normal(0, 1, 500).astype(np.float32), np.append(rng.normal(3, 1, 500), 1e6).astype(np.float32)
    found = histogram(normal, anomalous)
    assert sum(found.normal) == 500
    assert sum(found.anomalous) == 501
    assert found.edges[-1] < 10  # one outlier does not flatten the rest
    flat = histogram(np.zeros(3, np.float32), np.zeros(2, np.float32))
    assert (sum(flat.normal), sum(flat.anomalous)) == (3, 2)


def test_unknown_detectors_are_refused() -> None:
    with pytest.raises(DataError, match=r"no detector 'magic': choose from .*lrdan"):
        columns.of_detectors(("magic",))


def test_the_ablation_adds_the_terms_in_turn() -> None:
    chosen = columns.of_losses().columns
    weights = [cast(Any, cast(Lrdan, make()).options.resolved_hyperparameters()).weights for make in chosen.values()]
    used = [{term for term in columns.TERMS if getattr(weight, term) > 0} for weight in weights]
    assert [len(terms) for terms in used] == [1, 2, 3, 4, 5, 5]
    assert all(low <= high for low, high in pairwise(used))
    assert [cast(Lrdan, make()).scorer for make in chosen.values()] == ["ae1"] * 5 + ["ae2"]


def test_the_readings_differ_only_in_the_dual_term() -> None:
    began, joint = (cast(Lrdan, make()) for make in columns.of_readings().columns.values())
    assert began.recipe.replace("read as began", "read as joint") == joint.recipe


@pytest.mark.parametrize(
    ("words", "stem", "expected"),
    [
        (["--detector", "lrdan"], "mnist", ["lrdan"]),
        (["--ablate"], "mnist-ablation", ["irec", "+adv", "+zrec", "+c", "+dual, AE1's score", "+dual"]),
        (["--dual-readings"], "mnist-dual-readings", ["began", "joint"]),
    ],
)
def test_the_command_records_how_to_repeat_it(
    tiny: Path, tmp_path: Path, words: list[str], stem: str, expected: list[str]
) -> None:
    output = tmp_path / "out"
    command = ["protocol", "mnist", "--root", str(tiny), *words, "--seed", "1", "--seed", "2", "--classes", "8,3"]
    command += ["--steps", "2", "--train-limit", "16", "--test-limit", "2", "--device", "cpu", "--output", str(output)]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    results = msgspec.json.decode((output / f"{stem}.json").read_bytes(), type=Results)
    assert results.commands == [" ".join(["lrdan-edge", *command])]
    assert list(dict.fromkeys(entry.column for entry in results.entries)) == expected
    assert {(entry.normal_class, entry.seed) for entry in results.entries} == {("3", 1), ("8", 1), ("3", 2), ("8", 2)}
    pictures = sorted(path.name for path in output.glob("*.png"))
    assert pictures == ([] if stem == "mnist" else [f"{stem}-3.png", f"{stem}-8.png"])
    for picture in pictures:
        assert cv2.imread(str(output / picture)) is not None
    assert ("Deep SVDD (published)" in (output / f"{stem}.md").read_text()) == (stem == "mnist")


def test_the_command_refuses_two_studies_at_once(tiny: Path) -> None:
    result = CliRunner().invoke(cli, ["protocol", "mnist", "--root", str(tiny), "--ablate", "--dual-readings"])
    assert result.exit_code == 2
    assert "choose one of" in result.output


def test_every_detector_can_be_made() -> None:
    for make in DETECTORS.values():
        assert callable(make().fit)

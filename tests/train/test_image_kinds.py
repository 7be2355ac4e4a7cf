"""Images as cameras give them: odd sizes, grey and colour, 8 bits and 10 to 16, the same in training and inspection."""

from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import torch
from fewer_exports import export_one_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from lrdan_edge.calibration.calibrate import calibrate
from lrdan_edge.data.images import load_frames, read_image, to_eight_bits
from lrdan_edge.errors import DataError, TrainingError
from lrdan_edge.export.graph import export
from lrdan_edge.model.deployed import load_network
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.sources import open_source
from lrdan_edge.runtime.verdict import Verdict
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.progress import Progress
from lrdan_edge.train.trainer import train
from lrdan_edge.train.training_data import load_training_data


class Notes(Progress):
    def __init__(self) -> None:
        self.notes = list[str]()

    def note(self, text: str) -> None:
        self.notes.append(text)


def score_of(verdict: Verdict) -> float:
    assert verdict.score is not None
    return verdict.score


def write_images(folder: Path, count: int, shape: tuple[int, ...], bits: int = 8, seed: int = 0) -> None:
    """Stripes that use all `bits`; more than 8 are put into 16."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    kind = np.uint8 if bits == 8 else np.uint16
    for index in range(count):
        wave = np.sin(np.arange(shape[1]) * 0.7 + rng.uniform(0, 6))[None, :].repeat(shape[0], 0)
        image = 0.5 + 0.4 * wave + rng.normal(0, 0.02, shape[:2])
        image[0, 0] = 1  # the largest value is there
        pixels = (np.clip(image, 0, 1) * (2**bits - 1)).round().astype(kind)
        colour = np.stack([pixels, pixels[::-1], pixels], 2) if len(shape) == 3 else pixels
        cv2.imwrite(str(folder / f"{index:02d}.png"), colour)


@pytest.mark.parametrize("recipe", ["restoration", "lrdan"])
@pytest.mark.parametrize(
    ("shape", "bits", "seen"),
    [((28, 28), 8, (28, 28, 1)), ((29, 45, 3), 8, (28, 44, 3)), ((512, 36), 14, None), ((61, 37, 3), 12, (60, 36, 3))],
)
def test_every_kind_of_image_trains(
    tmp_path: Path,
    recipe: Literal["restoration", "lrdan"],
    shape: tuple[int, ...],
    bits: int,
    seen: tuple[int, int, int] | None,
) -> None:
    write_images(tmp_path / "data", 6, shape, bits)
    size = None if seen else (shape[0], shape[1])
    options = TrainOptions(recipe=recipe, epochs=1, batch_size=4, device="cpu", image_size=size)
    bundle = train(tmp_path / "data", tmp_path / "bundle", options, Progress())
    frame_shape = seen or (*shape, 1)
    assert bundle.manifest.model.frame_shape == frame_shape
    assert bundle.manifest.preprocessing.bit_depth == (16 if bits == 8 else bits)
    frames = torch.from_numpy(load_frames([tmp_path / "data" / "00.png"], bundle.manifest.model.frame_shape, bits))
    score, heatmap = load_network(bundle)(frames)
    assert torch.isfinite(score).all()
    assert heatmap.shape == (1, *frame_shape[:2])


@pytest.mark.parametrize("shape", [(24, 40), (40, 600)])
def test_sizes_beyond_the_networks_are_refused(tmp_path: Path, shape: tuple[int, int]) -> None:
    write_images(tmp_path / "data", 5, shape)
    with pytest.raises(DataError, match=r"give .*image.size with"):
        load_training_data(tmp_path / "data", TrainOptions(image_size=shape))


@given(st.sampled_from([8, 10, 12, 14, 16]), st.integers(0, 2**16 - 1))
@settings(max_examples=200, deadline=None)
def test_16_bit_images_are_scaled_by_the_bits_they_use(bits: int, value: int) -> None:
    scaled = int(to_eight_bits(np.array([[value]], np.uint16), bits)[0, 0])
    assert abs(scaled - min(255.0, value * 255 / (2**bits - 1))) <= 0.5 + 1e-6
    assert to_eight_bits(np.array([[value % 256]], np.uint8), bits)[0, 0] == value % 256


def test_the_bit_depth_comes_from_all_images_or_the_option(tmp_path: Path) -> None:
    write_images(tmp_path / "data", 6, (32, 32), 10)
    deeper = np.full((32, 32), 3000, np.uint16)
    cv2.imwrite(str(tmp_path / "data" / "05.png"), deeper)
    material = load_training_data(tmp_path / "data", TrainOptions())
    assert material.bit_depth == 12
    assert (
        "12 bits of the 16-bit images are used, since their largest value is 3000 (you can set the bit depth)" in material.notes
    )
    given_depth = load_training_data(tmp_path / "data", TrainOptions(bit_depth=16))
    assert given_depth.bit_depth == 16
    assert not any("bits of" in note for note in given_depth.notes)
    expected = load_frames([tmp_path / "data" / name for name in material.training], (32, 32, 1), 12)
    assert np.array_equal(material.frames[:].numpy(), expected.transpose(0, 3, 1, 2))
    with pytest.raises(TrainingError, match="there is no bit depth 11: choose bit_depth from 8, 10, 12, 14, 16"):
        TrainOptions(bit_depth=11)  # type: ignore[arg-type]


def test_inspection_reads_16_bit_images_as_training_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "data" / "train" / "good", 12, (30, 33), 12)
    write_images(tmp_path / "data" / "calibration" / "good", 8, (30, 33), 12, seed=1)
    options = TrainOptions(recipe="lrdan", epochs=2, batch_size=6, device="cpu")
    bundle = train(tmp_path / "data", tmp_path / "bundle", options, Progress())
    export_one_graph(monkeypatch)
    export(bundle)
    calibrate(bundle, false_reject_rate=0.3, int8=False)
    folder = tmp_path / "data" / "calibration" / "good"
    with Inspector.open(bundle, backend="torch") as inspector:
        assert inspector.bit_depth == 12
        source = open_source(folder, bit_depth=inspector.bit_depth)
        from_source = [score_of(inspector.inspect([frame.image])[0]) for frame in source]
        deep: list[Any] = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(folder.iterdir())]
        assert deep[0].dtype == np.uint16
        from_arrays = [score_of(verdict) for verdict in inspector.inspect(deep)]
        from_batch = [score_of(verdict) for verdict in inspector.inspect(np.stack(deep)[..., None])]
        shallow = [score_of(verdict) for verdict in inspector.inspect([read_image(path) for path in sorted(folder.iterdir())])]
    calibrated = bundle.decision().graphs["fp32"].good_scores
    np.testing.assert_allclose(from_source, from_arrays, rtol=1e-5)
    np.testing.assert_allclose(from_batch, from_arrays, rtol=1e-5)
    np.testing.assert_allclose(sorted(from_arrays), calibrated, rtol=1e-3)
    assert not np.allclose(sorted(shallow), calibrated, rtol=0.05), "scaled by the whole range, the images are almost black"

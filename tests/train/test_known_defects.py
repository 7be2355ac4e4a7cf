"""A few known defects: read as documented, mixed in as documented, each loss against float64, and of use."""

from functools import partial
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from parts import Array, defective_image, exposed, good_image, surface, write
from specs import spec_for

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.cli.main import cli
from lrdan_edge.errors import DataError
from lrdan_edge.metrics import auroc
from lrdan_edge.model.deployed import load_network
from lrdan_edge.model.networks import Restorer
from lrdan_edge.train.known_defects import KnownDefects, inverse_error, read_known
from lrdan_edge.train.learner import LearnerOptions
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.painting.known import mix_known_defects, most_suspicious_loss, restoration_target
from lrdan_edge.train.painting.variation import vary
from lrdan_edge.train.progress import Progress
from lrdan_edge.train.recipes.restoration.hyperparameters import RestorationHyperparameters
from lrdan_edge.train.recipes.restoration.restoration import RestorationLearner
from lrdan_edge.train.trainer import train
from lrdan_edge.train.view import View

DEFAULTS = RestorationHyperparameters()


def read(path: Path) -> Array:
    image = cv2.imread(str(path))
    assert image is not None
    return image


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """Three defects, two with masks."""
    rng = np.random.default_rng(0)
    for index in range(3):
        image, mask = defective_image(rng)
        write(tmp_path / "known" / "blob" / f"{index}.png", image)
        if index < 2:
            write(tmp_path / "known" / "masks" / "blob" / f"{index}.png", mask)
    return tmp_path / "known"


def test_masks_are_found_and_resized(known: Path) -> None:
    found = read_known(known, spec_for(64, 48, 3))
    assert found.frames.shape == (3, 3, 64, 48)
    assert found.masks.shape == (3, 64, 48)
    assert [bool(mask.any()) for mask in found.masks] == [True, True, False]
    assert len(set(found.sha256)) == 3


def test_the_layout_of_mvtec_ad_is_supported(known: Path, tmp_path: Path) -> None:
    for source in known.rglob("*.png"):
        part = "ground_truth/blob" if "masks" in source.parts else "test/blob"
        write(tmp_path / "mvtec" / part / source.name, read(source))
    write(tmp_path / "mvtec/test/good/0.png", good_image(np.random.default_rng(0)))
    found, same = read_known(tmp_path / "mvtec", spec_for(32, 32, 1)), read_known(known, spec_for(32, 32, 1))
    assert torch.equal(found.frames, same.frames)
    assert torch.equal(found.masks, same.masks)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        read_known(tmp_path / "none", spec_for(32, 32, 1))
    write(tmp_path / "only/masks/0.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match="no image of a defect"):
        read_known(tmp_path / "only", spec_for(32, 32, 1))


def test_good_images_and_empty_masks_are_not_learnt_as_defects(known: Path, tmp_path: Path) -> None:
    """`known_defects=parts/test`, one folder too deep, used to learn test/good as defects."""
    write(tmp_path / "parts/test/good/0.png", good_image(np.random.default_rng(0)))
    write(tmp_path / "parts/test/blob/0.png", read(known / "blob/0.png"))
    with pytest.raises(DataError, match=r"good images, which would be learnt as defects: give \S+/parts as known_defects$"):
        read_known(tmp_path / "parts" / "test", spec_for(32, 32, 1))
    assert len(read_known(tmp_path / "parts", spec_for(32, 32, 1)).frames) == 1
    mask = known / "masks/blob/1.png"
    write(mask, np.zeros_like(cv2.imread(str(mask))))
    with pytest.raises(DataError, match=r"masks/blob/1\.png marks nothing"):
        read_known(known, spec_for(32, 32, 1))


def test_only_tiles_with_the_defect_are_used(tmp_path: Path) -> None:
    image, mask = np.full((64, 96), 50, np.uint8), np.zeros((64, 96), np.uint8)
    image[40:50, 10:20], mask[40:50, 10:20] = 200, 255
    write(tmp_path / "known/0.png", image)
    write(tmp_path / "known/masks/0.png", mask)
    spec = msgspec.structs.replace(spec_for(32, 32, 1), geometry=View(tiles=(2, 3), overlap=0).geometry((64, 96), (32, 32)))
    found = read_known(tmp_path / "known", spec)
    assert found.frames.shape == (1, 1, 32, 32)
    assert np.array_equal(found.frames[0, 0].numpy(), image[32:, :32])
    assert np.array_equal(found.masks[0].numpy() * 255, mask[32:, :32])
    elsewhere = View(region=(32, 0, 64, 64), tiles=(2, 2), overlap=0).geometry((64, 96), (32, 32))
    with pytest.raises(DataError, match="no defect in the region"):
        read_known(tmp_path / "known", msgspec.structs.replace(spec, geometry=elsewhere))
    (tmp_path / "known/masks/0.png").unlink()
    with pytest.raises(DataError, match=r"0\.png has no mask, and with tiles"):
        read_known(tmp_path / "known", spec)


def test_known_defects_change_no_other_random_draw() -> None:
    restorer = Restorer(spec_for(36, 36, 1, recipe="restoration"))
    frames = torch.randint(0, 256, (4, 1, 36, 36), dtype=torch.uint8)
    nothing = KnownDefects(torch.zeros(1, 1, 36, 36, dtype=torch.uint8), torch.zeros(1, 36, 36), [])
    without = RestorationLearner(restorer, DEFAULTS).prepare(frames, 0)
    with_some = RestorationLearner(restorer, DEFAULTS, LearnerOptions(known=nothing)).prepare(frames, 0)
    assert (len(without), len(with_some)) == (3, 5)
    assert all(torch.equal(part[0], same[0]) for part, same in zip(without, with_some, strict=False))


def test_a_mixed_batch_matches_its_definition(known: Path) -> None:
    found = read_known(known, spec_for(32, 32, 1))
    seen = {"known": 0, "unmarked": 0}
    for step in range(60):

        def chance(place: int, step: int = step) -> np.random.Generator:
            return np.random.default_rng((step, place))

        good = torch.rand(8, 1, 32, 32) * 0.1
        masks = torch.zeros(8, 1, 32, 32)
        mixed = mix_known_defects(
            found, good.clone(), good.clone(), masks, chance, partial(vary, hyperparameters=DEFAULTS), DEFAULTS
        )
        assert torch.equal(mixed.defective[0], good[0])
        assert mixed.defective.abs().max() <= 1
        for place in range(8):
            where = mixed.mask[place] > 0
            if not mixed.has_mask[place]:
                seen["unmarked"] += 1
                assert mixed.known[place]
                assert not where.any()
            elif mixed.known[place]:
                seen["known"] += 1
                inside = mixed.defective[place][where]  # the blob is the brightest there is, whatever the exposure
                assert inside.median() > mixed.defective[place][~where].median() + 0.3
    assert seen["known"] > 5
    assert seen["unmarked"] > 5
    restored = torch.rand(8, 1, 32, 32, requires_grad=True)
    torch.autograd.backward((restored - restoration_target(restored, mixed.good, mixed.mask, mixed.known)).abs().sum())
    assert restored.grad is not None
    unknown = mixed.known[:, None, None, None] & (mixed.mask > 0)
    assert (restored.grad[unknown] == 0).all()
    assert (restored.grad[~unknown] != 0).all()


def test_losses_match_a_float64_version_of_their_equations() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3, 1, 20, 20))
    top = np.sort(logits.reshape(3, -1), 1)[:, -30:].mean(1)
    assert float(most_suspicious_loss(torch.from_numpy(logits), 30)) == pytest.approx(np.log1p(np.exp(-top)).mean())
    assert float(most_suspicious_loss(torch.zeros(0, 1, 20, 20), 30)) == 0
    x, drawn = rng.normal(size=(2, 4, 3, 8, 8))
    where = (rng.random((4, 1, 8, 8)) < 0.3).astype(float)
    error = np.array([64 * (((x - drawn) ** 2).sum(1)[i] * where[i, 0]).sum() / where[i].sum() for i in range(4)])
    value = inverse_error(torch.tensor(5.0), *map(torch.from_numpy, (x, drawn, where)))
    assert float(value) == pytest.approx(25 * (1 / error).mean(), rel=1e-5)


def test_the_command_uses_known_defects_and_the_manifest_records_them(known: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for index in range(12):
        write(tmp_path / "good" / f"{index}.png", good_image(rng))
    words = ["train", str(tmp_path / "good"), "-b", str(tmp_path / "b"), "--epochs", "1", "--recipe", "restoration"]
    result = CliRunner().invoke(cli, [*words, "--known-defects", str(known), "--group-by", r"(\d+)\."])
    assert result.exit_code == 0, result.output
    stage = Bundle.open(tmp_path / "b").manifest.stages["train"]
    assert len(stage.results["known_defects"]) == 3
    assert f"--group-by '(\\d+)\\.' --known-defects {known}" in stage.command
    assert "known" in stage.results["losses"]


def ringed(rng: np.random.Generator, side: int = 48) -> tuple[Array, Array, Array]:
    """A smooth surface, the same with a faint ring, which no synthetic defect is like, and the ring's mask."""
    plain = exposed(0.4 * surface(rng, side), rng)
    ring = np.zeros(plain.shape, np.float32)
    place = tuple(int(value) for value in rng.integers(side // 4, 3 * side // 4, 2))
    cv2.circle(ring, place, side // 8, 1.0, 2, cv2.LINE_AA)
    return plain, np.clip(plain + 14 * ring, 0, 255).astype(np.uint8), np.where(ring > 0.3, 255, 0).astype(np.uint8)


@pytest.mark.slow
def test_ten_known_rings_improve_detection_of_rings(tmp_path: Path) -> None:
    gains = []
    for seed in (0, 1, 2):
        rng, folder = np.random.default_rng(seed), tmp_path / str(seed)
        for index in range(100):
            write(folder / "data" / f"{index}.png", ringed(rng)[0])
        for index in range(10):
            _, image, mask = ringed(rng)
            write(folder / "known" / f"{index}.png", image)
            if index < 8:
                write(folder / "known" / "masks" / f"{index}.png", mask)
        tests = np.stack([ringed(rng)[:2] for _ in range(80)])[..., None]
        areas = []
        for known in (None, folder / "known"):
            options = TrainOptions(recipe="restoration", epochs=24, seed=seed, known_defects=known)
            module = load_network(train(folder / "data", folder / f"bundle-{known is None}", options, Progress()))
            with torch.inference_mode():
                good, bad = (module(torch.from_numpy(tests[:, place].copy()))[0].tolist() for place in (0, 1))
            areas.append(auroc(good, bad))
        gains.append(areas[1] - areas[0])
    assert min(gains) > 0
    assert np.mean(gains) > 0.05


@pytest.mark.parametrize("recipe", ["restoration", "lrdan"])
def test_small_images_reconstruct_known_defects_worse(tmp_path: Path, recipe: str) -> None:
    """Deep SAD's term: the defects' error grows in units of the good images'."""
    rng = np.random.default_rng(0)
    good = [good_image(rng) for _ in range(48)]
    defects = [image.T.copy() for image in good[:12]]  # as easy to draw as the good ones
    for folder, images in (("data", good), ("known", defects)):
        for index, image in enumerate(images):
            write(tmp_path / folder / f"{index}.png", image)
    ratios = []
    for known in (None, tmp_path / "known"):
        options = TrainOptions(recipe=recipe, epochs=10, batch_size=8, known_defects=known)
        network = load_network(train(tmp_path / "data", tmp_path / f"bundle-{known is None}", options, Progress())).network
        errors = []
        for images in (good, defects):
            x = torch.from_numpy(np.stack(images))[:, None].float() / 127.5 - 1
            with torch.inference_mode():
                errors.append(float((x - network(x)[0]).square().mean()))
        ratios.append(errors[1] / errors[0])
    assert ratios[1] > 1.1 * ratios[0]

"""The scoring head against NumPy, and the invariances a deployed score must have."""

from typing import Any, Literal

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from specs import spec_for
from torch import Tensor

from lrdan_edge.bundle.spec import ModelSpec, Preprocessing, Scoring
from lrdan_edge.errors import BundleError
from lrdan_edge.model.deployed import DeployModule, ScoringHead, gaussian_kernel, smooth
from lrdan_edge.model.networks import Autoencoder

GREY = Preprocessing(colour="grey", resize="area", scale=2 / 255, offset=-1.0)


def head_for(
    spec: ModelSpec, *, pooling: Literal["max", "mean"] = "max", sigma: float = 1.5, normalise: bool = True
) -> ScoringHead:
    generator = torch.Generator().manual_seed(0)
    mean = torch.rand(spec.height, spec.width, generator=generator) * 0.1
    deviation = torch.rand(spec.height, spec.width, generator=generator) * 0.1
    return ScoringHead(spec, Scoring(normalise=normalise, smoothing_sigma=sigma, pooling=pooling), mean, deviation)


def deploy_module(channels: Literal[1, 3] = 1) -> DeployModule:
    torch.manual_seed(0)
    spec = spec_for(32, 36, channels)
    network = Autoencoder(spec)
    with torch.no_grad():
        for _ in range(3):  # running statistics that differ from any batch's
            network(torch.rand(8, channels, 32, 36) * 2 - 1)
    return DeployModule(network, head_for(spec), GREY, "error")


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("sigma", [0.0, 2.0])
@pytest.mark.parametrize("normalise", [True, False])
def test_scoring_head_matches_its_definition(pooling: Literal["max", "mean"], sigma: float, normalise: bool) -> None:
    spec = spec_for(32, 40, 3)
    head = head_for(spec, pooling=pooling, sigma=sigma, normalise=normalise)
    network = Autoencoder(spec).eval()
    x = torch.rand(2, 3, 32, 40) * 2 - 1
    with torch.inference_mode():
        score, heatmap = head(network.anomaly_map(x, "error"))
        reconstruction, _ = network(x)

    error = np.abs(x.numpy().astype(np.float64) - reconstruction.numpy()).mean(1)
    if normalise:
        error = (error - head.error_mean.numpy()[0]) / np.maximum(head.error_deviation.numpy()[0], 0.005)
    if sigma:
        kernel = gaussian_kernel(sigma, 32).numpy().astype(np.float64)
        radius = len(kernel) // 2
        padded = np.pad(error, ((0, 0), (radius, radius), (radius, radius)), mode="edge")
        rows = np.sum([weight * padded[:, index : index + 32] for index, weight in enumerate(kernel)], axis=0)
        error = np.sum([weight * rows[:, :, index : index + 40] for index, weight in enumerate(kernel)], axis=0)
    np.testing.assert_allclose(heatmap.numpy(), error, atol=1e-4)
    expected = error.max((1, 2)) if pooling == "max" else error.mean((1, 2))
    np.testing.assert_allclose(score.numpy(), expected, atol=1e-4)
    assert score.dtype == heatmap.dtype == torch.float32


@pytest.mark.parametrize("level", [-200.0, -8.0, 0.0, 30.0])
def test_the_area_term_is_the_log_of_the_marked_fraction(level: float) -> None:
    """In float64: heatmap = l + log(mean(1 / (1 + exp(−l))) + 1 / pixels), the mean over every fourth row and column."""
    spec = spec_for(32, 40, 1)
    scoring = Scoring(normalise=False, smoothing_sigma=0, pooling="max", source="defects", extent=True)
    head = ScoringHead(spec, scoring, torch.zeros(32, 40), torch.ones(32, 40))
    logits = torch.randn(3, 1, 32, 40, generator=torch.Generator().manual_seed(1)) * 3 + level
    score, heatmap = head(logits)
    odds = logits[:, 0].double().numpy()
    share = np.exp(-np.logaddexp(0, -odds))[:, 2::4, 2::4].mean((1, 2)) + 1 / (32 * 40)
    np.testing.assert_allclose(heatmap.numpy(), odds + np.log(share)[:, None, None], rtol=1e-5, atol=1e-4)
    assert torch.equal(score, heatmap.amax((1, 2)))
    assert score.isfinite().all()


@pytest.mark.parametrize("level", [-200.0, -8.0, 0.0, 30.0])
def test_only_the_heatmap_has_the_context_gain(level: float) -> None:
    """In float64: log(1 + 100 · mean of 1 / (1 + exp(−l))) of every fourth pixel in half the sides around 16 by 16 places, interpolated."""
    height, width = 36, 52
    spec = spec_for(height, width, 1)
    plain = Scoring(normalise=False, smoothing_sigma=0, pooling="max", source="defects", extent=True)
    zeros, ones = torch.zeros(height, width), torch.ones(height, width)
    logits = torch.randn(2, 1, height, width, generator=torch.Generator().manual_seed(1)) * 3 + level
    score, before = ScoringHead(spec, plain, zeros, ones)(logits)
    same, heatmap = ScoringHead(spec, msgspec.structs.replace(plain, nearby=True), zeros, ones)(logits)
    marked = np.exp(-np.logaddexp(0, -logits[:, 0].double().numpy()))
    at = [(np.arange(16) + 0.5) * side / 16 - 0.5 for side in (height, width)]
    gains = np.empty((2, 16, 16))
    for row, column in np.ndindex(16, 16):
        rows = [place for place in range(2, height, 4) if abs(place - at[0][row]) <= height / 4]
        columns = [place for place in range(2, width, 4) if abs(place - at[1][column]) <= width / 4]
        gains[:, row, column] = np.log1p(100 * marked[:, rows][:, :, columns].mean((1, 2)))
    expected = interp1d(at[0], gains, axis=1, bounds_error=False, fill_value=(gains[:, 0], gains[:, -1]))(np.arange(height))
    ends = expected[..., 0], expected[..., -1]
    expected = interp1d(at[1], expected, axis=2, bounds_error=False, fill_value=ends)(np.arange(width))
    np.testing.assert_allclose(heatmap.double() - before.double(), expected, rtol=1e-4, atol=2e-5)
    assert torch.equal(score, same)
    assert heatmap.isfinite().all()


def test_an_autoencoder_marks_no_defects() -> None:
    with pytest.raises(BundleError, match="marks none"):
        Autoencoder(spec_for(32, 32, 1)).anomaly_map(torch.zeros(1, 1, 32, 32), "defects")


@pytest.mark.parametrize("name", ["extent", "nearby"])
def test_options_for_log_odds_are_refused_for_errors(name: str) -> None:
    wrong: dict[str, Any] = {name: True}
    with pytest.raises(ValueError, match="probability"):
        Scoring(normalise=True, smoothing_sigma=1, pooling="max", **wrong)


@given(st.floats(0, 20), st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_smoothing_keeps_a_flat_map_flat(sigma: float, level: float) -> None:
    maps = torch.full((1, 1, 28, 32), level)
    torch.testing.assert_close(smooth(maps, gaussian_kernel(sigma, 28)), maps, atol=1e-5, rtol=1e-5)


MODULE = deploy_module()
FRAMES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (12, 32, 36, 1), dtype=np.uint8))
with torch.inference_mode():
    ALONE = torch.cat([MODULE(frame[None])[0] for frame in FRAMES])


@given(st.lists(st.integers(0, 11), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_score_depends_only_on_its_own_frame(indices: list[int]) -> None:
    with torch.inference_mode():
        score, heatmap = MODULE(FRAMES[indices])
    torch.testing.assert_close(score, ALONE[indices], rtol=1e-6, atol=1e-6 * ALONE.abs().max().item())
    torch.testing.assert_close(heatmap.amax((1, 2)), score, rtol=0, atol=0)


def test_half_precision_keeps_outputs_and_constants_in_float32() -> None:
    whole, half = deploy_module(3), deploy_module(3).half()
    frames = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, 32, 36, 3), dtype=np.uint8))
    with torch.inference_mode():
        expected, actual = whole(frames), half(frames)
    assert {parameter.dtype for parameter in half.network.parameters()} == {torch.float16}
    assert {buffer.dtype for buffer in half.head.buffers()} == {torch.float32}
    for one, other in zip(expected, actual, strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(other, one, rtol=2e-2, atol=2e-2)


def test_a_pixel_without_deviation_gives_a_finite_score() -> None:
    spec = spec_for(32, 32, 1)
    zeros = torch.zeros(32, 32)
    head = ScoringHead(spec, Scoring(normalise=True, smoothing_sigma=0, pooling="max"), zeros, zeros)
    score, _ = head(torch.full((1, 1, 32, 32), 0.01))
    assert score.item() == pytest.approx(0.01 / 0.005)


@pytest.mark.parametrize("bad", ["error_mean", "error_std"])
def test_constants_of_another_size_are_refused(bad: str) -> None:
    constants: dict[str, Tensor] = {"error_mean": torch.zeros(32, 32), "error_std": torch.zeros(32, 32)}
    constants[bad] = torch.zeros(32, 36)
    with pytest.raises(BundleError, match=bad):
        ScoringHead(spec_for(32, 32, 1), Scoring(normalise=True, smoothing_sigma=0, pooling="max"), **constants)

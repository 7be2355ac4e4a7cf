"""Deep SAD's equation against float64, and what labelled anomalies change."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrdan_edge.errors import DataError
from lrdan_edge.protocol.baselines.base import Training
from lrdan_edge.protocol.baselines.deep_sad import EPSILON, DeepSad, objective
from lrdan_edge.protocol.baselines.deep_svdd import DeepSvdd, distance

CPU = torch.device("cpu")


def frames(count: int, seed: int, *, turned: bool = False) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    stripes = (
        128 + 60 * np.sin(np.arange(28) * 0.7 + rng.uniform(0, 6, (count, 1, 1, 1))) + rng.normal(0, 10, (count, 1, 28, 28))
    )
    images = torch.from_numpy(np.clip(stripes, 0, 255).astype(np.uint8))
    return images.transpose(-1, -2).contiguous() if turned else images


@given(st.integers(1, 20), st.integers(0, 20), st.floats(0.1, 4), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_the_objective_is_the_papers_equation(n: int, m: int, eta: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes, centre = rng.normal(size=(n + m, 5)), rng.normal(size=5)
    squared = ((codes - centre) ** 2).sum(1)
    expected = squared[:n].sum() / (n + m) + eta / (n + m) * (1 / (squared[n:] + EPSILON)).sum()
    distances = distance(torch.from_numpy(codes), torch.from_numpy(centre))
    assert float(objective(distances, torch.arange(n + m) >= n, eta)) == pytest.approx(expected, rel=1e-12)


def test_without_labels_it_is_deep_svdds_objective() -> None:
    distances = torch.rand(16)
    assert objective(distances, torch.zeros(16, dtype=torch.bool)) == distances.mean()


def test_labelled_anomalies_are_pushed_away() -> None:
    good, known = frames(64, 0), frames(4, 1, turned=True)
    sad, svdd = DeepSad(0.05), DeepSvdd()
    sad.fit(Training(good=good, steps=60, seed=0, device=CPU, defects=known))
    svdd.fit(Training(good=good, steps=60, seed=0, device=CPU))
    others, bad = frames(32, 2), frames(32, 3, turned=True)

    def ratio(detector: DeepSad | DeepSvdd) -> float:
        return float(detector.score(bad).median() / detector.score(others).median())

    assert ratio(sad) > 1.3 * ratio(svdd)


def test_a_score_depends_only_on_its_image_and_the_seed() -> None:
    good, known = frames(24, 0), frames(3, 1, turned=True)
    first, second = DeepSad(0.1), DeepSad(0.1)
    for detector in (first, second):
        detector.fit(Training(good=good, steps=3, seed=5, device=CPU, defects=known))
    assert torch.equal(first.score(good), second.score(good))
    alone = torch.cat([first.score(frame[None]) for frame in good])
    torch.testing.assert_close(first.score(good), alone, rtol=1e-5, atol=1e-5)


def test_without_anomalies_the_error_names_deep_svdd() -> None:
    with pytest.raises(DataError, match="deep-svdd"):
        DeepSad(0.05).fit(Training(good=frames(8, 0), steps=1, seed=0, device=CPU))

"""Every loss against its equation, written again in float64 NumPy."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lrdan_edge.train.recipes.lrdan import losses
from lrdan_edge.train.recipes.lrdan.hyperparameters import LossWeights

Array = npt.NDArray[np.float64]
SHAPE = (3, 2, 5, 4)


def l1(difference: Array) -> float:
    return float(np.mean([np.abs(one).sum() for one in difference]))


def l2(difference: Array) -> float:
    return float(np.mean([np.sqrt((one**2).sum()) for one in difference]))


EQUATIONS: dict[str, Callable[[Array, Array], float]] = {
    "irec": lambda a, b: l1(a - b),
    "adv": lambda a, b: l2(a - b),
    "zrec": lambda a, b: l2(a - b),
    "girec": lambda a, b: l1(a - b),
    "direc": lambda a, b: l1(a - b),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_loss_is_its_equation(name: str) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=SHAPE), rng.normal(size=SHAPE)
    value = getattr(losses, name)(torch.from_numpy(a), torch.from_numpy(b))
    assert value.shape == ()
    assert value.item() == pytest.approx(EQUATIONS[name](a, b), rel=1e-9)


def test_compactness_is_its_equation() -> None:
    rng = np.random.default_rng(1)
    z, center = rng.normal(size=SHAPE), rng.normal(size=SHAPE[1:])
    expected = np.mean([((one - center) ** 2).sum() for one in z])
    assert losses.c(torch.from_numpy(z), torch.from_numpy(center)).item() == pytest.approx(expected, rel=1e-9)


def test_dual_is_its_equation() -> None:
    assert losses.dual(torch.tensor(3.0), torch.tensor(2.0), 0.4).item() == pytest.approx(3 - 0.4 * 2)


def test_discrimination_is_its_equation() -> None:
    rng = np.random.default_rng(2)
    real, fake = rng.normal(size=SHAPE), rng.normal(size=SHAPE)

    def sigmoid(v: Array) -> Array:
        return np.asarray(1 / (1 + np.exp(-v)))

    expected = (-np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean()) / 2
    assert losses.discrimination(torch.from_numpy(real), torch.from_numpy(fake)).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["adv", "zrec"])
def test_gradient_of_a_norm_is_finite_where_nothing_differs(name: str) -> None:
    a = torch.zeros(SHAPE)
    b = torch.zeros(SHAPE, requires_grad=True)
    torch.autograd.backward(getattr(losses, name)(a, b))
    assert b.grad is not None
    assert torch.isfinite(b.grad).all()


def test_adversarial_loss_does_not_reach_the_features_of_real_images() -> None:
    real, fake = torch.ones(SHAPE, requires_grad=True), torch.zeros(SHAPE, requires_grad=True)
    torch.autograd.backward(losses.adv(real, fake))
    assert real.grad is None
    assert fake.grad is not None


def test_weights_are_the_published_ones() -> None:
    assert LossWeights() == LossWeights(irec=1, adv=5, zrec=1, c=0.05, dual=1, k=0.4)

"""Who moves for what: the dual term's two readings, the balance of k, and the statistics AE2 is deployed with."""

from dataclasses import replace

import pytest
import torch
from specs import spec_for
from torch import nn

from lrdan_edge.train.recipes.lrdan import learner
from lrdan_edge.train.recipes.lrdan.hyperparameters import DualReading, LossWeights, LrdanHyperparameters
from lrdan_edge.train.recipes.lrdan.learner import AdversarialLearner, balanced_k, without_statistics
from lrdan_edge.train.recipes.lrdan.networks import AdversarialNetworks, Discriminator

NOTHING = LossWeights(irec=0, adv=0, zrec=0, c=0, dual=0, k=0.4)
ONLY_DUAL = replace(NOTHING, dual=1)


def moved(network: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())


def one_step(weights: LossWeights, reading: DualReading) -> tuple[dict[str, bool], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    networks = AdversarialNetworks(spec_for(32, 32, 1))
    before = {name: parameter.detach().clone() for name, parameter in networks.named_parameters()}
    hyperparameters = LrdanHyperparameters(weights=weights, dual_reading=reading)
    terms = AdversarialLearner(networks, hyperparameters).step(torch.rand(4, 1, 32, 32) * 2 - 1)
    parts = {
        name: {key.removeprefix(f"{name}."): value for key, value in before.items()} for name, _ in networks.named_children()
    }
    return {name: moved(part, parts[name]) for name, part in networks.named_children()}, terms


@pytest.mark.parametrize(
    ("term", "expected"),
    [("irec", {"ae1"}), ("adv", {"ae1"}), ("zrec", {"ae1", "network"}), ("c", {"ae1"}), ("dual", {"ae1", "network"})],
)
@pytest.mark.parametrize("reading", ["began", "joint"])
def test_each_term_moves_its_networks_and_the_discriminator_only_its_own(
    term: str, expected: set[str], reading: DualReading
) -> None:
    result, _ = one_step(replace(NOTHING, **{term: 1.0}), reading)
    assert {name for name in ("ae1", "network") if result[name]} == expected
    assert result["discriminator"]


def test_readings_differ_in_the_generators_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "balanced_k", lambda _girec, _direc, k: torch.tensor(k))
    gradients = {}
    readings: tuple[DualReading, ...] = ("began", "joint")
    for reading in readings:
        torch.manual_seed(0)
        networks = AdversarialNetworks(spec_for(32, 32, 1))
        hyperparameters = LrdanHyperparameters(weights=ONLY_DUAL, dual_reading=reading)
        AdversarialLearner(networks, hyperparameters).step(torch.rand(4, 1, 32, 32) * 2 - 1)
        gradients[reading] = [
            torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
            for network in (networks.ae1, networks.network)
        ]
    torch.testing.assert_close(gradients["joint"][0], -0.4 * gradients["began"][0], rtol=1e-3, atol=1e-3)  # G: −k·L_direc
    torch.testing.assert_close(gradients["joint"][1], gradients["began"][1])  # AE2: the same in both


@pytest.mark.parametrize(("girec", "direc", "expected"), [(1.0, 0.9, 0.4), (1.0, 1.0, 0.4), (1.0, 1.1, 0.0)])
def test_fakes_stop_counting_once_they_are_worse_than_images(girec: float, direc: float, expected: float) -> None:
    assert balanced_k(torch.tensor(girec), torch.tensor(direc), 0.4).item() == pytest.approx(expected)


def test_ae2_statistics_come_from_images_only() -> None:
    networks = AdversarialNetworks(spec_for(32, 32, 1))
    layer = next(layer for layer in networks.network.modules() if isinstance(layer, nn.BatchNorm2d))
    before = [buffer.clone() for buffer in (layer.running_mean, layer.running_var) if buffer is not None]
    with without_statistics(networks.network):
        networks.network(torch.rand(4, 1, 32, 32))
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert torch.equal(before[0], layer.running_mean)
    assert torch.equal(before[1], layer.running_var)
    assert layer.momentum == 0.1
    networks.network(torch.rand(4, 1, 32, 32))
    assert not torch.equal(before[0], layer.running_mean)


def test_total_is_the_weighted_sum() -> None:
    w = LossWeights()
    _, terms = one_step(w, "joint")
    dual = terms["girec"] - w.k * terms["direc"]
    expected = w.irec * terms["irec"] + w.adv * terms["adv"] + w.zrec * terms["zrec"] + w.c * terms["c"] + w.dual * dual
    torch.testing.assert_close(terms["total"], expected)


def test_discriminator_classifies_patches() -> None:
    spec = spec_for(64, 96, 3)
    logits, features = Discriminator(spec)(torch.zeros(2, 3, 64, 96))
    assert logits.shape == (2, 1, 8, 12)
    assert features.shape[0] == 2
    assert features.shape[2:] == logits.shape[2:]

"""Shapes for every size and decoder, and the sizes that are refused."""

from typing import Literal

import numpy as np
import pytest
import torch
from specs import spec_for
from torch import nn

from lrdan_edge.errors import DataError
from lrdan_edge.model.networks import Autoencoder, Marker, Restorer

SIZES = [(28, 28), (32, 32), (36, 100), (64, 64), (96, 96), (100, 28), (128, 192), (512, 28)]


@pytest.mark.parametrize("decoder", ["resize", "transposed"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_reconstruction_has_the_image_s_shape(
    size: tuple[int, int], channels: Literal[1, 3], decoder: Literal["resize", "transposed"]
) -> None:
    spec = spec_for(*size, channels, decoder=decoder)
    x = torch.rand(1, channels, *size) * 2 - 1
    network = Autoencoder(spec).eval()
    with torch.inference_mode():
        reconstruction, latent = network(x)
    assert reconstruction.shape == x.shape
    assert reconstruction.abs().max() <= 1
    block = 1 << spec.downsamplings
    grid = (1, 1) if max(size) <= 32 else (-(-size[0] // block), -(-size[1] // block))
    assert latent.shape == (1, spec.latent_channels, *grid)
    assert latent[0].numel() < x[0].numel()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [size for size in SIZES if max(size) > 32], ids=str)
def test_restorer_starts_as_the_identity_and_marks_every_pixel(size: tuple[int, int], channels: Literal[1, 3]) -> None:
    spec = spec_for(*size, channels, recipe="restoration")
    x = torch.randn(2, channels, *size)
    with torch.inference_mode():
        restored, logits = Restorer(spec).eval()(x)
    torch.testing.assert_close(restored, x, rtol=0, atol=0)
    assert logits.shape == (2, 1, *size)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(64, 64), (36, 100), (100, 132)], ids=str)
def test_marks_are_block_means_and_the_marker_gives_the_same(size: tuple[int, int], channels: Literal[1, 3]) -> None:
    torch.manual_seed(0)
    spec = spec_for(*size, channels, recipe="restoration")
    restorer = Restorer(spec)
    torch.nn.init.normal_(restorer.head.weight)  # the four pixels of a place differ
    assert restorer.head.bias is not None
    torch.nn.init.normal_(restorer.head.bias)
    x = torch.randn(2, channels, *size)
    with torch.inference_mode():
        restorer(x)  # running statistics
        log_odds = restorer.eval()(x)[1].double().numpy()
        marks, lean = restorer.marks(x), Marker(restorer).marks(x)
    blocks = log_odds.reshape(2, 1, size[0] // 2, 2, size[1] // 2, 2).mean((3, 5))
    expected = blocks.repeat(2, axis=2).repeat(2, axis=3)
    np.testing.assert_allclose(marks.numpy(), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(lean.numpy(), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_largest_image() -> None:
    spec = spec_for(512, 512, 3)
    with torch.inference_mode():
        reconstruction, _ = Autoencoder(spec).eval()(torch.zeros(1, 3, 512, 512))
    assert reconstruction.shape == (1, 3, 512, 512)


@pytest.mark.parametrize(("size", "nearest"), [((24, 64), "28"), ((64, 516), "512"), ((30, 64), "32"), ((64, 65), "64")])
def test_unsupported_size_names_the_nearest_one(size: tuple[int, int], nearest: str) -> None:
    with pytest.raises(DataError, match=rf"image_size with a .* of {nearest}$"):
        spec_for(*size, 1)


@pytest.mark.parametrize("decoder", ["resize", "transposed"])
def test_resize_decoder_has_no_deconvolution(decoder: Literal["resize", "transposed"]) -> None:
    kinds = {type(layer) for layer in Autoencoder(spec_for(64, 64, 1, decoder=decoder)).modules()}
    assert (nn.ConvTranspose2d in kinds) is (decoder == "transposed")


def test_initialisation_is_seeded_and_applied() -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(3)
        networks.append(Autoencoder(spec_for(32, 32, 1)))
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    weight = networks[0].encoder[3].weight  # its fan-in is 16 maps of 4x4
    assert isinstance(weight, torch.Tensor)
    assert weight.std().item() == pytest.approx((2 / (1 + 0.2**2) / (16 * 16)) ** 0.5, rel=0.05)

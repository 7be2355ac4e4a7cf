"""The backbone against the published package: architecture, padding, colours, and where its weights come from."""

import importlib
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from published import oracle, published_file
from safetensors.torch import save_file
from skimage import data as photographs
from torch import Tensor, nn

from lrdan_edge.errors import MissingExtraError, TrainingError
from lrdan_edge.model.backbone import OFFSET, SCALE, STRIDES, EfficientNetLite, block_shapes, feature_channels
from lrdan_edge.model.folding import fold_batch_norm
from lrdan_edge.model.pretrained import PUBLISHED, load_pretrained, variant_of

VARIANTS = [*PUBLISHED]
SIZES = [(64, 96), (100, 132), (28, 28), (97, 61)]


def oracle_features(network: Any, rgb: Tensor, variant: str) -> list[Tensor]:
    """The output of the last block at each stride, of grey levels [N, 3, H, W]."""
    x = network._swish(network._bn0(network._conv_stem((rgb - 127) / 128)))
    found: dict[int, Tensor] = {}
    for block, shape in zip(network._blocks, block_shapes(variant), strict=False):
        x = block(x)
        found[shape.total_stride] = x
    return [found[stride] for stride in STRIDES]


def photograph(size: tuple[int, int]) -> Tensor:
    """A photograph, float32 [1, 3, H, W] in [0, 255], red first."""
    astronaut: Any = photographs.astronaut  # has no types
    part = np.ascontiguousarray(astronaut()[: size[0], 100 : 100 + size[1]])
    return torch.from_numpy(part).permute(2, 0, 1)[None].float()


def backbone(variant: str, channels: Literal[1, 3]) -> EfficientNetLite:
    network = EfficientNetLite(variant, channels)
    load_pretrained(variant).load_into(network)
    return network


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_are_those_of_the_published_network(variant: str) -> None:
    ours, theirs = backbone(variant, 3), oracle(variant)
    for size in SIZES:
        rgb = photograph(size)
        with torch.inference_mode():
            actual = ours(rgb.flip(1) * SCALE + OFFSET)
            expected = oracle_features(theirs, rgb, variant)
        for stride, one, other in zip(STRIDES, actual, expected, strict=True):
            assert one.shape[2:] == (-(-size[0] // stride), -(-size[1] // stride))
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
        assert [one.shape[1] for one in actual] == feature_channels(variant)


def test_a_grey_image_gives_the_features_of_the_same_image_in_colour() -> None:
    grey = photograph((60, 84)).mean(1, keepdim=True).round() * SCALE + OFFSET
    with torch.inference_mode():
        one, other = backbone("efficientnet-lite0", 1)(grey), backbone("efficientnet-lite0", 3)(grey.expand(-1, 3, -1, -1))
    for grey_map, colour_map in zip(one, other, strict=True):
        torch.testing.assert_close(grey_map, colour_map, rtol=1e-4, atol=1e-3)


def test_only_the_blocks_that_are_needed_exist() -> None:
    whole, part = EfficientNetLite("efficientnet-lite0", 3), EfficientNetLite("efficientnet-lite0", 3, (4, 8))
    assert [len(whole.blocks), len(part.blocks)] == [16, 5]
    load_pretrained("efficientnet-lite0").load_into(part)
    assert [tuple(map_.shape[1:]) for map_ in part(torch.zeros(1, 3, 32, 32))] == [(24, 8, 8), (40, 4, 4)]


def test_it_is_frozen() -> None:
    network = nn.ModuleList([EfficientNetLite("efficientnet-lite0", 1, (8,))]).train()
    assert not any(module.training for module in network[0].modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_batch_normalisation_folds_into_every_convolution() -> None:
    network = backbone("efficientnet-lite0", 3)
    x = photograph((64, 64)) * SCALE + OFFSET
    with torch.inference_mode():
        before = network(x)
        fold_batch_norm(network)
        after = network(x)
    assert not [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def timm_names(tensors: dict[str, Tensor], variant: str) -> dict[str, Tensor]:
    """The published weights by timm's names."""
    blocks: list[tuple[int, int]] = []
    for shape in block_shapes(variant):
        starts = not blocks or shape.stride > 1 or shape.inputs != shape.outputs
        blocks.append((blocks[-1][0] + 1 if blocks else 0, 0) if starts else (blocks[-1][0], blocks[-1][1] + 1))
    layers = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
    }
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    found = {}
    for name, tensor in tensors.items():
        parts = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        if parts and int(parts[1]) < len(blocks):
            stage, block = blocks[int(parts[1])]
            layer = (first if stage == 0 else layers | {"_bn2": "bn3"})[parts[2]]
            found[f"blocks.{stage}.{block}.{layer}.{parts[3]}"] = tensor
        elif name.startswith(("_conv_stem", "_bn0")):
            found[name.replace("_bn0", "bn1").replace("_conv_stem", "conv_stem")] = tensor
    return found


@pytest.mark.parametrize("names", ["published", "timm"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_local_file_gives_the_same_weights(variant: str, names: str, tmp_path: Path) -> None:
    tensors = torch.load(published_file(variant), weights_only=True)
    path = tmp_path / "mine.safetensors"
    save_file(
        {
            name: tensor.contiguous()
            for name, tensor in (tensors if names == "published" else timm_names(tensors, variant)).items()
        },
        path,
    )
    local, package = load_pretrained(str(path)), load_pretrained(variant)
    assert (local.variant, local.name, variant_of(str(path))) == (variant, "mine.safetensors", variant)
    assert len(local.sha256) == 64
    assert local.weights.keys() == package.weights.keys()
    assert all(torch.equal(local.weights[name], package.weights[name]) for name in local.weights)


def test_weights_of_timm_are_used_by_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = timm_names(torch.load(published_file("efficientnet-lite0"), weights_only=True), "efficientnet-lite0")

    class Network:
        def state_dict(self) -> dict[str, Tensor]:
            return tensors

    class Timm:
        @staticmethod
        def create_model(name: str, *, pretrained: bool) -> Network:
            assert pretrained
            if name != "tf_efficientnet_lite0.in1k":
                raise RuntimeError(f"Unknown model ({name})")
            return Network()

    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: Timm if name == "timm" else real(name))
    assert variant_of("timm/tf_efficientnet_lite0.in1k") == "efficientnet-lite0"
    assert torch.equal(
        load_pretrained("timm/tf_efficientnet_lite0.in1k").weights["stem.conv.weight"], tensors["conv_stem.weight"]
    )
    with pytest.raises(TrainingError, match=r"timm gives no weights for timm/tf_efficientnet_lite1 .*Unknown model"):
        load_pretrained("timm/tf_efficientnet_lite1")
    with pytest.raises(TrainingError, match="resnet50 is not an EfficientNet-Lite"):
        variant_of("timm/resnet50")


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"lrdan-edge\[train\]"):
        load_pretrained("efficientnet-lite0")
    with pytest.raises(MissingExtraError, match=r"lrdan-edge\[backbones\]"):
        load_pretrained("efficientnet-lite2")
    with pytest.raises(TrainingError, match="needs timm, which is not installed"):
        load_pretrained("timm/tf_efficientnet_lite0")


def test_other_damaged_and_changed_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match="no backbone 'resnet18'"):
        load_pretrained("resnet18")
    with pytest.raises(TrainingError, match=r"cannot read .*No such file"):
        load_pretrained(str(tmp_path / "none.safetensors"))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\xff" * 100)
    with pytest.raises(TrainingError, match="is not a safetensors file"):
        load_pretrained(str(damaged))
    other = tmp_path / "other.safetensors"
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, other)
    with pytest.raises(TrainingError, match="does not have the weights"):
        load_pretrained(str(other))
    broken = tmp_path / "broken.safetensors"
    tensors = torch.load(published_file("efficientnet-lite0"), weights_only=True)
    tensors["_conv_stem.weight"][0] = torch.nan
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, broken)
    with pytest.raises(TrainingError, match=r"not finite \(stem.conv.weight\)"):
        load_pretrained(str(broken))
    monkeypatch.setitem(PUBLISHED, "efficientnet-lite0", ("0", "train", "0" * 64))
    with pytest.raises(TrainingError, match="its sha256 is 57934"):
        load_pretrained("efficientnet-lite0")

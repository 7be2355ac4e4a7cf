"""What users install: one import name, no torch."""

from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement


def test_the_base_package_asks_for_nothing_heavy() -> None:
    base = {Requirement(text).name for text in requires("lrdan-edge") or [] if not Requirement(text).marker}
    assert base == {"click", "msgspec", "numpy", "onnxruntime", "opencv-python-headless", "rich"}


@pytest.mark.parametrize("extra", ["train", "tensorrt", "openvino", "demo", "dev"])
def test_the_extras_exist(extra: str) -> None:
    parsed = [Requirement(text) for text in requires("lrdan-edge") or []]
    assert any(one.marker and one.marker.evaluate({"extra": extra}) for one in parsed)

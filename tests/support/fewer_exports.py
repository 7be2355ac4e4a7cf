"""An export takes seconds: where a test is not about the exporter, it need not write every graph anew."""

from functools import cache

import onnx
import pytest
import torch

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.names import RECONSTRUCTION
from lrdan_edge.data.images import Frame
from lrdan_edge.export import graph as exporting

SCORING = ("score", "heatmap")


def keep_registry() -> None:
    """Have PyTorch's exporter read its list of operators once a process: it takes a second, and nothing here changes it."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        return  # this PyTorch keeps it elsewhere
    if not hasattr(ONNXRegistry.from_torchlib, "cache_info"):
        ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))  # type: ignore[method-assign]


def export_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter writes fp32 alone; that graph stands for fp16 and for the reconstruction too."""
    keep_registry()
    written = list[bytes]()
    real = exporting.to_onnx

    def to_onnx(module: torch.nn.Module, frames: Frame, outputs: tuple[str, ...] = SCORING) -> onnx.ModelProto:
        if not written:
            written.append(real(module, frames, outputs).SerializeToString())
        return onnx.load_from_string(written[0])

    monkeypatch.setattr(exporting, "to_onnx", to_onnx)


def export_as_before(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter gives the graphs that it wrote of this bundle's weights before."""
    whole, half = (bundle.graph(precision).read_bytes() for precision in exporting.GRAPHS)
    explaining = bundle.file(RECONSTRUCTION, "lrdan-edge export").read_bytes()

    def to_onnx(module: torch.nn.Module, _frames: Frame, outputs: tuple[str, ...] = SCORING) -> onnx.ModelProto:
        scoring = half if any(one.dtype == torch.float16 for one in module.parameters()) else whole
        return onnx.load_from_string(scoring if outputs == SCORING else explaining)

    monkeypatch.setattr(exporting, "to_onnx", to_onnx)

"""A stranger's graph cannot make a runtime read other files."""

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from strangers import new_bundle

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.names import RECONSTRUCTION
from lrdan_edge.bundle.self_contained import require_self_contained
from lrdan_edge.errors import BundleError

SECRET = b"0123456789abcdef"


def reading_graph(secret: Path) -> bytes:
    """A valid graph whose output is the bytes of the file `secret`."""
    held = TensorProto(name="held", data_type=TensorProto.UINT8, dims=[len(SECRET)], data_location=TensorProto.EXTERNAL)
    held.external_data.add(key="location", value=str(secret))
    graph = helper.make_graph(
        [helper.make_node("Identity", ["held"], ["out"])],
        "graph",
        [],
        [helper.make_tensor_value_info("out", TensorProto.UINT8, [len(SECRET)])],
        [held],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def stranger(folder: Path, name: str, graph: bytes) -> Bundle:
    """A bundle whose manifest vouches for a stranger's graph."""
    bundle = new_bundle(folder)
    with bundle.stage("export", command="lrdan-edge export") as stage:
        stage.path(name).write_bytes(graph)
    return Bundle.open(folder)


def test_a_runtime_would_read_the_file(tmp_path: Path) -> None:
    """The danger is real: without the check, ONNX Runtime gives the file away, although it gets only bytes."""
    (tmp_path / "secret").write_bytes(SECRET)
    try:
        session = ort.InferenceSession(reading_graph(tmp_path / "secret"), providers=["CPUExecutionProvider"])
    except Exception as error:  # a later version may refuse by itself
        pytest.skip(f"ONNX Runtime {ort.__version__} refuses: {error}")
    assert np.asarray(session.run(None, {})[0]).tobytes() == SECRET


@pytest.mark.parametrize(
    "name", ["model.fp32.onnx", "model.fp16.onnx", "model.int8.onnx", "model.int8.cpu.onnx", RECONSTRUCTION]
)
@pytest.mark.parametrize("way", ["file", "read"])
def test_a_graph_with_external_data_is_refused(tmp_path: Path, name: str, way: str) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    bundle = stranger(tmp_path / "bundle", name, reading_graph(tmp_path / "secret"))
    with pytest.raises(BundleError, match="not self-contained"):
        getattr(bundle, way)(name, Command("export"))


def test_external_data_is_found_wherever_it_is(tmp_path: Path) -> None:
    model = onnx.load_from_string(reading_graph(tmp_path))
    held = model.graph.initializer.pop()
    inner = helper.make_graph([helper.make_node("Constant", [], ["out"], value=held)], "branch", [], [])
    model.graph.node[0].CopyFrom(helper.make_node("If", ["condition"], ["out"], then_branch=inner, else_branch=inner))
    with pytest.raises(BundleError, match="location"):
        require_self_contained(model.SerializeToString(), tmp_path)


@pytest.mark.parametrize("data", [b"", b"<?xml version='1.0'?><net/>", b"\x20\0\0\0ORTM", b"\n\x04"])
def test_other_formats_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BundleError, match="not an ONNX graph"):
        require_self_contained(data, tmp_path)


def test_a_node_with_a_compiled_graph_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("EPContext", [], ["out"], domain="com.microsoft", ep_cache_context="/etc/passwd")
    model = helper.make_model(helper.make_graph([node], "graph", [], []))
    with pytest.raises(BundleError, match="EPContext"):
        require_self_contained(model.SerializeToString(), tmp_path)


def test_the_manifest_vouches_for_the_bytes(tmp_path: Path) -> None:
    """What the tests above rely on: the stranger's manifest is consistent, so only the check stands in the way."""
    graph = reading_graph(tmp_path)
    bundle = stranger(tmp_path / "bundle", RECONSTRUCTION, graph)
    assert bundle.manifest.files[RECONSTRUCTION].sha256 == hashlib.sha256(graph).hexdigest()
    assert msgspec.to_builtins(bundle.manifest.files[RECONSTRUCTION])["bytes"] == len(graph)

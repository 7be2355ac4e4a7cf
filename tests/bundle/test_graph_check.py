"""A stranger's graph cannot make a runtime read other files, loop, or make room for sizes that nothing else in the bundle has."""

import hashlib
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from deploy import PARSED
from onnx import TensorProto, helper, numpy_helper
from parts import Line
from strangers import new_bundle

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.graph_check import OPERATORS, check_graph, require_shapes
from lrdan_edge.bundle.manifest import FileRecord, manifest_to_json
from lrdan_edge.bundle.names import RECONSTRUCTION
from lrdan_edge.cli.main import cli
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
        check_graph(model.SerializeToString(), tmp_path)


@pytest.mark.parametrize("data", [b"", b"<?xml version='1.0'?><net/>", b"\x20\0\0\0ORTM", b"\n\x04"])
def test_other_formats_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BundleError, match="not an ONNX graph"):
        check_graph(data, tmp_path)


def test_a_node_with_a_compiled_graph_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("EPContext", [], ["out"], domain="com.microsoft", ep_cache_context="/etc/passwd")
    model = helper.make_model(helper.make_graph([node], "graph", [], []))
    with pytest.raises(BundleError, match="EPContext"):
        check_graph(model.SerializeToString(), tmp_path)


def test_the_manifest_vouches_for_the_bytes(tmp_path: Path) -> None:
    """What the tests above rely on: the stranger's manifest is consistent, so only the check stands in the way."""
    graph = reading_graph(tmp_path)
    bundle = stranger(tmp_path / "bundle", RECONSTRUCTION, graph)
    assert bundle.manifest.files[RECONSTRUCTION].sha256 == hashlib.sha256(graph).hexdigest()
    assert msgspec.to_builtins(bundle.manifest.files[RECONSTRUCTION])["bytes"] == len(graph)


REFUSED_OPERATORS = [
    "If",
    "Loop",
    "Scan",
    "SequenceMap",
    "Constant",
    "Shape",
    "Expand",
    "Tile",
    "ConstantOfShape",
    "StringConcat",
]


def graph_of(*nodes: onnx.NodeProto, held: Sequence[TensorProto] = (), size: int = 32) -> onnx.ModelProto:
    """A model with a deploy graph's ports."""
    ports = [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["n", size, size, 1])]
    outputs = [
        helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"]),
        helper.make_tensor_value_info("heatmap", TensorProto.FLOAT, ["n", size, size]),
    ]
    graph = helper.make_graph(list(nodes), "graph", ports, outputs, list(held))
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model


def inner() -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "inner", [], [])


def constant(name: str, values: Sequence[float], kind: type = np.int64) -> TensorProto:
    return numpy_helper.from_array(np.array(values, kind), name)


def with_function() -> onnx.ModelProto:
    model = graph_of(helper.make_node("Mine", ["frames"], ["score"], domain="own"))
    model.opset_import.append(helper.make_opsetid("own", 1))
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("own", "Mine", ["x"], ["y"], body, [helper.make_opsetid("", 18)]))
    return model


def shadowing_function() -> onnx.ModelProto:
    model = graph_of(helper.make_node("Relu", ["frames"], ["score"]))
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("", "Relu", ["x"], ["y"], body, [helper.make_opsetid("", 18)]))
    return model


def with_training() -> onnx.ModelProto:
    model = graph_of()
    model.training_info.add().initialization.CopyFrom(inner())
    return model


def with_sparse() -> onnx.ModelProto:
    model = graph_of()
    model.graph.sparse_initializer.add().dims.append(1 << 40)
    return model


def without_values() -> onnx.ModelProto:
    return graph_of(held=[TensorProto(name="held", data_type=TensorProto.FLOAT, dims=[100_000, 100_000])])


def of_strings() -> onnx.ModelProto:
    return graph_of(held=[TensorProto(name="held", data_type=TensorProto.STRING, dims=[1], string_data=[b"x"])])


def shape_from_values() -> onnx.ModelProto:
    return graph_of(helper.make_node("Reshape", ["frames", "computed"], ["score"]))


def replaced_constant() -> onnx.ModelProto:
    nodes = helper.make_node("Cast", ["frames"], ["shape"], to=7), helper.make_node("Reshape", ["frames", "shape"], ["score"])
    return graph_of(*nodes, held=[constant("shape", [1, -1])])


def resized_to(sizes: list[float], kind: type = np.int64) -> onnx.ModelProto:
    names = ["frames", "", "", "sizes"] if kind is np.int64 else ["frames", "", "sizes"]
    return graph_of(helper.make_node("Resize", names, ["score"]), held=[constant("sizes", sizes, kind)])


def padded() -> onnx.ModelProto:
    return graph_of(helper.make_node("Pad", ["frames", "pads"], ["score"]), held=[constant("pads", [0, 1 << 20, 0, 1 << 20])])


def old_opset() -> onnx.ModelProto:
    model = graph_of()
    model.opset_import[0].version = 9
    return model


STRANGE: dict[str, Callable[[], onnx.ModelProto]] = {
    "node of another domain": lambda: graph_of(helper.make_node("FusedConv", ["frames"], ["score"], domain="com.microsoft")),
    "graph in an attribute": lambda: graph_of(helper.make_node("Relu", ["frames"], ["score"], body=inner())),
    "tensor in an attribute": lambda: graph_of(helper.make_node("Relu", ["frames"], ["score"], value=constant("x", [1]))),
    "function": with_function,
    "function in place of an operator": shadowing_function,
    "training": with_training,
    "sparse constant": with_sparse,
    "constant without values": without_values,
    "strings": of_strings,
    "computed shape": shape_from_values,
    "computed over a constant": replaced_constant,
    "huge size": lambda: resized_to([1, 1, 100_000, 100_000]),
    "huge factor": lambda: resized_to([1, 1, 1e6, 1e6], np.float32),
    "factor that is not a number": lambda: resized_to([1, 1, float("nan"), 1], np.float32),
    "huge padding": padded,
    "huge frames": lambda: graph_of(size=100_000),
    "old opset": old_opset,
    **{name: partial(lambda name: graph_of(helper.make_node(name, ["frames"], ["score"])), name) for name in REFUSED_OPERATORS},
}


@pytest.mark.parametrize("make", STRANGE.values(), ids=STRANGE)
def test_what_lrdan_edge_does_not_write_is_refused(tmp_path: Path, make: Callable[[], onnx.ModelProto]) -> None:
    data = make().SerializeToString()
    bundle = stranger(tmp_path / "bundle", "model.fp32.onnx", data)
    for use in (bundle.read_graph, bundle.read_processor_graph, bundle.graph):
        with pytest.raises(
            BundleError, match=r"model\.fp32\.onnx is not a graph of lrdan-edge: .*: use a bundle from a source"
        ):
            use("fp32")


def test_no_command_gives_a_strange_graph_to_a_runtime(own_line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stranger's manifest, decision and golden frames are those of a real bundle."""
    bundle = Bundle.open(own_line.bundle)
    records = bundle.manifest.stages
    for name in [name for name in bundle.manifest.files if name.endswith(".onnx")]:
        data = graph_of(helper.make_node("Loop", ["frames"], ["score"], body=inner())).SerializeToString()
        (bundle.path / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        bundle.manifest.files[name] = FileRecord(digest, len(data))
        for record in records.values():
            record.inputs.update({name: digest} if name in record.inputs else {})
    (bundle.path / "manifest.json").write_bytes(manifest_to_json(bundle.manifest))
    monkeypatch.setattr(ort, "InferenceSession", lambda *_, **__: pytest.fail("a runtime got a strange graph"))
    image = next((own_line.data / "test" / "blob").iterdir())
    page = str(tmp_path / "page.html")
    commands: list[list[str]] = [
        ["run", str(own_line.data / "test"), "--backend", "onnxruntime"],
        ["run", str(own_line.data / "test"), "--backend", "openvino"],
        ["evaluate", str(own_line.data), "--backend", "onnxruntime"],
        ["explain", str(image), "--output", page],
        ["build-engine", "--int8", "--target", "onnxruntime"],
        ["build-engine", "--int8", "--target", "openvino"],
        ["build-engine", "--fp16"],
        ["calibrate"],
        ["calibrate", "--decision-only"],
        ["bench", "--seconds", "0.1", "--rounds", "1"],
    ]
    for words in commands:
        result = CliRunner().invoke(cli, [*words, "-b", str(bundle.path)])
        if words == ["bench", "--seconds", "0.1", "--rounds", "1"]:
            continue  # measures the backends that open, here PyTorch's
        assert result.exit_code == 1, (words, result.output)
        assert "is not a graph of lrdan-edge" in " ".join(result.output.split()), (words, result.output)


def test_every_graph_of_a_line_is_accepted_in_milliseconds(line: Line) -> None:
    bundle = Bundle.open(line.bundle)
    started = time.perf_counter()
    names = [name for name in bundle.manifest.files if name.endswith(".onnx")]
    for name in names:
        check_graph((bundle.path / name).read_bytes(), bundle.path / name)
    assert {"model.fp32.onnx", "model.fp16.onnx", "model.int8.onnx", "model.int8.cpu.onnx", RECONSTRUCTION} == set(names)
    assert (time.perf_counter() - started) / len(names) < 0.1, "typically 3 ms"


def test_the_operators_of_deploy_graphs_are_accepted() -> None:
    """Those that the tests of the exporter allow."""
    assert PARSED <= OPERATORS
    assert {"AveragePool", "Gather", "ReduceMax", "ReduceSum", "MatMul", "Sqrt", "Max"} <= OPERATORS
    assert not {"If", "Loop", "Scan", "Identity", "Shape", *REFUSED_OPERATORS} & OPERATORS


def test_sizes_that_contradict_the_manifest_are_refused(tmp_path: Path) -> None:
    data = graph_of(size=64).SerializeToString()
    bundle = stranger(tmp_path / "bundle", "model.fp32.onnx", data)
    with pytest.raises(BundleError, match=r"has the sizes .*64.* the manifest says .*32"):
        bundle.read_graph("fp32")
    require_shapes(check_graph(data, tmp_path), tmp_path, (64, 64, 1), (64, 64))


def test_damaged_graphs_give_one_clear_error(tmp_path: Path) -> None:
    """Whatever the bytes are, nothing but the bundle's error comes out, and soon."""
    nodes = helper.make_node("Conv", ["frames", "w"], ["score"], pads=[1, 1]), helper.make_node("Relu", ["score"], ["heatmap"])
    whole = graph_of(*nodes, held=[constant("w", list(range(64)), np.float32)]).SerializeToString()
    check_graph(whole, tmp_path)
    rng = random.Random(1)
    for _ in range(3000):
        damaged = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with suppress(BundleError):
            check_graph(bytes(damaged[: rng.randrange(1, len(damaged) + 1)]), tmp_path)

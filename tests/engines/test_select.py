from importlib.util import find_spec

import pytest

from lrdan_edge.backends import onnxruntime as onnxruntime_module
from lrdan_edge.backends.nvidia import Gpu
from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
from lrdan_edge.backends.openvino import OpenVinoBackend
from lrdan_edge.backends.processor import Processor
from lrdan_edge.bench.latency import bench
from lrdan_edge.bundle.benchmark_report import BenchmarkReport
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import from_json
from lrdan_edge.bundle.names import BENCHMARK
from lrdan_edge.bundle.spec import Precision
from lrdan_edge.calibration.decision import ThresholdTarget
from lrdan_edge.calibration.device import fit_thresholds
from lrdan_edge.engines import select
from lrdan_edge.engines.build import BuildRequest, build_engine
from lrdan_edge.engines.select import candidates, choose
from lrdan_edge.errors import BackendError

WITH_VNNI = Processor("linux-x86_64", "a server", ["avx2", "avx512f", "avx512_vnni"])
WITHOUT_VNNI = Processor("linux-x86_64", "an industrial PC", ["avx2"])


@pytest.fixture(params=[WITH_VNNI, WITHOUT_VNNI], ids=["with VNNI", "without VNNI"])
def faster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Precision:
    """The precision that may be expected to be faster on this processor."""
    monkeypatch.setattr(select, "processor", lambda: request.param)
    return "int8" if request.param is WITH_VNNI else "fp32"


def test_an_engine_is_preferred_to_its_bare_graph(own_bundle: Bundle, faster: Precision) -> None:
    assert choose(own_bundle, "onnxruntime").title == f"onnxruntime {faster} (graph)"
    build_engine(own_bundle, BuildRequest(faster, "onnxruntime"))
    chosen = choose(own_bundle, "onnxruntime")
    assert chosen.title == f"onnxruntime {faster}"
    assert chosen.describe() == chosen.title, "that nothing was measured yet is not said at every run"
    assert choose(own_bundle, precision="fp32").precision == "fp32"


def test_without_a_benchmark_int8_comes_first_only_where_it_may_be_faster(own_bundle: Bundle, faster: Precision) -> None:
    """Without VNNI int8 took longer than fp32, and came first all the same."""
    pytest.importorskip("openvino")
    build_engine(own_bundle, BuildRequest("int8", "onnxruntime"))
    assert choose(own_bundle).title == {"int8": "openvino int8", "fp32": "openvino fp32"}[faster]


def test_openvinos_engine_replaces_its_graph(own_bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    build_engine(own_bundle, BuildRequest("int8", "openvino"))
    titles = [choice.title for choice in candidates(own_bundle)[0]]
    assert titles.count("openvino int8") == 1
    with choose(own_bundle, "openvino", "int8").open() as backend:
        assert backend.spec.precision == "int8"


def test_after_a_benchmark_auto_chooses_the_fastest(own_bundle: Bundle) -> None:
    build_engine(own_bundle, BuildRequest("fp32", "onnxruntime"))
    bench(own_bundle, batches=(1,), seconds=0.3, rounds=3)
    path = own_bundle.file(BENCHMARK, "lrdan-edge bench")
    report = from_json(path.read_bytes(), BenchmarkReport, "benchmark.json")
    runs_here = {choice.title for choice in candidates(own_bundle)[0]}
    assert {entry.title for entry in report.entries} == runs_here | {"torch fp32"}
    fastest = min((entry for entry in report.entries if entry.title in runs_here), key=lambda entry: entry.latency_ms["p50"])
    chosen = choose(own_bundle)
    assert chosen.title == fastest.title
    assert "fastest in the last benchmark" in chosen.describe()
    for entry in report.entries:
        assert entry.latency_ms["p50"] <= entry.latency_ms["p90"] <= entry.latency_ms["p99"] <= entry.latency_ms["max"]
        assert entry.calls >= 9
    eager = next(entry for entry in report.entries if entry.title == "torch fp32")
    assert eager.speedup == pytest.approx(1.0)


def test_an_engine_built_after_the_benchmark_is_considered(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to be: `run` chose among what had been measured, and a TensorRT engine built later never ran."""
    monkeypatch.setattr(select, "preferred", lambda: ("onnxruntime int8", "onnxruntime fp32 (graph)"))
    bench(own_bundle, batches=(1,), seconds=0.3, rounds=3)
    build_engine(own_bundle, BuildRequest("int8", "onnxruntime"))
    assert "fastest in the last benchmark" in choose(own_bundle, "onnxruntime", "fp32").describe()
    chosen = choose(own_bundle, "onnxruntime")
    assert (chosen.title, chosen.because) == (
        "onnxruntime int8",
        "built since the last benchmark; 'lrdan-edge bench' measures it",
    )
    monkeypatch.setattr(select, "preferred", lambda: ("onnxruntime fp32 (graph)", "onnxruntime int8"))
    chosen = choose(own_bundle, "onnxruntime")
    assert chosen.title.endswith("(graph)")
    assert "onnxruntime int8: built since the last benchmark" in chosen.passed_over
    bench(own_bundle, batches=(1,), seconds=0.3, rounds=3)
    assert "fastest in the last benchmark" in choose(own_bundle, "onnxruntime").describe()
    fit_thresholds(own_bundle, ThresholdTarget(false_reject_rate=0.1))
    assert "fastest in the last benchmark" in choose(own_bundle, "onnxruntime").describe(), "a threshold costs no time"


def test_threads_reach_the_backend(own_bundle: Bundle) -> None:
    from lrdan_edge import Inspector

    with Inspector.open(own_bundle, backend="onnxruntime", threads=1) as inspector:
        assert isinstance(inspector.backend, OnnxRuntimeBackend)
        assert inspector.backend._session.get_session_options().intra_op_num_threads == 1
    if find_spec("openvino"):
        with Inspector.open(own_bundle, backend="openvino", threads=1) as inspector:
            assert isinstance(inspector.backend, OpenVinoBackend)
            assert inspector.backend._model.get_property("INFERENCE_NUM_THREADS") == 1
    build_engine(own_bundle, BuildRequest("fp32", "onnxruntime"))
    with Inspector.open(own_bundle.path, backend="onnxruntime", precision="fp32", threads=1) as inspector:
        assert inspector.choice.engine is not None
        assert isinstance(inspector.backend, OnnxRuntimeBackend)
        assert inspector.backend._session.get_session_options().intra_op_num_threads == 1


def test_threads_sleep_between_frames_if_requested(own_bundle: Bundle) -> None:
    from lrdan_edge import Inspector

    for spin, entry in ((None, "1"), (True, "1"), (False, "0")):
        with Inspector.open(own_bundle, backend="onnxruntime", spin=spin) as inspector:
            assert isinstance(inspector.backend, OnnxRuntimeBackend)
            options = inspector.backend._session.get_session_options()
            assert options.get_session_config_entry("session.intra_op.allow_spinning") == entry


@pytest.mark.parametrize("backend", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_missing_or_broken_gpu_provider_is_an_error_not_a_fallback(own_bundle: Bundle, backend: str) -> None:
    with pytest.raises(BackendError, match=f"no {backend} runs here"):
        choose(own_bundle, backend)
    with pytest.warns(UserWarning, match="not in available provider names"), pytest.raises(BackendError, match="no working"):
        OnnxRuntimeBackend(own_bundle.graph("fp32").read_bytes(), "fp32", name=backend)


def test_gpu_providers_are_offered_with_a_gpu_and_chosen_automatically_once_measured(
    own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(name="Orin", compute_capability="8.7", cuda="12.6", integrated=True)
    monkeypatch.setattr(select, "find_gpu", lambda: gpu)
    monkeypatch.setattr(onnxruntime_module, "gpu_backends", lambda: ["onnxruntime-cuda"])
    titles = {choice.title for choice in candidates(own_bundle)[0]}
    assert {"onnxruntime-cuda fp32", "onnxruntime fp32 (graph)"} <= titles
    assert choose(own_bundle).backend != "onnxruntime-cuda"
    assert choose(own_bundle, "onnxruntime-cuda", "fp32").title == "onnxruntime-cuda fp32"
    bench(own_bundle, batches=(1,), seconds=0.3, rounds=3)
    monkeypatch.setattr(select, "speeds_of", lambda _: {"onnxruntime-cuda fp32": 900.0, "onnxruntime fp32 (graph)": 90.0})
    assert choose(own_bundle).title == "onnxruntime-cuda fp32"

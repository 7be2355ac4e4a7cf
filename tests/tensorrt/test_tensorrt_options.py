"""What may be asked of the builder, told to NVIDIA's own where it can, and refused in words where it cannot."""

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from deploy_graphs import deploy_graph

from lrdan_edge.backends.nvidia import Gpu
from lrdan_edge.bundle.command import Command
from lrdan_edge.engines.tensorrt.configure import adjust_parser_for_dla, configure, use_dla
from lrdan_edge.engines.tensorrt.options import BuildOptions
from lrdan_edge.errors import EngineError

Build = Callable[..., dict[str, Any]]
ORIN = Gpu(name="Orin", compute_capability="8.7", cuda="12.6", integrated=True)


class Recorder(SimpleNamespace):
    """Stands for any of TensorRT's objects: keeps what is set, and every call by its name."""

    def __init__(self, **known: Any) -> None:
        super().__init__(calls=[], **known)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments: self.calls.append((name, *arguments))


def flags(*names: str) -> SimpleNamespace:
    return SimpleNamespace(**{name: name for name in names})


def tensorrt(name: str = "tensorrt", version: str = "10.13.3.9", *levels: str) -> Any:
    return SimpleNamespace(
        __name__=name,
        __version__=version,
        ProfilingVerbosity=flags("DETAILED"),
        BuilderFlag=flags("TF32", "VERSION_COMPATIBLE", "REFIT", "REFIT_IDENTICAL", "STRIP_PLAN", "GPU_FALLBACK"),
        HardwareCompatibilityLevel=flags("AMPERE_PLUS", *levels),
        MemoryPoolType=flags("WORKSPACE"),
        DeviceType=flags("DLA"),
        OnnxParserFlag=flags("NATIVE_INSTANCENORM"),
    )


def set_up(trt: Any, gpu: Gpu | None = ORIN, **options: Any) -> Recorder:
    config = Recorder()
    configure(
        trt, Recorder(create_optimization_profile=Recorder), Recorder(), config, (32, 32, 1), BuildOptions(**options), gpu
    )
    return config


def flags_set(config: Recorder) -> set[str]:
    return {call[1] for call in config.calls if call[0] == "set_flag"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, set()),
        ({"version_compatible": True}, {"VERSION_COMPATIBLE"}),
        ({"refit": True}, {"REFIT"}),
        ({"strip_weights": True}, {"STRIP_PLAN", "REFIT_IDENTICAL"}),
        ({"strip_weights": True, "refit": True}, {"STRIP_PLAN", "REFIT"}),
    ],
)
def test_each_option_is_its_flag(options: dict[str, Any], expected: set[str]) -> None:
    config = set_up(tensorrt(), **options)
    assert flags_set(config) == expected
    assert ("clear_flag", "TF32") in config.calls, "float32 layers are float32"


def test_hardware_compatibility_is_a_level_if_this_version_has_it() -> None:
    new = tensorrt("tensorrt", "10.13.3.9", "SAME_COMPUTE_CAPABILITY")
    for words, level in (("ampere-plus", "AMPERE_PLUS"), ("same-compute-capability", "SAME_COMPUTE_CAPABILITY")):
        assert set_up(new, hardware_compatible=words).hardware_compatibility_level == level
    with pytest.raises(
        EngineError, match=r"TensorRT 10.3.0 has no hardware compatibility same-compute-capability.*ampere-plus"
    ):
        set_up(tensorrt("tensorrt", "10.3.0"), hardware_compatible="same-compute-capability")


@pytest.mark.parametrize(
    ("trt", "gpu", "options", "said"),
    [
        (tensorrt("tensorrt_rtx", "1.7.1"), ORIN, {"version_compatible": True}, "RTX 1.7.1 cannot build version-comp"),
        (tensorrt(), None, {"refit": True}, "builds refittable engines only on a GPU.*leave out refit"),
        (tensorrt(), None, {"strip_weights": True}, "builds stripped engines only on a GPU.*strip_weights"),
    ],
)
def test_unsupported_options_are_refused_with_a_clear_message(
    trt: Any, gpu: Gpu | None, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(EngineError, match=said):
        set_up(trt, gpu, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hardware_compatible": "volta"}, "got 'volta'"),
        ({"dla_core": -1, "batches": ((1, 1, 1),)}, "got -1"),
        ({"dla_core": 0}, "DLA runs only one batch size, got 1:1:8"),
        ({"dla_core": 0, "batches": ((1, 1, 1), (2, 2, 2))}, "got 1:1:1 2:2:2: give one size, as batches=1"),
        ({"batches": ()}, "an engine needs at least one batch profile"),
    ],
)
def test_invalid_build_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(EngineError, match=said):
        BuildOptions(**options)


def layer(name: str, kind: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, type=SimpleNamespace(name=kind))


def on_dla(cores: int, core: int, runs: Callable[[Any], bool]) -> tuple[dict[str, Any], Recorder]:
    layers = [layer("cast", "CAST"), layer("conv_1", "CONVOLUTION"), layer("relu_1", "ACTIVATION")]
    network = SimpleNamespace(num_layers=3, get_layer=layers.__getitem__)
    config = Recorder(can_run_on_DLA=runs)
    return use_dla(tensorrt("tensorrt", "10.3.0"), SimpleNamespace(num_DLA_cores=cores), network, config, core), config


def test_dla_runs_what_it_can_and_the_rest_is_listed() -> None:
    facts, config = on_dla(2, 1, lambda layer: layer.type.name != "CAST")
    assert facts == {"core": 1, "layers_on_dla": 2, "gpu_fallbacks": ["cast (CAST)"]}
    assert (config.default_device_type, config.DLA_core, flags_set(config)) == ("DLA", 1, {"GPU_FALLBACK"})


@pytest.mark.parametrize(
    ("cores", "core", "runs", "said"),
    [
        (0, 0, True, "finds no DLA on this device.*leave out dla_core"),
        (2, 2, True, "finds 2 DLA cores, 0 to 1.*choose another core than 2"),
        (1, 0, False, "supports none of this graph's 3 layers"),
    ],
)
def test_unavailable_dla_is_refused(cores: int, core: int, runs: bool, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        on_dla(cores, core, lambda _: runs)


def test_the_parser_is_adjusted_for_dla_if_it_supports_it() -> None:
    old, new, parser = tensorrt(), tensorrt(), Recorder()
    adjust_parser_for_dla(old, parser)
    assert parser.calls == []
    new.OnnxParserFlag = flags("ADJUST_FOR_DLA")
    adjust_parser_for_dla(new, parser)
    assert parser.calls == [("set_flag", "ADJUST_FOR_DLA")]


def test_the_rebuild_command_has_the_same_options() -> None:
    from click.testing import CliRunner

    from lrdan_edge.cli.main import cli

    options = BuildOptions(((1, 1, 1), (2, 2, 4)), 64, 0, True, "ampere-plus", True, True)
    words = str(Command("", **options.command_options())).split()[1:]
    assert words[:8] == ["--batch", "1:1:1", "--batch", "2:2:4", "--workspace", "64", "--optimization-level", "0"]
    assert words[8:10] == ["--hardware-compatible", "ampere-plus"]
    assert words[10:] == ["--version-compatible", "--refit", "--strip-weights"]
    assert str(Command("x", **BuildOptions(((2, 2, 2),), dla_core=0).command_options())) == "lrdan-edge x --batch 2:2:2 --dla 0"
    refused = CliRunner().invoke(cli, ["build-engine", "--fp16", *words, "-b", "nowhere"])
    assert (refused.exit_code, "no bundle at nowhere" in refused.output) == (1, True), "the command takes them all"
    assert set(options.record()) == set(options.__dataclass_fields__) - {"timing_cache", "verbose", "log_path"}


LEVELS = range(6)
COMBINATIONS = [
    {"optimization_level": level, "batches": batch, "workspace_mib": workspace, "hardware_compatible": hardware}
    for level, (batch, workspace, hardware) in zip(
        LEVELS,
        itertools.cycle(
            [
                ([[1, 1, 1]], None, None),
                ([[1, 1, 1], [2, 4, 16]], 64, "ampere-plus"),
                ([[3, 3, 3]], 512, "same-compute-capability"),
            ]
        ),
        strict=False,
    )
]


@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda options: f"level {options['optimization_level']}")
def test_nvidias_builder_accepts_every_option_supported_here(rtx_build: Build, tmp_path: Path, options: dict[str, Any]) -> None:
    graph, log = tmp_path / "model.onnx", tmp_path / "build.log"
    graph.write_bytes(deploy_graph("int8"))
    built = rtx_build(graph, log_path=log, verbose=True, **options)
    assert "message" not in built, built.get("message")
    details = built["details"]
    assert (details["optimization_level"], details["batches"]) == (options["optimization_level"], options["batches"])
    assert details["workspace_mib"] == (options["workspace_mib"] or "TensorRT's default")
    assert details["warnings"] == []
    assert "unsupported" not in log.read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"version_compatible": True}, "cannot build version-compatible engines"),
        ({"refit": True}, "only on a GPU"),
        ({"strip_weights": True}, "only on a GPU"),
        ({"dla_core": 0, "batches": ((1, 1, 1),)}, "finds no DLA on this device"),
    ],
)
def test_unsupported_options_do_not_reach_nvidias_builder(
    rtx_build: Build, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(deploy_graph("fp16"))
    built = rtx_build(graph, **options)
    assert built["error"] == "EngineError"
    assert said in built["message"]
    assert built["stderr"] == ""

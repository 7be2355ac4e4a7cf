"""Who may import whom, and what may be loaded when."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import lrdan_edge

ROOT = Path(lrdan_edge.__file__).parent
GROUND = {
    "bundle",
    "bundle_files",
    "bundle_journal",
    "errors",
    "manifest",
    "images",
    "dataset",
    "metrics",
    "similarity",
    "grouping",
    "survey",
    "datacheck",
    "geometry",
    "parity",
}
ALLOWED = {
    "train": GROUND | {"train"},
    "export": GROUND | {"export", "train", "runtime"},
    "calibration": GROUND | {"calibration", "runtime"},
    "runtime": GROUND | {"runtime"},
    "bench": GROUND | {"bench", "runtime"},
    "demo": GROUND | {"demo", "bench", "runtime", "calibration", "export", "train", "console", "console_run"},
    "console": GROUND | {"bench", "runtime", "train"},
    "console_engines": GROUND | {"console", "runtime"},
    "console_calibration": GROUND | {"console", "runtime", "calibration"},
    "console_data": GROUND | {"console"},
    "console_view": GROUND,
    "console_run": GROUND | {"console", "runtime"},
    "console_camera": GROUND | {"runtime"},
    "cli_camera": GROUND | {"console_camera", "runtime"},
    "cli_options": GROUND,
    "cli_engines": GROUND | {"cli_options", "console", "console_engines", "export", "runtime"},
    "cli_run": GROUND | {"cli_options", "console_run", "runtime"},
    "cli_data": GROUND | {"cli_options", "console_data", "runtime"},
    "cli": GROUND
    | {
        "cli_camera",
        "cli_data",
        "cli_engines",
        "cli_options",
        "cli_run",
        "console",
        "console_calibration",
        "console_engines",
        "console_view",
        "demo",
        "bench",
        "runtime",
        "calibration",
        "export",
        "train",
    },
    "__main__": {"cli"},
    "__init__": GROUND | {"runtime"},
}
HEAVY = {"torch", "onnx", "cv2", "onnxruntime", "numpy", "openvino", "matplotlib", "tensorrt", "pycuda", "rich"}


def imports(path: Path) -> set[str]:
    """Modules a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_rooms_import_only_what_they_may(path: Path) -> None:
    relative = path.relative_to(ROOT)
    room = relative.parts[0].removesuffix(".py")
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("lrdan_edge.")}
    allowed = GROUND if room in GROUND else ALLOWED[room]
    if relative.as_posix() == "runtime/backends/torch.py":
        allowed = allowed | {"train"}  # the reference backend, and it alone
    assert rooms <= allowed, f"{relative} imports {sorted(rooms - allowed)}"


@pytest.mark.parametrize("room", ["runtime", "calibration", "bench"])
def test_only_the_reference_backend_imports_torch(room: str) -> None:
    users = {path.name for path in (ROOT / room).rglob("*.py") if any(m.split(".")[0] == "torch" for m in imports(path))}
    assert users <= {"torch.py"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules a fresh interpreter has loaded after `code`."""
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by("import lrdan_edge") & HEAVY


def test_help_loads_nothing_heavy() -> None:
    code = "from click.testing import CliRunner\nfrom lrdan_edge.cli import cli\nCliRunner().invoke(cli, ['--help'])"
    assert not loaded_by(code) & HEAVY


COMMANDS = [
    "dataset",
    "train",
    "export",
    "calibrate",
    "build-engine",
    "engine",
    "camera",
    "run",
    "evaluate",
    "explain",
    "bench",
]
COMMANDS += ["protocol", "info", "demo"]


ENGINE_COMMANDS = ["list", "inspect", "verify", "trust", "refit"]


@pytest.mark.parametrize("command", [*COMMANDS, "dataset check", *(f"engine {command}" for command in ENGINE_COMMANDS)])
def test_every_command_explains_itself_without_loading_anything(command: str) -> None:
    code = (
        "from click.testing import CliRunner\nfrom lrdan_edge.cli import cli\n"
        f"r = CliRunner().invoke(cli, {[*command.split(), '--help']})\nassert r.exit_code == 0 and 'Usage' in r.output"
    )
    assert not loaded_by(code) & HEAVY


def test_all_commands_are_listed() -> None:
    from lrdan_edge.cli import cli, engine

    assert sorted(cli.commands) == sorted(COMMANDS)
    assert sorted(engine.commands) == sorted(ENGINE_COMMANDS)


def test_inspecting_needs_no_torch() -> None:
    loaded = loaded_by("import lrdan_edge\nlrdan_edge.Inspector, lrdan_edge.Bundle, lrdan_edge.Verdict")
    assert not loaded & {"torch", "onnx", "matplotlib", "openvino"}


def test_public_names_are_those_documented() -> None:
    loop = ["InspectionLoop", "Region", "Rule", "open_source"]
    assert sorted(lrdan_edge.__all__) == sorted(
        ["Bundle", "Inspector", "LrdanError", "Verdict", "Verdicts", "__version__", *loop]
    )
    for name in lrdan_edge.__all__:
        assert getattr(lrdan_edge, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = lrdan_edge.nonsense


@pytest.mark.parametrize("stage", ["train", "export", "calibration", "runtime"])
def test_doors_at_the_root_lead_to_the_stages(stage: str) -> None:
    door = ROOT.parent / stage
    if not (ROOT.parent / "pyproject.toml").exists():
        pytest.skip("not a checkout")
    assert door.is_symlink()
    assert door.resolve() == ROOT / stage


def test_every_package_docstring_exists() -> None:
    for path in ROOT.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} does not say what it is"

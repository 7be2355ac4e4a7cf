"""Who may import whom, and what may be loaded when."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lrdan_edge

ROOT = Path(lrdan_edge.__file__).parent
TESTS = Path(__file__).parent
ORDER = [
    "errors",
    "metrics",
    "keys",
    "bundle",
    "data",
    "model",
    "backends",
    "engines",
    "runtime",
    "evaluation",
    "train",
    "export",
    "calibration",
    "bench",
    "protocol",
    "demo",
    "cli",
]
"""The rooms, from the ground up: each may import those before it and none after it. At the root stand only the doors."""

WITHOUT_TORCH = ["data", "engines", "runtime", "evaluation", "calibration", "bench"]
HEAVY = {"torch", "onnx", "cv2", "onnxruntime", "numpy", "openvino", "matplotlib", "tensorrt", "pycuda", "rich"}


def name_from_its_root(path: Path) -> str:
    """``lrdan_edge/…`` or ``tests/…``, wherever the two lie."""
    root = ROOT if path.is_relative_to(ROOT) else TESTS
    return path.relative_to(root.parent).as_posix()


def imports(path: Path) -> set[str]:
    """Modules a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, packages without their own."""
    return {".".join(("lrdan_edge", *path.relative_to(ROOT).with_suffix("").parts)): path for path in ROOT.rglob("*.py")}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if room in {"__init__", "__main__"}:
        return
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("lrdan_edge.")}
    assert [other for other in rooms if ORDER.index(other) > ORDER.index(room)] == []


def test_every_module_is_in_a_room() -> None:
    assert {
        path.name.removesuffix(".py") for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    } == {
        *ORDER,
        "__init__",
        "__main__",
    }


def test_no_circular_imports() -> None:
    known = modules()
    below: dict[str, set[str]] = {}
    for name, path in known.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module != "lrdan_edge":
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    found.add(whole if whole in known else node.module if node.module in known else f"{node.module}.__init__")
        below[name] = (found & known.keys()) - {name}
    while below:
        ground = {name for name, found in below.items() if not found & below.keys()}
        assert ground, f"these import each other in a circle, or rest on such: {sorted(below)}"
        below = {name: found for name, found in below.items() if name not in ground}


def test_only_the_command_line_writes_options() -> None:
    """Library messages name parameters (`lrdan_edge.errors`), and commands are data (`lrdan_edge.bundle.command`)."""
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] not in {"cli", "demo"}:
            found = [line for line in path.read_text().splitlines() if re.search(r"(?<![\w-])--[a-z][a-z-]+", line)]
            assert [line for line in found if "venv" not in line and "v4l2-ctl" not in line] == [], path


@pytest.mark.parametrize("path", sorted([*ROOT.rglob("*.py"), *TESTS.rglob("*.py")]), ids=name_from_its_root)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    long = [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert long == []


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_device_rooms_import_neither_torch_nor_the_model(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        found = imports(path)
        assert not [name for name in found if name.split(".")[0] == "torch" or name.startswith("lrdan_edge.model")], path


def test_only_the_reference_backend_imports_torch() -> None:
    users = {path.name for path in (ROOT / "backends").rglob("*.py") if any(m.split(".")[0] == "torch" for m in imports(path))}
    assert users == {"torch.py"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules a fresh interpreter has loaded after `code`."""
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by("import lrdan_edge") & HEAVY


def test_help_loads_nothing_heavy() -> None:
    code = "from click.testing import CliRunner\nfrom lrdan_edge.cli.main import cli\nCliRunner().invoke(cli, ['--help'])"
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
COMMANDS += ["protocol", "bundle", "info", "demo"]


ENGINE_COMMANDS = ["list", "inspect", "verify", "trust", "refit"]
BUNDLE_COMMANDS = ["bundle new-key", "bundle sign", "bundle verify"]


@pytest.mark.parametrize(
    "command", [*COMMANDS, "dataset check", *(f"engine {command}" for command in ENGINE_COMMANDS), *BUNDLE_COMMANDS]
)
def test_every_command_explains_itself_without_loading_anything(command: str) -> None:
    code = (
        "from click.testing import CliRunner\nfrom lrdan_edge.cli.main import cli\n"
        f"r = CliRunner().invoke(cli, {[*command.split(), '--help']})\nassert r.exit_code == 0 and 'Usage' in r.output"
    )
    assert not loaded_by(code) & HEAVY


def test_all_commands_are_listed() -> None:
    from lrdan_edge.cli.engine import engine
    from lrdan_edge.cli.main import cli

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
def test_folders_at_the_root_link_to_the_stages(stage: str) -> None:
    door = ROOT.parent / stage
    if not (ROOT.parent / "pyproject.toml").exists() or (ROOT.parent / "PKG-INFO").exists():
        pytest.skip("not a checkout: packages and source archives carry the code once")
    assert door.is_symlink()
    assert door.resolve() == ROOT / stage


def test_what_continuous_integration_installs_is_documented() -> None:
    text = (TESTS.parent / ".ci/run").read_text()
    listed = re.sub(r"#.*", "", text.split("packages=(")[1].split("\n)")[0]).split()
    assert len(listed) > 5
    documented = (TESTS.parent / "CONTRIBUTING.md").read_text()
    assert [name for name in listed if f"`{name}`" not in documented] == []


def test_every_package_docstring_exists() -> None:
    for path in ROOT.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} does not say what it is"

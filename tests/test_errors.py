"""Errors keep their parts, and are worded for Python and for the command line."""

import ast
import string
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import lrdan_edge
from lrdan_edge import errors
from lrdan_edge.cli.main import cli
from lrdan_edge.cli.options import Option
from lrdan_edge.errors import LrdanError, TrainingError

TYPES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, LrdanError)]
NAMES = {kind.__name__ for kind in TYPES}


def test_a_fix_names_parameters_in_python_and_options_on_the_command_line() -> None:
    error = TrainingError("batches of 8 leave a remainder", "give {batch_size:{best}}, or train with {compile:off}", best=9)
    assert str(error) == "batches of 8 leave a remainder: give batch_size=9, or train with compile=False"
    assert error.worded(Option) == "batches of 8 leave a remainder: give --batch-size 9, or train with --no-compile"
    assert (error.problem, error.values) == ("batches of 8 leave a remainder", {"best": 9})


def test_braces_in_a_value_are_not_read_as_names() -> None:
    error = LrdanError("{strange} is a folder", "choose another than {path}, or {output}", path="{seed}")
    assert str(error) == "{strange} is a folder: choose another than {seed}, or output"


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_every_type_has_its_own_code(kind: type[LrdanError]) -> None:
    assert "code" in vars(kind)
    assert [other for other in TYPES if other.code == kind.code] == [kind]


def test_the_command_line_names_options_in_errors(tmp_path: Path) -> None:
    (tmp_path / "bundle").touch()
    result = CliRunner().invoke(cli, ["export", "-b", str(tmp_path / "bundle" / "deeper")])
    assert result.exit_code == 1
    assert "--bundle" in result.output


def raised() -> Iterator[tuple[ast.Call, list[ast.expr], str]]:
    """Every call in the package that makes an error: the call, its fix if it has one, and where it is."""
    for path in Path(lrdan_edge.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMES:
                fixes = [*node.args[1:2], *(word.value for word in node.keywords if word.arg == "fix")]
                yield node, fixes, f"{path}:{node.lineno}"


def parameters(group: click.Group = cli) -> set[str]:
    """The parameters of every command, as the code names them."""
    found = {"bundle", "hyperparameters"}  # each command has the first as bundle_path; the second has no option
    for command in group.commands.values():
        found |= parameters(command) if isinstance(command, click.Group) else {str(one.name) for one in command.params}
    return found


def test_fixes_are_templates_and_never_contain_formatted_values() -> None:
    for _, fixes, where in raised():
        for fix in fixes:
            assert not isinstance(fix, ast.JoinedStr), f"{where}: give the values as keywords"


def test_every_parameter_that_a_fix_names_exists() -> None:
    known = parameters()
    for call, fixes, where in raised():
        given = {word.arg for word in call.keywords}
        for fix in fixes:
            if isinstance(fix, ast.Constant):
                named = {name for _, name, _, _ in string.Formatter().parse(str(fix.value)) if name}
                assert named - given <= known, where

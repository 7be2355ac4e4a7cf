"""The docs hold together: links lead somewhere, commands are ones that exist, quoted figures stand in a table."""

import re
import shlex
from pathlib import Path

import click
import pytest

from lrdan_edge.cli.main import cli

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
RESULTS = ROOT / "benchmarks" / "results"
LARGEST_PICTURE = 120_000
FOREIGN = {"docs/operators.md"}  # of onnx-tensorrt, which tests name
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_lines(page: Path) -> list[str]:
    """Lines of indented code, whole, without comments."""
    lines = re.findall(r"^(?: {4}| {6})(?! )(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"\s+# .*", "", line).strip() for line in lines]


def inline_code(page: Path) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))


def commands(page: Path) -> list[list[str]]:
    """The arguments of every `lrdan-edge` command that a page shows, in code and between backticks."""
    found = []
    for text in [*code_lines(page), *inline_code(page)]:
        if match := re.search(r"(?:^|[/=\s])lrdan-edge ([a-z-]+\b.*)", text):
            found.append(shlex.split(match[1]))
    return found


def parse(arguments: list[str]) -> None:
    """Parse a command line as the program does, without running it."""
    group: click.Command = cli
    context = click.Context(cli, info_name="lrdan-edge")
    while isinstance(group, click.Group) and arguments:
        name, *arguments = arguments
        assert name in group.commands, f"no command {name}"
        group = group.commands[name]
        if isinstance(group, click.Group):
            context = click.Context(group, parent=context, info_name=name)
    if arguments or not any(isinstance(one, click.Argument) and one.required for one in group.params):
        group.make_context(group.name, arguments, parent=context)


def options(group: click.Group = cli) -> set[str]:
    """Every option of every command."""
    found = {"--help", "--version"}
    for command in group.commands.values():
        if isinstance(command, click.Group):
            found |= options(command)
        found |= {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    return found


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        assert linked.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(linked), target


def test_every_page_of_the_docs_is_in_the_index_of_its_folder() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    index += (ROOT / "docs" / "experiments" / "README.md").read_text(encoding="utf-8")
    assert [
        page.name for page in PAGES if page.parent != ROOT and page.name != "README.md" and f"{page.name})" not in index
    ] == []


def test_pages_named_in_code_exist() -> None:
    for folder in ("lrdan_edge", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            names = set(re.findall(r"(?<![\w/-])docs/[\w./-]+\.md", path.read_text(encoding="utf-8"))) - FOREIGN
            assert [name for name in names if not (ROOT / name).exists()] == [], path


@pages
def test_commands_are_ones_that_the_program_takes(page: Path) -> None:
    for arguments in commands(page):
        try:
            parse(list(arguments))
        except (click.UsageError, AssertionError) as error:
            pytest.fail(f"lrdan-edge {shlex.join(arguments)}: {getattr(error, 'message', error)}")


def test_commands_are_found() -> None:
    found = commands(ROOT / "README.md")
    assert ["build-engine", "--int8", "--target", "onnxruntime"] in found
    assert len(found) > 10
    with pytest.raises(click.UsageError):
        parse(["train", "parts", "--no-such-option"])


def known_options(text: str) -> set[str]:
    """Options that may stand in a line of code: the program's, or those of the script or program that it runs."""
    if script := re.search(r"(?:benchmarks|tests/bundle)/\w+\.py", text):
        found = set(re.findall(r"--[a-z][a-z-]*", (ROOT / script[0]).read_text(encoding="utf-8")))
        return found | {option.replace("--", "--no-", 1) for option in found}
    if re.search(r"\bpip\b|python3? -m|\bruff\b|tensorboard --|\bmake\b", text):
        return set(re.findall(r"--[a-z][a-z-]*", text))
    return options() | {"--shm-size"}  # docker's


@pages
def test_options_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # it names what older versions had
    for text in [*code_lines(page), *inline_code(page)]:
        unknown = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)) - known_options(text)
        assert not unknown, text


@pages
def test_scripts_and_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for text in [*code_lines(page), *inline_code(page)]:
        for script in re.findall(r"\b((?:benchmarks|tests)/[\w/]+\.(?:py|md))\b", text):
            assert (ROOT / script).exists(), text
        if match := re.match(r"make ([a-z-]+)", text):
            assert match[1] in targets, text


@pages
def test_modules_exist(page: Path) -> None:
    """Paths of the package, in full or from its root."""
    for text in inline_code(page):
        if re.fullmatch(r"(?:[a-z_]+/)+[a-z_]+\.py", text):
            assert (ROOT / text).exists() or (ROOT / "lrdan_edge" / text).exists(), text


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.parent.name in {"reference", "how-to"} or page.parent == ROOT],
    ids=lambda page: page.name,
)
def test_figures_with_a_spread_stand_in_a_table_of_the_benchmarks(page: Path) -> None:
    tables = "\n".join(table.read_text(encoding="utf-8") for table in RESULTS.glob("*.md"))
    for figure in re.findall(r"\d+\.\d+ ± \d+\.\d+", page.read_text(encoding="utf-8")):
        assert figure in tables, figure


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "pictures").iterdir()), ids=lambda path: path.name)
def test_pictures_are_small_and_shown(path: Path) -> None:
    assert path.stat().st_size < LARGEST_PICTURE
    assert any(f"pictures/{path.name})" in page.read_text(encoding="utf-8") for page in PAGES)


def test_the_changelog_has_the_present_version() -> None:
    from lrdan_edge import __version__

    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(__version__)} \(\d{{4}}-\d\d-\d\d\)$", text, re.MULTILINE)


def test_the_hooks_run_what_lint_runs() -> None:
    """`make lint` and the local hooks name the same programs, and no hook comes from a network."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert lint is not None
    for line in lint[1].splitlines():
        assert line.strip().replace("$(BIN)", ".venv/bin") in hooks
    assert re.findall(r"repo: (\S+)", hooks) == ["local"]

"""Options and messages that several commands share."""

import os
import shlex
from collections.abc import Callable, Mapping
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import click

from lrdan_edge.backends import BACKENDS
from lrdan_edge.bundle.names import SIGNATURE
from lrdan_edge.errors import SWITCHES, LrdanError, MissingExtraError, Parameter

if TYPE_CHECKING:
    from lrdan_edge.evaluation.advice import Advice


class Option(Parameter):
    """A parameter in an error's fix, written as an option: ``--image-size``, ``--image-size 64x64`` or ``--no-int8``."""

    __slots__ = ()
    names: ClassVar[Mapping[str, str]] = {}
    """Options and arguments whose names differ from their parameters."""

    def __format__(self, value: str) -> str:
        """Write the option, with the value that the fix asks for if there is one."""
        if self == "precision":
            return f"--{value}" if value else "--fp32, --fp16 or --int8"
        name = self.names.get(self, f"--{self.replace('_', '-')}")
        if value in SWITCHES:
            return name if SWITCHES[value] else name.replace("--", "--no-", 1)
        return f"{name} {value}" if value else name


def options_of(command: click.Command) -> type[Option]:
    """The class that writes parameters as options of a command, or of a group's commands."""
    commands = command.commands.values() if isinstance(command, click.Group) else [command]
    names = {
        str(parameter.name): parameter.opts[-1] if isinstance(parameter, click.Option) else str(parameter.name).upper()
        for each in commands
        for parameter in each.params
    }
    return type("CommandOption", (Option,), {"__slots__": (), "names": names})


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic only in click's stubs
    """A value that a function parses; the function raises a ValueError or LrdanError whose text says how to write it."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self._parse = name, parse

    def get_metavar(self, *_: Any, **__: Any) -> str:
        """The name as written, without conversion to capitals."""
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the text into its value."""
        try:
            return self._parse(value) if isinstance(value, str) else value
        except (ValueError, LrdanError) as error:
            self.fail(str(error), param, ctx)


Function = TypeVar("Function", bound=Callable[..., Any])


def option_group(name: str, *options: Callable[[Any], Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add options to a command, which gets their values as one dictionary, `name`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def collect(*arguments: Any, **given: Any) -> Any:
            group = {key: given.pop(key) for key in keys}
            return function(*arguments, **given, **{name: group})

        before = len(getattr(function, "__click_params__", []))
        decorated: Any = collect
        for option in reversed(options):
            decorated = option(decorated)
        keys = [parameter.name for parameter in decorated.__click_params__[before:]]
        return collect

    return decorate


def bundle_option(function: Function) -> Function:
    """``-b/--bundle``, as ``bundle_path``. A command that removes the bundle's signature says so at its end."""

    @wraps(function)
    def told(*arguments: Any, bundle_path: Path, **given: Any) -> Any:
        signed = _is_signed(bundle_path)
        try:
            return function(*arguments, bundle_path=bundle_path, **given)
        finally:
            if signed and not _is_signed(bundle_path):
                sign = f"lrdan-edge bundle sign {shlex.quote(str(bundle_path))} --key KEY"
                click.echo(f"The bundle was changed, so its signature was removed: sign it again with '{sign}'", err=True)

    decorated: Any = click.option(
        "-b",
        "--bundle",
        "bundle_path",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("bundle"),
        envvar="LRDAN_BUNDLE",
        show_default=True,
        show_envvar=True,
        help="The bundle's folder.",
    )(told)
    return cast("Function", decorated)


def _is_signed(bundle_path: Path) -> bool:
    return os.path.lexists(bundle_path / SIGNATURE)


def bundle_argument(function: Function) -> Function:
    """The bundle's folder as the argument BUNDLE, as ``bundle_path``."""
    return click.argument(
        "bundle_path",
        metavar="[BUNDLE]",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("bundle"),
        envvar="LRDAN_BUNDLE",
    )(function)


def signature_option(function: Function) -> Function:
    """``--require-signature``: a public key whose owner must have signed the bundle."""
    return click.option(
        "--require-signature",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="PUBLIC_KEY",
        help="Refuse a bundle that the owner of this Ed25519 public key (a PEM file) has not signed.",
    )(function)


def certificate_options(function: Function) -> Function:
    """``--ca-file`` and ``--insecure``, as ``ca_file`` and ``insecure``."""
    function = click.option(
        "--insecure",
        is_flag=True,
        help="Do not check certificates of https:// and rtsps:// sources: anyone on the network can then send other images.",
    )(function)
    return click.option(
        "--ca-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="PEM file with the authority's certificate, or the camera's own, to trust for https:// and rtsps:// sources. "
        "[default: the system's authorities]",
    )(function)


def precision_options(function: Function) -> Function:
    """``--fp32``, ``--fp16`` and ``--int8``, as ``precision``."""
    for precision in ("int8", "fp16", "fp32"):
        function = click.option(f"--{precision}", "precision", flag_value=precision, help=f"Use the {precision} graph.")(
            function
        )
    return function


def backend_options(function: Function) -> Function:
    """``--backend``, and the precisions."""
    function = click.option(
        "--backend",
        type=click.Choice(["auto", *BACKENDS]),
        default="auto",
        show_default=True,
        help="Runtime of the graph. auto takes the fastest that works here; any other choice fails if it does not work.",
    )(function)
    return precision_options(function)


def device_option(function: Function) -> Function:
    """``--device``: where PyTorch trains."""
    choice = click.Choice(["auto", "cpu", "cuda"])
    return click.option("--device", type=choice, default="auto", show_default=True, help="Device to train on.")(function)


def require(extra: str, purpose: str, *modules: str) -> None:
    """Check that modules are installed, before something imports them.

    Raises:
        MissingExtraError: A module is not installed; the message names the extra that installs it.
    """
    for module in modules:
        if find_spec(module) is None:
            raise MissingExtraError(module, extra, purpose)


def in_words(advice: "Advice") -> str:
    """Advice as the end of a sentence, with the options of ``train`` that follow it."""
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in advice.options.items())
    if advice.measure == "labelled defects":
        options = "--known-defects DIR"
    if advice.measure == "more good images":
        return f"train again with more good images ({advice.why})"
    return f"train again with {options} ({advice.why})"


def next_step(done: str, command: str, bundle_path: Path) -> None:
    """Print what was done, and the next command for this bundle."""
    usual = Path(os.environ.get("LRDAN_BUNDLE", "bundle"))
    bundle = "" if bundle_path == usual else f" --bundle {shlex.quote(str(bundle_path))}"
    click.echo(f"{done} Next: lrdan-edge {command}{bundle}")

"""A command as data, for a stage's record and for messages that name a command to run."""

import shlex
from typing import NamedTuple


class _Recorded(NamedTuple):
    """What the record of a stage may hold: the number of positional arguments, the options with a value, and the flags."""

    arguments: int
    options: frozenset[str]
    flags: frozenset[str] = frozenset()


_PRECISIONS = frozenset({"fp32", "fp16", "int8"})
_TRAIN = """
recipe seed image-size batch-size channels epochs learning-rate backbone bit-depth group-by known-defects device frame-size roi tiles
tile-overlap
"""
_CALIBRATE = "false-reject-rate threshold-from recall good defects method"
_BUILD = "target batch workspace optimization-level hardware-compatible dla"
RECORDED = {
    "train": _Recorded(1, frozenset(_TRAIN.split())),
    "export": _Recorded(0, frozenset({"frame-size"})),
    "calibrate": _Recorded(0, frozenset(_CALIBRATE.split()), frozenset({"no-int8", "decision-only"})),
    "build-engine": _Recorded(0, frozenset(_BUILD.split()), _PRECISIONS | {"version-compatible", "refit", "strip-weights"}),
    "evaluate": _Recorded(1, frozenset({"backend"}), _PRECISIONS),
    "bench": _Recorded(0, frozenset({"batch", "seconds", "rounds"})),
}
"""The commands that stages record, without options that choose what is written or replaced."""


class Command:
    """A call of one command: its name, arguments and options.

    An option's name is two dashes and the parameter's name, with dashes for underscores. Only this class and ``lrdan_edge.cli`` use
    that rule.
    """

    def __init__(self, name: str, *arguments: object, **options: object) -> None:
        """Keep the parts.

        Args:
            name: The command as typed: ``train``, ``engine verify``.
            *arguments: The positional arguments.
            **options: The options by parameter name, in order. True is a flag; None and False are left out; a list or tuple
                repeats the option for each entry.
        """
        self.name = name
        self.arguments = arguments
        self.options = options

    @classmethod
    def recorded(cls, line: "str | Command") -> "Command":
        """Parse a command line that a stage recorded; its options become arguments, in the same order.

        The line may be a stranger's, and the result is shown to the user as a command to run. So a command that no stage records
        becomes ``info``. Of a line that holds anything else than what a stage records, only the command's name remains. The
        bundle's path and ``overwrite`` are left out.
        """
        if isinstance(line, Command):
            return line
        try:
            words = shlex.split(line)
        except ValueError:  # not written by lrdan-edge
            words = line.split()
        name, *arguments = words[1:] if words[:1] == ["lrdan-edge"] else words or [""]
        if name not in RECORDED:
            return cls("info")
        return cls(name, *_accepted(RECORDED[name], arguments))

    def with_options(self, **options: object) -> "Command":
        """The same command with these options added or replaced."""
        return Command(self.name, *self.arguments, **{**self.options, **options})

    def __str__(self) -> str:
        """The command line for a shell."""
        words = ["lrdan-edge", *self.name.split(), *map(str, self.arguments)]
        for name, given in self.options.items():
            option = "--" + name.replace("_", "-")
            for value in given if isinstance(given, (list, tuple)) else [given]:
                if value is True:
                    words.append(option)
                elif value is not None and value is not False:
                    words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
        return shlex.join(words)


def _accepted(known: _Recorded, words: list[str]) -> list[str]:
    """The words of a recorded line, without the bundle's path and ``overwrite``; none if one of them is not known."""
    found: list[str] = []
    positional, rest = 0, iter(words)
    for word in rest:
        option = word.removeprefix("--")
        value = next(rest, None) if word != option and option in {*known.options, "bundle"} else ""
        if value is None or not f"{word}{value}".isprintable():
            return []
        if not word.startswith("-"):
            positional += 1
            found.append(word)
        elif word != option and option in known.options:
            found += [word, value]
        elif word != option and option in known.flags:
            found.append(word)
        elif word == option or option not in ("bundle", "overwrite"):
            return []
    return found if positional <= known.arguments else []

"""A command as data, for a stage's record and for messages that name a command to run."""

import shlex


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
        """Parse a command line that a stage recorded; its options become arguments, in the same order."""
        if isinstance(line, Command):
            return line
        try:
            words = shlex.split(line)
        except ValueError:  # not written by lrdan-edge
            words = line.split()
        name, *arguments = words[1:] if words[:1] == ["lrdan-edge"] else words or [""]
        return cls(name, *arguments)

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

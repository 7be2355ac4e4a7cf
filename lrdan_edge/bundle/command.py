"""A command as data, for the record of a stage and for messages that say what to run."""

import shlex


class Command:
    """A call of one command: its name, its arguments and its options.

    The command line's options are named by one rule: two dashes, and the parameter's name with dashes for underscores. This is the
    only place outside ``lrdan_edge.cli`` that applies it.
    """

    def __init__(self, name: str, *arguments: object, **options: object) -> None:
        """Keep the parts.

        Args:
            name: As it is typed: ``train``, ``engine verify``.
            *arguments: The positional arguments.
            **options: By parameter name, in order. True: a switch that is given. None and False: left out. A list or tuple: the
                option once per entry.
        """
        self.name = name
        self.arguments = arguments
        self.options = options

    @classmethod
    def recorded(cls, line: "str | Command") -> "Command":
        """The command of a line that a stage recorded; its options come back as arguments, in the same order."""
        if isinstance(line, Command):
            return line
        try:
            words = shlex.split(line)
        except ValueError:  # not written by this toolkit
            words = line.split()
        name, *arguments = words[1:] if words[:1] == ["lrdan-edge"] else words or [""]
        return cls(name, *arguments)

    def with_options(self, **options: object) -> "Command":
        """The same command with further options; those that it has are replaced."""
        return Command(self.name, *self.arguments, **{**self.options, **options})

    def __str__(self) -> str:
        """The line to type in a shell."""
        words = ["lrdan-edge", *self.name.split(), *map(str, self.arguments)]
        for name, given in self.options.items():
            option = "--" + name.replace("_", "-")
            for value in given if isinstance(given, (list, tuple)) else [given]:
                if value is True:
                    words.append(option)
                elif value is not None and value is not False:
                    words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
        return shlex.join(words)

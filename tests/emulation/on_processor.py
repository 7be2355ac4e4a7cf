"""Runs commands of lrdan-edge in one process, because starting Python and importing takes seconds in an emulator.

    python on_processor.py '[["info", "-b", "bundle"], ...]'

The last line it prints is JSON: what `lrdan_edge` takes the processor for, and each command's exit code and output.
"""

import json
import sys

import msgspec
from click.testing import CliRunner

from lrdan_edge.backends.processor import processor
from lrdan_edge.cli.main import cli

results = [CliRunner().invoke(cli, words) for words in json.loads(sys.argv[1])]
told = [(result.exit_code, f"{result.output}{result.exception or ''}") for result in results]
print(json.dumps({"processor": msgspec.to_builtins(processor()), "results": told}))

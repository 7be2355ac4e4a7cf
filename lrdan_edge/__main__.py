"""``python -m lrdan_edge``."""

from lrdan_edge.cli.main import main

main()

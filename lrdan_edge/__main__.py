"""``python -m lrdan_edge``."""

from lrdan_edge.cli import main

main()

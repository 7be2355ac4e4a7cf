"""The methods that find int8 ranges; nothing heavy is imported here, so that the command line can list them quickly."""

from typing import Literal, get_args

Method = Literal[
    "min-max",
    "percentile-99.999",
    "percentile-99.997",
    "percentile-99.99",
    "entropy",
    "painted-min-max",
    "painted-percentile-99.99",
]
METHODS: tuple[Method, ...] = get_args(Method)

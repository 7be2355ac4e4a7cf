"""Addresses and pipelines without the secrets in them, fit for messages and records."""

import re

_QUERY = re.compile(r"(?i)([?&;](?:user\w*|login|usr|pass\w*|pwd|token|api_?key|key|secret|auth\w*|sig\w*)=)[^&;#]*")
# In a GStreamer pipeline (user-pw=…), and in the path of some cameras' addresses (/user=admin_password=…_channel=1).
_WORD = re.compile(
    r"(?i)((?:^|[\s/!])(?:user(?:name|-id)?|user-pw|login|usr|pass(?:word|wd)?|pwd|token|secret)=)(?:\"[^\"]*\"|[^\s/!?#]*)"
)
# User and password end at the last @, even where a raw one, or a raw slash, stands in the password. Without an @ before
# the first slash, what follows "name:" is a password only when it is no port.
_USER = re.compile(r"[^/?#]*@|[^/?#@:]*:(?!\d+(?:[/?#]|$)).*@", re.DOTALL)
_INSIDE = re.compile(r"(?<=://)[^\s/@!\"']+@")


def scrubbed(text: str) -> str:
    """An address, or a pipeline with addresses in it, without user names, passwords and secrets."""
    head, separator, rest = text.partition("://")
    if separator and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", head) and _USER.match(rest):
        text = f"{head}://***@{rest.rpartition('@')[2]}"
    return _WORD.sub(r"\1***", _QUERY.sub(r"\1***", _INSIDE.sub("***@", text)))

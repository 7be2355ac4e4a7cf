"""Removes secrets from addresses and pipelines before they are shown or recorded."""

import re

_QUERY = re.compile(r"(?i)([?&;](?:user\w*|login|usr|pass\w*|pwd|token|api_?key|key|secret|auth\w*|sig\w*)=)[^&;#]*")
# In a GStreamer pipeline (user-pw=…), and in the path of some cameras' addresses (/user=admin_password=…_channel=1).
_WORD = re.compile(
    r"(?i)((?:^|[\s/!])(?:user(?:name|-id)?|user-pw|login|usr|pass(?:word|wd)?|pwd|token|secret)=)(?:\"[^\"]*\"|[^\s/!?#]*)"
)
# User and password end at the last @, even if the password contains a raw @ or a raw slash. Without an @ before
# the first slash, the text after "name:" is a password only if it is not a port.
_USER = re.compile(r"[^/?#]*@|[^/?#@:]*:(?!\d+(?:[/?#]|$)).*@", re.DOTALL)
_INSIDE = re.compile(r"(?<=://)[^\s/@!\"']+@")


def redact(text: str) -> str:
    """An address or pipeline with ``***`` in place of user names, passwords and other secrets."""
    head, separator, rest = text.partition("://")
    if separator and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", head) and _USER.match(rest):
        text = f"{head}://***@{rest.rpartition('@')[2]}"
    return _WORD.sub(r"\1***", _QUERY.sub(r"\1***", _INSIDE.sub("***@", text)))

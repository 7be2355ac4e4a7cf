"""Removes secrets from addresses and pipelines before they are shown or recorded. When in doubt, it removes too much."""

import re

_SECRET = r"[\w-]*(?:user|usr|login|pass|pw|psw|token|secret|key|sig|auth|jwt|credential)[\w-]*"
_QUERY = re.compile(rf"(?i)([?&;]{_SECRET}=)[^&;#\s]*")
# In a GStreamer pipeline (user-pw = "…", passphrase=…). A value may contain slashes and escaped quotes.
_PROPERTY = re.compile(rf"(?i)((?:^|[\s!]){_SECRET}\s*=\s*)(?:\"(?:\\.|[^\"\\])*\"?|'(?:\\.|[^'\\])*'?|(?:\\.|[^\s\\])*)")
# In the path of some cameras' addresses (/user=admin_password=…_channel=1).
_PATH = re.compile(r"(?i)(/(?:user(?:name|-id)?|login|usr|pass(?:word|wd)?|pwd|token|secret)=)[^\s/!?#]*")
# User and password end at the last @, even if the password contains a raw @ or a raw slash. Without an @ before
# the first slash, the text after "name:" is a password only if it is not a port.
_USER = re.compile(r"[^/?#]*@|[^/?#@:]*:(?!\d+(?:[/?#]|$)).*@", re.DOTALL)
_INSIDE = re.compile(r"(?<=://)(?:[^\s/@!\"']+@|[^\s/@:]*:(?!\d+(?:[/?#\s]|$))[^\s\"']*@)")
_LOCATION = re.compile(r"(?i)(location\s*=\s*)(\"[^\"]*\"|'[^']*')")
_MISTYPED = re.compile(r"[^\s@:]*:.*@")
"""A user and a password without ``://`` before them, as in an address with a slash missing."""


def redact(text: str) -> str:
    """An address or pipeline with ``***`` in place of user names, passwords and other secrets."""
    head, separator, rest = text.partition("://")
    if separator and re.fullmatch(r"\s*[A-Za-z][A-Za-z0-9+.-]*", head):
        if _USER.match(rest):
            text = f"{head}://***@{rest.rpartition('@')[2]}"
    elif separator or text.lower().startswith("gst:") or "!" in text:
        text = _LOCATION.sub(lambda match: match[1] + '"' + redact(match[2][1:-1]) + '"', text)
    else:
        text = _MISTYPED.sub("***@", text)
    text = _QUERY.sub(r"\1***", _INSIDE.sub("***@", text))
    return _PATH.sub(r"\1***", _PROPERTY.sub(r"\1***", text))

"""How names and values are written where MLflow has rules of its own. All pure."""

import hashlib
import re

KEY_LIMIT = 250
PARAM_LIMIT = 6000
TAG_LIMIT = 8000
RUN_NAME_LIMIT = 250
OLD_SERVER_LIMIT = 250  # what the oldest servers still take of any value

_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9_\-. :/]")


def plain_key(name: str) -> str:
    """A metric's, param's or tag's name as MLflow takes it; different names stay different.

    The rule: ASCII letters and digits, ``_ - . space : /`` stay, anything else becomes ``_``; so does
    a part between slashes that is empty, ``.`` or ``..``; 250 characters at most. A name that had to
    change ends with ``-`` and eight hexadecimal digits of its SHA-256.
    """
    parts = _NOT_IN_KEYS.sub("_", name).split("/")
    plain = "/".join("_" if part in ("", ".", "..") else part for part in parts)
    if plain == name and len(plain) <= KEY_LIMIT:
        return plain
    flag = f"-{_digest(name)}"
    return plain[: KEY_LIMIT - len(flag)] + flag


def shortened(text: str, limit: int) -> str:
    """The text, or its beginning with a note of the whole one's length and SHA-256.

    Nothing is lost by it: the whole configuration is in the run's ``config.json``. Characters that
    databases refuse (NUL, half of a surrogate pair) become ``?``.
    """
    plain = text.replace("\0", "?").encode("utf-8", "replace").decode("utf-8")
    if len(plain) <= limit:
        return plain
    flag = f" ... [cut: {len(text)} characters, sha256 {_digest(text)}]"
    return plain[: limit - len(flag)] + flag


def value_text(value: object) -> str:
    """A configuration's value, unrounded and as ``--set`` would read it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]

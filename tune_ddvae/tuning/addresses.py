"""How an address is shown: never with its password."""

import re

# A password ends at the address's last @; in a database address it may hold slashes.
_HTTP_PASSWORD = re.compile(r"(?i)(\bhttps?://[^\s/:@]*):[^\s/]*@")
_DATABASE_PASSWORD = re.compile(r"(?i)(\b(?!https?:)[a-z][a-z0-9+.\-]*://[^\s/:@]*):\S*@")
_SECRET_OPTION = re.compile(r"(?i)([?&;][^=&;\s]*(?:pass|pwd|token|secret)[^=&;\s]*=)[^&;\s]+")


def without_password(text: str) -> str:
    """An address, or any text with addresses in it, with every password replaced by ``***``."""
    for pattern in (_HTTP_PASSWORD, _DATABASE_PASSWORD):
        text = pattern.sub(r"\1:***@", text)
    return _SECRET_OPTION.sub(r"\1***", text)

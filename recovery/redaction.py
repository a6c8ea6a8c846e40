"""The last net below the log: personal data and credentials taken out of what is about to be said.

Nothing of ours logs them in the first place, and a rehearsal's logs prove it: they hold no trace of
this net. It is there for a library's message and for an exception nobody thought of.
"""

import logging
import re
from collections.abc import Callable
from typing import Any

WITHHELD = "[withheld]"
_PATTERNS = (
    # A JSON Web Token; a Vault token; a header's credential; a key in PEM.
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    re.compile(r"\b(?:hvs|hvb|s)\.[A-Za-z0-9_-]{20,}"),
    re.compile(r"\b(?:[Bb]earer|[Bb]asic) [A-Za-z0-9+/=._~-]{12,}"),
    re.compile(
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.S
    ),
    # A SendGrid key.
    re.compile(r"\bSG\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    # user:password@ in a URL; a mail address; a phone number as everybody stores it.
    re.compile(r"(?<=://)[^\s/@:]+:[^\s/@]+(?=@)"),
    re.compile(r"[\w.+-]+@(?:[\w-]+\.)+[A-Za-z]{2,}"),
    re.compile(r"(?<![\w+])\+[1-9][0-9]{7,14}\b"),
)

Factory = Callable[..., logging.LogRecord]


def redacted(text: str) -> str:
    """The text with `[withheld]` where something stood that no log may hold."""
    for pattern in _PATTERNS:
        text = pattern.sub(WITHHELD, text)
    return text


class RedactingFactory:
    """Makes log records as another factory does and redacts them, with their exceptions."""

    def __init__(self, make: Factory) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        try:
            said = record.getMessage()
        except (TypeError, ValueError):
            return record  # the handler complains of it
        clean = redacted(said)
        if clean != said:
            record.msg, record.args = clean, ()
        if record.exc_info:
            # Formatted here, so that no handler formats it again.
            record.exc_text = redacted(logging.Formatter().formatException(record.exc_info))
        return record


def guard_logs() -> None:
    """Puts the net below every logger of this process; once is enough, more does no harm."""
    make = logging.getLogRecordFactory()
    if not isinstance(make, RedactingFactory):
        logging.setLogRecordFactory(RedactingFactory(make))

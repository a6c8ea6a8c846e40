"""The public keys of enrollment tokens, from the configuration or from a file beside it.

The file is read again when it changed, so that a new key needs no restart; one that became
unusable changes nothing. A key's `exp` (seconds, as in RFC 7519) ends it without anybody's help.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt.exceptions import InvalidKeyError

from recovery.accounts import Clock
from recovery.enroll import public_keys
from recovery.errors import Misconfigured

_SHOWN = ("kty", "crv", "x", "kid", "use", "alg")
_LARGEST = 64 * 1024

log = logging.getLogger("portal")


class KeySet(Mapping[str, Ed25519PublicKey]):
    """kid -> key, those that are good at the moment of asking."""

    def __init__(self, source: Mapping[str, Any] | Path, clock: Clock) -> None:
        """Raises Misconfigured where the file cannot be used at the start."""
        self._clock = clock
        self._path = source if isinstance(source, Path) else None
        self._seen: tuple[int, int, int] | None = None
        self._rows: list[tuple[dict[str, Any], Ed25519PublicKey]] = []
        if isinstance(source, Path):
            self._seen = _stamp(source)
            self._rows = _read(source)
        else:
            self._rows = usable(source)

    def __getitem__(self, kid: str) -> Ed25519PublicKey:
        return self._good()[kid]

    def __iter__(self) -> Iterator[str]:
        return iter(self._good())

    def __len__(self) -> int:
        return len(self._good())

    def document(self) -> dict[str, Any]:
        """The JSON Web Key Set for everybody: public members alone, of good keys alone."""
        good = self._good()
        return {
            "keys": [
                {name: row[name] for name in _SHOWN if name in row}
                for row, _ in self._rows
                if row["kid"] in good
            ]
        }

    def _good(self) -> dict[str, Ed25519PublicKey]:
        self._look()
        now = self._clock()
        return {
            row["kid"]: key for row, key in self._rows if (end := _end(row)) is None or now < end
        }

    def _look(self) -> None:
        if self._path is None:
            return
        try:
            seen = _stamp(self._path)
            if seen == self._seen:
                return
            self._seen = seen
            self._rows = _read(self._path)
        except Misconfigured as error:
            log.error("the keys stay as they were: %s", error)
            return
        log.info("the keys were read again: %s", ", ".join(row["kid"] for row, _ in self._rows))


def usable(document: Mapping[str, Any]) -> list[tuple[dict[str, Any], Ed25519PublicKey]]:
    """The rows that can verify a token, each with its key. ValueError where there is none, where a
    private key stands among them, or where two share an id."""
    rows = document.get("keys")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("a JSON Web Key Set has a list of keys")
    if any("d" in row for row in rows):
        raise ValueError("public keys alone: a private one stands here")
    found: list[tuple[dict[str, Any], Ed25519PublicKey]] = []
    for row in rows:
        try:
            for key in public_keys({"keys": [row]}).values():
                _end(row)
                found.append((row, key))
        except (InvalidKeyError, KeyError, TypeError, ValueError):
            raise ValueError("a key that cannot be read") from None
    if not found:
        raise ValueError("at least one Ed25519 key with its kid")
    if len({row["kid"] for row, _ in found}) != len(found):
        raise ValueError("two keys with one kid")
    return found


def _end(row: Mapping[str, Any]) -> datetime | None:
    end = row.get("exp")
    return None if end is None else datetime.fromtimestamp(int(end), UTC)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error.strerror or type(error).__name__) from None
    # The inode too: file times are coarse, and a replaced file may have the same size.
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read(path: Path) -> list[tuple[dict[str, Any], Ed25519PublicKey]]:
    try:
        with path.open("rb") as file:
            return usable(json.loads(file.read(_LARGEST)))
    except OSError as error:
        raise _unreadable(path, error.strerror or type(error).__name__) from None
    except (ValueError, AttributeError) as error:
        got = "no JSON" if isinstance(error, json.JSONDecodeError) else str(error)
        raise _unreadable(path, got) from None


def _unreadable(path: Path, got: str) -> Misconfigured:
    return Misconfigured(
        "Read the public keys of enrollment tokens",
        subject=str(path),
        expected="a JSON Web Key Set with Ed25519 keys",
        got=got,
        advice="See docs/systems.md, Portal.",
    )

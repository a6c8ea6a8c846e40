"""How many segments a text message takes: GSM 03.38 (7 bit) or UCS-2, as carriers count them."""

from dataclasses import dataclass

_GSM = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    "ÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM_TWICE = frozenset("^{}\\[~]|€\f")
"""These are sent as an escape and a character, and the pair is never split."""


@dataclass(frozen=True, slots=True)
class Segments:
    encoding: str
    """GSM-7 or UCS-2."""
    units: int
    """Septets, or UTF-16 code units."""
    count: int


def segments(body: str) -> Segments:
    """Counts as they are cut: 160 septets or 70 code units alone, 153 or 67 in a chain."""
    if all(c in _GSM or c in _GSM_TWICE for c in body):
        return _cut("GSM-7", [2 if c in _GSM_TWICE else 1 for c in body], alone=160, chained=153)
    return _cut("UCS-2", [2 if ord(c) > 0xFFFF else 1 for c in body], alone=70, chained=67)


def _cut(encoding: str, widths: list[int], *, alone: int, chained: int) -> Segments:
    units = sum(widths)
    if units <= alone:
        return Segments(encoding, units, 1 if units else 0)
    count, used = 1, 0
    for width in widths:
        if used + width > chained:
            count, used = count + 1, 0
        used += width
    return Segments(encoding, units, count)

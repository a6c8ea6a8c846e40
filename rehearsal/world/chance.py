"""Chances of the rehearsal's servers: the same for the same seed and occasion, whatever came
before, so that concurrency does not change who is lucky."""

import hashlib


def chance(seed: int, *occasion: object) -> float:
    """A number in [0, 1)."""
    text = "\x1f".join(map(str, (seed, *occasion)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64

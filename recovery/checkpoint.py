"""Signed checkpoints of the audit log: what one says, how it is signed, what it proves of a log.

A C2SP signed note (tlog-checkpoint, signed-note): origin, size, Merkle root, then our extension
lines, then the signature. Kept in a second place, it shows what a chain alone can't: that the whole
log was replaced, or its end cut off.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from recovery.audit import GENESIS, Head, Link, Tampered, stamp, verify_links
from recovery.errors import Unverified
from recovery.merkle import Growing, leaf_hash

_HASH = 32
_DASH = "— "
_ED25519 = b"\x01"
_ORIGIN = re.compile(r"[a-z0-9][a-z0-9./-]{2,100}")
_HEAD = re.compile(r"head [0-9a-f]{64}")
_TIME = re.compile(r"time \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log of `size` entries at one moment: the root over them and the chain's last hash."""

    origin: str
    size: int
    root: bytes
    head: str
    at: datetime

    def text(self) -> bytes:
        """What is signed."""
        if not _ORIGIN.fullmatch(self.origin):
            raise ValueError("an origin is lower case letters, digits, dots, dashes and slashes")
        root = base64.b64encode(self.root).decode()
        lines = (self.origin, str(self.size), root, f"head {self.head}", f"time {stamp(self.at)}")
        return ("\n".join(lines) + "\n").encode()


@dataclass(frozen=True, slots=True)
class Kept:
    """What a second place holds: signed notes, and the leaf hashes from the first entry on."""

    notes: tuple[bytes, ...]
    leaves: bytes


def signed_note(checkpoint: Checkpoint, *, key: bytes, signature: bytes) -> bytes:
    """The note as it is kept; `key` is the signer's raw 32-byte public key."""
    mark = base64.b64encode(_key_hash(checkpoint.origin, key) + signature).decode()
    return checkpoint.text() + f"\n{_DASH}{checkpoint.origin} {mark}\n".encode()


def opened(note: bytes, keys: Iterable[bytes]) -> Checkpoint:
    """The checkpoint in a note that one of the raw public keys signed. Raises Unverified."""
    text, gap, marks = note.rpartition(b"\n\n")
    if not gap:
        raise _bad("a note without a signature")
    text += b"\n"
    checkpoint = _read(text)
    known = {_key_hash(checkpoint.origin, key): key for key in keys}
    for line in marks.decode("utf-8", "replace").splitlines():
        name, _, mark = line.removeprefix(_DASH).partition(" ")
        try:
            raw = base64.b64decode(mark, validate=True)
        except ValueError:
            continue
        key = known.get(raw[:4])
        if name != checkpoint.origin or key is None:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(raw[4:], text)
        except InvalidSignature:
            raise _bad("a signature that does not fit") from None
        return checkpoint
    raise _bad("no signature by a known key")


def hold_against(
    links: Iterable[Link], checkpoints: Sequence[Checkpoint], leaves: bytes = b""
) -> Head:
    """Walks the whole chain and holds it against every checkpoint; returns its head.

    `leaves` are the leaf hashes of the first entries, 32 bytes each, as they were kept with the
    checkpoints; they name the first bad entry exactly, whatever was done to the log. Without them
    Tampered names the entry at which the chain breaks or, in a log that was hashed anew or cut, the
    first one after the last checkpoint that still holds.
    """
    return Walk(checkpoints, leaves).over(links)


def proven_leaves(leaves: bytes, checkpoints: Iterable[Checkpoint]) -> bytes:
    """The part of the leaf hashes that a checkpoint signs; the rest may be anybody's."""
    tree, proven = Growing(), 0
    roots: dict[int, list[bytes]] = {}
    for mark in checkpoints:
        roots.setdefault(mark.size, []).append(mark.root)
    for start in range(0, len(leaves) - _HASH + 1, _HASH):
        tree.append(leaves[start : start + _HASH])
        if tree.size in roots and tree.root() in roots[tree.size]:
            proven = tree.size
    return leaves[: proven * _HASH]


class Walk:
    """One walk over a whole chain: it is verified, held against every checkpoint at its size, and
    its tree grows, from which the next checkpoint is made."""

    def __init__(self, checkpoints: Sequence[Checkpoint], leaves: bytes = b"") -> None:
        marks = sorted(checkpoints, key=lambda c: c.size)
        _agree(marks)
        self.tree = Growing()
        self.fresh = bytearray()
        """The leaf hashes after those that were given and that a checkpoint signs."""
        self._ahead = [mark for mark in marks if mark.size]
        self._leaves = proven_leaves(leaves, marks)
        self._proven = 0

    def over(self, links: Iterable[Link]) -> Head:
        """The chain's head; raises as `hold_against` says."""
        head = verify_links(self._past(links))
        self._at_the_end()
        return head

    def _past(self, links: Iterable[Link]) -> Iterable[Link]:
        """The same links; each is compared before and counted after it was verified."""
        last = GENESIS
        for each in links:
            self._meet(last)
            leaf = leaf_hash(each.record)
            self._compare(leaf)
            yield each
            self.tree.append(leaf)
            if self.tree.size * _HASH > len(self._leaves):
                self.fresh += leaf
            last = each.hash
        self._meet(last)

    def _compare(self, leaf: bytes) -> None:
        kept = self._leaves[self.tree.size * _HASH : (self.tree.size + 1) * _HASH]
        if kept and kept != leaf:
            raise Tampered(
                self.tree.size + 1, "it is not the entry that the checkpoints were made of"
            )

    def _meet(self, head: str) -> None:
        while self._ahead and self._ahead[0].size == self.tree.size:
            mark = self._ahead.pop(0)
            if mark.head != head or mark.root != self.tree.root():
                raise Tampered(
                    self._proven + 1,
                    f"entries {self._proven + 1} to {mark.size} are not those of the checkpoint "
                    f"of {stamp(mark.at)}",
                )
            self._proven = mark.size

    def _at_the_end(self) -> None:
        """Nothing that a checkpoint counts may be missing."""
        if not self._ahead:
            return
        size, mark = self.tree.size, self._ahead[-1]
        exact = len(self._leaves) > size * _HASH
        raise Tampered(
            (size if exact else self._proven) + 1,
            f"the log ends after {size} entries; the checkpoint of {stamp(mark.at)} counts "
            f"{mark.size}",
        )


def _agree(marks: Sequence[Checkpoint]) -> None:
    for one, next_ in pairwise(marks):
        if one.origin != next_.origin:
            raise Unverified("comparing checkpoints", got="checkpoints of two ledgers")
        if one.size == next_.size and (one.root, one.head) != (next_.root, next_.head):
            raise Tampered(one.size, "two signed checkpoints contradict each other")


def _read(text: bytes) -> Checkpoint:
    try:
        origin, size, root, head, at = text.decode("ascii").splitlines()
        if not (_HEAD.fullmatch(head) and _TIME.fullmatch(at) and _ORIGIN.fullmatch(origin)):
            raise ValueError("not a checkpoint")
        checkpoint = Checkpoint(
            origin=origin,
            size=int(size),
            root=base64.b64decode(root, validate=True),
            head=head.removeprefix("head "),
            at=datetime.fromisoformat(at.removeprefix("time ")),
        )
        if checkpoint.text() != text:
            raise ValueError("not in its canonical spelling")
    except (ValueError, UnicodeDecodeError):
        raise _bad("something that is no checkpoint") from None
    return checkpoint


def _key_hash(name: str, key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + key).digest()[:4]


def _bad(got: str) -> Unverified:
    return Unverified(
        "reading a checkpoint",
        expected="a note signed by the ledger's checkpoint key",
        got=got,
        advice="Compare it with the copy in the other place; keep both.",
    )

"""The Merkle tree over the audit log: its root, and proofs for one entry and for growth.

RFC 9162, section 2: SHA-256, `0x00` before a leaf and `0x01` before a node. A leaf is an entry's
canonical record, so that one entry can be shown and proven without the entries around it.
"""

import hashlib
from collections.abc import Iterable, Sequence

from recovery.errors import Unverified

EMPTY_ROOT = hashlib.sha256(b"").digest()
_LEAF = b"\x00"
_NODE = b"\x01"


def leaf_hash(record: bytes) -> bytes:
    """The hash of one entry's canonical record."""
    return hashlib.sha256(_LEAF + record).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


class Growing:
    """A tree that leaves are appended to; holds one hash for each level, whatever its size."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[tuple[int, bytes]] = []

    def append(self, leaf: bytes) -> None:
        """Adds a leaf by its hash."""
        height, carried = 0, leaf
        while self._peaks and self._peaks[-1][0] == height:
            carried = _node(self._peaks.pop()[1], carried)
            height += 1
        self._peaks.append((height, carried))
        self.size += 1

    def root(self) -> bytes:
        """The root over all leaves so far; an empty tree has the hash of nothing."""
        if not self._peaks:
            return EMPTY_ROOT
        root = self._peaks[-1][1]
        for _, peak in reversed(self._peaks[:-1]):
            root = _node(peak, root)
        return root


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf hashes."""
    tree = Growing()
    for leaf in leaves:
        tree.append(leaf)
    return tree.root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The hashes that lead from the leaf at `index` (from 0) to the root, the nearest first."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"no leaf {index} in a tree of {len(leaves)}")
    return _path(leaves, index)


def _path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*_path(leaves[:split], index), root_of(leaves[split:])]
    return [*_path(leaves[split:], index - split), root_of(leaves[:split])]


def consistency_proof(leaves: Sequence[bytes], earlier: int) -> list[bytes]:
    """The hashes that show that the tree of the first `earlier` leaves grew into this one."""
    if not 0 < earlier <= len(leaves):
        raise IndexError(f"no earlier tree of {earlier} in one of {len(leaves)}")
    return [] if earlier == len(leaves) else _subproof(leaves, earlier, whole=True)


def _subproof(leaves: Sequence[bytes], earlier: int, *, whole: bool) -> list[bytes]:
    if earlier == len(leaves):
        return [] if whole else [root_of(leaves)]
    split = _split(len(leaves))
    if earlier <= split:
        return [*_subproof(leaves[:split], earlier, whole=whole), root_of(leaves[split:])]
    rest = _subproof(leaves[split:], earlier - split, whole=False)
    return [*rest, root_of(leaves[:split])]


def _split(size: int) -> int:
    """The largest power of two below `size`, which is at least 2."""
    return int(1 << (size - 1).bit_length() - 1)


def check_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Returns where the proof holds; raises Unverified otherwise (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        raise Unverified("proving an audit entry", got=f"no entry {index + 1} in a log of {size}")
    place, last, found = index, size - 1, leaf
    for step in proof:
        if last == 0:
            raise Unverified("proving an audit entry", got="a proof that is too long")
        if place & 1 or place == last:
            found = _node(step, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = _node(found, step)
        place, last = place >> 1, last >> 1
    if last != 0 or found != root:
        raise Unverified("proving an audit entry", got="a proof that leads to another root")


def check_consistency(
    earlier: int, earlier_root: bytes, size: int, root: bytes, proof: Sequence[bytes]
) -> None:
    """Returns where the proof shows growth; raises Unverified otherwise (RFC 9162, 2.1.4.2)."""
    attempted = "comparing two checkpoints"
    if not 0 < earlier <= size:
        raise Unverified(attempted, got=f"{earlier} entries are no beginning of {size}")
    if earlier == size:
        if proof or earlier_root != root:
            raise Unverified(attempted, got="two roots for one size")
        return
    steps = list(proof)
    if earlier & (earlier - 1) == 0:
        steps.insert(0, earlier_root)
    if not steps:
        raise Unverified(attempted, got="an empty proof")
    place, last = earlier - 1, size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    before = after = steps[0]
    for step in steps[1:]:
        if last == 0:
            raise Unverified(attempted, got="a proof that is too long")
        if place & 1 or place == last:
            before, after = _node(step, before), _node(step, after)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            after = _node(after, step)
        place, last = place >> 1, last >> 1
    if last != 0 or before != earlier_root or after != root:
        raise Unverified(attempted, got="a log that did not grow out of the earlier one")

"""What a checkpoint of the audit log says, and the log held against the checkpoints of before.

The ledger computes and compares; who signs, and where the notes are kept, is not its business.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ledger.audit_log import links_of, same_end, stored_head
from ledger.transaction import Core
from recovery.audit import Head, Tampered
from recovery.checkpoint import Checkpoint, Walk
from recovery.merkle import inclusion_proof, leaf_hash


@dataclass(frozen=True, slots=True)
class Inclusion:
    """One entry and the way from it to the root of a log of `size` entries."""

    seq: int
    size: int
    record: bytes
    proof: tuple[bytes, ...]


class Checkpoints(Core):
    """Checkpoints."""

    @property
    def origin(self) -> str:
        """The name of this ledger in its checkpoints: the same for the same key."""
        return f"recovery-ledger/{self.key_check()[:16]}"

    def checkpoint(
        self, known: Sequence[Checkpoint] = (), leaves: bytes = b""
    ) -> tuple[Checkpoint, bytes]:
        """The log as it stands, proven on the way against the `known` checkpoints as by
        `verify_against`, and the leaf hashes (32 bytes each) after those that they sign. A page in
        memory at a time, and those hashes."""
        walk = Walk(known, leaves)
        head = self._walked(walk)
        checkpoint = Checkpoint(
            self.origin, walk.tree.size, walk.tree.root(), head.hash, self.now()
        )
        return checkpoint, bytes(walk.fresh)

    def verify_against(self, checkpoints: Sequence[Checkpoint], leaves: bytes = b"") -> Head:
        """Proves the whole chain, its end and its past against checkpoints kept elsewhere.

        Raises Tampered with the first bad entry (see `recovery.checkpoint.hold_against`). What was
        written after the newest checkpoint is proven by the chain alone.
        """
        return self._walked(Walk(checkpoints, leaves))

    def _walked(self, walk: Walk) -> Head:
        with self._read() as conn:
            head = stored_head(conn)
            found = walk.over(links_of(conn))
        same_end(found, head)
        return head

    def inclusion(self, seq: int, size: int) -> Inclusion:
        """The proof that entry `seq` (from 1) stands in the log of the first `size` entries.

        Holds 32 bytes an entry in memory. Raises Tampered where there are not that many.
        """
        leaves: list[bytes] = []
        wanted = b""
        with self._read() as conn:
            for each in links_of(conn):
                if each.seq > size:
                    break
                leaves.append(leaf_hash(each.record))
                if each.seq == seq:
                    wanted = each.record
        if len(leaves) < size or not 1 <= seq <= size:
            raise Tampered(len(leaves) + 1, f"there is no entry {max(seq, size)}")
        return Inclusion(seq, size, wanted, tuple(inclusion_proof(leaves, seq - 1)))

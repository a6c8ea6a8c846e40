"""What a task returns about a batch: counts, never people."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from recovery.accounts import Outcome, Verdict


@dataclass(frozen=True, slots=True)
class BatchCounts:
    done: int = 0
    already: int = 0
    refused: int = 0
    unknown: int = 0

    @property
    def total(self) -> int:
        return self.done + self.already + self.refused + self.unknown

    def __add__(self, other: "BatchCounts") -> "BatchCounts":
        return BatchCounts(
            self.done + other.done,
            self.already + other.already,
            self.refused + other.refused,
            self.unknown + other.unknown,
        )

    def __str__(self) -> str:
        shown = {
            "done": self.done,
            "already": self.already,
            "refused": self.refused,
            "unknown": self.unknown,
        }
        return ", ".join(f"{n} {name}" for name, n in shown.items() if n) or "nothing due"


def counted(outcomes: Iterable[Outcome]) -> BatchCounts:
    seen = Counter(outcome.verdict for outcome in outcomes)
    return BatchCounts(
        done=seen[Verdict.DONE],
        already=seen[Verdict.ALREADY],
        refused=seen[Verdict.REFUSED],
        unknown=seen[Verdict.UNKNOWN],
    )

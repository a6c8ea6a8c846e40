"""The live view in the terminal: phase, wave, accounts done and left, rate, gate, attacker.

On a terminal it redraws in place; elsewhere (a log, CI) it prints a line when something changed.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from recovery.accounts import Stage
from recovery.incident import Tally

PHASES = ("detect", "contain", "enroll", "notify", "rotate", "validate", "retire", "report")


@dataclass(frozen=True, slots=True)
class Glance:
    """One look at the run: what the ledger counts and what the orchestrator says."""

    elapsed: float
    run_state: str
    gate: str
    started: frozenset[str]
    finished: frozenset[str]
    tally: Tally
    clients: int
    clients_done: Mapping[str, int]
    attacker: str


@dataclass(slots=True)
class _Pace:
    """Accounts a second over the last few looks of one phase."""

    seen: list[tuple[float, int]] = field(default_factory=list)

    def rate(self, done: int) -> float:
        now = time.monotonic()
        self.seen = [*self.seen[-12:], (now, done)]
        first_at, first = self.seen[0]
        return (done - first) / (now - first_at) if now - first_at > 0.5 else 0.0


class Board:
    """Shows glances. Use as a context manager; `say` prints a line above the live view."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._live = Live(console=console, refresh_per_second=8, transient=True)
        self._paces: dict[str, _Pace] = {}
        self._printed: set[str] = set()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def show(self, glance: Glance) -> None:
        if self._console.is_terminal:
            self._live.update(self._drawn(glance))
        else:
            self._print_changes(glance)

    def _drawn(self, glance: Glance) -> Group:
        table = Table.grid(padding=(0, 2))
        for phase in PHASES:
            done, total = _progress(phase, glance)
            table.add_row(
                self._mark(phase, glance),
                Text(phase, style="bold" if phase in glance.started else "dim"),
                ProgressBar(total=max(total, 1), completed=done, width=30) if total else Text(""),
                Text(self._numbers(phase, done, total, glance)),
            )
        head = Text(f"{self._title}   {_clock(glance.elapsed)}   run {glance.run_state.lower()}")
        lines: list[Text | Table] = [head, table]
        if glance.gate:
            lines.append(Text(f"waiting for a person at the gate: {glance.gate}", style="yellow"))
        lines.append(Text(glance.attacker, style="dim"))
        return Group(*lines)

    @staticmethod
    def _mark(phase: str, glance: Glance) -> Text:
        if phase in glance.finished:
            return Text("✔", style="green")
        return Text("•" if phase in glance.started else " ", style="cyan")

    def _numbers(self, phase: str, done: int, total: int, glance: Glance) -> str:
        if not total or phase not in glance.started:
            return ""
        rate = self._paces.setdefault(phase, _Pace()).rate(done)
        text = f"{done} done, {max(total - done, 0)} left"
        if rate > 0.5 and phase not in glance.finished:
            text += f", {rate:.0f}/s"
        wave = _wave(phase, glance.tally)
        return text + (f", wave {wave}" if wave is not None and done < total else "")

    def _print_changes(self, glance: Glance) -> None:
        for phase in PHASES:
            done, total = _progress(phase, glance)
            for word, marks in (("started", glance.started), ("finished", glance.finished)):
                event = f"{phase} {word}"
                if phase in marks and event not in self._printed:
                    self._printed.add(event)
                    counts = f": {done} of {total}" if total and word == "finished" else ""
                    self.say(f"{_clock(glance.elapsed)}  {event}{counts}")
        gate = f"gate {glance.gate}"
        if glance.gate and gate not in self._printed:
            self._printed.add(gate)
            self.say(f"{_clock(glance.elapsed)}  waiting for a person at the gate: {glance.gate}")


_REACHED = {
    "contain": Stage.CONTAINED,
    "enroll": Stage.TOKEN_ISSUED,
    "notify": Stage.NOTIFIED,
}


def _progress(phase: str, glance: Glance) -> tuple[int, int]:
    """(done, total) of a phase; (0, 0) where counting makes no sense."""
    tally = glance.tally
    if phase in ("rotate", "retire"):
        return glance.clients_done.get(phase, 0), glance.clients
    reached = _REACHED.get(phase)
    if reached is None:
        return 0, 0
    path = [s for s in Stage if s.rank >= reached.rank and s is not Stage.MANUAL]
    done = tally.in_stage(*path)
    aside = tally.in_stage(Stage.MANUAL)
    everybody = sum(tally.stages.values()) - tally.in_stage(Stage.EXCLUDED)
    if phase == "contain":
        return done + aside, everybody
    return done, everybody - aside


def _wave(phase: str, tally: Tally) -> int | None:
    """The first wave that has accounts still to reach the phase's stage."""
    reached = _REACHED.get(phase)
    if reached is None:
        return None
    waiting = [
        wave
        for (wave, stage), count in tally.stages.items()
        if count and wave >= 0 and 0 <= stage.rank < reached.rank and stage is not Stage.MANUAL
    ]
    return min(waiting, default=None)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes:02}:{rest:02}"

"""The report's two pictures: the phases against the playbook's 90 minutes, and how the shares grew.

Colours come from the page's variables, so that dark mode and print need no second picture. Nothing
in here is personal: phases, gates, times and shares.
"""

import bisect
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from html import escape

from recovery.report_input import ReportInput
from recovery.report_kpis import PhaseSpan, Standing, Timeline, Wait, duration

_MINUTE = timedelta(minutes=1)
_COLOUR = {Standing.MET: "var(--ok)", Standing.MISSED: "var(--bad)", Standing.OPEN: "var(--wait)"}
_TITLES = {
    "detect": "Detect",
    "contain": "Contain",
    "enroll": "Enroll",
    "notify": "Notify",
    "rotate": "Rotate",
    "validate": "Validate",
    "retire": "Retire",
}

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 900, 92, 20, 34, 34
_LONGEST = 240  # minutes; a phase that ends later runs out of the picture with an arrow


def gantt_svg(line: Timeline, milestones: Sequence[tuple[str, timedelta, bool]] = ()) -> str:
    """One row a phase: the playbook's window as a frame, ours as a bar, waiting for people hatched.

    `milestones` are (label, time since the opening, whether it is good news).
    """
    ends = [p.finished or line.elapsed for p in line.phases if p.started is not None]
    ends += [at for _, at, _ in milestones]
    longest = max((end / _MINUTE for end in ends), default=0)
    # Room for the last label, where something ends after the 90 minutes.
    axis = min(max(90.0, math.ceil((longest + 14) / 15) * 15 if longest > 90 else 90.0), _LONGEST)

    def x(at: timedelta) -> float:
        return _LEFT + min(max(at / _MINUTE, 0), axis) / axis * (_WIDTH - _LEFT - _RIGHT)

    bottom = _TOP + _ROW * len(line.phases)
    below = 26 + 18 * len(milestones)
    parts = [_hatch(), *_axis(x, axis, bottom)]
    for place, phase in enumerate(line.phases):
        y = _TOP + place * _ROW
        parts += _phase(phase, y, x, axis, line.elapsed)
        waits = [w for w in line.waits if _phase_of(w.gate) == phase.phase]
        parts += [_wait(w, y, x, line.elapsed) for w in waits]
    for place, (label, at, good) in enumerate(sorted(milestones, key=lambda m: m[1])):
        parts += _milestone(label, at, good, x, bottom, place)
    summary = "; ".join(
        f"{_TITLES[p.phase]} {_took(p, line.elapsed) or 'not begun'}" for p in line.phases
    )
    return _svg(_WIDTH, bottom + below, f"Phases since the opening: {summary}", parts)


def _axis(x: Callable[[timedelta], float], axis: float, bottom: float) -> list[str]:
    ticks = [0, 10, 25, 45, 70, 90]
    ticks += list(range(120, int(axis) + 1, 30))
    parts = []
    for tick in ticks:
        at = x(timedelta(minutes=tick))
        strong = tick == 90
        parts.append(
            f'<line x1="{at:.1f}" y1="{_TOP - 8}" x2="{at:.1f}" y2="{bottom}" '
            f'stroke="var(--{"ink" if strong else "line"})" stroke-width="{1.4 if strong else 1}"/>'
        )
        label = f"{tick} min" if tick in (0, 90) else str(tick)
        anchor = "start" if tick == 0 else "end" if at > _WIDTH - 60 else "middle"
        parts.append(_text(at, _TOP - 14, label, anchor=anchor, muted=not strong))
    return parts


def _phase(
    phase: PhaseSpan, y: float, x: Callable[[timedelta], float], axis: float, elapsed: timedelta
) -> list[str]:
    begin, end = (x(at) for at in phase.window)
    parts = [
        _text(_LEFT - 12, y + 21, _TITLES[phase.phase], anchor="end", weight=600),
        f'<rect x="{begin:.1f}" y="{y + 5}" width="{end - begin:.1f}" height="{_ROW - 10}" rx="5" '
        f'fill="var(--frame)" stroke="var(--line)"/>',
    ]
    if phase.started is None:
        return [*parts, _text(begin + 8, y + 21, "not begun", muted=True)]
    until = elapsed if phase.finished is None else phase.finished
    left, right = x(phase.started), x(until)
    colour = _COLOUR[phase.standing]
    parts.append(
        f'<rect x="{left:.1f}" y="{y + 10}" width="{max(right - left, 4):.1f}" height="{_ROW - 20}"'
        f' rx="4" fill="{colour}"><title>{_TITLES[phase.phase]}: '
        f"{_took(phase, elapsed)}, {phase.standing.value}</title></rect>"
    )
    if until / _MINUTE > axis:
        tip = f"{right:.1f},{y + 10} {right + 10:.1f},{y + _ROW / 2:.1f} {right:.1f},{y + 24}"
        parts.append(f'<polygon points="{tip}" fill="{colour}"/>')
    label = _took(phase, elapsed)
    room = _WIDTH - _RIGHT - max(right, left + 4)
    if room > 7 * len(label) + 12:
        parts.append(_halo(max(right, left + 4) + 7, y + 21, label))
    elif left - _LEFT > 7 * len(label) + 12:
        parts.append(_halo(left - 7, y + 21, label, anchor="end"))
    else:
        parts.append(_halo(right - 10, y + 21, label, anchor="end"))
    return parts


def _took(phase: PhaseSpan, elapsed: timedelta) -> str:
    if phase.started is None:
        return ""
    if phase.finished is None:
        return f"for {duration(elapsed - phase.started)}, runs"
    return duration(phase.finished - phase.started)


def _wait(wait: Wait, y: float, x: Callable[[timedelta], float], elapsed: timedelta) -> str:
    until = elapsed if wait.until is None else wait.until
    left, right = x(wait.since), x(until)
    title = f"waiting at the gate {escape(wait.gate)}: {duration(until - wait.since)}"
    return (
        f'<rect x="{left:.1f}" y="{y + 7}" width="{max(right - left, 3):.1f}" height="{_ROW - 14}" '
        f'rx="3" fill="url(#waiting)"><title>{title}</title></rect>'
    )


def _phase_of(gate: str) -> str:
    """The row on which a gate stands: `contain`, `contain.late.4`, `hold.rotate.1`, `retire`."""
    parts = gate.split(".")
    return parts[1] if parts[0] == "hold" and len(parts) > 1 else parts[0]


def _milestone(
    label: str,
    at: timedelta,
    good: bool,
    x: Callable[[timedelta], float],
    bottom: float,
    place: int,
) -> list[str]:
    colour = "var(--ok)" if good else "var(--bad)"
    here, y = x(at), bottom + 20 + 18 * place
    right = here < _WIDTH * 0.6
    text = f"{label}: {duration(at)}"
    return [
        f'<line x1="{here:.1f}" y1="{_TOP - 4}" x2="{here:.1f}" y2="{y - 8:.1f}" '
        f'stroke="{colour}" stroke-width="1.6" stroke-dasharray="4 3"/>',
        f'<circle cx="{here:.1f}" cy="{y - 4:.1f}" r="4" fill="{colour}"/>',
        _halo(here + (9 if right else -9), y, text, anchor="start" if right else "end"),
    ]


# --- shares over time --------------------------------------------------------------------------

_CURVE_WIDTH, _CURVE_HEIGHT, _CURVE_BASE, _CURVE_TOP = 560, 260, 226, 14
_CURVE_LEFT, _CURVE_RIGHT = 48, 126
_TICKS = (
    (10, "10 s"),
    (60, "1 min"),
    (600, "10 min"),
    (3_600, "1 h"),
    (21_600, "6 h"),
    (86_400, "24 h"),
    (259_200, "72 h"),
)


def curves_svg(report: ReportInput) -> str:
    """The shares of all accounts contained, notified and enrolled, over a logarithmic clock."""
    people = report.population
    if not people:
        return ""
    opened, times = report.incident.opened_at, report.times
    series = [
        ("contained", "var(--ok)", "", times.contained),
        ("notified", "var(--accent)", "7 4", times.notified),
        ("enrolled", "var(--plum)", "2 3", times.enrolled),
    ]
    elapsed = max((report.generated_at - opened).total_seconds(), 60.0)
    last = next((s for s, _ in _TICKS if s >= elapsed), _TICKS[-1][0])
    width = _CURVE_WIDTH - _CURVE_LEFT - _CURVE_RIGHT

    def x(seconds: float) -> float:
        placed = math.log(min(max(seconds, 10), last) / 10) / math.log(last / 10)
        return _CURVE_LEFT + placed * width

    def y(share: float) -> float:
        return _CURVE_BASE - share * (_CURVE_BASE - _CURVE_TOP)

    right = _CURVE_LEFT + width
    parts = []
    for percent in (0, 25, 50, 75, 90, 100):
        level = y(percent / 100)
        dash = ' stroke-dasharray="3 3"' if percent == 90 else ""
        parts.append(
            f'<line x1="{_CURVE_LEFT}" y1="{level:.1f}" x2="{right}" y2="{level:.1f}" '
            f'stroke="var(--line)"{dash}/>'
        )
        if percent != 100:
            parts.append(
                _text(_CURVE_LEFT - 8, level + 4, f"{percent} %", anchor="end", muted=True)
            )
    for tick, label in _TICKS:
        if tick <= last:
            parts.append(_text(x(tick), _CURVE_BASE + 20, label, anchor="middle", muted=True))
    labels: list[tuple[float, str, str]] = []
    for name, colour, dash, reached in series:
        steps = _steps(((at - opened).total_seconds() for at in reached.values()), people)
        points = f"M{x(10):.1f},{y(steps[0][1]):.1f}"
        for seconds, share in steps[1:]:
            points += f"H{x(seconds):.1f}V{y(share):.1f}"
        points += f"H{x(elapsed):.1f}"
        pattern = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(
            f'<path d="{points}" fill="none" stroke="{colour}" stroke-width="2.2" '
            f'stroke-linejoin="round"{pattern}/>'
        )
        labels.append((y(steps[-1][1]), f"{steps[-1][1]:.0%} {name}", colour))
    parts += _end_labels(labels, x(elapsed) + 8)
    told = ", ".join(text for _, text, _ in labels)
    return _svg(
        _CURVE_WIDTH, _CURVE_HEIGHT, f"Shares of all accounts at this report: {told}", parts
    )


def _steps(seconds: Iterable[float], people: int) -> list[tuple[float, float]]:
    """(time, share) at most 160 times, the first at the left edge; exact where there are few."""
    ordered = sorted(max(s, 0.0) for s in seconds)
    start = bisect.bisect_right(ordered, 10)
    every = max(1, math.ceil(len(ordered) / 160))
    places = sorted({*range(start, len(ordered), every), len(ordered) - 1} - {-1})
    places = [place for place in places if place >= start]
    return [(10, start / people), *((ordered[p], (p + 1) / people) for p in places)]


def _end_labels(labels: Sequence[tuple[float, str, str]], x: float) -> list[str]:
    """Labels at the lines' ends, pushed apart where they would lie on each other."""
    parts, lowest = [], -math.inf
    for y, text, colour in sorted(labels):
        lowest = max(y + 4, lowest + 15)
        parts.append(_text(x, lowest, text, weight=600, colour=colour))
    return parts


# --- pieces ------------------------------------------------------------------------------------


def _hatch() -> str:
    return (
        '<defs><pattern id="waiting" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="6" height="6" fill="var(--wait)" '
        'opacity=".16"/><line x1="0" y1="0" x2="0" y2="6" stroke="var(--wait)" '
        'stroke-width="2.4"/></pattern></defs>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    weight: int = 400,
    muted: bool = False,
    colour: str = "",
) -> str:
    fill = colour or ("var(--muted)" if muted else "var(--ink)")
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{fill}">{escape(text)}</text>'
    )


def _halo(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    """Text that stays readable across lines and bars."""
    return _text(x, y, text, anchor=anchor).replace(
        "<text ", '<text paint-order="stroke" stroke="var(--card)" stroke-width="4" ', 1
    )


def _svg(width: float, height: float, label: str, parts: Iterable[str], *, size: float = 13) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'role="img" aria-label="{escape(label, quote=True)}" font-size="{size:g}">'
        + "".join(parts)
        + "</svg>"
    )

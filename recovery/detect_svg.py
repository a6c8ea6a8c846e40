"""The burst as a picture: an SVG for the report and a line of block characters for text.

Both show the resets around the burst against what was expected; no names, no addresses.
"""

import math
from datetime import datetime, timedelta

from recovery.detect_burst import Burst

_WIDTH, _HEIGHT, _LEFT, _TOP, _BASE = 720, 190, 44, 26, 156
_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(burst: Burst, *, width: int = 60) -> str:
    """The stretch around the burst in at most `width` characters; the scale is the square root."""
    joined = max(1, math.ceil(len(burst.around) / width))
    bars = [
        sum(bucket.count for bucket in burst.around[at : at + joined])
        for at in range(0, len(burst.around), joined)
    ]
    top = max(bars, default=0)
    last = len(_BLOCKS) - 1
    return "".join(_BLOCKS[math.ceil(math.sqrt(n / top) * last)] if n else "·" for n in bars)


def burst_markdown(burst: Burst) -> str:
    """The same for a Markdown artifact: the line of blocks, the numbers and how they were found."""
    rows = {
        "from": f"{burst.start:%Y-%m-%d %H:%M} UTC",
        "to": f"{burst.end:%Y-%m-%d %H:%M} UTC{', still going on' if burst.ongoing else ''}",
        "resets": f"{burst.events:,}",
        "above expectation": f"{burst.blast_radius:,}",
        "peak": f"{burst.peak.count:,} in the bucket of {burst.peak.start:%H:%M}",
        "confidence": f"{burst.confidence:.4%}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"```text\n{sparkline(burst)}\n```\n\n| | |\n|---|---|\n{table}\n\n{burst.method}\n"


def burst_svg(burst: Burst) -> str:
    """A self-contained picture, readable on light and on dark ground; colours can be overruled by
    the page's variables --burst, --quiet and --ink."""
    bars = burst.around
    if not bars:
        return ""
    top = max(1, *(bar.count for bar in bars), 1)
    step = (_WIDTH - _LEFT - 8) / len(bars)
    span = bars[1].start - bars[0].start if len(bars) > 1 else timedelta(minutes=1)
    begin = bars[0].start

    def x_of(at: datetime) -> float:
        place = _LEFT + (at - begin) / span * step
        return min(max(place, _LEFT), _LEFT + step * len(bars))

    # Never narrower than the eye can find.
    left, right = x_of(burst.start), x_of(burst.end)
    left, right = min(left, right - 4), max(right, left + 4)
    marks = [
        f'<rect x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" height="{_BASE - _TOP}" '
        f'fill="var(--burst,#d1495b)" opacity=".13"/>'
    ]
    for place, bar in enumerate(bars):
        if not bar.count:
            continue
        height = max(1.0, (_BASE - _TOP) * bar.count / top)
        inside = bar.start + span > burst.start and bar.start < burst.end
        colour = "var(--burst,#d1495b)" if inside else "var(--quiet,#8a94a6)"
        marks.append(
            f'<rect x="{_LEFT + place * step:.1f}" y="{_BASE - height:.1f}" '
            f'width="{max(step * 0.86, 0.8):.1f}" height="{height:.1f}" rx=".8" fill="{colour}"/>'
        )
    caption = (
        f"{burst.events:,} resets from {burst.start:%d %b %H:%M} to {burst.end:%H:%M} UTC, "
        f"about {burst.expected_per_bucket:.3g} a bucket expected"
    )
    labels = [
        _text(_LEFT, 15, caption, weight=600),
        _text(_LEFT - 6, _TOP + 8, f"{top:,}", anchor="end"),
        _text(_LEFT - 6, _BASE, "0", anchor="end"),
        _text(_LEFT, _BASE + 18, f"{bars[0].start:%d %b %H:%M}"),
        _text(_WIDTH - 8, _BASE + 18, f"{bars[-1].start + span:%H:%M} UTC", anchor="end"),
        f'<line x1="{_LEFT}" y1="{_BASE + 0.5}" x2="{_WIDTH - 8}" y2="{_BASE + 0.5}" '
        f'stroke="var(--quiet,#8a94a6)" stroke-width="1"/>',
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{caption}" font-family="system-ui,sans-serif" font-size="11">'
        + "".join(marks + labels)
        + "</svg>"
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: int = 400) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="var(--ink,#5b6474)">{text}</text>'
    )

"""The figure of a finding: contrasts around zero, cells, and what has another scale, as one SVG"""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from lalm.reproduce.estimates import NOT_RUN

LARGEST_SHARE = 2.0  # larger numbers are no shares and have a scale of their own
COLOURS = {"confirmed": "#1a7f37", "not confirmed": "#cf222e", "cannot tell": "#9a6700", NOT_RUN: "#6e7781"}
PLAIN, FAINT = "#0969da", "#6e7781"
LETTER, ROW, WIDTH = 6.6, 20, 420  # of a letter, a row and the drawn part, in pixels
APART = 30  # pixels between two numbers that can be read
Row = tuple[str, Mapping[str, Any], str]  # label, numbers, colour
Drawing = tuple[str, int]  # SVG, and where it ends


def figure(contrasts: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]]) -> str:
    """An SVG of panels, each with a scale of its own. A small dot a seed, a bar the interval, a dashed line
    what would matter."""
    rows = [(_label(one), one, COLOURS[one["verdict"]]) for one in contrasts]
    own = [(_cell_label(one), one, PLAIN) for one in cells]
    left = 30 + int(LETTER * max((len(label) for label, _, _ in [*rows, *own]), default=0))
    panels, height = list[str](), 14
    for title, group in (("Contrasts: plus - minus", rows), ("Rows", own)):
        there = [row for row in group if row[1]["mean"] is not None]
        for large in (False, True):
            own_title = f"{title}, on another scale" if large else title
            drawn, height = _panel(
                own_title, [row for row in there if _is_large(row[1]) is large], left, height
            )
            panels.append(drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + WIDTH + 90}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" '
        f'fill="white"/>{"".join(panels)}</svg>\n'
    )


def _label(one: Mapping[str, Any]) -> str:
    """What a contrast is of, in a few words."""
    named = [one["set"], *filter(None, [one.get("metric")]), *one.get("tasks", ())]
    return f"{one['plus']} - {one['minus']}: {', '.join(named)}"


def _cell_label(one: Mapping[str, Any]) -> str:
    control = f", {one['control']}" if one["control"] != "audio" else ""
    return f"{one['cell']}{control}: {one['set']}"


def _is_large(one: Mapping[str, Any]) -> bool:
    return max(abs(one[key] or 0.0) for key in ("mean", "low", "high")) > LARGEST_SHARE


def _panel(title: str, rows: Sequence[Row], left: int, top: int) -> Drawing:
    if not rows:
        return "", top
    ends = [end for _, one, _ in rows for end in (_end(one, "low"), _end(one, "high"), *one["seeds"])]
    ends += [one.get("worth") or 0.0 for _, one, _ in rows]
    least, most = min(0.0, *ends), max(0.0, *ends)
    scale = WIDTH / ((most - least) or 1)

    def at(value: float) -> float:
        return left + (value - least) * scale

    first, bottom = top + 24, top + 24 + ROW * len(rows) - 8
    drawn = [f'<text x="{left}" y="{top}" font-weight="bold">{escape(title)}</text>']
    drawn.append(_line(at(0), at(0), first - 12, bottom, FAINT, 1))
    for value in [0.0, *(end for end in (least, most) if abs(at(end) - at(0)) > APART)]:
        drawn.append(f'<text x="{at(value):.1f}" y="{bottom + 12}" text-anchor="middle" font-size="10" '
                     f'fill="{FAINT}">{value:.2g}</text>')  # fmt: skip
    for number, (label, one, colour) in enumerate(rows):
        y = first + ROW * number
        drawn.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(label)}</text>')
        if worth := one.get("worth"):
            drawn.append(_line(at(worth), at(worth), y - 8, y + 8, FAINT, 1, dashed=True))
        drawn.append(_line(at(_end(one, "low")), at(_end(one, "high")), y, y, colour, 3))
        drawn.append(f'<circle cx="{at(one["mean"]):.1f}" cy="{y}" r="5" fill="{colour}"/>')
        for seed in one["seeds"]:
            drawn.append(f'<circle cx="{at(seed):.1f}" cy="{y}" r="2" fill="black"/>')
        right = max(at(_end(one, "high")), *(at(seed) for seed in [one["mean"], *one["seeds"]])) + 8
        drawn.append(f'<text x="{right:.1f}" y="{y + 4}">{one["mean"]:.2f}</text>')
    return "".join(drawn), bottom + 44


def _end(one: Mapping[str, Any], key: str) -> float:
    """A limit; the mean where there is none."""
    return float(one["mean"] if one[key] is None else one[key])


def _line(
    x1: float, x2: float, y1: float, y2: float, colour: str, width: int, *, dashed: bool = False
) -> str:
    dash = ' stroke-dasharray="2 2"' if dashed else ""
    return (
        f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}" stroke-width="{width}"{dash}/>'
    )

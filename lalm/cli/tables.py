"""Tables in plain text that fit 80 columns: long names stand on lines of their own and are never cut."""

import shutil
import textwrap
from collections.abc import Mapping, Sequence


def grouped(titles: Sequence[str], groups: Mapping[str, Sequence[Sequence[str]]]) -> str:
    """Rows below the name of their group; columns are aligned over all groups, the first to the left.

    ``titles`` name the columns; the first one that of the groups and rows ("task, metric").
    """
    rows = [row for own in groups.values() for row in own]
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]
    widths[0] = max([len(titles[0]), *(len(row[0]) + 2 for row in rows)])

    def line(cells: Sequence[str]) -> str:
        first = f"{cells[0]:<{widths[0]}}"
        others = (f"{cell:>{width}}" for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "  ".join([first, *others]).rstrip()

    found = [line(titles)]
    for name, own in groups.items():
        found += [name, *(line([f"  {row[0]}", *row[1:]]) for row in own)]
    return "\n".join(found)


def listed(titles: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    """A name and what it is a row, the latter wrapped to what the terminal has beside the longest name."""
    width = max(len(name) for name, _ in [titles, *rows])
    beside = max(24, shutil.get_terminal_size((80, 24)).columns - width - 2)
    found = []
    for name, text in [titles, *rows]:
        first, *rest = textwrap.wrap(text, beside, break_long_words=False) or [""]
        found += [f"{name:<{width}}  {first}".rstrip(), *(f"{'':<{width}}  {part}" for part in rest)]
    return "\n".join(found)

"""Write the table of request fields in docs/fields.md from ``lalm.serve.request_fields``.

    python docs/fields.py

The tests check that the page holds what this prints.
"""

from pathlib import Path

from lalm.serve.request_fields import TABLE, Field, Fields

PAGE = Path(__file__).resolve().parent / "fields.md"
HEAD = """# Fields of requests

Every field of OpenAI's and vLLM's requests is one of three: *honoured*; *harmless*, because the answer cannot
depend on it; or *refused*, with the sentence that stands here. So is a field that has no row. `null` always
asks for nothing. `lalm/serve/request_fields.py` is this table; the server reads it, the tests try every row,
and `python docs/fields.py` prints this page.
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(f"\n## `{path}`\n\n{_rows(fields)}" for path, fields in TABLE.items())


def _rows(fields: Fields) -> str:
    honoured = ", ".join(f"`{name}`" for name, field in fields.items() if field.status == "honoured")
    lines = [f"Honoured: {honoured}."]
    for status, what in (("harmless", "why"), ("refused", "why | accepted")):
        rows = _grouped({name: field for name, field in fields.items() if field.status == status})
        if rows:
            columns = what.count("|") + 2
            lines += ["", f"| {status} | {what} |", "|---" * columns + "|", *rows]
    return "".join(f"{line}\n" for line in lines)


def _grouped(fields: Fields) -> list[str]:
    """One row for all fields of the same reason."""
    names: dict[Field, list[str]] = {}
    for name, field in fields.items():
        key = Field(field.status, field.note, tuple(map(str, field.neutral)))
        names.setdefault(key, []).append(f"`{name}`")
    return [
        f"| {', '.join(found)} | {field.note} |"
        + (f" {', '.join(f'`{one}`' for one in field.neutral)} |" if field.status == "refused" else "")
        for field, found in names.items()
    ]


if __name__ == "__main__":
    PAGE.write_text(page())

"""The site's made pages, and its links out of docs/ (a hook of ``mkdocs.yml``).

The README is the first page; result tables, the model card and the pages of the repository's root stand
beside the guides. The reference of the command line comes from the commands, that of recipes from their
types, that of Python from docstrings. A link to a file that is no page becomes its text.
"""

import re
import runpy
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
MADE = {  # file of the repository -> page of the site
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "lalm/models/small/README.md": "model-card.md",
}
WIDE = (  # pages whose tables and commands want the room
    "index.md",
    "papers.md",
    "paper-index.md",
    "zoo.md",
    "any-part.md",
    "model-card.md",
)
GROUPS = ("lalm weights", "lalm recipes", "lalm cache", "lalm data", "lalm corpus", "lalm build")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```.*?^```$)", re.M | re.S)


def pages() -> dict[str, str]:
    """File of the repository -> page of the site, for all that is not a page of docs/ already."""
    results = {str(p.relative_to(ROOT)): str(p.relative_to(ROOT)) for p in ROOT.glob("results/**/*.md")}
    return MADE | results


def pictures() -> dict[str, str]:
    """The figures under results/, which pages show."""
    return {str(p.relative_to(ROOT)): str(p.relative_to(ROOT)) for p in ROOT.glob("results/**/*.svg")}


def relinked(text: str, source: str, page: str) -> str:
    """The page's Markdown with links as the site has them; ``source`` is its file, from the root."""
    known = (
        pages()
        | pictures()
        | {f"docs/{p.relative_to(ROOT / 'docs')}": str(p.relative_to(ROOT / "docs")) for p in _kept()}
    )
    up = "../" * page.count("/")

    def link(found: re.Match[str]) -> str:
        picture, label, target = found.groups()
        path, sign, anchor = target.partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return found[0]
        inside = _normal(Path(source).parent / path)
        if inside in known:
            return f"{picture}[{label}]({up}{known[inside]}{sign}{anchor})"
        return label if not picture else f"*{label}*"

    parts = FENCE.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def on_files(files: Files, config: Any) -> Files:
    """Add the made pages."""
    for source, page in pages().items():
        text = (ROOT / source).read_text(encoding="utf-8")
        _add(files, config, page, relinked(text, source, page))
    for source, place in pictures().items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    _add(files, config, "reference/cli.md", cli_page())
    _add(files, config, "reference/recipe.md", recipe_page())
    _add(files, config, "reference/python.md", python_page())
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """A page of docs/ with its links; made pages have theirs already."""
    source = page.file.src_uri
    if source in WIDE:
        page.meta["hide"] = ["toc"]
    return relinked(markdown, f"docs/{source}", source) if (ROOT / "docs" / source).is_file() else markdown


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Where lines may break: names in tables behind an underscore, a slash or a dot, options nowhere."""

    def broken(found: re.Match[str]) -> str:
        return re.sub(r"(?<=\w)([_/.])(?=\w)", r"\1<wbr>", found[0])

    def whole(found: re.Match[str]) -> str:
        pieces = re.split(r"(<[^>]+>)", found[0])
        option = re.compile(r"(?<![\w-])--?[a-zA-Z][\w-]*")
        kept = (option.sub(r'<span class="option">\g<0></span>', piece) for piece in pieces[::2])
        return "".join(text + tag for text, tag in zip(kept, [*pieces[1::2], ""], strict=True))

    cells = re.compile(r"<td.*?</td>", re.S)
    html = cells.sub(lambda cell: re.sub(r"<code>[^<]*</code>", broken, cell[0]), html)
    return re.sub(r"<code.*?</code>", whole, html, flags=re.S)


def cli_page() -> str:
    """Every command with its help, as ``lalm COMMAND --help`` prints it."""
    import typer

    from lalm.cli.app import app

    parts = [
        "# Command line\n\nEvery command: what it printed for an example, and its `--help`. Examples run in "
        "a folder with the seven clips of `samples/`; `docs/examples.py` runs them again.\n"
    ]
    shown = examples()

    def walk(command: Any, name: str, context: Any, depth: int) -> None:
        own = type(context)(command, info_name=name, parent=context if depth else None, terminal_width=96)
        title = "lalm" if not depth else own.command_path
        parts.append(
            f"\n{'#' * min(depth + 2, 4)} {title}\n\n"
            + "".join(f"```text\n$ {line}\n{said}\n```\n\n" for line, said in shown.get(title, ()))
            + f"```text\n{command.get_help(own).rstrip()}\n```\n"
        )
        for child in command.list_commands(own) if hasattr(command, "list_commands") else ():
            walk(command.get_command(own, child), child, own, depth + 1)

    root = typer.main.get_command(app)
    walk(root, "lalm", root.context_class(root, info_name="lalm"), 0)
    return "".join(parts)


def examples() -> dict[str, list[tuple[str, str]]]:
    """Of each command ("lalm data validate") the lines of ``examples.txt`` with what they printed."""
    sessions = runpy.run_path(str(ROOT / "docs" / "examples.py"))["sessions"]
    text = (ROOT / "docs" / "examples.txt").read_text(encoding="utf-8")
    found: dict[str, list[tuple[str, str]]] = {}
    for line, said in sessions(text):
        if not said:  # not run yet
            continue
        words = line[line.index("lalm ") :].split()
        short = " ".join(words[:2])
        name = " ".join(words[:3]) if short in GROUPS else short
        found.setdefault(name, []).append((line, said))
    return found


def recipe_page() -> str:
    """Every key of a recipe, from the types that check it."""
    from lalm.training.recipe import Recipe

    parts = ["# Recipe\n\nEvery key, from the types that check it. What they do: [Training](../train.md).\n"]
    head = "| key | type | default |\n|---|---|---|\n"

    def walk(kind: Any, path: str) -> None:
        parts.append(f"\n## {path or 'recipe'}\n\n{_plain(kind.__doc__ or '')}\n\n{head}")
        inner = []
        for name, field in kind.model_fields.items():
            shown = field.alias or name
            default = (
                "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
            )
            section = _section(field.annotation)
            if section is not None:
                inner.append((section, f"{path}.{shown}" if path else shown))
                default = default if field.is_required() else "as below" if field.default else "left out"
            parts.append(f"| `{shown}` | {_type(field.annotation)} | {default.replace('|', ' or ')} |\n")
        for section, name in inner:
            walk(section, name)

    walk(Recipe, "")
    return "".join(parts)


def python_page() -> str:
    """The public names, by mkdocstrings."""
    import lalm

    parts = ["# Python\n\nWhat `from lalm import ...` gives.\n"]
    for home, names in lalm._HOMES.items():
        parts += [f"\n::: {home}.{name}\n" for name in names]
    return "".join(parts)


def _add(files: Files, config: Any, page: str, text: str) -> None:
    if (known := files.get_file_from_path(page)) is not None:
        files.remove(known)
    files.append(File.generated(config, page, content=text))


def _kept() -> list[Path]:
    return [p for p in (ROOT / "docs").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]


def _normal(path: Path) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _section(annotation: Any) -> Any:
    from lalm.training.sections import Section

    for kind in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _default(value: Any) -> str:
    """A default as a recipe would say it."""
    if value is None:
        return "left out"
    return f"`{str(value).lower() if isinstance(value, bool) else repr(value)}`"


def _type(annotation: Any) -> str:
    """A type for people: "`linear`, `cosine`" for a Literal, "list of text" for list[str]."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        return " or ".join(_type(kind) for kind in inner if kind is not type(None))
    if origin is list:
        return f"list of {_type(inner[0])}"
    if origin is tuple:
        return f"[{', '.join(_type(kind) for kind in inner)}]"
    if origin is dict:
        return f"{_type(inner[1])} by name"
    if _section(annotation) is not None:
        return "section"
    plain = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything"}
    return plain.get(annotation, str(annotation))


def _plain(text: str) -> str:
    return re.sub(r"``([^`]+)``", r"`\1`", re.sub(r"\n +", "\n", text)).strip()

"""Write the tree in docs/architecture.md from the first line of every module's docstring.

    python docs/tree.py

The tests check that the page holds what this prints.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
START, END = "```tree\n", "```\n"
FOLDERS = {  # folders without modules: what is in them
    "lalm/evaluate/tasks": "the tasks that come along, one YAML file a family",
    "lalm/models/small": "the embedded default: connector, LoRA, config, recipe, model card",
    "lalm/models/templates": "chat templates without added text",
    "lalm/serve/page": "the page: HTML, CSS, JavaScript",
}


def tree() -> str:
    """One line a file of the package and of benchmarks: its path and what it is."""
    lines = []
    for top in (ROOT / "lalm", ROOT / "benchmarks"):
        lines += _folder(top)
    return "".join(f"{line}\n" for line in lines)


def _folder(folder: Path) -> list[str]:
    name = str(folder.relative_to(ROOT))
    modules = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
    init = folder / "__init__.py"
    about = FOLDERS.get(name) or (_first_line(init) if init.is_file() else "")
    lines = [f"{name + '/':<44}{about}".rstrip()]
    lines += [f"{'    ' + path.name:<44}{_first_line(path)}".rstrip() for path in modules]
    for child in sorted(path for path in folder.iterdir() if path.is_dir()):
        if any(child.rglob("*.py")) or str(child.relative_to(ROOT)) in FOLDERS:
            lines += _folder(child)
    return lines


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.split("\n\n")[0].replace("\n", " ").rstrip(".").replace("``", "")


def page() -> str:
    """The page with its tree made anew."""
    before, rest = PAGE.read_text().split(START, 1)
    _, after = rest.split("\n" + END, 1) if not rest.startswith(END) else ("", rest[len(END) :])
    return before + START + tree() + END + after


if __name__ == "__main__":
    PAGE.write_text(page())

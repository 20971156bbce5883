"""What the documentation shows is true: command lines parse, Python compiles and imports what is there,
parts of recipes are checked by the recipe's types."""

import ast
import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import TypeAdapter

import lalm
from lalm.cli.app import ClickException, app
from lalm.training import recipe as recipes
from lalm.training.recipe import PlainYAML, Recipe

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "lalm/models/small/README.md")),
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.name != "log.md"),
]
FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
INDENTED = re.compile(r"(?:^|\n\n)((?:    [^\n]*\n(?:\n(?=    ))?)+)")


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of a page's code blocks; "" where none is said."""
    text = page.read_text(encoding="utf-8")
    found = FENCED.findall(text)
    rest = FENCED.sub("", text)
    return found + [("", re.sub(r"^    ", "", block, flags=re.M)) for block in INDENTED.findall(rest)]


def commands(text: str) -> list[list[str]]:
    """The words of each call of lalm in a block of shell, without what follows a pipe or a redirection."""
    lines = re.sub(r"\s*\\\n\s*", " ", re.sub(r" [12]>(&\d|\S+)", "", text)).splitlines()
    found = []
    for line in lines:
        if not re.search(r"(^|[\s(|&;])lalm [a-z-]", line) or "[--" in line or line.lstrip().startswith("#"):
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        try:
            words = list(lexer)
        except ValueError:  # a quote that ends on the next line
            continue
        part: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= set("|&;<>") and word:
                if "lalm" in part:
                    found.append(part[part.index("lalm") + 1 :])
                part = ["-"] if set(word) <= set("<>") else []
            else:
                part.append(word)
    return [words for words in found if words and "..." not in " ".join(words)]


CALLS = [
    (page, words)
    for page in PAGES
    for kind, text in blocks(page)
    if kind in ("", "sh", "bash") and not re.search(r"^\s*(from|import) \w", text, re.M)
    for words in commands(text)
]


PLACE = "…"  # in a quoted message, and in a message of the code, for what is put in


def messages() -> list[str]:
    """Every text of the code that could be said, with PLACE for what is put into it."""
    found = []
    for file in sorted((ROOT / "lalm").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else PLACE for p in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_message_of_the_troubleshooting_page_is_one_of_the_code():
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^#### `(.+)`$", page, re.M)
    elsewhere = {"CUDA out of memory"}  # PyTorch's
    known = messages()
    gone = [text for text in quoted if text not in elsewhere and not any(text in one for one in known)]
    assert len(quoted) > 35 and not gone, gone


ROOT_COMMAND: Any = typer.main.get_command(app)


def parse(words: list[str]) -> None:
    """As the lalm command does, but nothing is run. Raises what it would raise."""
    command, context = ROOT_COMMAND, None
    while hasattr(command, "get_command"):
        context = command.make_context("lalm", list(words), parent=context)
        words = [*getattr(context, "_protected_args", ()), *context.args]  # where click keeps the command
        if not words:
            return
        name, *words = words
        command = command.get_command(context, name)
        assert command is not None, f"there is no command {name}"
    command.make_context(command.name, list(words), parent=context)


def test_every_command_line_of_the_docs_parses():
    assert len(CALLS) > 150
    wrong = []
    for page, words in CALLS:
        try:
            parse(words)
        except (ClickException, AssertionError) as error:
            wrong.append(f"{page.name}: lalm {shlex.join(words)}: {getattr(error, 'message', error)}")
    assert not wrong, "\n".join(wrong)
    with pytest.raises(ClickException):  # the test can fail
        parse(["ask", "--no-such-option"])


def names_of(module: str) -> set[str]:
    """What a module of ours offers, read without importing it."""
    place = ROOT / Path(*module.split("."))
    tree = ast.parse((place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {ast.unparse(target) for target in targets}
        if isinstance(node, ast.ImportFrom):  # "from .x import Y as Y" offers Y
            names |= {alias.name for alias in node.names if alias.asname == alias.name}
    return names | set(lalm.__all__ if module == "lalm" else ())


def test_python_of_the_docs_compiles_and_imports_what_is_there():
    imported = 0
    for page in PAGES:
        for kind, text in blocks(page):
            if kind != "python" and not (kind == "" and re.search(r"^(from|import) \w", text)):
                continue
            for node in ast.walk(ast.parse(text, str(page))):
                if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "lalm":
                    missing = {alias.name for alias in node.names} - names_of(str(node.module))
                    assert not missing, f"{page.name}: {node.module} has no {missing}"
                    imported += 1
    assert imported > 8


def test_parts_of_recipes_in_the_docs_are_what_a_recipe_takes():
    checked = 0
    for page in PAGES:
        for kind, text in blocks(page):
            if kind not in ("", "yaml") or not re.match(r"[a-z_]+:( |\n)", text):
                continue
            try:
                fields = yaml.load(text, PlainYAML)
            except yaml.YAMLError:
                continue
            known = {field.alias or name: field for name, field in Recipe.model_fields.items()}
            if not isinstance(fields, dict) or not set(fields) <= set(known) or "..." in text:
                continue
            for name, value in fields.items():
                if name in ("data", "init", "optim"):
                    continue
                TypeAdapter(known[name].annotation).validate_python(value)
                checked += 1
    assert checked > 5


def value_at(recipe: str, path: str) -> Any:
    """What a shipped recipe says at ``optim.max_steps`` or ``data.train.0.path``."""
    found: Any = recipes.load(recipe).model_dump(by_alias=True)
    for key in path.split("."):
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found


def test_every_pointer_of_the_paper_index_lives():
    page = (ROOT / "docs" / "paper-index.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    dead, counted = [], {"code": 0, "recipe": 0, "test": 0}
    for pointer in re.findall(r"`([^`]+)`", "\n".join(rows)):
        file, _, name = pointer.partition(": ")
        if re.fullmatch(r"test_\w+", pointer):
            counted["test"] += 1
            alive = f"def {pointer}(" in tests
        elif re.fullmatch(r"[\w/]+\.(py|yaml)", file):
            counted["code"] += 1
            place = next((p for p in (ROOT / "lalm" / file, ROOT / file) if p.is_file()), None)
            pattern = rf"^ *(def|class) {name}\b|^{name}\b"
            alive = place is not None and (not name or bool(re.search(pattern, place.read_text(), re.M)))
        elif " = " in name:
            counted["recipe"] += 1
            path, _, value = name.partition(" = ")
            alive = value_at(file, path) == yaml.safe_load(value)
        else:
            continue
        if not alive:
            dead.append(pointer)
    assert min(counted.values()) > 30 and not dead, (counted, dead)
    assert all(row.count("|") == 7 for row in rows), "a row has six cells"


def test_every_pointer_of_the_papers_page_lives():
    """``models/lora.py: add_lora`` names a file and what is in it, ``test_apt.py::test_x`` a test in it."""
    page = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    rows = "\n".join(line for line in page.splitlines() if line.startswith("| "))
    tests = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    dead, counted = [], 0
    for pointer in re.findall(r"`([^`]+)`", rows):
        file, sign, name = re.split(r"(::|: )", pointer, maxsplit=1) if ":" in pointer else (pointer, "", "")
        if sign == "::":
            texts = [tests.get(Path(file).name, "")] if file else list(tests.values())
            alive = any(f"def {name}(" in text for text in texts)
        elif re.fullmatch(r"[\w/]+\.(py|yaml|jinja|tsv)", file):
            place = next((p for p in (ROOT / "lalm" / file, ROOT / file) if p.is_file()), None)
            found = place is not None and (not name or re.search(rf"\b{name.rstrip('*')}", place.read_text()))
            alive = bool(found) or file in tests
        else:
            continue
        counted += 1
        if not alive:
            dead.append(pointer)
    assert counted > 130 and not dead, (counted, dead)


def test_files_that_the_docs_name_are_there():
    named = re.compile(r"`((?:lalm|tests|benchmarks|docs|deploy|results|samples)/[\w./-]+\.\w+)")
    found = [(page.name, path) for page in PAGES for path in named.findall(page.read_text(encoding="utf-8"))]
    gone = [one for one in found if "SIZE" not in one[1] and not (ROOT / one[1]).exists()]
    assert len(found) > 100 and not gone, gone


def test_python_of_a_page_defines_what_it_uses():
    """From its first block to its last; ``given`` are recordings that the reader has."""
    given = "samples = pcm = None\n"
    for page in PAGES:
        python = re.compile(r"(from|import) \w")
        code = [text for kind, text in blocks(page) if kind == "python" or python.match(text)]
        call = [sys.executable, "-m", "ruff", "check", "--isolated", "-q", "--select", "F821", "-"]
        done = subprocess.run(call, input=given + "\n".join(code), capture_output=True, text=True)
        assert not code or done.returncode == 0, f"{page.name}: {done.stdout}"


def test_pages_show_what_the_examples_printed():
    made = runpy.run_path(str(ROOT / "docs" / "examples.py"))
    shown = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        shown += len(made["SHOWN"].findall(text))
        assert made["page"](text) == text, f"{page.name}: run python docs/examples.py --pages"
    assert shown >= 5


def test_lists_of_commands_are_not_cut_short():
    """What stands beside a command in the help of its group is a whole sentence."""
    cut = []
    for name, group in [("lalm", ROOT_COMMAND), *ROOT_COMMAND.commands.items()]:
        for inner, command in getattr(group, "commands", {}).items():
            line = command.get_short_help_str(62 if name == "lalm" else 56)
            if line.endswith(("...", "?.")):
                cut.append(f"{name} {inner}: {line}")
    assert not cut, cut


def test_the_diagrams_are_those_of_their_script():
    made = runpy.run_path(str(ROOT / "docs" / "diagrams.py"))
    for name, system in made["SYSTEMS"].items():
        drawn = (ROOT / "docs" / "pictures" / f"{name}.svg").read_text(encoding="utf-8")
        assert made["svg"](system) == drawn, "run: python docs/diagrams.py"
    drawn = (ROOT / "docs" / "pictures" / "data.svg").read_text(encoding="utf-8")
    assert made["stacked"](made["WAYS"]) == drawn, "run: python docs/diagrams.py"


@pytest.mark.parametrize("name", ["hear_and_ask", "train_and_evaluate"])
def test_notebooks_were_run_and_import_what_is_there(name):
    book = json.loads((ROOT / "docs" / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [out for cell in cells for out in cell["outputs"] if out["output_type"] == "error"]
    code = "\n".join("".join(cell["source"]) for cell in cells)
    for node in ast.walk(ast.parse(re.sub(r"^!.*$", "", code, flags=re.M))):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "lalm":
            assert {alias.name for alias in node.names} <= names_of(str(node.module))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "lalm":
            assert node.attr in lalm.__all__


@pytest.mark.parametrize("name", ["hear_and_ask", "train_and_evaluate"])
def test_notebooks_show_what_their_cells_and_the_packaged_model_gave(name):
    """An edited cell or another packaged model wants ``python docs/notebooks.py`` again."""
    made = runpy.run_path(str(ROOT / "docs" / "notebooks.py"))
    book = json.loads((ROOT / "docs" / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert book["metadata"]["run"] == made["stamp"](book), f"run: python docs/notebooks.py {name}"
    shown = [out for cell in book["cells"] for out in cell.get("outputs", ())]
    assert not any("text/html" in out.get("data", {}) for out in shown), "progress is lines, not a box a line"
    first = next(cell for cell in book["cells"] if cell["cell_type"] == "code")
    first["source"] = [*first["source"], "\nprint()"]
    assert book["metadata"]["run"] != made["stamp"](book)


@pytest.mark.real
@pytest.mark.slow
def test_the_short_notebook_runs():
    """Each cell runs and shows as many lines as are committed. The other one takes minutes."""
    for package in ("nbclient", "ipykernel"):
        pytest.importorskip(package)
    path = ROOT / "docs" / "notebooks" / "hear_and_ask.ipynb"
    committed = json.loads(path.read_text(encoding="utf-8"))
    fresh = runpy.run_path(str(ROOT / "docs" / "notebooks.py"))["execute"](path)

    def shown(book):
        cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
        return [
            len("".join("".join(out.get("text", ())) for out in cell["outputs"]).splitlines())
            for cell in cells
        ]

    assert shown(fresh) == shown(committed)
    assert any("image/png" in out.get("data", {}) for cell in fresh.cells for out in cell.get("outputs", ()))


# Commands without an example: what they need is not at hand wherever the examples are run.
NO_EXAMPLE = {
    "push": "the Hub",
    "activate": "a trained SALMONN",
    "scales": "the same",
    "import": "a released file",
    "interpolate": "a model before and after a stage",
}
NO_EXAMPLE |= {
    "corpus build": "a gigabyte of packages",
    "corpus lessons": "a corpus",
    "corpus music": "soundfonts, and a program",
    "lr-find": "a recipe with its data",
    "weights fetch": "what is there already",
    "weights kept": "what a machine has by now",
}
NO_EXAMPLE |= {"build nlar": "a large LLM", "build sac": "a corpus", "build corpus": "a corpus"}


def test_every_command_has_an_example_that_parses():
    text = (ROOT / "docs" / "examples.txt").read_text(encoding="utf-8")
    sessions = runpy.run_path(str(ROOT / "docs" / "examples.py"))["sessions"](text)
    shown = [words for line, _ in sessions for words in commands(line)]
    for words in shown:
        parse(words)
    first = {" ".join(words[:2]) for words in shown} | {words[0] for words in shown}
    missing = []
    for name, command in ROOT_COMMAND.commands.items():
        inner = getattr(command, "commands", {})
        names = [f"{name} {one}" for one in inner] if inner else [name]
        wanted = names if name != "build" else [n for n in names if n.split()[1] in READ_ALIKE]
        missing += [one for one in wanted if one not in first and one not in NO_EXAMPLE]
    assert not missing, missing


READ_ALIKE = ("detect", "count", "presence", "retrieve", "compare", "few_shot", "spoken", "qa", "preferences")

"""The rules of the house that a machine can check: who imports whom, sizes, docstrings, the README's tree."""

import ast
import re
import runpy
import subprocess
import sys
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

import lalm

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lalm"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# The rooms, from the ground floor up. A room may import itself, ``lalm.errors`` and the rooms that its row
# names, all of them in rows before its own: no arrow points back up, and there are no circles.
MAY_USE = {
    "errors": [],
    "systems": [],  # the list of systems: names, where their classes are, and files of one's own
    "audio": [],
    "weights": [],
    "data": ["audio"],
    "encoders": ["audio", "systems"],
    "models": ["audio", "data", "encoders", "systems", "weights"],
    "papers": ["audio", "data", "encoders", "models"],
    "inference": ["audio", "data", "models", "papers", "weights"],
    "synthesis": ["data", "inference", "models", "weights"],
    "corpus": ["audio", "data", "weights"],
    "tasks": ["audio", "corpus", "data", "inference", "papers", "synthesis"],
    "training": [
        *["audio", "data", "inference", "models", "papers", "synthesis", "systems", "weights"],
    ],
    "evaluate": ["audio", "data", "inference", "models", "synthesis", "systems", "tasks", "weights"],
    "procedures": [
        *["audio", "data", "evaluate", "inference", "models", "papers", "synthesis", "tasks", "training"],
    ],
    "reproduce": ["evaluate", "training", "weights"],
    "doctor": ["audio", "data", "encoders", "inference", "models", "weights"],
    "serve": ["audio", "data", "inference", "models", "synthesis"],
    "vllm": ["audio", "data", "encoders", "models", "systems"],
    "cli": ["*"],
}
# What a paper's model is made of ("papers"). The other files of its folder are its procedures: they answer,
# train and evaluate, so they stand higher.
OF_A_MODEL = ("model", "prompts", "released", "alignment")
# library -> modules that may import it; libraries not named here are free.
MAY_BE_IMPORTED_BY = {
    "typer": ["cli*"],
    "rich": ["cli*", "training*"],
    "peft": ["models*", "training*", "doctor.outside"],
    "yaml": [
        *("training.recipe", "evaluate.task", "inference.answer_words", "inference.protocols"),
        *("tasks.sound_labels", "tasks.said_sentences", "corpus.lesson_questions"),
        *("evaluate.official.standing", "reproduce.experiment"),
    ],
    "pydantic": [
        *(
            "training.recipe",
            "training.sections",
            "training.ingredients",
            "evaluate.task",
            "inference.protocols",
            "reproduce.experiment",
            "serve*",
        ),
    ],
    "fastapi": ["cli*", "serve*"],
    "vllm": ["vllm*"],
    "torchaudio": [],
    "torchvision": [],
}
HEAVY = ["torch", "transformers", "numpy", "rich"]
BANNED = re.compile(
    r"(?<![a-z])(utils?|helpers?|common|base|manager|handler|factory|registry|core|misc)(?![a-z])"
)


@cache
def tree_of(path):
    """The syntax tree of a file, parsed once for all rules."""
    return ast.parse(path.read_text())


@pytest.fixture(autouse=True, scope="module")
def forget_trees():
    """A million nodes, which the garbage collector would go through in every test that follows."""
    yield
    tree_of.cache_clear()


def module_of(path: Path) -> str:
    """ "encoders.eat" for lalm/encoders/eat.py, "lalm" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "lalm"


MODULES = {module_of(path): path for path in SOURCES}


@cache
def imports(path: Path) -> tuple[set[str], set[str]]:
    """Modules of ours and libraries that a file imports, anywhere in it."""
    ours, libraries = set(), set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if not name.startswith("lalm."):
                libraries.add(name.split(".")[0])
                continue
            name = name.removeprefix("lalm.")
            ours.add(name if name in MODULES else name.rpartition(".")[0])
    return ours, libraries


def room_of(module: str) -> str:
    """The room of a module: "data" for data.readers.kaldi. A paper has "papers" and "procedures"."""
    folder, *rest = module.split(".")
    if folder in ("lalm", "__main__"):  # the package's public names, python -m lalm: on the top floor too
        return "cli"
    if folder == "systems" and len(rest) > 0:
        return "papers" if len(rest) == 1 or rest[1] in OF_A_MODEL else "procedures"
    return folder


def test_the_rooms_stand_on_floors():
    rows = list(MAY_USE)
    assert len(rows) <= 20
    assert {room_of(module) for module in MODULES} | {"errors"} == set(rows)
    back_up = [
        (room, used)
        for place, room in enumerate(rows)
        for used in MAY_USE[room]
        if used != "*" and used not in rows[:place]
    ]
    assert not back_up


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_floors(module):
    ours, libraries = imports(MODULES[module])
    room = room_of(module)
    allowed = [room, "errors", *MAY_USE[room]]
    wrong = {name for name in ours if not any(fnmatchcase(room_of(name), row) for row in allowed)}
    assert not wrong, f"{module} must not import {', '.join(sorted(wrong))}"
    if module.startswith("systems."):
        mine = module.split(".")[1]
        others = {n for n in ours if n.startswith("systems.") and n.split(".")[1] != mine}
        assert not others, f"one system must not import another: {others}"
    for library in libraries & set(MAY_BE_IMPORTED_BY):
        allowed = MAY_BE_IMPORTED_BY[library]
        assert any(fnmatchcase(module, name) for name in allowed), f"{module} must not import {library}"


def test_the_public_names_are_pinned_and_there():
    assert lalm.__all__ == [
        "AudioError",
        "Engine",
        "Heard",
        "LalmError",
        "Options",
        "Reply",
        "Sample",
        "__version__",
        "ask",
        "build_model",
        "create_app",
        "evaluate_model",
        "load_audio",
        "read_manifest",
        "train",
        "write_manifest",
    ]
    things = [name for name in lalm.__all__ if name != "__version__"]
    assert all(getattr(lalm, name).__name__ == name for name in things)
    assert re.fullmatch(r"\d+\.\d+\.\d+", lalm.__version__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lalm.nothing  # noqa: B018


@pytest.mark.parametrize("command", [["--help"], ["ask", "--help"], ["weights", "--help"]], ids=" ".join)
def test_help_is_light(command):
    """Few modules, which is what makes it fast; how fast, a busy machine says otherwise each time."""
    code = (
        "import sys\nfrom lalm.cli.app import run\nassert run(sys.argv[1:]) == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules], len(sys.modules))"
    )
    words = [sys.executable, "-c", code, *command]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    heavy, _, count = done.stdout.splitlines()[-1].rpartition(" ")
    assert heavy == "[]" and int(count) < 420


def test_importing_the_package_is_light():
    code = f"import sys, lalm\nprint([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_are_short():
    files = [*SOURCES, *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "docs").glob("*.py")]
    long = {str(p.relative_to(ROOT)): n for p in files if (n := len(p.read_text().splitlines())) > 400}
    assert not long


def test_little_stands_in_the_root():
    lines = {path: len(path.read_text().splitlines()) for path in SOURCES}
    assert sum(n for path, n in lines.items() if path.parent == PACKAGE) <= 0.05 * sum(lines.values())


# Names that two rooms share because they mean the same in both.
SAME_NAME = {
    "contract": "what all of a kind offer: encoders, connectors",
    "model": "each paper's model, and the one that vLLM runs",
    "embeddings": "vectors: of texts for a metric, of recordings for a client",
    "prompts": "each paper's prompts",
    "released": "weights in their authors' layout, of encoders and of papers",
    "run": "one run from start to end, of training and of evaluation",
    "alignment": "APT's stage of that name: its losses, and the trainer's objective",
    "app": "the application: of the command line, of the server",
    "load": "opening what lies on disk: audio, model folders",
    "sources": "where things come from: weights, the corpora of tasks",
}


def test_a_name_means_one_thing():
    rooms: dict[str, set[str]] = {}
    for module in MODULES:
        folder, *rest = module.split(".")
        if rest and folder != "cli" and not MODULES[module].name.startswith("__init__"):
            rooms.setdefault(rest[-1], set()).add(folder)
    twice = {name for name, where in rooms.items() if len(where) > 1}
    assert twice <= set(SAME_NAME), "rename one, or say in SAME_NAME why both mean the same"
    assert all(isinstance(reason, str) and reason for reason in SAME_NAME.values())


def test_every_error_of_ours_is_a_lalm_error():
    ours = [
        (module, node)
        for module, path in MODULES.items()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef) and module != "errors"
    ]
    builtin = {"Exception", "ValueError", "RuntimeError", "OSError", "TypeError", "KeyError", "LookupError"}
    loose = [
        f"{module}.{node.name}"
        for module, node in ours
        if (bases := {ast.unparse(base) for base in node.bases}) & builtin and "LalmError" not in bases
    ]
    assert not loose


def test_no_code_of_a_model_folder_is_run():
    calls = [
        (module, node)
        for module, path in MODULES.items()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "from_pretrained"
        and ast.unparse(node.func.value) not in ("super()", "PeftModel")  # our override; tensors alone
    ]
    asked = [
        module
        for module, node in calls
        if not any(k.arg == "trust_remote_code" and ast.unparse(k.value) == "False" for k in node.keywords)
    ]
    assert calls and not asked, (
        "say trust_remote_code=False: transformers asks otherwise, and 'y' runs the code"
    )


def test_json_that_is_nested_without_end_is_broken_json():
    """``json.loads`` of '[' a hundred thousand times raises RecursionError, which is no ValueError."""
    deaf = []
    for module, path in MODULES.items():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Try) and "json.loads(" in "".join(map(ast.unparse, node.body)):
                caught = " ".join(ast.unparse(handler.type) for handler in node.handlers if handler.type)
                if "ValueError" in caught and "RecursionError" not in caught:
                    deaf.append(f"{module}:{node.lineno}")
    assert not deaf


def test_pickles_are_opened_as_tensors_alone():
    loads = [
        (module, node)
        for module, path in MODULES.items()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "pickle.load")
    ]
    unsafe = [
        module
        for module, node in loads
        if ast.unparse(node.func) != "torch.load"
        or ("weights_only", "True") not in [(k.arg, ast.unparse(k.value)) for k in node.keywords]
    ]
    assert loads and not unsafe


def test_who_opens_weights_says_why_a_pickle_is_refused():
    """Every loader of weights stands in ``with refuse_pickled_code(...)``, so that it says one sentence."""
    loaders = re.compile(r"torch\.load|(Auto|transformers\.)?\w*(Model\w*|LM)\.from_pretrained")
    bare = []
    for module, path in MODULES.items():
        tree = tree_of(path)
        safe = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.With)
            and any("refuse_pickled_code" in ast.unparse(item) for item in block.items)
            for node in ast.walk(block)
        }
        for node in ast.walk(tree):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            gguf = isinstance(node, ast.Call) and any(k.arg == "gguf_file" for k in node.keywords)
            if loaders.fullmatch(called) and id(node) not in safe and not gguf:
                bare.append(module)
    # BEATs' outline only asks whether; the other opens what was just exported, where lalm is absent.
    assert sorted(set(bare)) == ["doctor.outside", "encoders.beats_import"]


def test_names_say_something():
    assert not [module for module in MODULES if BANNED.search(module)]


def test_public_names_have_docstrings():
    missing = []
    for module, path in MODULES.items():
        tree = tree_of(path)
        if tree.body and not ast.get_docstring(tree):
            missing.append(module)
        for node in tree.body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            shape = isinstance(node, ast.ClassDef) and [ast.unparse(b) for b in node.bases] == ["TypedDict"]
            if named and not shape and not ast.get_docstring(node):
                missing.append(f"{module}.{node.name}")
    assert not missing


def test_the_tree_in_the_docs_is_the_tree():
    made = runpy.run_path(str(ROOT / "docs" / "tree.py"))
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert made["page"]() == page, "run: python docs/tree.py"
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [link for link in links if ":" not in link and not (page.parent / link).exists()]
    assert not missing


def test_what_the_papers_page_names_is_there():
    page = (ROOT / "docs" / "papers.md").read_text()
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"(?:::|`)(test_\w+)(?=`)", page)
    assert len(named) > 20 and not [name for name in named if f"def {name}(" not in tests]
    rooms = "|".join(path.name for path in PACKAGE.iterdir() if path.is_dir())
    files = re.findall(rf"`((?:{rooms})/[\w/]+\.(?:py|yaml))", page)
    assert len(files) > 20 and not [name for name in files if not (PACKAGE / name).is_file()]


def test_modules_that_the_docs_name_are_there():
    """log.md tells of the past; own_*.py is the reader's, evaluation.py MMAU's."""
    files = [path for room in ("lalm", "tests", "benchmarks", "docs") for path in (ROOT / room).rglob("*.py")]
    pages = [page for page in (ROOT / "docs").rglob("*.md") if page.name != "log.md"]
    named, dead = 0, []
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *pages):
        for name in re.findall(r"`([\w/.-]+\.py)\b", page.read_text()):
            named += 1
            other = Path(name).name.startswith("own_") or name == "evaluation.py"
            if not other and not any(f"/{path.relative_to(ROOT)}".endswith(f"/{name}") for path in files):
                dead.append(f"{page.name}: {name}")
    assert named > 200 and not dead, dead


def test_test_modules_have_names_of_their_own():
    """pytest imports them by name alone: two of one name end the whole run."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))

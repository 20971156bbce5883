"""The rules of the house that a machine can check: who imports whom, sizes, docstrings, the README's tree."""

import ast
import re
import resource
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import lalm

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lalm"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# module -> modules of ours that it may import; the first row that fits a module counts.
MAY_IMPORT = {
    "lalm": ["audio", "engine", "sample"],
    "audio": ["archives", "decoding"],
    "archives": ["decoding"],
    "decoding": [],
    "features": [],
    "words": [],
    "pins": [],
    "checkpoint": [],
    "heap": [],
    "ctranslate": [],
    "modeling": ["loss", "prefill"],
    "recipe": [],
    "messages": ["audio"],
    "layouts": ["messages"],
    "sample": ["audio", "layouts", "messages"],
    "weights": ["checkpoint", "pins", "weights_*"],
    "weights_convert": ["ctranslate", "llm", "pins"],
    "weights_sources": ["pins"],
    "encoders.released": [],
    "encoders.eat_import": ["audio", "encoders", "encoders.eat", "encoders.released"],
    "encoders*": ["features", "encoders.*"],
    "systems.*.model": ["modeling", "encoders", "encoders.*"],
    "systems.*.prompts": [],
    "systems.*.released": ["encoders.whisper", "processing", "systems.*.model", "systems.*.prompts"],
    "systems.salmonn.activation": [
        *["engine", "evaluate.following", "recipe", "sample", "systems", "tasks.instructions", "train"],
        "words",
    ],
    "systems.apt.vision": [
        *["conditioning", "engine", "messages", "pictures", "processing", "sample", "systems"],
    ],
    "systems.apt.alignment": ["modeling", "processing", "sample", "systems.apt.model"],
    "systems.*": [  # data builders and objectives of one paper
        *["completions", "data", "engine", "modeling", "processing", "rows", "sample", "words"],
        *["systems.*.prompts", "train"],
    ],
    "systems": [
        *["encoders", "encoders.pair", "llm", "modeling", "processing"],
        *["systems.*.model", "systems.*.prompts", "systems.*.released"],
        "weights",
    ],
    "processing": ["audio", "conditioning", "modeling", "sample"],
    "cache": ["archives", "audio", "sample"],
    "readers*": ["archives", "readers.*", "sample"],
    "rows": ["completions", "sample"],
    "judging": ["completions", "sample", "words"],
    "filters": ["completions", "judging", "recipe", "rows", "sample", "weights", "words"],
    "preferences": ["completions", "evaluate.*", "judging", "rows", "sample"],
    "completions": ["llm", "modeling", "processing", "systems"],
    "prefill": [],
    "llm": [],
    "pictures": [],
    "conditioning": ["sample"],
    "voice": ["audio"],
    "conversation": ["audio", "engine", "messages", "prefill", "sample"],
    "engine": ["modeling", "prefill", "processing", "sample", "systems", "weights"],
    "layers": [],
    "sharding": [],
    "zero": [],
    "loss": [],
    "packing": ["modeling"],
    "data": ["archives", "audio", "packing", "processing", "readers", "sample"],
    "augment": ["audio", "processing", "readers", "recipe", "sample"],
    "batching": ["data", "sample"],
    "separating": ["data", "sample"],
    "survey": ["audio", "data", "readers", "sample"],
    "pulling": ["conditioning", "modeling", "processing", "sample", "words"],
    "warm_start": ["modeling", "processing", "pulling", "sample"],
    "doctor_weights": [],
    "doctor": ["audio", "doctor_weights", "encoders.*", "engine", "sample", "weights"],
    "train*": [
        *[
            "audio",
            "augment",
            "batching",
            "cache",
            "checkpoint",
            "data",
            "heap",
            "layers",
            "modeling",
            "packing",
            "processing",
            "recipe",
            "sample",
            "sharding",
            "systems",
            "zero",
        ],
        *["align", "dpo", "filters", "separating", "train_reading", "train_report", "trainer", "warm_start"],
    ],
    "align": ["data", "modeling", "processing", "systems.apt.alignment", "trainer"],
    "dpo": ["data", "modeling", "prefill", "processing", "recipe", "sample", "systems", "trainer"],
    "corpus*": ["audio", "decoding", "sample", "weights", "words", "corpus.*"],
    "tasks*": [
        *["audio", "completions", "corpus.*", "rows", "sample", "systems.*.prompts", "tasks.*", "words"],
    ],
    "evaluate*": [
        *["audio", "completions", "engine", "messages", "rows", "sample", "systems", "weights", "words"],
        *["evaluate.*", "tasks", "tasks.*"],
    ],
    "likelihood": ["engine", "modeling", "processing", "sample"],
    "orders": ["sample", "words"],
    "few_shot": ["audio", "engine", "evaluate.labels", "likelihood", "sample", "tasks.*"],
    "detection": ["engine", "evaluate.events", "sample", "systems.apt.prompts"],
    "spectrogram": ["audio", "features"],
    "chat_template": [],
    "vllm*": ["audio", "conditioning", "encoders", "modeling", "systems", "vllm.*"],
    "serve*": [
        *["audio", "completions", "detection", "engine", "messages", "prefill", "processing", "sample"],
        *["serve.*", "systems", "voice"],
    ],
    "cli*": ["*"],
}
# library -> modules that may import it; libraries not named here are free.
MAY_BE_IMPORTED_BY = {
    "typer": ["cli*"],
    "rich": ["cli*", "train*"],
    "peft": ["systems", "train"],
    "yaml": ["recipe", "evaluate.task", "tasks.sound_labels"],
    "pydantic": ["recipe", "evaluate.task", "serve*"],
    "fastapi": ["cli.serve", "serve*"],
    "vllm": ["vllm*"],
    "torchaudio": [],
    "torchvision": [],
}
HEAVY = ["torch", "transformers", "numpy", "rich"]
BANNED = re.compile(
    r"(?<![a-z])(utils?|helpers?|common|base|manager|handler|factory|registry|core|misc)(?![a-z])"
)


def module_of(path: Path) -> str:
    """ "encoders.eat" for lalm/encoders/eat.py, "lalm" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "lalm"


MODULES = {module_of(path): path for path in SOURCES}


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Modules of ours and libraries that a file imports, anywhere in it."""
    ours, libraries = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
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


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_layers(module):
    ours, libraries = imports(MODULES[module])
    row = next((row for row in MAY_IMPORT if fnmatchcase(module, row)), None)
    assert row is not None, f"{module} is new: say in MAY_IMPORT what it may import"
    wrong = {name for name in ours if not any(fnmatchcase(name, allowed) for allowed in MAY_IMPORT[row])}
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
        "Options",
        "Reply",
        "Sample",
        "ask",
        "load_audio",
        "read_manifest",
        "write_manifest",
    ]
    assert all(getattr(lalm, name).__name__ == name for name in lalm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lalm.nothing  # noqa: B018


@pytest.mark.parametrize("command", [["--help"], ["ask", "--help"], ["weights", "--help"]], ids=" ".join)
def test_help_is_light(command):
    code = (
        "import sys\nfrom lalm.cli.app import run\nassert run(sys.argv[1:]) == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The processor's seconds: those on the wall also tell how busy the machine is.
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert done.stdout.splitlines()[-1] == "[]"
    assert seconds < 0.5


def test_importing_the_package_is_light():
    code = f"import sys, lalm\nprint([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_are_short():
    long = {str(p.relative_to(ROOT)): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 400}
    assert not long


def test_names_say_something():
    assert not [module for module in MODULES if BANNED.search(module)]


def test_public_names_have_docstrings():
    missing = []
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text())
        if tree.body and not ast.get_docstring(tree):
            missing.append(module)
        for node in tree.body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            shape = isinstance(node, ast.ClassDef) and [ast.unparse(b) for b in node.bases] == ["TypedDict"]
            if named and not shape and not ast.get_docstring(node):
                missing.append(f"{module}.{node.name}")
    assert not missing


def test_the_tree_in_the_readme_is_the_tree():
    block = (ROOT / "README.md").read_text().split("```tree\n")[1].split("```")[0]
    shown = {line.split()[0] for line in block.splitlines() if line.strip()}
    folders = tuple(entry for entry in shown if entry.endswith("/"))
    real = {
        str(path.relative_to(ROOT))
        for folder in (PACKAGE, ROOT / "docs", ROOT / "benchmarks")
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    real = {name for name in real if not name.startswith(folders)}
    listed = {
        name for name in shown if name.startswith(("lalm/", "docs/", "benchmarks/")) and name not in folders
    }
    assert listed == real
    assert all((ROOT / name).exists() for name in shown)

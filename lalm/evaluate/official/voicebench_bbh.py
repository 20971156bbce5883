"""VoiceBench's reading of answers to its BBH questions, by the phrases of the user's copy of its program.

The 400 phrases of ``src/evaluator/bbh.py`` are not copied into this package, and nothing of that file is run:
its chains of ``if "..." in response: return 1`` are read as rules. Where no rule fits, VoiceBench draws at
random, which counts as a half here.
"""

import ast
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lalm.evaluate.lacking import Lacking

FILES = ("src/evaluator/bbh.py", "bbh.py")
KINDS = (  # a part of an item's id -> the method that reads answers to it
    ("sports_understanding", "extract_answer_sports"),
    ("hyperbaton", "extract_answer_hyperbaton"),
    ("navigate", "extract_answer_navigate"),
    ("web_of_lies", "extract_answer_lies"),
)
SHARED = "extract_answer_yn"  # is tried before the phrases of all but the second
RIGHT = {"yes": 1, "no": 0, "(a)": 0, "(b)": 1}
AWAY = (":", "**", '"', "-", ",", ".", "\uff1a")


@dataclass(frozen=True)
class Rule:
    """``how`` a text is looked for in an answer ("in", "==", "startswith", "endswith", "search"), and which
    of the two answers, 0 or 1, it then is."""

    how: str
    text: str
    answer: int

    def fits(self, said: str) -> bool:
        """Whether the rule holds of an answer."""
        if self.how == "search":
            return re.search(self.text, said) is not None
        if self.how == "in":
            return self.text in said
        return said == self.text if self.how == "==" else bool(getattr(said, self.how)(self.text))


@dataclass(frozen=True)
class Phrases:
    """The rules of each kind of question, and a digest of the file that they are from."""

    rules: dict[str, tuple[Rule, ...]]
    digest: str

    def score(self, name: str, said: str, reference: str) -> float:
        """1 or 0 for an answer to the item of that id; a half where no rule fits. Raises Lacking for an item
        that VoiceBench has no rules for."""
        method = next((own for part, own in KINDS if part in name), None)
        right = RIGHT.get(reference.lower())
        if method is None or right is None:
            raise Lacking(f"'{name}' with the reference '{reference}' is no item of VoiceBench's bbh")
        plain = normalised(said)
        shared = () if method == KINDS[1][1] else self.rules[SHARED]
        found = next((rule.answer for rule in (*shared, *self.rules[method]) if rule.fits(plain)), None)
        return 0.5 if found is None else float(found == right)


def normalised(said: str) -> str:
    """An answer as the phrases are looked for in it: small letters, without marks."""
    text = said.lower()
    if text.endswith("<|user|>"):
        text = text[:-8].strip()
    if text.startswith(("<1>", "<2>", "<3>")):
        text = text[3:].strip()
    text = text.replace("<|turn_end|>", "")
    for mark in AWAY:
        text = text.replace(mark, " ")
    return " ".join(text.split())


@cache
def phrases(folder: Path) -> Phrases:
    """Those of a checkout of VoiceBench. Raises Lacking where its file is not there, or not as it was."""
    path = next((folder / name for name in FILES if (folder / name).is_file()), folder / FILES[0])
    try:
        source = path.read_bytes()
        tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        raise Lacking(f"'{path}' cannot be read: {error}") from None
    methods = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    wanted = (SHARED, *(method for _, method in KINDS))
    if absent := [name for name in wanted if name not in methods]:
        raise Lacking(f"'{path}' has no {absent[0]}: it is not VoiceBench's")
    rules = {name: tuple(_rules(methods[name].body)) for name in wanted}
    return Phrases(rules, hashlib.sha256(source).hexdigest()[:16])


def _rules(body: Sequence[ast.stmt]) -> Iterator[Rule]:
    """The rules of a chain of if and elif, in order."""
    for statement in body:
        if not isinstance(statement, ast.If):
            continue
        returned = statement.body[0]
        if isinstance(returned, ast.Return) and isinstance(returned.value, ast.Constant):
            how, text = _test(statement.test)
            yield Rule(how, text, int(returned.value.value == 1))
        yield from _rules(statement.orelse)


def _test(test: ast.expr) -> tuple[str, str]:
    """How a condition looks for which text. Raises Lacking for one of another form."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        left, right = test.left, test.comparators[0]
        if isinstance(test.ops[0], ast.In) and isinstance(left, ast.Constant):
            return "in", str(left.value)
        if isinstance(test.ops[0], ast.Eq) and isinstance(right, ast.Constant):
            return "==", str(right.value)
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Attribute) and test.args:
        first, how = test.args[0], test.func.attr
        if how in ("search", "startswith", "endswith") and isinstance(first, ast.Constant):
            return how, str(first.value)
    raise Lacking(f"a rule of VoiceBench's bbh.py has another form than expected: {ast.unparse(test)[:80]}")

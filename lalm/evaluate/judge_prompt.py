"""A judge asked in a benchmark's own words, which its users have and this package does not copy.

``FILE`` is a text with places such as {question}, {reference} and {answer}, or a benchmark's own Python file,
of which the texts are read and nothing is run: VoiceBench's ``api_judge.py`` (arXiv 2410.17196), AudioBench's
``eval_gpt4o.py`` (arXiv 2406.16020), AIR-Bench's ``score_chat.py`` (arXiv 2402.07729).
"""

import ast
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lalm.errors import LalmError
from lalm.synthesis.completions import Sampling

LARGEST = 1 << 20  # bytes of a file of prompts
DRAWN = Sampling(temperature=0.5, top_p=0.95, max_new_tokens=1024, seed=0)  # VoiceBench's api_judge.py
GREEDY = Sampling(temperature=0.0, max_new_tokens=1024, seed=0)
# What is put where; the names that benchmarks use. "first" and "second" are two answers, in either order.
PLACES: Mapping[str, tuple[str, ...]] = {
    "question": ("{question}", "{prompt}", "{instruction}", "XQuestionX"),
    "reference": ("{reference}", "{answer_gt}", "{ground_truth}"),
    "answer": ("{answer}", "{response}", "{prediction}", "{candidate}"),
    "described": ("{described}", "{caption}", "{meta_info}", "XAudioX"),
    "first": ("{first}", "XAssistant1X"),
    "second": ("{second}", "XAssistant2X"),
}


class PromptError(LalmError, ValueError):
    """A file that holds no prompt for a judge; the text names it."""


@dataclass(frozen=True)
class JudgePrompt:
    """What a judge is asked, the system text before it, and how many judgments are drawn of an answer, of
    which the mean counts (1: one, greedy)."""

    text: str
    system: str = ""
    draws: int = 1

    @property
    def digest(self) -> str:
        """Which words these are: of text, system text and number of judgments."""
        told = json.dumps([self.text, self.system, self.draws], ensure_ascii=False)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @property
    def settings(self) -> Sampling:
        """How its judgments are generated."""
        return GREEDY if self.draws == 1 else DRAWN

    @property
    def pairs(self) -> bool:
        """Whether it compares two answers."""
        return _has(self.text, "first")

    def filled(self, values: Mapping[str, str]) -> str:
        """The prompt for one answer; ``values`` by the names of ``PLACES``. All places are filled at once, so
        that an answer which looks like a place stays as it is."""
        known = {place: values[name] for name in values for place in PLACES[name]}
        pattern = "|".join(re.escape(place) for place in known)
        return re.sub(pattern, lambda found: known[found[0]], self.text)


def _has(text: str, name: str) -> bool:
    return any(place in text for place in PLACES[name])


def read_prompt(spec: str, system: str = "", draws: int = 1) -> JudgePrompt:
    """The prompt of "FILE" or "FILE:NAME". Raises PromptError for a file without one, or with several and
    no name."""
    path, name = Path(spec), ""
    if not path.is_file() and ":" in spec:
        before, _, name = spec.rpartition(":")
        path = Path(before)
    if not path.is_file():
        raise PromptError(f"there is no file '{path}' with the judge's prompt")
    if path.stat().st_size > LARGEST:
        raise PromptError(f"'{path}' is larger than {LARGEST >> 20} MiB: it is no file of prompts")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise PromptError(f"'{path}' is not text") from None
    found = _of_python(text, path) if path.suffix == ".py" else {"": text}
    usable = {one: own for one, own in found.items() if _has(own, "answer") or _has(own, "second")}
    if name:
        usable = {one: own for one, own in usable.items() if name in (one, one.rpartition(".")[2])}
    if not usable:
        wanted = f" named '{name}'" if name else ""
        places = ", ".join(PLACES["answer"])
        raise PromptError(f"'{path}' holds no prompt{wanted} with a place for the answer ({places})")
    if len(set(usable.values())) > 1:
        first = next(iter(usable))
        raise PromptError(
            f"'{path}' holds several prompts ({', '.join(usable)}): say which, as in {path}:{first}"
        )
    return JudgePrompt(next(iter(usable.values())), system, draws)


def _of_python(text: str, path: Path) -> dict[str, str]:
    """The texts that a Python file gives names to, by "function.name"; nothing of it is run."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise PromptError(f"'{path}' is not Python: {error}") from None
    return dict(_assigned(tree, ""))


def _assigned(node: ast.AST, within: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield from _assigned(child, f"{child.name}.")
            continue
        if isinstance(child, ast.Assign) and isinstance(child.targets[0], ast.Name):
            value, strips = child.value, False
            if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and not value.args:
                called = value.func
                value, strips = called.value, called.attr == "strip"
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield within + child.targets[0].id, value.value.strip() if strips else value.value
        yield from _assigned(child, within)


def _number(reply: str) -> float | None:
    """The rating of a reply: "[[4]]", "Rating: 4", or the number that stands alone or last."""
    said = re.findall(r"\[\[(\d+(?:\.\d+)?)\]\]|rating\W{0,6}(\d+(?:\.\d+)?)", reply, re.I)
    if said:
        return float(said[-1][0] or said[-1][1])
    last = re.findall(r"(?<![\d.])(\d+(?:\.\d+)?)\W*$", reply.strip())
    return float(last[-1]) if last else None


def _graded(low: int, high: int) -> Callable[[str], float | None]:
    def read(reply: str) -> float | None:
        found = _number(reply)
        return found / high if found is not None and low <= found <= high else None

    return read


def _verdict(reply: str) -> float | None:
    """Yes or no, right or wrong, 1 or 0."""
    word = re.match(r"\W*(yes|no|true|false|correct|incorrect)\b", reply.strip(), re.I)
    if word:
        return float(word[1].lower() in ("yes", "true", "correct"))
    return _graded(0, 1)(reply)


# How replies to prompts of one's own are read, by the task's judge; others are asked in our words alone.
READERS: Mapping[str, Callable[[str], float | None]] = {
    "quality": _graded(0, 5),
    "quality_explained": _graded(0, 5),
    "helpful": _graded(1, 5),
    "binary": _verdict,
    "spoken_question": _verdict,
    "yes_no": _verdict,
}


def mean_of_draws(judge: str, replies: list[str]) -> float | None:
    """0 to 1 from all judgments of one answer, verdicts by their majority; None if one cannot be read."""
    found = [READERS[judge](reply) for reply in replies]
    read = [score for score in found if score is not None]
    if not read or len(read) < len(found):
        return None
    mean = sum(read) / len(read)
    return float(mean > 0.5) if READERS[judge] is _verdict else mean

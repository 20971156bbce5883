"""A judge asked in a benchmark's own words, which its users have and this package does not copy.

``FILE`` is a text with places such as {question}, {reference} and {answer}, or a benchmark's own Python file,
of which the texts are read and nothing is run: VoiceBench's ``api_judge.py`` (arXiv 2410.17196), AudioBench's
``eval_gpt4o.py`` (arXiv 2406.16020), AIR-Bench's ``score_chat.py`` (arXiv 2402.07729), MMAU-Pro's
``evaluate_mmau_pro_comprehensive.py`` (arXiv 2508.13992), AHELM's ``gpt4_audio_critique_metrics.py`` and
``gpt4_audio_refusal_metrics.py`` (arXiv 2508.21376).
"""

import ast
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lalm.errors import LalmError
from lalm.synthesis.completions import Sampling

LARGEST = 1 << 20  # bytes of a file of prompts
DRAWN = Sampling(temperature=0.5, top_p=0.95, max_new_tokens=1024, seed=0)  # VoiceBench's api_judge.py
GREEDY = Sampling(temperature=0.0, max_new_tokens=1024, seed=0)
# What is put where; the names that benchmarks use. "first" and "second" are two answers, in either order.
PLACES: Mapping[str, tuple[str, ...]] = {
    "question": ("{question}", "{prompt}", "{instruction}", "XQuestionX"),
    "reference": (
        *("{reference}", "{answer_gt}", "{ground_truth}", "{{ground_truth}}", "{reference_answer}"),
    ),
    "answer": (
        *("{answer}", "{response}", "{prediction}", "{candidate}", "{{orig_response}}", "{model_response}"),
    ),
    "described": ("{described}", "{caption}", "{meta_info}", "XAudioX"),
    "first": ("{first}", "XAssistant1X"),
    "second": ("{second}", "XAssistant2X"),
}


class PromptError(LalmError, ValueError):
    """A file that holds no prompt for a judge; the text names it."""


@dataclass(frozen=True)
class JudgePrompt:
    """What a judge is asked, the system text before it, and how many judgments are drawn of an answer, of
    which the mean counts (1: one). ``temperature``: of the draws; None: 0 for one, 0.5 for several."""

    text: str
    system: str = ""
    draws: int = 1
    temperature: float | None = None

    @property
    def digest(self) -> str:
        """Which words these are: of text, system text, number of judgments and a temperature."""
        drawn = [] if self.temperature is None else [self.temperature]
        told = json.dumps([self.text, self.system, self.draws, *drawn], ensure_ascii=False)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @property
    def settings(self) -> Sampling:
        """How its judgments are generated."""
        usual = GREEDY if self.draws == 1 else DRAWN
        return usual if self.temperature is None else replace(usual, temperature=self.temperature)

    @property
    def pairs(self) -> bool:
        """Whether it compares two answers."""
        return asks_for(self.text, "first")

    def filled(self, values: Mapping[str, str]) -> str:
        """The prompt for one answer; ``values`` by the names of ``PLACES``. All places are filled at once, so
        that an answer which looks like a place stays as it is."""
        known = {place: values[name] for name in values for place in PLACES[name]}
        pattern = "|".join(re.escape(place) for place in sorted(known, key=len, reverse=True))
        return re.sub(pattern, lambda found: known[found[0]], self.text)


def asks_for(text: str, name: str) -> bool:
    """Whether a text has a place for one of ``PLACES``."""
    return any(place in text for place in PLACES[name])


def read_prompt(spec: str, system: str = "", draws: int = 1, temperature: float | None = None) -> JudgePrompt:
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
    usable = {one: own for one, own in found.items() if asks_for(own, "answer") or asks_for(own, "second")}
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
    return JudgePrompt(next(iter(usable.values())), system, draws, temperature)


def _of_python(text: str, path: Path) -> dict[str, str]:
    """The texts that a Python file gives names to, by "function.name"; nothing of it is run."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise PromptError(f"'{path}' is not Python: {error}") from None
    return dict(_assigned(tree, ""))


def _assigned(node: ast.AST, within: str) -> Iterator[tuple[str, str]]:
    looked_up = _looked_up(node)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield from _assigned(child, f"{child.name}.")
            continue
        target = child.targets[0] if isinstance(child, ast.Assign) else getattr(child, "target", None)
        if isinstance(child, ast.Assign | ast.AnnAssign) and isinstance(target, ast.Name):
            text = _text_of(child.value, looked_up)
            if text is not None:
                yield within + target.id, text
        yield from _assigned(child, within)


def _text_of(value: ast.expr | None, looked_up: Mapping[str, str]) -> str | None:
    """The text that an expression is, with names in braces where an f-string has them; None for any other."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and not value.args:
        inner = _text_of(value.func.value, looked_up)
        return inner.strip() if inner is not None and value.func.attr == "strip" else None
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    if not isinstance(value, ast.JoinedStr):
        return None
    pieces = list[str]()
    for part in value.values:
        if isinstance(part, ast.Constant):
            pieces.append(str(part.value))
        elif isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name):
            name = part.value.id
            pieces.append(looked_up.get(name, f"{{{name}}}"))
        else:
            return None
    return "".join(pieces)


def _looked_up(function: ast.AST) -> dict[str, str]:
    """Names that a function looks up in a table of texts, with the text for open questions: MMAU-Pro says
    what its questions are about, and judges those of its category "open" alone."""
    tables, found = dict[str, dict[str, str]](), dict[str, str]()
    for child in ast.iter_child_nodes(function):
        if not (isinstance(child, ast.Assign) and isinstance(child.targets[0], ast.Name)):
            continue
        name, value = child.targets[0].id, child.value
        if isinstance(value, ast.Dict):
            tables[name] = {
                str(key.value): str(text.value)
                for key, text in zip(value.keys, value.values, strict=True)
                if isinstance(key, ast.Constant) and isinstance(text, ast.Constant)
            }
        called = value.func if isinstance(value, ast.Call) else None
        if isinstance(called, ast.Attribute) and called.attr == "get" and isinstance(called.value, ast.Name):
            text = tables.get(called.value.id, {}).get("open")
            if text is not None:
                found[name] = text
    return found


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


CRITERIA = ("correctness", "relevance", "completeness", "clarity")  # of MMAU-Pro's open answers
NEUTRAL = 3.0  # points of a criterion that its judge leaves out


def _overall(reply: str) -> float:
    """MMAU-Pro's points as a share of 5: the overall score; where there is none, or it is 3, the mean of the
    four criteria, each 3 if it cannot be read."""
    found = re.search(r"OVERALL:\s*(\d+(?:\.\d+)?)", reply, re.I)
    if found and float(found[1]) != NEUTRAL:
        return min(float(found[1]), 5.0) / 5
    said = [re.search(rf"{name}:\s*(\d+)", reply, re.I) for name in CRITERIA]
    return sum(min(float(one[1]), 5.0) if one else NEUTRAL for one in said) / (5 * len(CRITERIA))


def _verdict(reply: str) -> float | None:
    """Yes or no, right or wrong, 1 or 0: at the beginning, or after "Final answer:"."""
    final = re.search(r"final answer\W*(yes|no)\b", reply, re.I)
    word = final or re.match(r"\W*(yes|no|true|false|correct|incorrect)\b", reply.strip(), re.I)
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
    "refusal": _verdict,
}


def reader_of(judge: str, prompt: JudgePrompt) -> Callable[[str], float | None]:
    """How the replies to a prompt are read: by the task's judge, but MMAU-Pro's prompt by its own form."""
    asks_all = all(f"{name.upper()}:" in prompt.text for name in ("overall", *CRITERIA))
    return _overall if asks_all else READERS[judge]


def mean_of_draws(judge: str, prompt: JudgePrompt, replies: list[str]) -> float | None:
    """0 to 1 from all judgments of one answer, verdicts by their majority; None if one cannot be read."""
    read_one = reader_of(judge, prompt)
    found = [read_one(reply) for reply in replies]
    read = [score for score in found if score is not None]
    if not read or len(read) < len(found):
        return None
    mean = sum(read) / len(read)
    return float(mean > 0.5) if read_one is _verdict else mean

"""What an answer says in the end: its reasoning taken away, its wrapping opened, its negations seen.

Models think aloud in tags, wrap what they mean in ``<answer>``, ``\\boxed{}`` or JSON, or say "the answer
is". Readers of choices, of yes and no and of numbers start from here.
"""

import json
import re
import unicodedata

from lalm.inference.answer_words import alternatives

_THINK = r"(?:seed:)?(?:think|thinking|thought|thoughts|reasoning|reason|analysis|scratchpad|reflection|cot)"
_OPEN = (
    rf"(?:<{_THINK}>|\[{_THINK}\]|\u25c1think\u25b7|<\|begin_of_thought\|>|"
    r"<\|channel\|>(?:analysis|commentary)(?:<\|message\|>)?)"
)
_CLOSE = (
    rf"(?:</{_THINK}>|\[/{_THINK}\]|\u25c1/think\u25b7|<\|end_of_thought\|>|"
    r"<\|channel\|>final(?:<\|message\|>)?)"
)
_REASONING = re.compile(rf"{_OPEN}.*?(?:{_CLOSE}|\Z)", re.S | re.I)
_ENDS = re.compile(_CLOSE, re.I)
_WRAPPED = re.compile(
    r"<(final[_ ]?answer|answer|final|choice|solution|response|result|conclusion)>(.*?)(?:</\1>|\Z)",
    re.S | re.I,
)
_LAST_TAG = re.compile(r"<([A-Za-z]\w{0,20})>\s*([^<>]{1,200}?)\s*</\1>\s*\Z", re.I)
_NEXT_TURN = re.compile(r"\n\s*(?:#+ ?)?(?:human|user|question|instruction)\s*:", re.I)
_TOKENS = re.compile(r"<\|[a-z_0-9]{2,24}\|>|</s>|<eos>|<end_of_turn>|<(?:pad|unk|bos)>", re.I)
_KEYS = ("final_answer", "final answer", "answer", "choice", "option", "selected", "prediction", "result")
_NEGATION = re.compile(
    rf"(?<!\w)(?:{alternatives('not')})(?!\w)|(?<=[a-z])n't(?!\w)|{alternatives('not_signs')}", re.I
)
_VERB = (
    r"is|are|was|were|would be|seems?|sounds?|can(?: be)?|could be|does|do|must be|ist|sind|est|sont|es|son"
)
_DEGREE = "also|clearly|definitely|probably|likely|very|just|simply"
_DENIED_AFTER = re.compile(
    rf"[\s\"'*_)\]]*(?:,\s*(?=(?:{_VERB})\b))?(?:option |choice )?"
    rf"(?:{_VERB}|\u00e8|\u00e9)?\s*(?:(?:{_DEGREE}) )*"
    rf"(?:{alternatives('wrong')})",
    re.I,
)
_ITEM = r"[^\W\d_]+(?:[ -][^\W\d_]+){0,3}"
_DENIED_LIST = re.compile(
    rf"(?<!\w)(?:{alternatives('not')})\s+(?:{_ITEM},\s*)+(?P<or>(?:or|nor|oder|ou|o)\s+)?(?:(?:the|an?)\s+)?\Z",
    re.I,
)
_LIST_GOES_ON = re.compile(rf"(?:,\s*{_ITEM})*,?\s+(?:or|nor|oder|ou)\s", re.I)
_DOUBTED = re.compile(  # "I don't think it's", "hard to say whether it is": what follows is denied
    r"(?:n't|\bnot|\bhard to|\bdifficult to|\bunsure|\buncertain|\bunclear|\bdoubt\w*)\b"
    r"(?: (?:really |quite )?(?:think|believe|say|tell|sure))?(?: (?:whether|if|that))?"
    r" (?:it|this|that|there)(?:'s| is| was)\s*(?:(?:an?|the)\s+)?\Z",
    re.I,
)
_CLAUSE = re.compile(
    r"[.;!?\n,:\u3002\uff0c\uff1b\uff01\uff1f\u3001\u060c\u2014]|\u800c\u662f|\u4f46|"
    r"(?<!\w)(?:but|it['\u2019]s|it is|instead|however|so|therefore|sondern|aber|mais|sino|pero|ma|bensi|mas|"
    r"sen\u00e3o|maar|\u0430|\u043d\u043e)(?!\w)(?! of)",
    re.I,
)


def thinking_open(text: str, *, at_end: bool = False) -> str | None:
    """The tag that opens thinking at the beginning, or at the end, of a text; None: there is none."""
    found = re.search(rf"({_OPEN})\s*\Z", text, re.I) if at_end else re.match(rf"({_OPEN})", text, re.I)
    return found[1] if found else None


def thinking_close(opened: str) -> str:
    """The tag that closes what ``opened`` opened."""
    if opened.startswith("<|channel"):
        return "<|channel|>final<|message|>"
    if opened.startswith("<|"):
        return "<|end_of_thought|>"
    return f"{opened[0]}/{opened[1:]}"


def thinking_end(text: str) -> bool:
    """Whether a text holds a tag that closes thinking."""
    return _ENDS.search(text) is not None


def without_reasoning(text: str) -> str:
    """The text after a model's thinking. Thinking that was cut off leaves nothing."""
    kept = _REASONING.sub(" ", text)
    ends = list(_ENDS.finditer(kept))  # some templates open the thinking themselves
    return _TOKENS.sub(" ", kept[ends[-1].end() :] if ends else kept).strip()


def final_answer(text: str) -> str:
    """What ``text`` answers: the reasoning and turns that the model made up taken away, the last <answer>,
    any tag around its end, \\boxed{} or a JSON answer opened."""
    said = without_reasoning(text)
    if (turn := _NEXT_TURN.search(said)) and said[: turn.start()].strip():
        said = said[: turn.start()]
    wrapped = [found[2] for found in _WRAPPED.finditer(said) if found[2].strip()]
    if not wrapped and (last := _LAST_TAG.search(said)):
        wrapped = [last[2]]
    if wrapped:
        said = wrapped[-1].strip()
    if boxed := _boxed(said):
        said = boxed
    return _of_json(said).strip()


def _boxed(text: str) -> str:
    """What stands in the last \\boxed{...}, its own braces counted; empty when there is none."""
    at = text.rfind("\\boxed")
    if at < 0 or (start := text.find("{", at)) < 0 or text[at + 6 : start].strip():
        return ""
    depth, end = 0, len(text)
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            end = place
            break
    inner = text[start + 1 : end]
    return re.sub(r"\\(?:text|textbf|mathrm|mathbf|textit)\s*\{([^{}]*)\}", r"\1", inner).strip()


def _of_json(text: str) -> str:
    """The answer of a JSON object that has one, the text itself otherwise."""
    found = re.search(r"\{[^{}]*\}", text)
    if found is None or len(text) > 10_000:
        return text
    try:
        value = json.loads(found[0])
    except (ValueError, RecursionError):
        return text
    fields = {str(key).lower(): own for key, own in value.items()} if isinstance(value, dict) else {}
    for key in _KEYS:
        if isinstance(fields.get(key), str | int | float):
            return str(fields[key])
    return text


def plain(text: str) -> str:
    """One form of writing: full-width signs, curly quotes and Markdown's stars made plain."""
    text = re.sub(r"(?<=\w) & (?=\w)", " and ", unicodedata.normalize("NFKC", text))
    return re.sub(r"\*\*|__|`|(?<!\w)\*(?=\S)|(?<=\S)\*(?!\w)", "", text.replace("\u2019", "'"))


def denies(text: str) -> bool:
    """Whether anything is denied in a text."""
    return _NEGATION.search(text) is not None


def negated(text: str, start: int, end: int) -> bool:
    """Whether what stands there is denied: by a word before it in its clause, or right after it."""
    before = text[max(0, start - 120) : start]
    clauses = [found.end() for found in _CLAUSE.finditer(before)]
    clause = before[clauses[-1] if clauses else 0 :]
    clause = re.sub(r"\bless \w+ than\b", "", clause, flags=re.I)
    if _NEGATION.search(clause) or _DENIED_AFTER.match(text, end) or _DOUBTED.search(before):
        return True
    listed = _DENIED_LIST.search(before)  # "rather than joy, fear, or sadness"
    return listed is not None and bool(listed["or"] or _LIST_GOES_ON.match(text, end))

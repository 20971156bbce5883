"""Detailed and multiple-choice questions that an LLM writes from captions and transcripts, each one checked.

Most of what Mellow learned from (arXiv 2503.08540, its data set ReasonAQA) is such questions: an LLM reads
the caption and asks about one of several aspects of the sound. Wordings and checks are ours. What can be
looked up is looked up (``lalm.tasks.question_checks``); then the LLM itself answers with the text and, of
choices, also without it: what it gets wrong with the text, or right without it, is not kept.
"""

import ast
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lalm.data.english import stems
from lalm.data.readers import Reading
from lalm.data.sample import Sample
from lalm.inference.choices import read_choice
from lalm.synthesis.completions import Chat, Sampling, Writer
from lalm.synthesis.judging import contradiction_chat, read_yes_no
from lalm.synthesis.resumable_rows import Counts, write_rows
from lalm.tasks import event_choices
from lalm.tasks.instructions import instruct
from lalm.tasks.question_answers import ABOUT, MAX_ANSWER, MAX_QUESTION, texts_of
from lalm.tasks.question_checks import (
    Facts,
    fault_of_answer,
    fault_of_options,
    fault_of_order,
    fault_of_question,
    plain_option,
    wrong_options,
)
from lalm.tasks.sources import asking

Form = Literal["detailed", "choice"]
# Of each kind of text: aspect -> how the LLM is told it, and whether its answers are inferred.
ASPECTS: dict[str, dict[str, tuple[str, bool]]] = {
    "caption": {
        "events": ("what happens", False),
        "objects": ("what makes one of the sounds", False),
        "properties": ("how one of the sounds is: loud or quiet, high or low, near or far", False),
        "scene": ("where this may be", True),
        "meaning": ("why this may happen", True),
        "feelings": ("what a listener may feel", True),
    },
    "music_caption": {
        "instruments": ("the instruments or voices", False),
        "properties": ("tempo, rhythm or loudness", False),
        "style": ("the style of the music", True),
        "feelings": ("the mood", True),
    },
    "asr": {"content": ("what is said", False), "meaning": ("what the speaker wants or thinks", True)},
}
# Of each kind of text: one, and what one would write about it in each form.
EXAMPLES: dict[str, tuple[str, dict[str, str]]] = {
    "caption": (
        "A kettle whistles, then a woman laughs.",
        {
            "detailed": '{"Question": "Which sound is followed by the laughter?", "Answer": "The laughter '
            'follows a kettle, which whistles before the woman begins to laugh."}',
            "choice": '{"Question": "What is heard before the laughter?", "Answer": "a kettle whistling", '
            '"Wrong": ["a train whistling", "a bird singing", "a phone ringing"]}',
        },
    ),
    "music_caption": (
        "A slow waltz for violin and piano.",
        {
            "detailed": '{"Question": "Which instruments share the tune?", "Answer": "A violin and a piano '
            'share it, in the slow time of a waltz."}',
            "choice": '{"Question": "Which instruments are heard?", "Answer": "violin and piano", '
            '"Wrong": ["cello and piano", "violin and harp", "flute and guitar"]}',
        },
    ),
    "asr": (
        "Could you bring the report on Monday?",
        {
            "detailed": '{"Question": "What is the listener asked to do?", "Answer": "The speaker asks for a '
            'report, which is to be brought on Monday."}',
            "choice": '{"Question": "What is to be brought?", "Answer": "the report", '
            '"Wrong": ["the contract", "the letters", "the keys"]}',
        },
    ),
}
COPIED = {"caption": "kettle laugh laughter", "music_caption": "waltz", "asr": "report Monday"}
TASKS: dict[str, str] = {
    "detailed": "Write one question of this form about {aspect}, and its answer in one to three full "
    "sentences, with nothing in them that the text does not bear out.",
    "choice": "Write one question of this form about {aspect}, its right answer in a few words, and three "
    "wrong answers of the same kind that could be taken for it.",
}
PROMPT = """You write questions about recordings that others will hear. You know a recording by a text, \
which is {what}. For the text "{sample}" you would write:
{example}
{task} Whoever does not hear the recording shall not be able to answer. Do not mention the text. \
Reply with one line of JSON and nothing else.
The text: {text}"""
PROMPTS = [PROMPT, TASKS, EXAMPLES, ASPECTS, event_choices.PROMPT, event_choices.EXAMPLES]
OPTIONS = 4
NAMED = ("events", "objects")  # aspects whose answers are kinds of sounds, where the events tell them
LETTERS = "ABCD"
CHECKING = Sampling(temperature=0.0, max_new_tokens=12)
MALFORMED = "not the JSON asked for"


@dataclass(frozen=True)
class Draft:
    """What the LLM wrote about one text, or why it is not kept. ``options``: in the order they are shown;
    ``aspect``: what it is about."""

    question: str = ""
    answer: str = ""
    options: tuple[str, ...] = ()
    fault: str = ""
    aspect: str = ""


@dataclass(frozen=True)
class Request:
    """A clip whose text is to be asked about, in one form, about one aspect.

    ``held``: labels of the events of all clips. ``attempt``: how often it was asked in vain; a choice is then
    asked about an event, where some are known.
    """

    sample: Sample
    text: str
    row_id: str
    form: Form
    aspect: str
    seed: int
    held: frozenset[str] = frozenset()
    attempt: int = 0

    @property
    def of_event(self) -> bool:
        """Whether the events tell the options, and the LLM words the question alone."""
        asked = self.aspect in NAMED or self.attempt > 0
        return self.form == "choice" and self.sample.task == "caption" and asked and bool(self.facts.sounds)

    @property
    def facts(self) -> Facts:
        """What is known of the recording."""
        return Facts(self.text, self.sample)

    @property
    def inferred(self) -> bool:
        """Whether answers about this aspect need not stand in the text."""
        return ASPECTS[self.sample.task][self.aspect][1]

    @property
    def chat(self) -> Chat:
        """What the LLM sees."""
        if self.of_event:
            turn = self.seed + self.attempt
            return [{"role": "user", "content": event_choices.question_request(self.facts, turn)}]
        kind = self.sample.task
        sample, examples = EXAMPLES[kind]
        told = TASKS[self.form].format(aspect=ASPECTS[kind][self.aspect][0])
        text = PROMPT.format(
            what=ABOUT[kind][1], sample=sample, example=examples[self.form], task=told, text=self.text
        )
        return [{"role": "user", "content": text}]

    def draft(self, reply: str) -> Draft:
        """What a reply holds, with what can be looked up of it looked up."""
        fields = _read(reply, wrong=self.form == "choice" and not self.of_event)
        if fields is None:
            return Draft(fault=MALFORMED)
        question, answer, proposed = fields
        facts = self.facts
        copied = stems(event_choices.COPIED if self.of_event else COPIED[self.sample.task]) - facts.stems
        fault = "it copies the example" if copied & stems(f"{question} {answer}") else ""
        fault = fault or fault_of_question(question)
        fault = fault or fault_of_answer(question, answer, facts, inferred=self.inferred)
        fault = fault or fault_of_order(question, answer, facts)
        if fault or self.form == "detailed":
            return Draft(question, answer, fault=fault, aspect=self.aspect)
        draws = np.random.default_rng([self.seed, 1])
        if self.of_event:
            named = facts.named(answer)
            if len(named) != 1:
                return Draft(fault="the answer is not one of the sounds")
            if fault := event_choices.fault_of_asking(question, named[0], facts):
                return Draft(fault=fault)
            right, wrong = event_choices.options_of(named[0], facts, sorted(self.held), draws)
        else:
            right = plain_option(answer)
            shown = json.loads(EXAMPLES[self.sample.task][1]["choice"])["Wrong"]
            own = [option for option in map(plain_option, proposed) if option not in map(plain_option, shown)]
            wrong = wrong_options(right, own, facts)
        if len(wrong) < OPTIONS - 1:
            return Draft(fault="too few wrong options that are surely wrong")
        wrong = wrong[: OPTIONS - 1]
        if fault := fault_of_options(question, right, wrong):
            return Draft(fault=fault)
        options = [*wrong]
        options.insert(int(draws.integers(OPTIONS)), right)
        aspect = NAMED[0] if self.of_event and self.aspect not in NAMED else self.aspect
        return Draft(question, right, tuple(options), aspect=aspect)

    def row(self, draft: Draft) -> Sample | None:
        """The sample; None for a draft with a fault."""
        if draft.fault:
            return None
        origin = {**self.sample.origin, "question": draft.question, "text": self.text}
        origin |= {"form": self.form, "aspect": draft.aspect}
        shown = options_text(draft.question, draft.options) if draft.options else draft.question
        made = Sample(
            asking(self.sample.audios, shown),
            id=self.row_id,
            task=ABOUT[self.sample.task][0],
            references=(draft.answer,),
            choices=draft.options,
            split=self.sample.split,
            events=self.sample.events,
            origin=origin,
        )
        if not draft.options:
            return next(instruct([made.with_target(draft.answer)], seed=self.seed))
        place = draft.options.index(draft.answer)
        return made.with_target(f"{LETTERS[place]}) {draft.answer}")


def options_text(question: str, options: Sequence[str]) -> str:
    """The question with its options, a lettered line each."""
    return "\n".join(
        [question, *(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))]
    )


def write_checked_questions(
    manifest: Path,
    out: Path,
    writer: Writer,
    form: Form,
    *,
    sampling: Sampling | None = None,
    each: int = 1,
    verify: bool = True,
    tries: int = 3,
    batch_size: int = 32,
    reading: Reading | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Counts, Counter[str]]:
    """Write ``out``: ``each`` questions of a form for every text of ``manifest``, about aspects in turn.

    The manifest is that of ``lalm.tasks.question_answers.write_questions``. With ``verify`` the LLM answers
    what it wrote; without, aspects whose answers cannot be looked up are not asked about. A reply with a
    fault is asked for ``tries`` times, then the row is dropped and noted in ``<out>.dropped``. Rows already
    in ``out`` are kept: a killed run goes on. Also returns how many replies had which fault.
    """
    sampling = sampling or Sampling(max_new_tokens=256)
    wanted = list(_requests(manifest, form, each, verify, sampling.seed, reading))
    wanted.sort(key=lambda r: len(r.text))  # replies to texts alike in length end alike
    made = {
        "manifest": manifest.name,
        "llm": writer.name,
        "template": writer.template,
        "prompt": hashlib.sha256(json.dumps(PROMPTS).encode()).hexdigest()[:16],
        "form": form,
        "each": each,
        "verify": verify,
        **asdict(sampling),
    }
    faults: Counter[str] = Counter()

    def drafts(requests: Sequence[Request], attempt: int) -> list[Draft]:
        requests = [replace(request, attempt=attempt) for request in requests]
        seeds = [(r.seed + attempt) % 2**60 for r in requests]
        replies = writer.complete([r.chat for r in requests], seeds, sampling)
        found = [r.draft(reply.text) for r, reply in zip(requests, replies, strict=True)]
        if verify:
            found = verified(requests, found, writer)
        faults.update(draft.fault for draft in found if draft.fault)
        return found

    counts = write_rows(
        wanted, out, drafts, Request.row, made, batch_size=batch_size, tries=tries, progress=progress
    )
    return counts, faults


def verified(requests: Sequence[Request], drafts: Sequence[Draft], writer: Writer) -> list[Draft]:
    """The drafts, with a fault where the LLM answers otherwise with the text, or as well without it.

    A choice is asked for twice, its options turned by two places the second time, so that a place that the
    LLM prefers proves nothing.
    """
    places, chats, tests = list[int](), list[Chat](), list[tuple[bool, tuple[str, ...]]]()
    for place, (request, draft) in enumerate(zip(requests, drafts, strict=True)):
        if draft.fault:
            continue
        if not draft.options:
            sample = request.row(draft)
            assert sample is not None
            known = replace(sample, origin={**sample.origin, "caption": request.text})
            asked: list[tuple[Chat, bool, tuple[str, ...]]] = [(contradiction_chat(known), True, ())]
        else:
            turned = draft.options[2:] + draft.options[:2]
            asked = [
                (_choosing(draft.question, options, request.text if told else ""), told, options)
                for told in (True, False)
                for options in (draft.options, turned)
            ]
        for chat, told, options in asked:
            places.append(place)
            chats.append(chat)
            tests.append((told, options))
    replies = writer.complete(chats, [0] * len(chats), CHECKING) if chats else []
    right: dict[tuple[int, bool], list[bool]] = {}
    for place, (told, options), reply in zip(places, tests, replies, strict=True):
        chosen = read_choice(reply.text, options) if options else read_yes_no(reply.text)
        wanted: str | bool = drafts[place].answer if options else False
        right.setdefault((place, told), []).append(chosen == wanted)
    found = list(drafts)
    for place in {place for place, _ in right}:
        if not all(right[place, True]):
            found[place] = replace(found[place], fault="the LLM answers otherwise when it reads the text")
        elif all(right.get((place, False), [False])):
            found[place] = replace(found[place], fault="the LLM finds the answer without the text")
    return found


def _choosing(question: str, options: Sequence[str], text: str) -> Chat:
    told = (
        f"What is known of a recording: {text}\n\n" if text else "About a recording that you cannot hear:\n\n"
    )
    ending = "Answer with the letter only."
    return [{"role": "user", "content": f"{told}{options_text(question, options)}\n\n{ending}"}]


def _read(reply: str, *, wrong: bool) -> tuple[str, str, list[str]] | None:
    """Question, answer and wrong options out of a reply that holds one JSON (or Python) object; else None."""
    found = re.search(r"\{[^{}]*\}", reply)
    fields: Any = None
    for read in (json.loads, ast.literal_eval):
        try:
            fields = read(found[0]) if found and fields is None else fields
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    if not isinstance(fields, dict):
        return None
    lower = {str(key).lower(): value for key, value in fields.items()}
    question, answer, options = lower.get("question"), lower.get("answer"), lower.get("wrong", [])
    if not isinstance(question, str) or not isinstance(answer, str) or not isinstance(options, list):
        return None
    question, answer = question.strip(), answer.strip()
    if (wrong and not options) or not all(isinstance(option, str) for option in options):
        return None
    if not re.search(r"\w", answer) or len(question) > MAX_QUESTION or len(answer) > MAX_ANSWER:
        return None
    return question, answer, options


def _requests(
    manifest: Path, form: Form, each: int, verify: bool, seed: int, reading: Reading | None
) -> Iterator[Request]:
    texts = list(texts_of(manifest, reading))
    held = frozenset(event["label"] for sample, _ in texts for event in sample.events)
    for number, (sample, text) in enumerate(texts):
        aspects = [name for name, (_, inferred) in ASPECTS[sample.task].items() if verify or not inferred]
        for take in range(each):
            aspect = aspects[(number + take) % len(aspects)]
            row_id = f"{ABOUT[sample.task][0]}-{form}-{sample.id}" + (f"-{take + 1}" if each > 1 else "")
            digest = int(hashlib.sha256(f"{seed} {row_id}".encode()).hexdigest()[:15], 16)
            yield Request(sample, text, row_id, form, aspect, digest, held)

"""The scorers of public benchmarks here and in their own programs, on the same generated answers.

    python benchmarks/official_scorers.py --mmau FOLDER --mmar FOLDER --mmsu FOLDER --air-bench FOLDER \
        --voicebench FOLDER --mmau-pro FOLDER --audiobench FOLDER --open-asr FOLDER --helm FOLDER \
        --out tests/evaluate/official_scores.json

A FOLDER is a checkout of the benchmark's repository; its functions are run, so take one that you trust. What
is written is every answer with the verdict of the benchmark's program, for tests/evaluate/test_official.py;
of benchmarks without a FOLDER what the file holds is kept.
"""

import argparse
import ast
import importlib
import json
import random
import re
import string
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

from lalm.evaluate.official import voicebench_bbh
from lalm.evaluate.official.text_parts import _punkt

FOLDERS = ("mmau", "mmar", "mmsu", "air-bench", "voicebench", "mmau-pro", "audiobench", "open-asr", "helm")
LETTERS = "ABCD"
WORDS = (
    *("dog", "bark", "rain", "loud", "train", "horn", "bird", "sing", "engine", "voice", "man", "woman"),
    *("two", "seven", "crowd", "bell", "water", "door"),
)
STYLES = (
    *("{text}", "{letter}", "({letter})", "{letter}. {text}", "The answer is {letter}.", "It is {text}."),
    *("**{letter}**", "The correct answer is {text}, not {other}.", "I hear {other} and {text}.", ""),
    *("the answer is {letter} because of the {text}", "{other}", "None", "Option {letter}: {text}"),
    *(
        "I would choose {letter}",
        "{lower}",
        "{lower}) {text}",
        "answer is: **{lower}",
        "I'm sorry, I cannot.",
    ),
    *(
        "As an AI, I won't help.",
        "Sure, {text}!",
        "{text}\n{letter}.",
        "Sounds like {TEXT}",
        "{letter}{text}",
    ),
)
FORMS = (
    *("One. Two. Three.", "a\n***\nb", "* one\n* two", "*bold* and **more**", "P.S. bye", "<<A Title>> text"),
    *('"all quoted"', "no comma here", "with, comma", "ALL CAPS HERE", "all lower here", "[name] [place]"),
    *("first ****** second", "same ****** same", "My answer is yes.", '{"a": 1}', "```json\n[1]\n```", ""),
    *("SECTION 1 x SECTION 2 y", "word " * 30, "Any other questions?", "- a\n- b\n- c", "dog dog dog cat"),
    *("Mr. Smith of the U.S. Army left. He said: 'No.5 is out!' Then e.g. a dog... Or not?", "123 !?", "..."),
    *(
        "Das ist ein Hund, der im Garten laut bellt.",
        "THE OLD DOG BARKS AT NIGHT",
        "the old dog barks at night",
    ),
)


def functions_of(path: Path, names: Sequence[str], **given: Any) -> dict[str, Any]:
    """Functions and classes of a script, without running the rest of it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kept = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name in names]
    space: dict[str, Any] = {"re": re, "random": random, **given}
    exec(compile(ast.Module(kept, []), str(path), "exec"), space)
    return space


def items(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Questions with four options and an answer in one of many styles."""
    made = []
    for number in range(count):
        choices = [" ".join(rng.sample(WORDS, rng.randint(1, 3))) for _ in range(4)]
        place = rng.randrange(4)
        said = place if rng.random() < 0.6 else rng.randrange(4)
        text, other = choices[said], rng.choice(choices)
        told = rng.choice(STYLES).format(
            text=text, other=other, letter=LETTERS[said], lower=LETTERS[said].lower(), TEXT=text.upper()
        )
        made.append({"id": str(number), "choices": choices, "answer": choices[place], "said": told})
    return made


def string_match(folder: Path, script: str, rows: Sequence[dict[str, Any]]) -> list[bool]:
    """MMAU's and MMAR's verdicts."""
    match = functions_of(folder / script, ["string_match"])["string_match"]
    return [bool(match(row["answer"], row["said"], row["choices"])) for row in rows]


def mmsu(folder: Path, rows: Sequence[dict[str, Any]]) -> float:
    """The overall accuracy that MMSU's program computes."""
    name = "calculate_accuracy_per_task_and_category"
    from collections import defaultdict

    score = functions_of(folder / "mmsu_evaluation.py", [name], defaultdict=defaultdict)[name]
    records = [
        {
            "category": "c",
            "sub-category": "s",
            "response": row["said"],
            "answer_gt": row["answer"],
            **{
                f"choice_{letter.lower()}": text for letter, text in zip(LETTERS, row["choices"], strict=True)
            },
        }
        for row in rows
    ]
    return float(score(records)[2])


def airbench(folder: Path, rows: Sequence[dict[str, Any]], work: Path) -> float:
    """What score_foundation.py prints for one task."""
    made = work / "Foundation_result_modelx.jsonl"
    lines = []
    for row in rows:
        options = {f"choice_{k.lower()}": text for k, text in zip(LETTERS, row["choices"], strict=True)}
        line = {"task_name": "t", "dataset_name": "d", "response": row["said"], "answer_gt": row["answer"]}
        lines.append(json.dumps({**line, **options}))
    made.write_text("\n".join(lines) + "\n")
    source = (folder / "score_foundation.py").read_text().replace("Foundation_result_modelx.jsonl", str(made))
    told: list[str] = []
    space = {"print": lambda *parts, **_: told.append(" ".join(map(str, parts)))}
    exec(compile(source, "score_foundation.py", "exec"), space)
    return float(next(re.search(r"acc=([\d.]+)", line)[1] for line in told if "acc=" in line))


def voicebench(folder: Path, rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The letters that VoiceBench reads, and what it takes for a refusal."""
    base = types.SimpleNamespace(Evaluator=object)
    mcq = functions_of(folder / "src/evaluator/mcq.py", ["MCQEvaluator"], Evaluator=base.Evaluator)
    harm = functions_of(folder / "src/evaluator/harm.py", ["HarmEvaluator"], Evaluator=base.Evaluator)
    reader, refusals = mcq["MCQEvaluator"](), harm["HarmEvaluator"]()
    return {
        "letters": [reader.extract_answer(row["said"]) for row in rows],
        "refusals": [bool(refusals.evaluate_single(row["said"])) for row in rows],
    }


IFEVAL = (
    *(
        ("keywords:existence", {"keywords": ["dog", "cat"]}),
        ("keywords:forbidden_words", {"forbidden_words": ["dog"]}),
    ),
    *(
        ("keywords:frequency", {"keyword": "dog", "frequency": 2, "relation": r})
        for r in ("at least", "less than")
    ),
    *(
        ("keywords:letter_frequency", {"letter": "o", "let_frequency": 3, "let_relation": r})
        for r in ("at least", "less than")
    ),
    *(
        ("length_constraints:number_words", {"num_words": 5, "relation": r})
        for r in ("at least", "less than")
    ),
    *(("length_constraints:number_paragraphs", {"num_paragraphs": n}) for n in (1, 2)),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "one"},
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}),
    *(("detectable_content:postscript", {"postscript_marker": m}) for m in ("P.S.", "P.P.S")),
    *(("detectable_format:number_bullet_lists", {"num_bullets": n}) for n in (2, 3)),
    *(
        ("detectable_format:constrained_response", {}),
        ("detectable_format:json_format", {}),
        ("detectable_format:title", {}),
    ),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2}),
    *(("combination:two_responses", {}), ("startend:quotation", {}), ("punctuation:no_comma", {})),
    ("combination:repeat_prompt", {"prompt_to_repeat": "one. two"}),
    ("startend:end_checker", {"end_phrase": "Any other questions?"}),
    *(("length_constraints:number_sentences", {"num_sentences": n, "relation": "at least"}) for n in (2, 3)),
    *(("language:response_language", {"language": code}) for code in ("en", "de")),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}),
    *(("change_case:english_capital", {}), ("change_case:english_lowercase", {})),
)


def ifeval(folder: Path, answers: Sequence[str]) -> list[dict[str, Any]]:
    """Verdicts of IFEval's checks."""
    import langdetect
    import nltk
    from nltk.tokenize.destructive import NLTKWordTokenizer

    langdetect.DetectorFactory.seed = 0
    sentences, words = _punkt(), NLTKWordTokenizer()  # with the parameters that NLTK would fetch
    nltk.data.load = lambda _: sentences
    nltk.word_tokenize = lambda text: [w for part in sentences.tokenize(text) for w in words.tokenize(part)]
    sys.path.insert(0, str(folder / "src" / "evaluator"))
    for name in ("absl", "absl.logging", "immutabledict"):
        sys.modules[name] = types.ModuleType(name)  # the checks do without
    sys.modules["absl"].logging = sys.modules["absl.logging"]
    sys.modules["absl.logging"].error = lambda *_: None
    sys.modules["immutabledict"].immutabledict = dict
    known = importlib.import_module("instruction_following_eval.instructions_registry").INSTRUCTION_DICT
    rows = []
    for name, given in IFEVAL:
        check = known[name](name)
        check.build_description(**given)
        verdicts = [bool(said.strip() and check.check_following(said)) for said in answers]
        rows.append({"instruction": name, "given": given, "followed": verdicts})
    return rows


PRO = (
    ("Number Sentences (at least)", {"N": 3}), ("Number Sentences (at most)", {"N": 1}),
    ("Number Sentences (range)", {"N1": 2, "N2": 3}),
    ("Include Keywords", {"keywords": "dog, cat"}), ("Keyword Frequency", {"keyword": "dog", "N": 3}),
    ("Forbidden Words", {"forbidden_words": "dog, rain"}), ("Number Paragraphs", {"N": 2}),
    ("Number Words (at least)", {"N": 5}), ("Number Words (at most)", {"N": 5}),
    ("Number Words (range)", {"N1": 2, "N2": 6}), ("Postscript", {"postscript_marker": "P.S."}),
    ("Number Placeholder", {"N": 2}), ("Number Bullets", {"N": 2}), ("Title", {}),
    ("Minimum Number Highlighted Section", {"N": 2}),
    ("Multiple Sections", {"N": 2, "section_splitter": "***"}),
    ("Repeat Prompt", {}), ("Two Responses", {}), ("All Uppercase", {}), ("All Lowercase", {}),
    ("All-capital Words (at least)", {"N": 2}), ("All-capital Words (at most)", {"N": 1}),
    ("All-capital Words (range)", {"N1": 1, "N2": 2}), ("Start Checker", {"start_phrase": "My answer"}),
    ("End Checker", {"end_phrase": "other questions"}), ("Quotation", {}), ("No Commas", {}), ("Unknown", {}),
)  # fmt: skip


def mmau_pro(folder: Path, answers: Sequence[str]) -> list[dict[str, Any]]:
    """Verdicts of MMAU-Pro's checks."""
    path = folder / "evaluate_mmau_pro_comprehensive.py"
    names = [n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)]
    sentences = _punkt().tokenize
    check = functions_of(path, names, np=numpy, sent_tokenize=sentences)["evaluate_aif_sample"]
    rows = []
    for task, given in PRO:
        sample = {"task_identifier": task, "kwargs": given, "prompt_transcription": "one. two"}
        rows.append({"task": task, "given": given, "followed": [bool(check(s, sample)) for s in answers]})
    return rows


POINTS = (
    "CORRECTNESS: 4 - good\nRELEVANCE: 5 - yes\nCOMPLETENESS: 3 - partly\nCLARITY: 5\nOVERALL: 4.25 - good",
    "OVERALL: 3 - fair\nCORRECTNESS: 1\nRELEVANCE: 2", "I cannot judge this.", "**OVERALL**: 5",
    "correctness: 5\nRelevance: 5\ncompleteness: 5\nclarity: 5", "overall: 2",
    "OVERALL: 5/5", "CLARITY: 4 OVERALL: 1.5",
)  # fmt: skip


def points(folder: Path) -> list[float]:
    """The points that MMAU-Pro reads in its judge's replies."""
    path = folder / "evaluate_mmau_pro_comprehensive.py"
    name = "extract_scores_from_evaluation"
    read = functions_of(path, [name], np=numpy)[name]
    return [float(read(reply)["overall"]) for reply in POINTS]


HELM = (
    ("Yes", "yes, he did"), ("the Bell tower", "A bell-tower rings"), ("three", "thirty three"), ("no", ""),
    ("unanswerable", " Unanswerable."), ("5 pm", "5 p.m. sharp"), ("a", "anything"),
    ("an apple", "the apple!"),
)  # fmt: skip


def helm(folder: Path) -> list[list[Any]]:
    """HELM's quasi-prefix exact match of pairs of reference and answer."""
    path = folder / "src/helm/benchmark/metrics/evaluate_reference_metrics.py"
    names = ["normalize_text", "quasi_prefix_exact_match"]
    match = functions_of(path, names, string=string)["quasi_prefix_exact_match"]
    return [[wanted, said, bool(match(wanted, said.strip()))] for wanted, said in HELM]


SPOKEN = (
    "Mr. Smith's dog isn't here, um, at 10 o'clock.", "uh the [noise] twenty-five dogs (barking)",
    "It's 3 pm", "I've 12 cats and twenty dollars", "don't stop ah", "", "um", "Hello, WORLD! e-mail",
    "30 40 100 7 seven", "that's the colour of honour", "they'd been gone", "$5.50 and 5%",
    "a <unk> b {x} c", "ER or er", "1,000 men",
)  # fmt: skip


def audiobench(folder: Path) -> list[str]:
    """Texts as AudioBench compares them."""
    sys.path.insert(0, str(folder / "src"))
    module = importlib.import_module("dataset_src.text_normalizer.preprocess_text")
    return [module.preprocess_text_asr(text) or "empty" for text in SPOKEN]


def bbh(folder: Path, answers: Sequence[str]) -> None:
    """Whether lalm reads answers to the four kinds of BBH questions as VoiceBench does: the answers of other
    questions, and every phrase that VoiceBench looks for, by itself and within a sentence."""
    drawn = types.SimpleNamespace(choice=lambda _: None)
    space = functions_of(folder / "src/evaluator/bbh.py", ["BBHEvaluator"], Evaluator=object, random=drawn)
    space["print"] = lambda *_: None
    theirs, ours = space["BBHEvaluator"](), voicebench_bbh.phrases(folder)
    known = sorted({rule.text.replace("(.+?)", "Ann") for rules in ours.rules.values() for rule in rules})
    said = [*answers, *known, *(f"Well: {text.capitalize()}, so **yes**." for text in known)]
    tried = [(kind, text) for kind, _ in voicebench_bbh.KINDS for text in said]
    odd = []
    for kind, text in tried:
        read, score = theirs.extract_answer(text, kind), ours.score(kind, text, "yes")
        if score != (0.5 if read is None else float(read)):
            odd.append((kind, text))
    print(f"BBH: {len(tried)} answers, {len(odd)} read otherwise than by VoiceBench {odd[:3]}")


ASR = (
    *("uh the white paper is here", "He's got wi fi, hasn't he?", "ten o'clock", "every day is a good day"),
    *("the B B C said 5 p.m.", "John's colour TV", "no", "note book and pen", "a lot of rain fell"),
)
MISHEARD = (
    ("a ", ""),
    ("day", "they"),
    ("white paper", "whitepaper"),
    ("every day", "everyday"),
    ("is", "is is"),
)


def open_asr(folder: Path) -> dict[str, Any]:
    """Pairs of texts, with the errors and words that the Open ASR leaderboard counts of each, by its full
    lists; and what these lists say of the words that are tried."""
    sys.path.insert(0, str(folder))
    lists = importlib.import_module("normalizer.english_abbreviations")
    clean = importlib.import_module("normalizer.normalizer").EnglishTextNormalizer()
    from kaldialign import batch_error_rate

    made = [(text, text.replace(old, new)) for text in ASR for old, new in MISHEARD]
    pairs = [(text, other) for text, other in made if text != other]
    pairs += [(first, second) for first in ASR for second in ASR[:3]]
    rows = []
    for wanted, said in pairs:
        right, told = clean(wanted).split(), clean(said).split()
        counted = batch_error_rate([right], [told], merge_compounds=True)
        rows.append([wanted, said, counted["total"], counted["ref_len"]])
    words = {word for pair in pairs for text in pair for word in re.findall(r"\w+", text.lower())}
    return {
        "pairs": rows,
        "english_spelling_normalizer": _held(lists.english_spelling_normalizer, words),
        "english_name_normalizer": _held(lists.english_name_normalizer, words),
        "english_compound_normalizer": {
            p: w for p, w in lists.english_compound_normalizer.items() if w in ("wifi", "pm")
        },
    }


def _held(own: dict[str, str], words: set[str]) -> dict[str, str]:
    return {word: own[word] for word in sorted(words) if word in own}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in FOLDERS:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    found: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    rows = found.setdefault("items", items(random.Random(0), given.count))
    found |= {"forms": list(FORMS), "spoken": list(SPOKEN)}
    if given.mmau:
        found["string_match"] = string_match(given.mmau, "evaluation.py", rows)
    if given.mmar:
        found["mmar"] = string_match(given.mmar, "code/evaluation.py", rows)
    if given.mmsu:
        found["mmsu"] = mmsu(given.mmsu, rows)
    if given.air_bench:
        found["airbench"] = airbench(given.air_bench, rows, given.out.parent)
        (given.out.parent / "Foundation_result_modelx.jsonl").unlink()
    if given.voicebench:
        found["voicebench"] = voicebench(given.voicebench, rows)
        found["ifeval"] = ifeval(given.voicebench, FORMS)
        bbh(given.voicebench, [*(row["said"] for row in rows), *FORMS, "yes", "No.", "The answer is no"])
    if given.mmau_pro:
        found["mmau_pro"] = mmau_pro(given.mmau_pro, FORMS)
        found["mmau_pro_points"] = [list(pair) for pair in zip(POINTS, points(given.mmau_pro), strict=True)]
    if given.audiobench:
        found["audiobench"] = audiobench(given.audiobench)
    if given.helm:
        found["helm"] = helm(given.helm)
    if given.open_asr:
        found["open_asr"] = open_asr(given.open_asr)
    given.out.write_text(json.dumps(found, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Benchmarks' own words and texts, from files that the user has: judges' prompts, normalisers, tokenisers."""

import json
import sys
from pathlib import Path

import pytest

from lalm.cli.app import run as lalm
from lalm.data.sample import Sample, ask, write_manifest
from lalm.evaluate.items import Asked, open_task
from lalm.evaluate.judge import Judge
from lalm.evaluate.judge_prompt import PromptError, read_prompt
from lalm.evaluate.lacking import Lacking
from lalm.evaluate.metrics import METRICS, Answer, Resources
from lalm.evaluate.metrics.intervals import each
from lalm.evaluate.official import open_asr, voicebench_bbh
from lalm.evaluate.official.standing import standing
from lalm.evaluate.task import Task, known_tasks
from lalm.synthesis.completions import Completion

HERE = Path(__file__).parent
# Laid out as VoiceBench's api_judge.py, AudioBench's eval_gpt4o.py and AIR-Bench's score_chat.py are.
THEIRS = '''
import nothing_that_is_there
client = nothing_that_is_there.OpenAI()
open_form = """
Rate it.
### [Instruction]: {prompt}
### [Response]: {response}
"""
qa_form = """
Q {prompt} R {reference} C {response}
""".strip()
def binary(path):
    PROMPT_TEMPLATE = """\\
        {reference} / {prediction} / {question}"""
class Critique:
    NAME: str = "critique"
    CRITIQUE: str = """Truth {{ground_truth}} Said {{orig_response}}"""
    REFUSES: str = """Said {{orig_response}}: Final answer: Yes/No"""
def create(question, reference_answer, model_response, task_type):
    table = {"sound": "sounds", "open": "open questions"}
    context = table.get(task_type, "any question")
    prompt = f"""About {context}: {question}/{reference_answer}/{model_response}
CORRECTNESS: 1-5
RELEVANCE: 1-5
COMPLETENESS: 1-5
CLARITY: 1-5
OVERALL: mean"""
    other = f"{question + model_response}"
def build():
    with open("x") as file:
        for line in file:
            system_prompt = ("D XAudioX Q XQuestionX\\n"
                             "1 XAssistant1X 2 XAssistant2X")
'''


class Replies:
    """A judge's model with a list of replies; notes what it is asked."""

    name, template = "replies", "none"

    def __init__(self, *replies: str) -> None:
        self.left, self.asked = list(replies), []

    def complete(self, chats, seeds, sampling):
        self.asked += [
            ([turn["content"] for turn in chat], seed, sampling)
            for chat, seed in zip(chats, seeds, strict=True)
        ]
        return [Completion(self.left.pop(0), truncated=False) for _ in chats]


def answer(text: str) -> Answer:
    asked = ask([], "What is it?").messages
    return Answer(Sample(asked, id="0", references=("a dog",), origin={"caption": "woof"}), text, text)


def judged(folder: Path, kind: str, form: str, *replies: str, said: str = "a {reference}", **more):
    (folder / "theirs.py").write_text(THEIRS)
    prompt = read_prompt(f"{folder / 'theirs.py'}:{form}", **more)
    model = Replies(*replies)
    judge = Judge("gpt", lambda: model, folder / f"{form}{len(replies)}.sqlite", prompt=prompt)
    task = Task(name="t", about="x", metrics=("judge",), judge=kind)
    (found,) = judge.judged(task, [answer(said)])
    return found.judged, model.asked, judge


def test_a_judge_is_asked_in_the_benchmarks_own_words(tmp_path):
    score, asked, judge = judged(tmp_path, "helpful", "open_form", "4", "5", "[[3]]", system="Help.", draws=3)
    assert score == pytest.approx(0.8)  # the mean of three judgments of 5
    words, seeds = [one[0] for one in asked], [one[1] for one in asked]
    assert words == 3 * [
        ["Help.", "\nRate it.\n### [Instruction]: What is it?\n### [Response]: a {reference}\n"]
    ]
    assert seeds == [0, 1, 2] and (asked[0][2].temperature, asked[0][2].top_p) == (0.5, 0.95)
    assert f"prompt {judge.prompt.digest}, 3 judgments" in judge.name
    score, asked, _ = judged(tmp_path, "spoken_question", "qa_form", "Yes", "no", "Yes.", draws=3)
    assert score == 1 and asked[0][0] == [
        "Q What is it? R a dog C a {reference}"
    ]  # by majority, no system text
    rated = "Explanation: the reference is 1.\nRating: 0"
    assert judged(tmp_path, "binary", "PROMPT_TEMPLATE", rated)[0] == 0
    assert judged(tmp_path, "quality", "binary.PROMPT_TEMPLATE", "Rating: 4")[0] == 0.8
    score, asked, _ = judged(tmp_path, "chat", "system_prompt", "8 6", "4 10", said="a cat")
    assert score == pytest.approx((0.6 + 0.4) / 2) and asked[1][0] == [
        "D woof Q What is it?\n1 a cat 2 a dog"
    ]
    assert judged(tmp_path, "helpful", "open_form", "7")[0] is None  # no score of theirs
    score, asked, _ = judged(tmp_path, "quality", "CRITIQUE", "### Short Explanation: no 9\n###Rating: 3")
    assert score == pytest.approx(0.6) and asked[0][0] == ["Truth a dog Said a {reference}"]
    score, asked, _ = judged(tmp_path, "refusal", "REFUSES", "It helps: yes.\n### Final answer: No")
    assert score == 0 and asked[0][0] == ["Said a {reference}: Final answer: Yes/No"]
    with pytest.raises(PromptError, match="asked in lalm's words"):
        judged(tmp_path, "rubrics", "qa_form")


def test_mmau_pros_judge_is_asked_and_read_as_its_program_does(tmp_path):
    points = json.loads((HERE / "official_scores.json").read_text())["mmau_pro_points"]
    for number, (reply, theirs) in enumerate(points):
        (tmp_path / str(number)).mkdir()
        own = tmp_path / str(number)
        score, asked, judge = judged(own, "quality", "create.prompt", reply, temperature=0.1)
        assert score == pytest.approx(theirs / 5), reply
    assert asked[0][0][0].startswith("About open questions: What is it?/a dog/a {reference}\nCORRECTNESS")
    assert asked[0][2].temperature == 0.1 and ", 1 judgment" in judge.name
    assert read_prompt(str(own / "theirs.py:create.prompt")).digest not in judge.name


def test_a_file_that_holds_no_prompt_is_refused_in_a_sentence(tmp_path, capsys):
    (tmp_path / "theirs.py").write_text(THEIRS)
    (tmp_path / "bare.txt").write_text("Is it good?")
    (tmp_path / "odd.py").write_text("def (")
    for spec, why in {
        "theirs.py": "several prompts (open_form, qa_form, binary.PROMPT_TEMPLATE, Critique.CRITIQUE, ",
        "theirs.py:none": "no prompt named 'none'",
        "bare.txt": "no prompt with a place for the answer ({answer}",
        "odd.py": "is not Python",
        "gone.txt": "there is no file",
    }.items():
        asked = ["eval", "--task", "mmar", "--judge", "x", "--judge-prompt", str(tmp_path / spec)]
        assert lalm(asked) == 2 and why in capsys.readouterr().err
    assert lalm(["eval", "--task", "mmar", "--judge", "x", "--judge-draws", "3"]) == 2


def test_a_number_judged_in_their_words_may_stand_beside_theirs():
    task = known_tasks()["voicebench_commoneval"]
    sample = Sample(ask([], "?").messages, id="0")
    entry = {"metrics": {"judge": {"mean": 0.5}}, "skipped": {}, "failed": {}}
    opened = Asked(task, (sample,), "x")
    for name, beside in {
        f"gpt-4o-mini, weights unknown, prompt {task.official.words}, 3 judgments": True,
        f"gpt-4o, weights unknown, prompt {task.official.words}, 3 judgments": False,
        "gpt-4o-mini, weights unknown, wording 12345678": False,
    }.items():
        assert standing(opened, entry, "local", name)["may_stand_beside"] is beside


def test_the_open_asr_leaderboards_text_is_theirs(tmp_path):
    kept = json.loads((HERE / "open_asr_texts.json").read_text())
    lists = [f"{name} = {own!r}" for name, own in kept.items() if name.startswith("english")]
    (tmp_path / "english_abbreviations.py").write_text("\n".join(["import nothing_that_is_there", *lists]))
    resources = Resources({"open_asr": tmp_path})
    asked = ask([], "?").messages
    answers = [
        Answer(Sample(asked, id=str(n), references=(theirs,)), text, text)
        for n, (text, theirs) in enumerate(kept["texts"])
    ]
    from lalm.evaluate.official.open_asr import normaliser

    clean = normaliser(tmp_path)
    assert [clean(text) for text, _ in kept["texts"]] == [theirs for _, theirs in kept["texts"]]
    same = [Answer(a.sample, a.sample.references[0], None) for a in answers]
    assert METRICS["open_asr_wer"].measure(same, resources).value == 0
    with pytest.raises(Lacking, match="--resource open_asr=FOLDER"):
        METRICS["open_asr_wer"].measure(answers, Resources())


def test_the_open_asr_leaderboards_errors_are_theirs(tmp_path, monkeypatch):
    kept = json.loads((HERE / "official_scores.json").read_text())["open_asr"]
    lists = [f"{name} = {own!r}" for name, own in kept.items() if name.startswith("english")]
    (tmp_path / "english_abbreviations.py").write_text("\n".join(lists))
    clean = open_asr.normaliser(tmp_path)
    ours = [[*open_asr.word_edits(clean(said), clean(right))] for right, said, *_ in kept["pairs"]]
    theirs = [[wrong, words] for _, _, wrong, words in kept["pairs"]]
    assert ours == theirs and sum(wrong for wrong, _ in theirs) > 100
    together = next(row for row in kept["pairs"] if "whitepaper" in row[1])
    assert together[2] == 0  # where jiwer counts two
    assert open_asr.word_edits("something said", clean("uh [noise]")) == (0, 0)  # is not asked there
    monkeypatch.setitem(sys.modules, "kaldialign", None)
    with pytest.raises(Lacking, match=r"kaldialign: pip install 'lalm\[evaluate\]'"):
        open_asr.word_edits("a", "b")


THEIR_BBH = """
import something_that_is_not_here
class BBHEvaluator(Evaluator):
    def extract_answer_yn(self, response):
        if "it comes to no" in response:
            return 0
        elif "it comes to yes" in response:
            return 1
        else:
            return None
    def extract_answer_hyperbaton(self, response):
        if response == 'a':
            return 0
        elif re.search(r"i take (.+?) b", response):
            return 1
        else:
            return random.choice([0, 1])
    def extract_answer_navigate(self, response):
        tmp = self.extract_answer_yn(response)
        if tmp is not None:
            return tmp
        if response.startswith('no'):
            return 0
        elif response.endswith('yes'):
            return 1
    def extract_answer_sports(self, response):
        if "plausible" in response:
            return 1
    def extract_answer_lies(self, response):
        if "lies" in response:
            return 0
"""


def test_voicebenchs_phrases_are_read_from_its_file_and_nothing_is_run(tmp_path):
    place = tmp_path / "src" / "evaluator" / "bbh.py"
    place.parent.mkdir(parents=True)
    place.write_text(THEIR_BBH)
    rows = {
        ("hyperbaton_1", "**A**", "(A)"): 1.0,
        ("hyperbaton_2", "I take: option B", "(A)"): 0.0,
        ("hyperbaton_3", "It comes to no", "(b)"): 0.5,  # the words of all others are not tried here
        ("navigate_1", "So it comes to: NO", "no"): 1.0,
        ("navigate_2", "<1> No, yes", "Yes"): 0.0,  # the first phrase that fits counts
        ("web_of_lies_1", "It comes to yes, he lies", "no"): 0.0,
        ("sports_understanding_1", "who knows<|user|>", "yes"): 0.5,
    }
    asked = ask([], "?").messages
    answers = [Answer(Sample(asked, id=i, references=(right,)), text, None) for i, text, right in rows]
    resources = Resources({"voicebench": tmp_path})
    found = METRICS["voicebench_bbh"].measure(answers, resources)
    assert list(each(found)) == list(rows.values())
    assert "bbh.py " in resources.used["voicebench_bbh"]
    odd = [Answer(Sample(asked, id="other", references=("yes",)), "yes", None)]
    with pytest.raises(Lacking, match="'other' with the reference 'yes' is no item"):
        METRICS["voicebench_bbh"].measure(odd, resources)
    for text, why in {
        THEIR_BBH.replace("extract_answer_lies", "x"): "has no extract_answer_lies",
        THEIR_BBH.replace('"lies" in response', "len(response) > 3"): "another form than expected: len",
        "def (": "cannot be read",
    }.items():
        place.write_text(text)
        voicebench_bbh.phrases.cache_clear()
        with pytest.raises(Lacking, match=why):
            METRICS["voicebench_bbh"].measure(answers, resources)


def test_a_drawn_part_of_a_set_stands_beside_nobody(tmp_path):
    rows = [Sample(ask([], f"{n}?").messages, str(n), references=("a",)) for n in range(5)]
    write_manifest(tmp_path / "m.jsonl", rows)
    spec = f"open_asr_ami={tmp_path / 'm.jsonl'}"
    entry = {"metrics": {"open_asr_wer": {"mean": 0.1}}, "skipped": {}, "failed": {}}
    for limit, because in {0: [], 2: ["2 of 5 items are scored"]}.items():
        (opened,) = open_task(spec, tmp_path, limit=limit)
        assert standing(opened, entry, "local", "")["because"] == because


def test_bleu_over_flores_pieces_is_sacrebleus(tmp_path, monkeypatch):
    sentencepiece = pytest.importorskip("sentencepiece")
    import sacrebleu
    import sacrebleu.tokenizers.tokenizer_spm as own

    said = ["the cat sat on the mat", "a dog barked twice at night", "it rains", ""]
    right = ["the cat is on the mat", "a dog barked once at night", "it rained all day", "nothing at all"]
    text = tmp_path / "text"
    text.write_text("\n".join([*said, *right]))
    (tmp_path / "models").mkdir()
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "m"), vocab_size=30, num_threads=1, minloglevel=2
    )
    (tmp_path / "m.model").rename(tmp_path / "models" / "sacrebleu_tokenizer_spm.model")
    asked = ask([], "?").messages
    answers = [Answer(Sample(asked, id=r, references=(r,)), s, s) for s, r in zip(said, right, strict=True)]
    monkeypatch.setattr(own, "SACREBLEU_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(Lacking, match="--resource flores101=FOLDER"):
        METRICS["bleu_flores101"].measure(answers, Resources())
    ours = METRICS["bleu_flores101"].measure(answers, Resources({"flores101": tmp_path / "models"})).value
    monkeypatch.setattr(own, "SACREBLEU_DIR", str(tmp_path))
    theirs = sacrebleu.corpus_bleu([s or "empty" for s in said], [right], tokenize="flores101").score
    assert 100 * ours == pytest.approx(theirs) and 5 < theirs < 95

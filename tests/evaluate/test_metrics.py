"""Metrics against the reference tools' own numbers (reference_tools.json says which), and by hand."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lalm.data.sample import ask
from lalm.evaluate.metrics import METRICS, Answer, Resources, bleu, captions
from lalm.evaluate.metrics import classification as labels
from lalm.evaluate.metrics import error_rates as errors
from lalm.evaluate.metrics import event_detection as events
from lalm.evaluate.metrics import instruction_following as following
from lalm.evaluate.metrics.intervals import each, interval
from lalm.evaluate.metrics.normalise import normalised
from lalm.evaluate.metrics.spice import SpiceError
from lalm.evaluate.parsers import PARSERS
from lalm.evaluate.task import Task, known_tasks

TOOLS = json.loads((Path(__file__).parent / "reference_tools.json").read_text())
HYPOTHESES = [row["hypothesis"] for row in TOOLS["captions"]]
REFERENCES = [row["references"] for row in TOOLS["captions"]]


def test_caption_tokens_are_those_of_the_java_tokeniser():
    for row in TOOLS["captions"]:
        for text, tokens in zip([row["hypothesis"], *row["references"]], row["tokens"], strict=True):
            assert " ".join(captions.caption_tokens(text)) == tokens


def test_caption_tokens_of_symbols_are_those_of_the_java_tokeniser():
    """Signs, brackets, units, dots, abbreviations, addresses: what the tool made of 859 texts."""
    texts = json.loads((Path(__file__).parent / "treebank_tokens.json").read_text())["texts"]
    assert len(texts) > 800
    odd = [
        (text, made, mine)
        for text, made in texts
        if (mine := " ".join(captions.caption_tokens(text))) != made
    ]
    assert odd == []


@pytest.mark.parametrize("said", ["", "...", "!?"])
def test_an_answer_without_words_scores_nothing_and_breaks_nothing(said):
    """One such answer among others: METEOR, the caption metrics and WER give numbers for all."""
    items = captions_of(said, "a dog barks")
    for name in ("meteor", "caption_bleu", "rouge_l", "cider_d", "content_f1", "wer", "bleu"):
        found = interval(METRICS[name].measure(items, Resources()), ["a", "b"])
        assert np.isfinite(found.mean), name
    assert each(METRICS["meteor"].measure(items, Resources())) == pytest.approx([0.0, 1.0])


def test_bleu_rouge_and_cider_are_the_coco_tools():
    assert captions.caption_bleu(HYPOTHESES, REFERENCES).value == pytest.approx(
        100 * TOOLS["bleu_4"], abs=1e-6
    )
    for name, metric in (("rouge_l", captions.rouge_l), ("cider_d", captions.cider_d)):
        measured = metric(HYPOTHESES, REFERENCES)
        items = measured.of_counts(np.eye(measured.num_items))
        assert items == pytest.approx([row[name] for row in TOOLS["captions"]], abs=1e-9)


@pytest.mark.parametrize("tokeniser", ["13a", "zh", "char"])
def test_corpus_bleu_is_sacrebleus(tokeniser):
    from sacrebleu.metrics import BLEU

    said = ["the cat sat on the mat, he said.", "a dog barks at the moon tonight", "我喜欢听音乐和唱歌"]
    wanted = [["the cat is on the mat, he said."], ["a dog barked at the moon"], ["我很喜欢听音乐"]]
    theirs = BLEU(tokenize=tokeniser).corpus_score(said, [[texts[0] for texts in wanted]]).score
    assert bleu.corpus_bleu(said, wanted, tokeniser).value == pytest.approx(theirs, abs=1e-9)
    nothing = BLEU(tokenize=tokeniser).corpus_score(["x y z w v"], [["a b c d e"]]).score
    assert bleu.corpus_bleu(["x y z w v"], [["a b c d e"]], tokeniser).value == pytest.approx(nothing)


def test_word_errors_are_of_the_corpus_and_normalised():
    said = ["The colour's grey, isn't it?", "one two three four"]
    wanted = [["the color is gray is not it"], ["1 2 3"]]
    measured = errors.word_errors(said, wanted, ["en", "en"])
    assert normalised("The colour's grey", "English") == "the color is gray"
    assert measured.value == pytest.approx(
        sum(
            errors.edits(normalised(a, "en"), normalised(b[0], "en"))[0]
            for a, b in zip(said, wanted, strict=True)
        )
        / sum(len(normalised(b[0], "en").split()) for b in wanted)
    )
    assert errors.word_errors(["你好 世界"], [["你好,世间!"]], ["zh"]).value == pytest.approx(1 / 4)
    assert errors.word_errors(["Ä b"], [["ä, b c"]], ["german"]).value == pytest.approx(1 / 3)
    for language, said, wanted_text in (("my", "ကခ", "ကခဂ"), ("lo", "ກຂ", "ກຂຄ"), ("Thai", "กข", "กขค")):
        assert errors.word_errors([said], [[wanted_text]], [language]).value == pytest.approx(1 / 3)
    assert normalised("9" * 6000, "en") == "9" * 6000  # more digits than Whisper's own code can read
    assert errors.word_errors(["words"], [[""]], ["en"]).value == 0.0  # nothing to get wrong
    both = errors.word_errors(["b first a second"], [["a second b first", "b first a second"]], ["en"])
    assert both.value == 0.0  # either order of two speakers


def test_phone_errors_leave_stress_aside():
    assert errors.phone_errors(["hh ah l ow"], [["HH AH0 L OW1"]]).value == 0.0
    assert errors.phone_errors(["HH AH OW"], [["HH AH0 L OW1"]]).value == pytest.approx(1 / 4)


def test_event_scores_are_sed_evals():
    said = [[tuple(span) for span in item["said"]] for item in TOOLS["events"]["items"]]
    wanted = [[tuple(span) for span in item["wanted"]] for item in TOOLS["events"]["items"]]
    assert events.event_f1(said, wanted).value == pytest.approx(TOOLS["events"]["event_f1"])
    assert events.segment_f1(said, wanted).value == pytest.approx(TOOLS["events"]["segment_f1"])


@pytest.mark.parametrize(
    ("wanted", "said", "found"),
    [
        *[((0.5, 1.5), (0.7, 1.5), True), ((0.7, 1.5), (0.9, 1.5), False), ((1.0, 2.0), (1.2, 2.0), True)],
        *[((0.1, 1.1), (0.3, 1.1), True), ((0.0, 0.2), (0.0, 0.4), True), ((2.0, 2.1), (2.0, 2.3), True)],
        *[((0.3, 1.3), (0.1, 1.3), True), ((0.0, 0.1), (0.0, 0.3), True), ((0.6, 1.6), (0.8, 1.6), False)],
    ],
)
def test_an_edge_at_the_collar_is_found_where_sed_eval_finds_it(wanted, said, found):
    """abs(difference) <= 0.2 in floats, as sed_eval 0.2.1 compares (0.9 - 0.7 is more, 0.7 - 0.5 is not)."""
    value = events.event_f1([[("dog", *said)]], [[("dog", *wanted)]]).value
    assert value == float(found)


def test_nothing_claimed_where_nothing_sounds_is_right():
    nothing: list[list] = [[], []]
    for metric in (events.event_f1, events.segment_f1, events.mean_iou):
        assert metric(nothing, nothing).value == 1.0
        assert metric([[("dog", 0.0, 1.0)], []], nothing).value < 1.0
    assert events.recall_at_iou(nothing, nothing, 0.7).value == 1.0


def test_seconds_beyond_all_measure_are_counted_not_listed():
    said = [[("dog", 0.0, 1e12), ("dog", 5.0, 7.0)]]
    assert events.segment_f1(said, [[("dog", 0.0, 2.0)]]).value == pytest.approx(2 * 2 / (1e12 + 2))


def test_overlap_is_measured():
    said, wanted = [[("a", 0.0, 2.0)], []], [[("a", 1.0, 3.0), ("a", 2.5, 3.0)], [("a", 0.0, 1.0)]]
    assert events.mean_iou(said, wanted).value == pytest.approx((1 / 3 + 0) / 2)
    assert events.recall_at_iou(said, wanted, 0.3).value == 0.5


def test_counts_that_miss_are_off_by_how_much():
    samples = [replace(ask([], "How many?"), references=said) for said in (("three", "3"), ("one", "1"))]
    read = [Answer(s, t, PARSERS["number"](s, t)) for s, t in zip(samples, ("five", "some"), strict=True)]
    measured = METRICS["count_error"].measure(read, Resources())
    assert measured.value == (2 + 1) / 2  # no number counts as zero
    assert METRICS["accuracy"].measure(read, Resources()).value == 0


def test_average_precision_is_scikit_learns_and_can_be_resampled():
    scores, wanted = np.array(TOOLS["precision"]["scores"]), np.array(TOOLS["precision"]["wanted"])
    measured = labels.mean_average_precision(scores, wanted)
    assert measured.value == pytest.approx(TOOLS["precision"]["map"])
    counts = np.random.default_rng(0).integers(0, 3, (1, len(scores)))
    again = np.repeat(np.arange(len(scores)), counts[0])
    repeated = labels.mean_average_precision(scores[again], wanted[again])
    assert measured.of_counts(counts)[0] == pytest.approx(repeated.value)


def test_an_items_own_precision_is_that_of_its_classes():
    scores, wanted = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1]]), np.array([[1, 0, 1], [0, 1, 0]])
    found = each(labels.mean_average_precision(scores, wanted))
    assert found == pytest.approx([(1 + 2 / 3) / 2, 1 / 2])


def test_macro_f1_by_hand():
    said, wanted = ["a", "a", None, "b", "z"], ["a", "b", "a", "b", "b"]
    # a: right 1, said 2, wanted 2; b: right 1, said 1, wanted 3
    assert labels.macro_f1(said, wanted).value == pytest.approx((2 / 4 + 2 / 4) / 2)


@pytest.mark.parametrize(
    ("answer", "follows"),
    [
        ('["a dog barks"]', True),
        ('{"sounds": ["rain", "thunder"]}', True),
        ('```json\n["rain"]\n```', True),
        ('```\n["rain"]\n```\n', True),
        ('Sure! ["rain"]', False),
        ('["rain"] is what I hear.', False),
        ('["rain", "thu', False),
        ('"rain"', False),
        ("3", False),
        ("", False),
        ("[" * 100_000, False),
    ],
)
def test_an_answer_in_json_is_json_and_nothing_else(answer: str, follows: bool) -> None:
    assert following.is_json(answer) is follows


def test_appendix_c():
    spoken = "what is the capital of france"
    assert not following.follows_question("What is the capital of France?", spoken)  # transcribed
    assert not following.follows_question("what is capital of france", spoken)  # one of six words wrong
    assert following.follows_question("Paris.", spoken)
    story = " ".join(f"word{i % 40}" for i in range(50))
    assert following.follows_story(story) and not following.follows_story(story.rpartition(" ")[0])
    assert following.diversity([story, "a a b"]).value == pytest.approx((40 + 2) / 2)
    assert following.repeats("on and on and on it goes " * 3) and not following.repeats(story)
    assert following.repeat_rate(["so it goes on " * 4, "once"]).value == 0.5


FOLDERS = (*("similarity", "fense", "cider_content_fl", "open_asr_wer", "voicebench_bbh"), "bleu_flores101")


def test_every_metric_says_what_it_lacks_or_gives_an_interval():
    sample = ask([], "?")
    fields = {"references": ("dog", "a dog barks"), "choices": ("dog", "rain")}
    event = {"label": "dog", "caption": "", "onset_s": 0.0, "offset_s": 1.0}
    items = [
        Answer(type(sample)(sample.messages, id=str(i), events=(event,), **fields), text, "dog")
        for i, text in enumerate(["a dog barks", "dog", "0-1 s", "dog, rain"])
    ]
    for name, metric in METRICS.items():
        resources = Resources()
        lacking = ("spice", "spider", "spider_fl", *FOLDERS, "perplexity", "count_error", "following")
        if name in (*lacking, "ifeval", "mmau_pro_following"):
            why = r"needs (Java|a folder|FLORES|a local model|a number|the words|origin\.)"
            with pytest.raises(LookupError, match=why):
                metric.measure(items, resources)
            continue
        found = interval(metric.measure(items, resources), [item.recording for item in items])
        assert found.low <= found.mean + 1e-9 and found.mean <= found.high + 1e-9, name
        assert found.num_items == 4


def test_every_metric_of_the_specification_can_be_named_in_a_task():
    wanted = (
        "wer per bleu caption_bleu accuracy macro_f1 map meteor cider_d rouge_l spice spider spider_fl fense"
    )
    wanted += (
        " similarity content_f1 event_f1 mean_iou perplexity following story_following repeat_rate judge"
    )
    for name in wanted.split():
        assert Task(name="t", about="x", metrics=(name,)).metrics == (name,)
    used = {name for task in known_tasks().values() for name in task.metrics}
    assert set(wanted.split()) - used == {"similarity"}  # fense holds it


def captions_of(*texts: str, references: tuple[str, ...] = ("a dog barks",)) -> list[Answer]:
    asked = ask([], "?").messages
    return [
        Answer(type(ask([], "?"))(asked, id=str(i), references=references), text, text)
        for i, text in enumerate(texts)
    ]


def test_spice_is_asked_of_its_own_program(tmp_path, monkeypatch):
    folder = tmp_path / "spice"
    (folder / "lib").mkdir(parents=True)
    items = captions_of("a dog barks", "rain")
    resources = Resources({"spice": folder})
    with pytest.raises(LookupError, match=r"has no spice-1\.0\.jar"):
        METRICS["spice"].measure(items, resources)
    (folder / "spice-1.0.jar").touch()
    with pytest.raises(LookupError, match=r"lib' has no stanford-corenlp-3\.6\.0\.jar and no .*models\.jar"):
        METRICS["spice"].measure(items, resources)
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        (folder / "lib" / name).touch()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(LookupError, match="no 'java'"):
        METRICS["spice"].measure(items, resources)
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "assert sys.argv[1:4] == ['-jar', '-Xmx8G', 'spice-1.0.jar'] and os.path.exists('spice-1.0.jar')\n"
        "rows = json.load(open(sys.argv[4]))\n"
        "found = [{'image_id': r['image_id'], 'scores': {'All': {'f': 0.5 * (r['test'] in r['refs'])}}}"
        " for r in reversed(rows)]\n"
        "json.dump(found, open(sys.argv[sys.argv.index('-out') + 1], 'w'))\n"
    )
    java.chmod(0o755)
    assert each(METRICS["spice"].measure(items, resources)) == pytest.approx([0.5, 0.0])
    cider = each(METRICS["cider_d"].measure(items, resources))
    assert each(METRICS["spider"].measure(items, resources)) == pytest.approx(
        (cider + np.array([0.5, 0])) / 2
    )
    assert resources.used == {"spice": "spice-1.0.jar", "spider": "spice-1.0.jar"}
    java.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('module java.base does not open')\n")
    with pytest.raises(SpiceError, match=r"program failed .*: module java\.base does not open"):
        METRICS["spice"].measure(items, resources)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> dict[str, Path]:
    """A tiny sentence encoder, and a tiny error checker that always finds errors of the last kind."""
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

    root = tmp_path_factory.mktemp("encoders")
    (root / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog", "barks", "rain"])
    )
    config = BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config.num_labels = 3
    torch.manual_seed(0)
    checker = BertForSequenceClassification(config)
    torch.nn.init.zeros_(checker.classifier.weight)
    for name, bias in (("strict", [-9.0, -9.0, 9.0]), ("kind", [9.0, 9.0, 2.0])):
        checker.classifier.bias.data = torch.tensor(bias)
        checker.save_pretrained(root / name)
    BertModel(config).save_pretrained(root / "tiny-encoder")
    for name in ("strict", "kind", "tiny-encoder"):
        BertTokenizer(str(root / "vocab.txt")).save_pretrained(root / name)
    return {name: root / name for name in ("strict", "kind", "tiny-encoder")}


def test_learned_metrics_name_the_models_that_scored(encoders):
    items = captions_of("a dog barks", "rain")
    likeness = Resources({"sentences": encoders["tiny-encoder"]})
    same = each(METRICS["similarity"].measure(items, likeness))
    assert same[0] == pytest.approx(1) and same[1] < 1
    named = re.compile(r"tiny-encoder \(weights [0-9a-f]{12}\)")
    assert named.fullmatch(likeness.used["similarity"])
    for checker, share in (("strict", 0.1), ("kind", 1.0)):  # 2.0 is less than 90 % sure
        folders = Resources({"sentences": encoders["tiny-encoder"], "fluency": encoders[checker]})
        found = each(METRICS["fense"].measure(items, folders))
        assert found == pytest.approx(share * same)
        assert named.match(folders.used["fense"]) and f", {checker} (weights" in folders.used["fense"]
        plain = each(METRICS["cider_content"].measure(items, folders))
        assert each(METRICS["cider_content_fl"].measure(items, folders)) == pytest.approx(share * plain)
        assert folders.used["cider_content_fl"].startswith(f"{checker} (")


def test_perplexity_is_that_of_all_tokens(tmp_path):
    items = [
        replace(a, likelihood=own) for a, own in zip(captions_of("x", "y"), [(2.0, 1), (4.0, 5)], strict=True)
    ]
    resources = Resources()
    assert METRICS["perplexity"].measure(items, resources).value == pytest.approx(np.exp(6 / 6))
    with pytest.raises(LookupError, match="needs a local model"):
        METRICS["perplexity"].measure([*items, captions_of("z")[0]], resources)

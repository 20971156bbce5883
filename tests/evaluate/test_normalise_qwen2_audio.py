"""Texts as Qwen2-Audio's released evaluation compares them, and its tasks."""

from pathlib import Path

import pytest

from lalm.data.sample import ask
from lalm.evaluate.metrics import METRICS, Answer, Resources, normalise
from lalm.evaluate.metrics.mandarin_numbers import read_numbers
from lalm.evaluate.metrics.normalise_qwen2_audio import normalised
from lalm.evaluate.task import known_tasks


@pytest.mark.parametrize(
    ("text", "language", "compared"),
    [
        ("<|en|> Mr. Smith , won't pay $20 !", "en", "mister smith will not pay 20"),
        ("L'été  -- c'est  fini .", "fr", "l été c est fini"),
        ("<|zh|> 你好, 世界! 我有3本ABC书。", "zh", "你 好 世 界 我 有 三 本 a b c 书"),
        ("佢喺學校讀書。", "yue", "佢 喺 学 校 读 书"),
    ],
)
def test_each_language_has_its_chain(text, language, compared):
    assert normalised(text, language) == compared


def test_english_goes_through_both_of_whispers_normalisers():
    # The English one keeps the sign of an amount, the basic one after it does not.
    assert normalise.normalised("it costs $20", "en") == "it costs $20"
    assert normalised("it costs $20", "en") == "it costs 20"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2024年和98年", "二零二四年和九八年"),
        ("2024年99年", "二零二四年九十九年"),  # as released: a year right after a year is a number
        ("78.5%", "百分之七十八点五"),
        ("3/4", "四分之三"),
        ("12345", "一二三四五"),
        ("10人15人20人", "十人十五人二十人"),
        ("105和110和100", "一百零五和一百一十和一百"),
        ("3.14", "三点一四"),
        ("0.5", "零点五"),
        ("20000个200元, 编号1234567", "两万个两百元, 编号一二三四五六七"),
        ("100,000", "一百,"),
        ("电话13912345678或010-62345678。", "电话一三九一二三四五六七八或零一零六二三四五六七八。"),
        ("2024年10月5日", "二零二四年十月五日"),
        ("10%~20%", "百分之十~百分之二十"),
        ("P2P和B2C2", "P2P和B2C二"),
        ("没有", "没有"),
    ],
)
def test_mandarin_numbers(text, read):
    assert read_numbers(text) == read


def test_texts_compare_as_the_released_evaluation_compares_them():
    # Made by the released script itself: benchmarks/mandarin_numbers.py --keep.
    rows = (Path(__file__).parent / "mandarin_numbers.tsv").read_text("utf-8").splitlines()
    assert len(rows) == 400
    for text, compared in (row.split("\t") for row in rows):
        assert normalised(text, "zh") == compared, text


def test_released_and_strict_scores_differ_where_they_should():
    sample = ask([], "?")
    sample = type(sample)(sample.messages, references=("百分之五十",), origin={"language": "zh"})
    answers = [Answer(sample, "50%", "50%")]
    assert METRICS["wer_qwen2_audio"].measure(answers, Resources()).value == 0
    assert METRICS["wer"].measure(answers, Resources()).value > 0
    said = [Answer(sample, text, text) for text in (" 百分之五十", "百分之五十。")]
    assert METRICS["exact"].measure(said, Resources()).value == 0.5


def test_every_row_of_table_1_can_be_asked_both_ways():
    tasks = known_tasks()
    own = {name.removeprefix("qwen2_audio_"): task for name, task in tasks.items() if "qwen2_audio_" in name}
    directions = ["en_de", "en_zh", "de_en", "zh_en", "es_en", "fr_en", "it_en"]
    voices, microphones = ["en", "zh", "yue", "fr"], ["mic", "ios", "android"]
    assert set(own) == {
        *(f"librispeech_{part}" for part in ("dev_clean", "dev_other", "test_clean", "test_other")),
        *(f"common_voice_{code}" for code in voices),
        *(f"aishell2_{kind}" for kind in microphones),
        *(f"covost2_{pair}" for pair in directions),
        *("fleurs_zh", "meld", "vocalsound"),
    }
    for name, task in own.items():
        other = tasks.get(name) or tasks.get(name.replace("librispeech_test", "librispeech"))
        if other is not None:
            assert (task.path, task.layout) == (other.path, other.layout)
        if task.metrics[0] == "wer_qwen2_audio":
            assert task.metrics == ("wer_qwen2_audio", "wer")
            assert task.prompts[0].endswith(f"<|{task.language}|>")
    for pair in directions:
        assert own[f"covost2_{pair}"].prompts[0].endswith(f"<|{pair[:2]}|>")
    assert {"airbench_chat", "airbench_foundation", "librispeech_clean", "librispeech_other"} <= set(tasks)

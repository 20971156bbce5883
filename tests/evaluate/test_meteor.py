"""METEOR against the Java tool's own numbers (meteor_vectors.json), and without the tool's data."""

import gzip
import json
import zipfile
from pathlib import Path

import pytest

from lalm.evaluate.metrics.captions import caption_tokens
from lalm.evaluate.metrics.intervals import interval
from lalm.evaluate.metrics.meteor import MeteorData, alignment, meteor, score, statistics
from lalm.evaluate.metrics.meteor_tokens import meteor_tokens

TOOL = json.loads((Path(__file__).parent / "meteor_vectors.json").read_text())
HYPOTHESES = [row["hypothesis"] for row in TOOL["vectors"]]
REFERENCES = [row["references"] for row in TOOL["vectors"]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tool's folder, with what of its data the vectors need."""
    with zipfile.ZipFile(tmp_path / "meteor-1.5.jar", "w") as jar:
        jar.writestr("function/english.words", "\n".join(TOOL["function_words"].split()))
        jar.writestr(
            "nonbreaking/english.prefixes", "# a comment\n\nvs\nrev\nMr\nMrs\nArt #NUMERIC_ONLY#\npp\t#X#\n"
        )
        for name in ("synsets", "exceptions"):
            rows = [f"{word}\n{own}\n" for word, own in TOOL[name].items()]
            jar.writestr(f"synonym/english.{name}", "".join(rows))
    (tmp_path / "data").mkdir()
    with gzip.open(tmp_path / "data" / "paraphrase-en.gz", "wt", encoding="utf-8") as table:
        table.writelines(f"0.5\n{a}\n{b}\n" for a, b in TOOL["paraphrases"])
    return tmp_path


def test_every_score_is_the_jars(folder):
    measured, name = meteor(HYPOTHESES, REFERENCES, folder)
    assert name == "METEOR 1.5"
    for row in TOOL["vectors"]:
        one, _ = meteor([row["hypothesis"]], [row["references"]], folder)
        assert one.value == pytest.approx(row["meteor"], abs=1e-9), row["hypothesis"]
    assert measured.value == pytest.approx(TOOL["corpus"], abs=1e-9)
    found = interval(measured, [str(i) for i in range(len(HYPOTHESES))])
    assert found.low < found.mean < found.high


def test_without_its_data_it_says_that_it_is_not_meteor(folder):
    whole, _ = meteor(HYPOTHESES, REFERENCES, folder)
    measured, name = meteor(HYPOTHESES, REFERENCES)
    assert "not METEOR 1.5" in name
    assert 0 < measured.value != pytest.approx(whole.value, abs=1e-3)
    with pytest.raises(ValueError, match=r"no METEOR folder: it has no meteor-1\.5\.jar"):
        MeteorData.read(Path("nowhere"), [])


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("The hi-hat's hit", "the hi hat ' s hit"),
        ("It isn't a well-to-do man", "it is n 't a well to do man"),
        ("a-b-c and/or 3.5", "a b-c and / or 3.5"),
        ("Mr. Smith at 3 p.m. met mrs.", "mr. smith at 3 pm met mrs ."),
    ],
)
def test_words_are_the_tools(caption, tokens):
    assert meteor_tokens(caption_tokens(caption), {"vs"}) == tokens.split()


def test_alignments_by_hand():
    data = MeteorData("")
    assert float(score(statistics(["footsteps", "fall"], ["footstep", "falls"], data))) == pytest.approx(0.6)
    assert float(score(statistics(["four"], ["four"], data))) == 1.0
    matches, chunks = alignment(["four", "sun", "two"], ["two", "moon", "four"], data)
    assert [(m.start, m.at) for m in matches] == [(2, 0), (0, 2)] and chunks == 2
    table = MeteorData("", paraphrases={("goes", "off"): (("starts",),)})
    (match,), _ = alignment(["it", "goes", "off"], ["alarm", "starts"], table)
    assert (match.start, match.length, match.at, match.width) == (1, 2, 1, 1)


def test_stems_are_those_of_the_older_stemmer():
    matches, _ = alignment(["organization"], ["organ"], MeteorData(""))
    assert len(matches) == 1

"""Transcripts written as subtitles and JSON."""

import json

from lalm.inference.speech.subtitles import Segment, Transcript, Word, clock, subtitles


def spoken(*texts: str, step_s: float = 0.4) -> Segment:
    words = tuple(Word(i * step_s, (i + 1) * step_s, f" {text}", 0.9) for i, text in enumerate(texts))
    return Segment(0.0, len(texts) * step_s, " ".join(texts), words)


def test_a_segment_becomes_captions_of_two_lines_at_most():
    text = "the quick brown fox jumps over the lazy dog " * 4
    made = subtitles([spoken(*text.split())], "srt")
    cues = made.strip().split("\n\n")
    assert [cue.splitlines()[0] for cue in cues] == [str(n + 1) for n in range(len(cues))] and len(cues) > 1
    lines = [cue.splitlines()[2:] for cue in cues]
    assert all(len(one) <= 2 and all(len(line) <= 42 for line in one) for one in lines)
    assert " ".join(" ".join(one) for one in lines) == " ".join(text.split())
    assert cues[0].splitlines()[1].startswith("00:00:00,000 --> ")


def test_words_can_have_cues_of_their_own():
    assert subtitles([spoken("one", "two")], "srt", by_word=True) == (
        "1\n00:00:00,000 --> 00:00:00,400\none\n\n2\n00:00:00,400 --> 00:00:00,800\ntwo\n\n"
    )


def test_every_cue_lasts():
    """Whisper gives words that it does not find in the audio no time at all."""
    words = [(1.0, 1.0, " Good"), (1.0, 1.0, " old"), (1.0, 1.5, " times"), (2.0, 2.0004, " gone")]
    segment = Segment(1.0, 2.0, "Good old times gone", tuple(Word(a, b, text, 0.5) for a, b, text in words))
    assert subtitles([segment], "srt", by_word=True) == (
        "1\n00:00:01,000 --> 00:00:01,500\nGood old times gone\n\n"
    )
    assert "00:00:03,000 --> 00:00:03,020" in subtitles([Segment(3.0, 3.0, "Hm.")], "srt")


def test_webvtt_keeps_its_marks_apart_from_the_text():
    made = subtitles([Segment(1.0, 2.5, "a < b & c --> d")], "vtt")
    assert made == "WEBVTT\n\n00:00:01.000 --> 00:00:02.500\na &lt; b &amp; c --&gt; d\n\n"


def test_times_go_on_after_an_hour_and_move_with_the_window():
    assert clock(3661.0015, "srt") == "01:01:01,002"
    later = spoken("one", "two").later(30.0)
    assert (later.start_s, later.words[1].end_s) == (30.0, 30.8)


def test_json_tells_the_words_and_nothing_where_nobody_speaks():
    told = json.loads(json.dumps(Transcript((spoken("Hi", "there"),), "en", 1.0).to_json("x.wav")))
    assert told["text"] == "Hi there" and told["language"] == "en" and told["audio"] == "x.wav"
    assert told["segments"][0]["words"][1] == {
        "start": 0.4,
        "end": 0.8,
        "word": "there",
        "probability": 0.9,
    }
    silent = Transcript((), "", 3.0)
    assert silent.text == "" and silent.to_json()["segments"] == []

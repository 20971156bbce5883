"""112 odd files beside FFmpeg: heard to the same length and in the same order, or refused in a sentence.

``cases.tsv`` says of each file what it is and how long FFmpeg 9.0.2 hears it; what we hear otherwise
stands here, with why. Most hold 440 Hz, then 880 Hz.
"""

import csv
from pathlib import Path

import numpy as np
import pytest

from lalm.audio.load import SAMPLE_RATE, AudioError, read_recording

FOLDER = Path(__file__).parents[1] / "fixtures" / "audio_cases"
ROWS = {row["file"]: row for row in csv.DictReader((FOLDER / "cases.tsv").open(), delimiter="\t")}
NEAR_S = 0.05  # a codec's block

REFUSED = {  # file -> what the refusal says
    "base64.wav": "is not audio",
    "concat.ffconcat": "is not audio",
    "crlf.wav": "copied as text",  # FFmpeg hears noise
    "empty.wav": "is empty",
    "float_inf.wav": "NaN or infinite values, first at 0.01 s",
    "float_nan.wav": "NaN or infinite values, first at 0.01 s",
    "git_lfs_pointer.wav": "is not audio",
    "html_404.mp3": "is not audio",
    "m4a_faststart_cut.m4a": "truncated",
    "m4a_no_moov.m4a": "truncated",
    "mp3_cut_xing.mp3": "promises 1 s of audio but ends after 0.81 s",
    "mp3_junk_middle.mp3": "is damaged at 0.52 s",
    "mp3_junk_middle_xing.mp3": "is damaged at 0.52 s",
    "mp4_no_audio.mp4": "holds no audio track",
    "opus_cut.opus": "truncated",
    "opus_page_damaged.opus": "is damaged at 2.99 s: a page's checksum is wrong",
    "opus_page_missing.opus": "is damaged at 2.99 s: a page is missing",
    "playlist.m3u8": "is not audio",
    "playlist.wav": "is not audio",
    "raw_s16le.pcm": "is not audio",
    "sln.raw": "is not audio",
    "utf8_bom.wav": "is not audio, or in a format that cannot be read: a WAV begins 3 bytes late",
    "wav_channels_zero.wav": "has 0 channels",
    "wav_header_only.wav": "holds no audio (0 samples)",
    "wav_leading_junk.wav": "a WAV begins 2 bytes late",
    "wav_odd_chunk_unpadded.wav": "a chunk of odd length lacks its padding byte",
    "wav_rate_zero.wav": "has a rate of 0 Hz",
    "wav_truncated.wav": "promises 1 s of audio but ends after 0.5 s",
    "wavs.zip": "is not audio",
    "webm_second_chunk_only.webm": "is not audio",
    "zeros.wav": "is not audio",
}
LONGER_S = {  # what FFmpeg's program stops short of
    "opus_chained.opus": 2.0,
    "vorbis_chained_rates.ogg": 2.0,
    "silence_3h.flac": 10_800.0,
}
TOLD = {  # heard, with a remark
    "dc_offset.wav": "a constant offset of 0.80 was taken out",
    "mp3_cut_midframe.mp3": "breaks off inside a frame",
    "mp3_xing_too_short.mp3": "its header promises 0.09 s, but 1.02 s are there and are heard",
    "mp4_two_audio.mp4": "it has 2 audio tracks, of which track 0 is heard",
    "silence_3h.flac": "nothing but digital silence",
    "stereo_left_only.wav": "channel 1 is without sound",
    "wav_two_data_chunks.wav": "a second data chunk of 0.50 s follows and is not heard",
    "webm_browser_cut.webm": "breaks off in the midst of a block",
}
OTHER_SOUNDS = {  # not 440 Hz, then 880 Hz
    *(
        "mp3_noxing_vbr.mp3",
        "m4a_cut_copy_editlist.m4a",
        "one_sample.wav",
        "short_10ms.wav",
        "silence_3h.flac",
    ),
    *("stereo_call_two_speakers.wav", "stereo_left_only.wav", "wav_7_1.wav", "wav_192k.wav"),
    *("wav_two_data_chunks.wav", "vorbis_chained_rates.ogg", "opus_chained.opus", "webm_browser_cut.webm"),
}


def loudest_hz(audio: np.ndarray) -> float:
    """The strongest frequency of ``audio``, (N,) at 16 kHz."""
    power = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    return float(np.argmax(power) * SAMPLE_RATE / len(audio))


def test_every_case_is_there() -> None:
    assert len(ROWS) == 112
    assert {path.name for path in FOLDER.iterdir()} == {*ROWS, "cases.tsv"}


@pytest.mark.parametrize("name", sorted(set(ROWS) - set(REFUSED)))
def test_heard(name: str) -> None:
    recording = read_recording(FOLDER / name)
    account, length_s = recording.account, len(recording.audio) / SAMPLE_RATE
    theirs = ROWS[name]["seconds heard by ffmpeg 9.0.2"]
    expected_s = LONGER_S[name] if name in LONGER_S else float(theirs)
    assert length_s == pytest.approx(expected_s, abs=NEAR_S)
    assert account.decoded_s == pytest.approx(length_s, abs=2e-3)
    assert account.rate_hz and account.num_channels and account.container and account.codec
    assert TOLD.get(name, "") in account.sentence
    assert bool(account.notes) == (name in TOLD), account.sentence
    assert not account.holes
    if name not in OTHER_SOUNDS:
        third = len(recording.audio) // 3
        first, last = loudest_hz(recording.audio[:third]), loudest_hz(recording.audio[-third:])
        assert first == pytest.approx(440, abs=12)
        assert last == pytest.approx(880, abs=12)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused(name: str) -> None:
    with pytest.raises(AudioError) as caught:
        read_recording(FOLDER / name)
    sentence = str(caught.value)
    assert REFUSED[name] in sentence
    assert sentence.startswith(str(FOLDER / name))
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("name", "seconds", "at_s"),
    [
        ("m4a_faststart_cut.m4a", 0.64, 0.64),
        ("mp3_cut_xing.mp3", 0.81, 0.81),
        ("mp3_junk_middle.mp3", 0.99, 0.52),
        ("opus_page_damaged.opus", 7.0, 2.99),
        ("opus_page_missing.opus", 7.0, 2.99),
        ("float_nan.wav", 0.6, 0.01),
        ("wav_truncated.wav", 0.5, 0.5),
        ("wav_odd_chunk_unpadded.wav", 1.0, 0.0),
    ],
)
def test_lenient_hears_what_is_there_and_lists_the_holes(name: str, seconds: float, at_s: float) -> None:
    recording = read_recording(FOLDER / name, lenient=True)
    assert len(recording.audio) / SAMPLE_RATE == pytest.approx(seconds, abs=NEAR_S)
    assert recording.account.holes[0].at_s == pytest.approx(at_s, abs=0.01)
    assert recording.account.sentence.startswith(f"{name}: ")


def test_lenient_changes_nothing_for_what_is_no_audio() -> None:
    for name in ("html_404.mp3", "zeros.wav", "mp4_no_audio.mp4", "empty.wav"):
        with pytest.raises(AudioError, match=REFUSED[name]):
            read_recording(FOLDER / name, lenient=True)


def test_channels_and_tracks_can_be_chosen() -> None:
    call = FOLDER / "stereo_call_two_speakers.wav"
    one, two = (read_recording(call, channel=number) for number in (0, 1))
    assert one.account.channels == (0,) and two.account.channels == (1,)
    assert abs(loudest_hz(one.audio) - loudest_hz(two.audio)) > 50
    np.testing.assert_allclose(read_recording(call).audio, (one.audio + two.audio) / 2, atol=1e-6)
    with pytest.raises(AudioError, match="has 2 channels, counted from 0: there is no channel 2"):
        read_recording(call, channel=2)
    second = read_recording(FOLDER / "mp4_two_audio.mp4", track=1)
    assert loudest_hz(second.audio) == pytest.approx(2_000, abs=12)
    assert (second.account.track, second.account.num_tracks, second.account.notes) == (1, 2, ())
    for name in ("wav_u8.wav", "mp3_noxing_cbr.mp3", "vorbis.ogg", "flac_piped.flac", "alac.m4a"):
        with pytest.raises(AudioError, match="has 1 audio track, counted from 0: there is no track 1"):
            read_recording(FOLDER / name, track=1)
    with pytest.raises(AudioError, match="has 2 audio tracks, counted from 0: there is no track 2"):
        read_recording(FOLDER / "mp4_two_audio.mp4", track=2)


def test_every_channel_of_a_surround_recording_is_in_the_mix() -> None:
    file = FOLDER / "wav_7_1.wav"
    power = np.abs(np.fft.rfft(read_recording(file).audio * np.hanning(2_400)))
    for channel in range(8):
        own = loudest_hz(read_recording(file, channel=channel).audio)
        assert power[round(own * 2_400 / SAMPLE_RATE)] > 20 * np.median(power)


def test_sound_that_begins_after_the_picture_says_so() -> None:
    assert read_recording(FOLDER / "mp4_audio_late.mp4").account.starts_s == pytest.approx(0.48, abs=0.03)

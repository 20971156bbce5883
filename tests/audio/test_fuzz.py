"""Damaged bytes never do worse than a sentence: no other error, little time, little memory."""

import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lalm.audio.load import AudioError, read_recording

FOLDER = Path(__file__).parents[1] / "fixtures" / "audio_cases"
SEEDS = [
    *("wav_pcm24.wav", "rf64.wav", "w64.w64", "aiff.aiff", "au.au", "caf.caf", "flac_piped.flac"),
    *("vorbis.ogg", "opus_preskip.opus", "mp3_lame_gapless.mp3", "aac_adts.aac"),
    *("m4a_aac_editlist.m4a", "webm_browser_no_duration.webm", "m4a_fragmented.m4a", "mp4_two_audio.mp4"),
    *("ts.ts", "ac3.ac3", "avi.avi", "wav_ima_adpcm.wav", "mkv_pcm.mkv"),
]
LONGEST_S, MOST_BYTES = 10.0, 64 << 20


@pytest.mark.parametrize("name", SEEDS)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_bytes_are_heard_or_refused(name: str, data: st.DataObject) -> None:
    whole = bytearray((FOLDER / name).read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, min(len(whole), 400) - 1) | st.integers(0, len(whole) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=8) | st.just(b"\xff" * 4) | st.just(bytes(4)))
        whole[at : at + len(piece)] = piece
    kept = bytes(whole[: data.draw(st.integers(1, len(whole)) | st.just(len(whole)))])
    began = time.monotonic()
    tracemalloc.start()
    try:
        recording = read_recording(kept, lenient=data.draw(st.booleans()), max_s=60)
        assert recording.account.decoded_s > 0
    except AudioError as error:
        assert str(error) and "\n" not in str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MOST_BYTES
    assert time.monotonic() - began < LONGEST_S

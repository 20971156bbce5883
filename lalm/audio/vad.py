"""Voice activity detection: microphone, 16-bit PCM or files -> utterances, each ended by a pause.

Where speech begins and ends is found by silero-vad (MIT; its model lies in its package). Nothing here
knows of models that answer: an utterance is mono float32 at 16 kHz.
"""

import queue
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import soxr
import torch

from lalm.audio.load import SAMPLE_RATE, AudioError
from lalm.errors import LalmError

Array: TypeAlias = np.ndarray[Any, Any]
Detector: TypeAlias = Callable[[torch.Tensor], dict[str, Any] | None]

FRAME = 512  # samples, 32 ms: what silero-vad looks at
CONTEXT = 64  # samples before them that it is given too
GROUP = 32  # frames that it looks at in one call, at most
BLOCK = 4096  # bytes read from a stream at a time, 128 ms of 16-bit audio at 16 kHz
HEADER_LIMIT = 1 << 20  # bytes before a WAV's samples
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE  # kinds of WAV
WAVES = {(PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64)}  # kind, bits


class VoiceError(LalmError, ValueError):
    """Speech that cannot be listened to; the text says why."""


def load_detector(pause_s: float, threshold: float = 0.5) -> Detector:
    """silero-vad; called with (512,) float32 it returns {"start": ...}, {"end": ...} or None.

    Frames above ``threshold`` (0 to 1) are speech, which ends after ``pause_s`` seconds without any.
    Raises VoiceError where the package is absent.
    """
    silero_vad = _silero()
    return silero_vad.VADIterator(
        silero_vad.load_silero_vad(),
        threshold,
        sampling_rate=SAMPLE_RATE,
        min_silence_duration_ms=round(1000 * pause_s),
    )


def load_probability() -> Callable[[Array], Array]:
    """silero-vad: a recording's next frames (F, 512) float32 -> how likely each is speech, (F,).

    A call takes as many frames as there are: one by one they take twice as long. Raises VoiceError where the
    package is absent.
    """
    session = _session()
    state = [np.zeros((1, 1, 128), np.float32)] * 2
    before = np.zeros((1, CONTEXT), np.float32)

    def probability(frames: Array) -> Array:
        nonlocal state, before
        context = np.concatenate([before, frames[:-1, -CONTEXT:]])
        given = np.concatenate([context, frames], axis=1)
        found, *state = session.run(
            ["speech_probs", "hn", "cn"], {"input": given, "h": state[0], "c": state[1]}
        )
        before = frames[-1:, -CONTEXT:].copy()
        return np.asarray(found).reshape(-1)

    return probability


@cache
def _session() -> Any:
    """silero-vad's model of many frames at a time, opened once: a session may be used by several threads."""
    return _silero().load_silero_vad(sequence=True).session


def _silero() -> Any:
    threads = torch.get_num_threads()
    try:
        import silero_vad
    except ImportError:
        raise VoiceError("finding speech needs silero-vad: pip install silero-vad") from None
    torch.set_num_threads(threads)  # importing it leaves torch with one
    return silero_vad


def utterances(blocks: Iterable[Array], detector: Detector, *, before_s: float = 0.3) -> Iterator[Array]:
    """Each stretch of speech with ``before_s`` seconds of what came before it, as soon as it has ended."""
    recent: deque[Array] = deque(maxlen=max(1, round(before_s * SAMPLE_RATE / FRAME)))
    speech: list[Array] | None = None
    for frame in frames(blocks):
        event = detector(torch.from_numpy(frame)) or {}
        (recent if speech is None else speech).append(frame)
        if "start" in event and speech is None:
            speech = [*recent]
            recent.clear()
        elif "end" in event and speech is not None:
            yield np.concatenate(speech)
            speech = None
    if speech is not None:
        yield np.concatenate(speech)


def frames(blocks: Iterable[Array]) -> Iterator[Array]:
    """Blocks (N,) of any size as frames of 512 samples; the last is filled up with silence."""
    for several in frame_groups(blocks):
        yield from several


def frame_groups(blocks: Iterable[Array]) -> Iterator[Array]:
    """Blocks (N,) of any size as groups (F, 512) of the frames that are there, at most a second's."""
    left = np.zeros(0, np.float32)
    for block in blocks:
        left = np.concatenate([left, block])
        for start in range(0, len(left) // FRAME, GROUP):
            group = left[start * FRAME : (start + GROUP) * FRAME]
            yield group[: len(group) // FRAME * FRAME].reshape(-1, FRAME)
        left = left[len(left) // FRAME * FRAME :]
    if len(left):
        yield np.pad(left, (0, FRAME - len(left)))[None]


def pcm_blocks(stream: BinaryIO) -> Iterator[Array]:
    """Blocks of a stream of 16-bit PCM, mono at 16 kHz, or of a WAV file that says otherwise about itself."""
    start = stream.read(4)
    rate, channels, form = (SAMPLE_RATE, 1, (PCM, 16)) if start != b"RIFF" else _wav_header(stream)
    held = b"" if start == b"RIFF" else start
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32") if rate != SAMPLE_RATE else None
    size = form[1] // 8 * channels
    while data := stream.read(BLOCK):
        held += data
        whole = len(held) // size * size
        samples = _samples(held[:whole], *form).reshape(-1, channels).mean(1, dtype=np.float32)
        held = held[whole:]
        yield samples if resampler is None else resampler.resample_chunk(samples)
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _samples(data: bytes, kind: int, bits: int) -> Array:
    """The float32 samples in bytes of a WAV of that kind; NaN and infinity are silence."""
    if kind == FLOAT:
        return np.nan_to_num(np.frombuffer(data, f"<f{bits // 8}").astype(np.float32), posinf=0, neginf=0)
    if bits == 8:  # without a sign
        return np.frombuffer(data, np.uint8).astype(np.float32) / 128 - 1
    if bits == 24:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return padded.view("<i4")[:, 0].astype(np.float32) / 2**31
    return np.frombuffer(data, f"<i{bits // 8}").astype(np.float32) / 2 ** (bits - 1)


def _wav_header(stream: BinaryIO) -> tuple[int, int, tuple[int, int]]:
    """Rate, channels, and (kind, bits) of a WAV stream after its first four bytes; samples come next."""
    read, shape = 0, None
    if stream.read(8)[4:] != b"WAVE":
        raise AudioError(
            "the stream begins like a WAV file and is none: send a WAV or bare 16-bit PCM at 16 kHz"
        )
    while read < HEADER_LIMIT:
        head = stream.read(8)
        if len(head) < 8:
            break
        name, size = struct.unpack("<4sI", head)
        if name == b"data" and shape is not None:
            return shape
        body = stream.read(min(size + size % 2, HEADER_LIMIT))
        read += len(head) + len(body)
        if name == b"fmt " and len(body) >= 16:
            kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
            if kind == EXTENSIBLE:
                kind = int.from_bytes(body[24:26], "little") or PCM
            if (kind, bits) not in WAVES or not 1 <= channels <= 64 or not 1000 <= rate <= 384_000:
                raise AudioError(
                    f"a WAV stream must be PCM or float of 1 to 64 channels, not {channels} of {bits} bits, "
                    f"kind {kind}, at {rate} Hz: ffmpeg -i FILE -f s16le -ac 1 -ar 16000 - gives what is read"
                )
            shape = (rate, channels, (kind, bits))
    raise AudioError("the WAV stream has no samples")


def microphone() -> Iterator[Array]:
    """Blocks from the default microphone, until the caller stops. Raises VoiceError where there is none."""
    try:
        import sounddevice
    except (ImportError, OSError):
        raise VoiceError(
            "the microphone needs sounddevice: pip install 'lalm[voice]', and PortAudio"
        ) from None
    heard: queue.SimpleQueue[Array] = queue.SimpleQueue()
    try:
        with sounddevice.InputStream(
            samplerate=SAMPLE_RATE,
            channels=1,
            dtype="float32",
            blocksize=FRAME,
            callback=lambda block, *rest: heard.put(block[:, 0].copy()),
        ):
            while True:
                yield heard.get()
    except sounddevice.PortAudioError as error:
        raise VoiceError(f"the microphone cannot be opened ({error}): is one connected?") from None

"""Live captions: audio as it comes in -> captions that keep up with it.

While somebody speaks, what has been said so far is transcribed again and again, as often as the machine
manages; when they pause it is transcribed for good. Nothing that comes in is lost meanwhile: it waits, and
where much waits utterances are transcribed several at a time, which takes Whisper no longer than one.
"""

import math
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from lalm.audio.load import SAMPLE_RATE
from lalm.audio.vad import Array, frames, load_probability
from lalm.inference.speech.recogniser import Whisper, Wish
from lalm.inference.speech.speech_windows import FRAME_S, Probability, Window

PAUSE_S = 0.6  # that ends an utterance
LONGEST_S = 15.0  # an utterance without a pause is cut here
BEFORE_S = 0.3  # heard before speech was found
FIRST_S = 0.8  # of speech before it is first transcribed
BEHIND_S = 2.0  # of audio that waits: from here on several utterances at a time
TOGETHER_S, GAP_S = 28.0, 2.0  # how much at a time then, and the pause that ends it all the same
POLL_S = 0.05
LEAST_S = 0.2  # less speech is none
SPEECH, STILL = 0.5, 0.35  # probability from which a frame is speech, and down to which it goes on


@dataclass(frozen=True)
class Caption:
    """What is said from ``start_s`` to ``end_s`` of what came in; a later one replaces it unless ``final``.

    ``behind_s`` is how many seconds of audio wait to be heard, as the caption is written.
    """

    start_s: float
    end_s: float
    text: str
    final: bool
    behind_s: float


class Incoming:
    """Blocks of audio, taken in by a thread as they come, so that a slow reader loses none.

    No more than ``most_s`` seconds are taken ahead, for a source that can wait. ``stopped`` tells the source,
    too, that no more is wanted.
    """

    def __init__(
        self, blocks: Iterable[Array], most_s: float = math.inf, stopped: threading.Event | None = None
    ) -> None:
        self._most_s = most_s
        self._queue: queue.SimpleQueue[Array | BaseException | None] = queue.SimpleQueue()
        self._taken, self._given = 0, 0
        self._stopped = stopped or threading.Event()
        self.ended = False
        self._thread = threading.Thread(target=self._take, args=(blocks,), daemon=True)
        self._thread.start()

    def _take(self, blocks: Iterable[Array]) -> None:
        try:
            for block in blocks:
                if self._stopped.is_set():
                    break
                self._taken += len(block)
                self._queue.put(block)
                while self.behind_s > self._most_s and not self._stopped.is_set():
                    time.sleep(POLL_S)
            self._queue.put(None)
        except BaseException as error:  # raised where the blocks are read
            self._queue.put(error)

    def __iter__(self) -> Iterator[Array]:
        while (block := self._queue.get()) is not None:
            if isinstance(block, BaseException):
                raise block
            self._given += len(block)
            yield block
        self.ended = True

    def stop(self) -> None:
        """Take no more; what came in is still given. May be called by a handler of a signal."""
        self._stopped.set()
        self._queue.put(None)

    def close(self) -> None:
        """Wait a moment until the source has let go of what it holds."""
        self._stopped.set()
        self._thread.join(1.0)

    @property
    def behind_s(self) -> float:
        """Seconds of audio that came in and were not read yet."""
        return (self._taken - self._given) / SAMPLE_RATE


def captions(
    blocks: Iterable[Array] | Incoming,
    whisper: Whisper,
    language: str = "",
    *,
    partial: bool = True,
    probability: Probability | None = None,
) -> Iterator[Caption]:
    """Captions of audio that comes in, blocks (N,) float32 at 16 kHz; none where nobody speaks.

    With ``partial`` captions of unfinished utterances come between. The language is found out for every
    utterance unless it is given. What was stopped (``Incoming.stop``) ends with what had come in.
    """
    incoming = blocks if isinstance(blocks, Incoming) else Incoming(blocks)
    utterance = _Utterance(probability or load_probability())
    next_partial_s = FIRST_S
    for frame in frames(incoming):
        ended = utterance.add(frame, hurried=incoming.behind_s >= BEHIND_S)
        if ended is not None:
            text = _written(whisper, ended, language, 5 if incoming.behind_s < BEHIND_S else 1)
            if text:
                yield Caption(ended.start_s, ended.end_s, text, True, incoming.behind_s)
            next_partial_s = FIRST_S
        elif partial and utterance.speech_s >= next_partial_s and incoming.behind_s < BEHIND_S / 4:
            began, so_far = time.monotonic(), utterance.so_far()
            text = _written(whisper, so_far, language, 1)
            if text:
                yield Caption(so_far.start_s, so_far.end_s, text, False, incoming.behind_s)
            # the next one leaves the machine as much rest as this one took
            next_partial_s = utterance.speech_s + max(FIRST_S, 2 * (time.monotonic() - began))
    last = utterance.finish()
    if last is not None and (text := _written(whisper, last, language, 5)):
        yield Caption(last.start_s, last.end_s, text, True, 0.0)


def _written(whisper: Whisper, window: Window, language: str, beams: int) -> str:
    heard = whisper.window(window, Wish(language, beams=beams, words=False))
    return " ".join(segment.text for segment in heard.segments)


class _Utterance:
    """Frames in, utterances out, each when a pause has followed it."""

    def __init__(self, probability: Probability) -> None:
        self.probability = probability
        self.held: list[Array] = []
        self.first = 0  # number of the frame that held begins with
        self.voiced = 0  # frames of speech in held
        self.quiet = 0  # frames since the last of them

    @property
    def speech_s(self) -> float:
        """Seconds since this utterance began; 0 while there is none."""
        return len(self.held) * FRAME_S if self.voiced else 0.0

    def so_far(self) -> Window:
        """The utterance as far as it goes."""
        return Window(self.first * FRAME_S, np.concatenate(self.held))

    def add(self, frame: Array, *, hurried: bool = False) -> Window | None:
        """Take a frame of 512 samples; the utterance that it ends, or several where it is ``hurried``."""
        score = float(self.probability(frame[None])[0])
        self.held.append(frame)
        if score >= (STILL if self.voiced and not self.quiet else SPEECH):
            self.voiced, self.quiet = self.voiced + 1, 0
        elif self.voiced:
            self.quiet += 1
        else:
            keep = round(BEFORE_S / FRAME_S)
            self.first += max(0, len(self.held) - keep)
            del self.held[:-keep]
        long = len(self.held) * FRAME_S >= (TOGETHER_S if hurried else LONGEST_S)
        paused = self.quiet * FRAME_S >= (GAP_S if hurried else PAUSE_S)
        return self.finish() if self.voiced and (paused or long) else None

    def finish(self) -> Window | None:
        """The utterance, which ends here, if there is enough of it."""
        found = self.so_far() if self.voiced * FRAME_S >= LEAST_S else None
        self.first += len(self.held)
        self.held, self.voiced, self.quiet = [], 0, 0
        return found

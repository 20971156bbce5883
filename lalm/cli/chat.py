"""``lalm chat``: turns of recordings, text or both, answered as the answer comes.

Without ``--voice`` a turn is a line: audio files first, then text; either may be absent. With it, files,
standard input or the microphone are listened to, and every utterance is a turn; typed lines come between.
"""

import queue
import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from lalm.cli.ask import is_audio
from lalm.cli.ending import note_ending
from lalm.cli.options import (
    Device,
    Longest,
    LoopGuard,
    LoraScale,
    MinP,
    MinTokens,
    Model,
    NoRepeatNgram,
    RepetitionPenalty,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
)


@dataclass(frozen=True)
class Turn:
    """What the user says at once: recordings (sources, or (N,) float32 at 16 kHz), text, or both."""

    audios: list[Any] = field(default_factory=list)
    text: str = ""


def chat(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[AUDIO... TEXT]",
            help="The first turn; with --voice files to listen to, - for standard input, and text between.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    voice: Annotated[
        bool, typer.Option("--voice", help="Listen: every utterance is a turn (default: the microphone).")
    ] = False,
    pause: Annotated[float, typer.Option(min=0.1, help="Seconds of silence that end an utterance.")] = 0.7,
    system: Annotated[str, typer.Option(help="System text.")] = "",
    max_new_tokens: Longest = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    no_repeat_ngram_size: NoRepeatNgram = 0,
    stop: Stop = None,
    min_tokens: MinTokens = 0,
    loop_guard: LoopGuard = True,
    seed: Seed = 0,
    lora_scale: LoraScale = None,
    device: Device = None,
) -> None:
    """Talk in turns of recordings, text or both.

    Each line of standard input is a turn. With --voice, - is 16-bit mono PCM at 16 kHz or a WAV stream.
    """
    if voice:
        from lalm.audio.vad import load_detector

        load_detector(pause)  # a missing package is named before a model is loaded
    turns = spoken_turns(words or [], pause) if voice else typed_turns(words or [])
    from lalm.cli.opening import open_engine
    from lalm.inference.conversation import Conversation
    from lalm.inference.engine import Options

    options = Options(
        max_new_tokens,
        temperature=temperature,
        seed=seed,
        lora_scale=lora_scale,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram_size=no_repeat_ngram_size,
        stop=tuple(stop or ()),
        min_tokens=min_tokens,
        loop_guard=loop_guard,
    )
    conversation = Conversation(open_engine(model, device), options, system=system)
    interactive = sys.stdin.isatty()
    for turn in turns:
        try:
            for piece in conversation.stream(turn.audios, turn.text):
                print(piece, end="", flush=True)
            print()
            note_ending(conversation.finish_reason, options)
        except ValueError as error:
            if not interactive:
                raise
            print("lalm:", error, file=sys.stderr)


def typed_turns(words: Sequence[str]) -> Iterator[Turn]:
    """The words as the first turn, if there are any; then one turn a line of standard input."""
    if words:
        yield parse(words)
    if "-" in words:
        return  # standard input was a recording
    for line in lines():
        try:
            yield parse(shlex.split(line))
        except ValueError:  # an apostrophe is no quotation mark
            yield parse(line.split())


def parse(words: Sequence[str]) -> Turn:
    """Audio files as long as there are any, then text."""
    count = next((i for i, word in enumerate(words) if not is_audio(word)), len(words))
    if count == 0 and words and _names_a_recording(words[0]):
        raise ValueError(f"there is no file {words[0]}")
    return Turn(list(words[:count]), " ".join(words[count:]))


def _names_a_recording(word: str) -> bool:
    """Whether a word that is no file ends like the name of one."""
    return " " not in word and word.lower().endswith((".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a"))


def spoken_turns(words: Sequence[str], pause_s: float) -> Iterator[Turn]:
    """Every utterance in the files, or in standard input (-), or at the microphone; other words are text."""
    from lalm.audio.load import audio_name, load_audio
    from lalm.audio.vad import VoiceError, load_detector, pcm_blocks, utterances

    if not words:
        yield from _at_the_microphone(load_detector(pause_s))
        return
    for word in words:
        if not is_audio(word):
            yield Turn(text=word)
            continue
        if word == "-":
            blocks: Any = pcm_blocks(sys.stdin.buffer)
        else:
            blocks = [load_audio(word)]
        found = 0
        for speech in utterances(blocks, load_detector(pause_s)):
            found += 1
            yield _heard(speech)
        if not found:
            raise VoiceError(f"no speech was found in {audio_name(word)}")


def _at_the_microphone(detector: Any) -> Iterator[Turn]:
    """Utterances and typed lines in the order they come; an error of either side ends the chat."""
    from lalm.audio.vad import microphone, utterances

    coming: queue.SimpleQueue[Turn | Exception] = queue.SimpleQueue()

    def listen() -> None:
        try:
            for speech in utterances(microphone(), detector):
                coming.put(_heard(speech))
        except Exception as error:
            coming.put(error)

    def read() -> None:
        for line in lines():
            coming.put(Turn(text=line))

    for work in (listen, read):
        threading.Thread(target=work, daemon=True).start()
    print("Listening; type a line to say something in writing, Ctrl-C to stop.", file=sys.stderr)
    while True:
        turn = coming.get()
        if isinstance(turn, Exception):
            raise turn
        yield turn


def _heard(speech: Any) -> Turn:
    from lalm.audio.load import SAMPLE_RATE

    print(f"[heard {len(speech) / SAMPLE_RATE:.1f} s]", file=sys.stderr)
    return Turn(audios=[speech])


def lines() -> Iterator[str]:
    """Lines of standard input that say something."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()

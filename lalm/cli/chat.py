"""``lalm chat``: turns of recordings, text or both, answered as the answer comes.

Without ``--voice`` a turn is a line: text, and audio files anywhere in it. With it, files, standard input or
the microphone are listened to, and every utterance is a turn; typed lines come between.
"""

import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lalm.cli.better_means import note_means
from lalm.cli.chat_lines import HELP, Command, Turn, lines, read_line, read_words
from lalm.cli.ending import note_ending
from lalm.cli.engines import EngineName, open_library
from lalm.cli.error_messages import explain
from lalm.cli.options import (
    Channel,
    Device,
    Dtype,
    Lenient,
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
    Track,
    Transcript,
    heard_choice,
)

if TYPE_CHECKING:
    from lalm.inference.conversation import Conversation


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
    system: Annotated[str, typer.Option(help="Text of the system turn, before the first turn.")] = "",
    max_new_tokens: Longest = 128,
    beams: Annotated[int, typer.Option(help="Width of the beam search; 1 is greedy.")] = 1,
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
    channel: Channel = None,
    track: Track = None,
    lenient: Lenient = False,
    drop_oldest: Annotated[
        bool, typer.Option("--drop-oldest", help="When the model's window is full, forget the oldest turns.")
    ] = False,
    transcript: Transcript = None,
    dtype: Dtype = None,
    device: Device = None,
    engine: EngineName = "lalm",
) -> int:
    """Talk in turns of recordings, text or both.

    Examples:

    lalm chat dog.wav "What is it?"

    lalm chat --voice

    Each line of standard input is a turn; /help lists the commands. With --voice, - is 16-bit mono PCM at
    16 kHz or a WAV stream. A turn that fails is told, and the next one is answered; the exit code is then
    that of the first failure.
    """
    from lalm import Options

    options = Options(
        max_new_tokens,
        beams,
        temperature,
        top_p,
        seed,
        lora_scale,
        top_k,
        repetition_penalty,
        min_p=min_p,
        no_repeat_ngram_size=no_repeat_ngram_size,
        stop=tuple(stop or ()),
        min_tokens=min_tokens,
        loop_guard=loop_guard,
    )
    if voice:
        from lalm.audio.vad import load_detector

        load_detector(pause)  # a missing package is named before a model is loaded
    choice = heard_choice(channel, track, lenient)
    turns = spoken_turns(words or [], pause, choice) if voice else typed_turns(words or [])
    from lalm.cli.opening import open_engine
    from lalm.inference.conversation import Conversation

    if engine != "lalm":
        talking = open_library(engine, model, device, dtype, transcript, options)
    else:
        talking = open_engine(model, device, dtype, transcript)
    return _talk(Conversation(talking, options, system=system, drop_oldest=drop_oldest), turns, choice)


def _talk(
    conversation: "Conversation", turns: "Iterator[Turn | str | Exception]", choice: dict[str, Any]
) -> int:
    """Answer turns and obey commands until they end; the exit code, 0 for people at a terminal."""
    failed = 0
    for turn in turns:
        try:
            if isinstance(turn, Exception):
                raise turn
            asked = read_line(turn) if isinstance(turn, str) else turn
            if isinstance(asked, Turn):
                _answer(conversation, asked.choosing(choice))
            elif asked.name == "/quit":
                break
            else:
                _obey(conversation, asked)
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            print("\n[stopped]", file=sys.stderr)
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            code = explain(error)
            failed = failed or code
    return 0 if sys.stdin.isatty() else failed


def _answer(conversation: "Conversation", turn: Turn) -> None:
    """Print the answer as it comes."""
    from lalm.models import SMALL

    with closing(conversation.say(turn.parts)) as pieces:
        for number, piece in enumerate(pieces):
            for remark in conversation.remarks if not number else ():
                print("lalm:", remark, file=sys.stderr)
            print(piece, end="", flush=True)
    print(flush=True)
    note_ending(conversation.finish_reason, conversation.options)
    if conversation.engine.name == SMALL.name:
        note_means(turn.text, [str(one) for one in turn.audios if isinstance(one, str | Path)])
    if conversation.dropped:
        print(f"[forgot the oldest turns: {conversation.dropped}]", file=sys.stderr)


def _obey(conversation: "Conversation", command: Command) -> None:
    """Do what a command says; what it did goes to standard error."""
    from lalm.cli.chat_save import save

    if command.name == "/help":
        told = HELP
    elif command.name == "/reset":
        conversation.reset()
        told = "[all turns are forgotten]"
    elif command.name == "/undo":
        conversation.undo()
        told = "[the last turn is taken back]"
    else:
        path = Path(command.word).expanduser()
        save(conversation, path)
        told = f"[saved in {path}]"
    print(told, file=sys.stderr)


def typed_turns(words: Sequence[str]) -> Iterator[Turn | str]:
    """The words as the first turn, if there are any; then the lines of standard input.

    Raises ValueError at once where the words name a recording that is not there.
    """
    first = read_words(words)

    def turns() -> Iterator[Turn | str]:
        if words:
            yield first
        if "-" not in words:  # else standard input was a recording
            yield from lines()

    return turns()


def spoken_turns(
    words: Sequence[str], pause_s: float, choice: dict[str, Any] | None = None
) -> Iterator[Turn | str | Exception]:
    """Every utterance in the files, or in standard input (-), or at the microphone; other words are text."""
    from lalm.audio.load import audio_name, load_audio
    from lalm.audio.vad import VoiceError, load_detector, pcm_blocks, utterances

    if not words:
        yield from _at_the_microphone(load_detector(pause_s))
        return
    for word in words:
        try:
            turn = read_words([word])
            if not turn.audios:
                yield turn
                continue
            clips = (load_audio(audio, **(choice or {})) for audio in turn.audios)
            blocks: Any = pcm_blocks(sys.stdin.buffer) if word == "-" else clips
            found = 0
            for speech in utterances(blocks, load_detector(pause_s)):
                found += 1
                yield _heard(speech)
            if not found:
                yield VoiceError(f"no speech was found in {audio_name(word)}")
        except (ValueError, OSError) as error:
            yield error


def _at_the_microphone(detector: Any) -> Iterator[Turn | str | Exception]:
    """Utterances and typed lines in the order they come; an error of the microphone ends the chat."""
    from lalm.audio.vad import microphone, utterances

    coming: queue.SimpleQueue[Turn | str | Exception] = queue.SimpleQueue()

    def listen() -> None:
        try:
            for speech in utterances(microphone(), detector):
                coming.put(_heard(speech))
        except Exception as error:
            coming.put(error)

    def read() -> None:
        for line in lines():
            coming.put(line)

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
    return Turn(({"type": "audio", "audio": speech},))

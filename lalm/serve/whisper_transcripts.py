"""``/v1/audio/transcriptions`` and ``/translations`` by Whisper, for models that do not transcribe.

Whisper tells the times of segments and words and the language, so all of OpenAI's formats are exact.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from lalm.audio.load import SAMPLE_RATE
from lalm.data.audio_inputs import Clip
from lalm.inference.speech.recogniser import Listening, Whisper, Wish
from lalm.inference.speech.speech_windows import Cutting
from lalm.inference.speech.subtitles import Segment
from lalm.serve.async_engine import AsyncEngine
from lalm.serve.jobs import Piece
from lalm.serve.request_fields import FieldRefused
from lalm.serve.transcriptions import NEW_TOKENS, Transcript, Wishes, segment_fields

BLOCK = 30 * SAMPLE_RATE  # samples that are looked at between two checks for a client that is gone


# Ways of drawing that the model's own transcripts know and Whisper's do not, and what asks for nothing.
NEUTRAL: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(("top_k", "min_p", "no_repeat_ngram_size", "min_tokens"), (0, -1)),
    "repetition_penalty": (1,),
}


class WhisperTranscript(Transcript):
    """The transcript of one recording by Whisper, segment by segment."""

    tells_words = True

    def __init__(self, async_engine: AsyncEngine, whisper: Whisper, clip: Clip, wishes: Wishes) -> None:
        """Raises FieldRefused for what Whisper cannot be asked."""
        super().__init__(async_engine, clip, wishes)
        for name, is_given in (
            ("include logprobs", wishes.logprobs),
            ("top_p", wishes.top_p != 1.0),
            ("max_completion_tokens", wishes.max_tokens != NEW_TOKENS),
            *((name, value not in NEUTRAL[name]) for name, value in wishes.drawing.items()),
        ):
            if is_given:
                raise FieldRefused(f"{name} is not for {whisper.name}, which transcribes here")
        self.whisper = whisper
        self.found: list[Segment] = []
        wish = Wish(
            language_code(wishes.language),
            wishes.task,
            wishes.prompt,
            words=wishes.words or wishes.form in ("srt", "vtt", "verbose_json"),
            temperature=wishes.temperature or None,
        )
        blocks = (clip.audio[at : at + BLOCK] for at in range(0, len(clip.audio), BLOCK))
        self.heard = Listening(whisper, blocks, wish, cutting_of(wishes))

    async def pieces(self) -> AsyncIterator[Piece]:
        """The text of each segment as soon as it is there, with a space between two."""
        segments: Iterator[Segment] = iter(self.heard)
        while (one := await self.async_engine.in_thread(next, segments, None)) is not None:
            between = " " if self.found else ""
            self.found.append(one)
            yield Piece(between + one.text)

    @property
    def text(self) -> str:
        """The whole text so far."""
        return " ".join(segment.text for segment in self.found)

    @property
    def spans(self) -> list[tuple[float, float, str]]:
        """Start and end in seconds and the text of each segment."""
        return [(one.start_s, one.end_s, one.text) for one in self.found]

    def usage(self) -> dict[str, Any]:
        """What was heard, in seconds."""
        return {"type": "duration", "seconds": round(self.clip.seconds, 3)}

    def logprobs(self) -> dict[str, Any]:
        """Nothing: Whisper's are not asked for."""
        return {}

    def extra_fields(self) -> dict[str, Any]:
        """Fields in addition to OpenAI's: what was heard, and who transcribed."""
        return {"heard": self.async_engine.audio_heard([self.clip]), "transcribed_by": self.whisper.name}

    def verbose_fields(self) -> dict[str, Any]:
        """What verbose_json has of its own: the language, segments and words."""
        translated = self.wishes.task == "translate"
        language = "english" if translated else LANGUAGES.get(self.heard.language, "unknown")
        words = [
            {"word": word.text.strip(), "start": round(word.start_s, 3), "end": round(word.end_s, 3)}
            for segment in self.found
            for word in segment.words
        ]
        segments = [segment_fields(number, one) for number, one in enumerate(self.found)]
        return {"language": language, "segments": segments, **({"words": words} if self.wishes.words else {})}


def language_code(name: str) -> str:
    """Whisper's code of a language given as a code or by its English name. Raises FieldRefused."""
    asked = name.strip().lower()
    code = asked if asked in LANGUAGES else TO_LANGUAGE_CODE.get(asked, "")
    if asked and not code:
        raise FieldRefused(
            f"language '{name}' is not one that Whisper knows: say a code such as en, fr or zh"
        )
    return str(code)


def cutting_of(wishes: Wishes) -> Cutting | None:
    """How the request wants the recording cut; None: as usual."""
    vad = wishes.vad
    if vad is None:
        return None
    return Cutting(
        threshold=vad.threshold,
        gap_s=vad.silence_duration_ms / 1000,
        margin_s=vad.prefix_padding_ms / 1000,
    )

"""Reads the form of ``/v1/audio/transcriptions`` and ``/translations``."""

import json
from typing import Annotated, Any, Literal

from fastapi import Form, Request
from pydantic import ValidationError

from lalm.data.messages import AudioPart
from lalm.serve.error_responses import first_error
from lalm.serve.request_fields import FieldRefused, check_fields
from lalm.serve.transcriptions import NEW_TOKENS, Task, VadOptions, Wishes
from lalm.serve.transcriptions import Form as TextForm

_Names = Literal["logprobs"]
_Times = Literal["word", "segment"]


CHANNEL = "Hear this channel alone, from 0 (else the mix)"
TRACK = "Hear this audio track of a video, from 0 (else the default track)"
LENIENT = "Hear what can be heard of a damaged recording instead of refusing it"


def audio_part(audio: bytes, channel: int | None, track: int | None, lenient: bool) -> AudioPart:
    """An uploaded recording, and what of it is to be heard."""
    part: AudioPart = {"type": "audio", "audio": audio, "lenient": lenient}
    if channel is not None:
        part["channel"] = channel
    if track is not None:
        part["track"] = track
    return part


class SpeechForm:
    """The form's fields beside the file; a dependency of both routes."""

    def __init__(
        self,
        request: Request,
        model: Annotated[str | None, Form()] = None,
        language: Annotated[str, Form(max_length=40)] = "",
        prompt: Annotated[str, Form(max_length=2000)] = "",
        response_format: Annotated[TextForm, Form()] = "json",
        temperature: Annotated[float, Form(ge=0, le=2)] = 0.0,
        top_p: Annotated[float, Form(gt=0, le=1)] = 1.0,
        seed: Annotated[int | None, Form(ge=0, lt=2**63)] = None,
        max_completion_tokens: Annotated[int, Form(ge=1)] = NEW_TOKENS,
        top_k: Annotated[int | None, Form(ge=-1)] = None,
        min_p: Annotated[float | None, Form(ge=0, le=1)] = None,
        repetition_penalty: Annotated[float | None, Form(gt=0, le=100)] = None,
        no_repeat_ngram_size: Annotated[int | None, Form(ge=0)] = None,
        min_tokens: Annotated[int | None, Form(ge=0)] = None,
        stream: Annotated[bool, Form()] = False,
        include: Annotated[list[_Names] | None, Form(alias="include[]")] = None,
        timestamp_granularities: Annotated[
            list[_Times] | None, Form(alias="timestamp_granularities[]")
        ] = None,
        chunking_strategy: Annotated[str, Form(description="auto, or server_vad as JSON")] = "",
        channel: Annotated[int | None, Form(ge=0, description=CHANNEL)] = None,
        track: Annotated[int | None, Form(ge=0, description=TRACK)] = None,
        lenient: Annotated[bool, Form(description=LENIENT)] = False,
    ) -> None:
        self._choice = (channel, track, lenient)
        self.request = request
        self.model = model
        self.granularities = timestamp_granularities
        self.chunking = chunking_strategy
        drawing = {"top_k": top_k, "min_p": min_p, "repetition_penalty": repetition_penalty}
        drawing |= {"no_repeat_ngram_size": no_repeat_ngram_size, "min_tokens": min_tokens}
        self.wishes: dict[str, Any] = {
            "drawing": {name: given for name, given in drawing.items() if given is not None},
            **{"form": response_format, "language": language, "prompt": prompt, "stream": stream},
            **{"temperature": temperature, "top_p": top_p, "seed": seed},
            **{"max_tokens": max_completion_tokens, "logprobs": bool(include)},
        }

    def part(self, audio: bytes) -> AudioPart:
        """The recording as it is to be heard."""
        return audio_part(audio, *self._choice)

    async def read(self, task: Task) -> Wishes:
        """What is asked for. Raises ValueError for what would have to be ignored."""
        form = await self.request.form()
        nested: dict[str, Any] = {}  # "chunking_strategy[type]": how the official clients send an object
        for name, value in form.multi_items():
            field, _, inner = name.partition("[")
            check_fields(self.request.url.path, {field: value})
            if field == "chunking_strategy" and inner:
                nested[inner.rstrip("]")] = value
        if self.granularities and self.wishes["form"] not in ("verbose_json", "srt", "vtt"):
            raise FieldRefused("timestamp_granularities goes with response_format verbose_json")
        words = "word" in (self.granularities or [])
        return Wishes(task, **self.wishes, words=words, vad=_vad(self.chunking, nested))


def _vad(text: str, nested: dict[str, Any]) -> VadOptions | None:
    """``chunking_strategy`` as JSON or as nested form fields; "auto" leaves it to the server."""
    if text in ("", "auto", "null") and not nested:
        return None
    try:
        return VadOptions.model_validate(nested or json.loads(text))
    except ValidationError as error:
        raise FieldRefused(f"chunking_strategy.{first_error(error.errors())}") from None
    except (ValueError, RecursionError):
        raise FieldRefused("chunking_strategy must be auto or an object of the type server_vad") from None

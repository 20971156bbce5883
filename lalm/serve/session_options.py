"""Options of a realtime session in OpenAI's format; options that would have no effect are refused."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lalm.serve.protocol import DEFAULT_NEW_TOKENS
from lalm.serve.request_fields import check_session


class _Part(BaseModel):
    """Accepts and ignores fields that change nothing here (voice, tracing, ...)."""

    model_config = ConfigDict(extra="ignore")


class TurnDetection(_Part):
    """Server-side turn detection: silero-vad's threshold, padding before speech, silence after it."""

    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(default=0.5, ge=0.05, le=1)
    prefix_padding_ms: int = Field(default=300, ge=0, le=5000)
    silence_duration_ms: int = Field(default=500, ge=32, le=10_000)
    create_response: bool = True
    interrupt_response: bool = True
    idle_timeout_ms: None = None


class Format(_Part):
    """The only audio format accepted."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24000] = 24000


class Transcription(_Part):
    """Ask the model for a transcript of each turn as well."""

    language: str = Field(default="", max_length=40)
    prompt: str = Field(default="", max_length=2000)

    @field_validator("language", "prompt", mode="before")
    @classmethod
    def _none_is_nothing(cls, value: Any) -> Any:
        return value or ""


class Input(_Part):
    """Options of the input audio; without ``turn_detection`` the client commits its turns."""

    format: Format = Format()
    turn_detection: TurnDetection | None = TurnDetection()
    transcription: Transcription | None = None
    noise_reduction: None = None


class Audio(_Part):
    """Options of the audio; there is only input audio."""

    input: Input = Input()


class SessionOptions(_Part):
    """All options of a session. Additions to OpenAI's: temperature (default 0), top_p, seed, lora_scale."""

    type: Literal["realtime"] = "realtime"
    instructions: str = Field(default="", max_length=20_000)
    output_modalities: list[Literal["text"]] = ["text"]
    max_output_tokens: int | Literal["inf"] = Field(default=DEFAULT_NEW_TOKENS)
    audio: Audio = Audio()
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    lora_scale: float | None = Field(default=None, ge=0, le=100)
    tools: list[None] = []
    prompt: None = None

    @field_validator("max_output_tokens")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if value != "inf" and value < 1:
            raise ValueError("must be 1 or more, or 'inf'")
        return value

    def updated(self, given: dict[str, Any]) -> "SessionOptions":
        """A copy with the given options replaced.

        Raises pydantic's ValidationError, and FieldRefused for what would have to be ignored.
        """
        made = SessionOptions.model_validate(_merge(self.model_dump(), given, ("audio", "input")))
        check_session(given)
        return made


def _merge(old: dict[str, Any], new: dict[str, Any], inner: tuple[str, ...]) -> dict[str, Any]:
    """``old`` updated by ``new``; the nested objects along the path ``inner`` are merged too."""
    made = {**old, **new}
    if inner and isinstance(new.get(inner[0]), dict):
        made[inner[0]] = _merge(old[inner[0]], new[inner[0]], inner[1:])
    return made

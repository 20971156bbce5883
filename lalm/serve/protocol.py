"""OpenAI's requests as far as they are supported; unsupported options are refused, not ignored."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from lalm.serve.guidance import Guided
from lalm.serve.request_fields import check_fields
from lalm.serve.tools import Choice, Tool, ToolUse

DEFAULT_NEW_TOKENS = 256


_CHOICES: dict[str, Any] = {
    "channel": {"type": "integer", "minimum": 0, "description": "Hear this channel alone, from 0"},
    "track": {"type": "integer", "minimum": 0, "description": "Hear this audio track, from 0"},
    "lenient": {"type": "boolean", "description": "Hear what can be heard of a damaged recording"},
}


def _shown(kind: str, **fields: Any) -> dict[str, Any]:
    others = _CHOICES if "audio" in kind else {}
    inner = {"type": "object", "properties": {**fields, **others}, "required": [*fields][:1]}
    one: Any = {"type": {"const": kind}, kind: fields.get(kind, inner)}
    return {"type": "object", "properties": one, "required": [*one], "additionalProperties": False}


_TEXT: dict[str, Any] = {"type": "string"}
_PARTS = [
    _shown("text", text=_TEXT),
    _shown("input_audio", data={"type": "string", "format": "byte"}, format=_TEXT),
    _shown("audio_url", url={"type": "string", "description": "data:, and https: where it is allowed"}),
    _shown("image_url", url={"type": "string", "description": "data:, for models that see"}),
]
MESSAGE: dict[str, Any] = {  # what the OpenAPI document says of one; lalm.data.messages reads it
    "type": "object",
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"anyOf": [_TEXT, {"type": "array", "items": {"anyOf": _PARTS}}, {"type": "null"}]},
        "tool_calls": {"type": "array", "description": "An earlier answer's calls, as they came"},
        "tool_call_id": {"type": "string", "description": "Which call a tool's result belongs to"},
    },
    "required": ["role"],
}


class StreamOptions(BaseModel):
    """What a stream contains besides the answer. ``include_obfuscation`` is harmless: there is no padding."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool | None = False
    include_obfuscation: bool | None = None
    continuous_usage_stats: Literal[False] | None = None


class StopTexts(BaseModel):
    """Texts that end an answer where they come up."""

    stop: str | list[str] | None = None

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, stop: str | list[str] | None) -> str | list[str] | None:
        listed = [stop] if isinstance(stop, str) else stop or []
        if len(listed) > 4 or any(not 0 < len(text) <= 200 for text in listed):
            raise ValueError("there may be 4 stop sequences of 1 to 200 characters")
        return stop

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop sequences."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class Checked(BaseModel):
    """A request to ``path``: each of its fields is honoured, refused or harmless (``request_fields``)."""

    model_config = ConfigDict(extra="ignore", strict=True)

    path: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_would_be_ignored(cls, data: Any) -> Any:
        if isinstance(data, dict):
            check_fields(cls.path, data)
        return data


class Drawing(BaseModel):
    """How tokens are chosen, in vLLM's names; ``lalm.inference.options`` says what each does."""

    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    no_repeat_ngram_size: int | None = Field(None, ge=0)
    min_tokens: int | None = Field(None, ge=0)

    @property
    def drawing(self) -> dict[str, Any]:
        """Those that are given, as options of the engine."""
        return {name: given for name in Drawing.model_fields if (given := getattr(self, name)) is not None}


class ChatRequest(Guided, StopTexts, Drawing, Checked):
    """A request to ``/v1/chat/completions``. Additions: ``lora_scale``; temperature is 0 by default."""

    path: ClassVar = "/v1/chat/completions"

    messages: list[Annotated[dict[str, Any], WithJsonSchema(MESSAGE)]] = Field(min_length=1, max_length=256)
    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=8)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] | None = Field(None, max_length=64)
    tool_choice: Choice | None = None
    lora_scale: float | None = Field(None, ge=0, le=100)

    @property
    def tool_use(self) -> ToolUse | None:
        """Which functions the answer may call. Raises ValueError for a choice that is not among them."""
        return ToolUse.of(self.tools, self.tool_choice)

    @property
    def new_tokens(self) -> int:
        """The longest answer, in tokens."""
        return self.max_completion_tokens or self.max_tokens or DEFAULT_NEW_TOKENS


class ErrorBody(BaseModel):
    """One error; ``message`` says in one sentence what is wrong."""

    message: str
    type: Literal["invalid_request_error", "authentication_error", "rate_limit_error", "server_error"]
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """An error in OpenAI's format."""

    error: ErrorBody

"""OpenAI's requests as far as they are answered here; what is not is refused rather than ignored."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DEFAULT_NEW_TOKENS = 256


class StreamOptions(BaseModel):
    """What a stream brings besides the answer."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """``/v1/chat/completions``. Additions: ``lora_scale``, and temperature is 0 unless said otherwise.

    Fields of OpenAI's that change nothing here (user, metadata, store, ...) are let pass.
    """

    model_config = ConfigDict(extra="ignore")

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=256)
    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=8)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    lora_scale: float | None = Field(None, ge=0, le=100)

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_would_be_ignored(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name in ("tools", "functions", "logit_bias", "presence_penalty", "frequency_penalty", "audio"):
            if data.get(name):
                raise ValueError(f"{name} is not supported")
        form = data.get("response_format")
        if isinstance(form, dict) and form.get("type") not in (None, "text"):
            raise ValueError(f"response_format {form['type']!r} is not supported")
        if isinstance(data.get("modalities"), list) and "audio" in data["modalities"]:
            raise ValueError("the model answers in text: modalities must not ask for audio")
        return data

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

    @property
    def new_tokens(self) -> int:
        """Longest answer."""
        return self.max_completion_tokens or self.max_tokens or DEFAULT_NEW_TOKENS


class ErrorBody(BaseModel):
    """What is wrong, in one sentence."""

    message: str
    type: Literal["invalid_request_error", "authentication_error", "rate_limit_error", "server_error"]
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """OpenAI's form of an error."""

    error: ErrorBody

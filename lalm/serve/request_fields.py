"""Every field of OpenAI's and vLLM's requests: honoured, refused with a sentence, or harmless.

The table is what the server goes by: a field that is refused, or that stands in no row, is an error and is
never ignored. ``docs/serve-fields.md`` is printed from it (``python docs/fields.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from lalm.errors import LalmError


class FieldRefused(LalmError, ValueError):
    """A request asks for something that this server does not do."""


@dataclass(frozen=True)
class Field:
    """One field. ``neutral`` are the values of a refused field that ask for nothing and so are accepted."""

    status: Literal["honoured", "refused", "harmless"]
    note: str = ""
    neutral: tuple[Any, ...] = ()


Fields: TypeAlias = dict[str, Field]


def _honoured(names: str) -> Fields:
    return {name: Field("honoured") for name in names.split()}


def _harmless(note: str, names: str) -> Fields:
    return {name: Field("harmless", note) for name in names.split()}


def _refused(note: str, names: str, *neutral: Any) -> Fields:
    return {name: Field("refused", note, neutral) for name in names.split()}


_ACCOUNTING: Fields = {
    **_harmless("nothing is charged or moderated here", "user safety_identifier service_tier metadata"),
    **_harmless(
        "a hint for caches that the answer does not depend on",
        "prompt_cache_key prompt_cache_options prompt_cache_retention cache_salt",
    ),
    **_refused("answers are not kept", "store", False),
}
_SAMPLING: Fields = {
    **_refused("the sampler has no such penalty", "frequency_penalty presence_penalty", 0),
    **_refused("tokens cannot be weighed one by one", "logit_bias", {}),
    **_refused("tokens cannot be forbidden or demanded one by one", "allowed_token_ids"),
    **_refused("tokens cannot be forbidden or demanded one by one", "bad_words stop_token_ids", []),
    **_refused("an answer always ends with the model's end token", "ignore_eos", False),
    **_refused("answers are written token by token, without beams", "use_beam_search", False),
    **_refused("answers are written token by token, without beams", "length_penalty", 1),
    **_refused("ask for n answers: all of them are returned", "best_of", 1),
    **_refused("a stop sequence is never part of the answer", "include_stop_str_in_output", False),
    **_refused("special tokens are never part of the answer", "skip_special_tokens", True),
    **_harmless("there are no special tokens to put spaces between", "spaces_between_special_tokens"),
    **_refused("a prompt is never cut", "truncate_prompt_tokens"),
    **_refused("only the answer is scored", "prompt_logprobs"),
    **_refused("token ids are not returned", "return_tokens_as_token_ids return_token_ids", False),
    **_refused("the server runs no code of a request", "logits_processors"),
    **_refused("there are no custom extensions", "vllm_xargs", {}),
    **_refused("requests are answered in order of arrival", "priority", 0),
    **_refused("there is one machine and nothing to transfer", "kv_transfer_params"),
    **_refused(
        "repetition is watched by the server itself",
        "max_repetition_pattern_size min_repetition_pattern_size repetition_min_count",
        0,
    ),
}
_TEMPLATE: Fields = {
    **_refused("a conversation is always put in the model's own format", "chat_template documents"),
    **_refused(
        "a conversation is always put in the model's own format",
        "chat_template_kwargs mm_processor_kwargs media_io_kwargs",
        {},
    ),
    **_refused("a conversation is always put in the model's own format", "add_generation_prompt", True),
    **_refused(
        "a conversation is always put in the model's own format",
        "continue_final_message add_special_tokens",
        False,
    ),
    **_refused("the answer is the new text alone", "echo", False),
}
_REASONING: Fields = {
    **_refused("the models here do not reason before they answer", "reasoning_effort", "none"),
    **_harmless("the models here do not reason before they answer", "include_reasoning"),
}
_OURS = _honoured("lora_scale")
_HEARD = _honoured("channel track lenient")  # in a conversation they stand in input_audio and audio_url

_DRAWING = _honoured("top_k min_p repetition_penalty no_repeat_ngram_size min_tokens")

CHAT: Fields = {
    **_honoured("messages model max_tokens max_completion_tokens n seed stop stream stream_options"),
    **_honoured("temperature top_p logprobs top_logprobs response_format"),
    **_OURS,
    **_refused("the model answers in text", "modalities", ["text"]),
    **_refused("the model answers in text: leave audio away", "audio"),
    **_honoured("tools tool_choice structured_outputs guided_json guided_choice guided_regex guided_grammar"),
    **_refused("this older form is called tools now", "functions", []),
    **_refused("this older form is called tool_choice now", "function_call", "none", "auto"),
    **_harmless("an answer calls one function at most", "parallel_tool_calls"),
    **_harmless("a hint that the answer does not depend on", "prediction"),
    **_refused("the server searches nothing", "web_search_options"),
    **_refused("nothing is moderated here", "moderation"),
    **_refused("ask for a length in words", "verbosity", "medium"),
    **_ACCOUNTING,
    **_SAMPLING,
    **_DRAWING,
    **_TEMPLATE,
    **_REASONING,
    **_refused("ask with structured_outputs", "structural_tag"),
    **_harmless("there is one engine for structured output", "guided_decoding_backend"),
    **_refused("white space is the grammar's", "guided_whitespace_pattern"),
    **_harmless("the response has an id of its own, and the request's is in the log", "request_id"),
}
SPEECH: Fields = {
    **_honoured("file model language prompt response_format temperature seed top_p stream"),
    **_honoured("max_completion_tokens chunking_strategy include timestamp_granularities"),
    **_HEARD,
    **_refused("write it into prompt", "hotwords keywords"),
    **_refused("name one language with language", "languages"),
    **_refused("the model does not tell speakers apart", "known_speaker_names known_speaker_references"),
    **_refused("a translation is English: ask in /v1/chat/completions for another", "to_language", "en"),
    **_harmless("the last event always has the usage", "stream_include_usage"),
    **_refused("the last event alone has the usage", "stream_continuous_usage_stats", False),
    **_refused("there is one text of a recording", "n", 1),
    **_SAMPLING,
    **_DRAWING,
}
RESPONSES: Fields = {
    **_honoured("input model instructions max_output_tokens temperature top_p stream text tools tool_choice"),
    **_honoured("seed stop structured_outputs"),
    **_OURS,
    **_ACCOUNTING,
    **_SAMPLING,
    **_DRAWING,
    **_TEMPLATE,
    **_refused("the models here do not reason before they answer", "reasoning", {}),
    **_refused("nothing beside the answer is told", "include", []),
    **_refused("nothing beside the answer is told", "top_logprobs", 0),
    **_refused("nothing beside the answer is told", "enable_response_messages", False),
    **_refused("answers are not kept: send the conversation", "previous_response_id conversation"),
    **_refused("answers are not kept: send the conversation", "previous_input_messages"),
    **_refused("the answer comes with its request", "background", False),
    **_refused("the answer comes with its request", "background_options"),
    **_refused("there are no stored prompts", "prompt"),
    **_refused("a conversation that is too long is refused, never cut", "truncation", "disabled"),
    **_refused("a conversation that is too long is refused, never cut", "context_management", []),
    **_refused("nothing is moderated here", "moderation"),
    **_refused("no programs are run here", "access_programs", []),
    **_refused("the model answers in text", "image"),
    **_harmless("an answer calls one function at most", "parallel_tool_calls max_tool_calls"),
    **_harmless("events are not padded, and the last always has the usage", "stream_options"),
    **_harmless("the response has an id of its own, and the request's is in the log", "request_id"),
}
COMPLETIONS: Fields = {
    **_honoured("prompt model max_tokens n temperature top_p seed stop stream stream_options"),
    **_honoured("response_format structured_outputs guided_json guided_choice guided_regex guided_grammar"),
    **_OURS,
    **_ACCOUNTING,
    **_SAMPLING,
    **_DRAWING,
    **_refused("the answer is the new text alone", "echo", False),
    **_refused("the model writes on and does not fill gaps", "suffix", ""),
    **_refused("ask for logprobs in /v1/chat/completions", "logprobs"),
    **_refused("prompts are texts or tokens", "prompt_embeds"),
    **_refused("a text begins as the tokenizer begins it", "add_special_tokens", True),
    **_harmless("there is one engine for structured output", "guided_decoding_backend"),
    **_refused("white space is the grammar's", "guided_whitespace_pattern"),
    **_harmless("the response has an id of its own, and the request's is in the log", "request_id"),
}
EMBEDDINGS: Fields = {
    **_honoured("input messages model encoding_format"),
    **_harmless("nothing is charged or moderated here", "user"),
    **_refused("a vector has the encoder's width", "dimensions"),
    **_refused("recordings are never cut", "truncate_prompt_tokens"),
}
_NO_VOICE = "the model answers in text"
SESSION: Fields = {
    **_honoured("type audio instructions max_output_tokens model output_modalities temperature top_p seed"),
    **_OURS,
    **_harmless("what the server tells of a session may come back", "id object expires_at client_secret"),
    **_refused("a session calls no functions", "tools", []),
    **_refused("a session calls no functions", "tool_choice", "none", "auto"),
    **_harmless("a session calls no functions", "parallel_tool_calls"),
    **_refused("there are no stored prompts", "prompt"),
    **_refused("nothing beside the answer is told", "include", []),
    **_refused("the models here do not reason before they answer", "reasoning", {}),
    **_harmless("nothing is traced", "tracing"),
    **_refused("the older half of a conversation that is too long is forgotten", "truncation", "auto"),
    **_refused("this older form is output_modalities now", "modalities", ["text"]),
    **_refused("this older form is max_output_tokens now", "max_response_output_tokens"),
    **_refused("this older form is audio.input.format now", "input_audio_format"),
    **_refused("this older form is audio.input.transcription now", "input_audio_transcription"),
    **_refused("this older form is audio.input.noise_reduction now", "input_audio_noise_reduction"),
    **_refused("this older form is audio.input.turn_detection now", "turn_detection"),
    **_harmless(_NO_VOICE, "voice output_audio_format speed"),
}
SESSION_AUDIO: Fields = {**_honoured("input"), **_harmless(_NO_VOICE, "output")}
SESSION_INPUT: Fields = {
    **_honoured("format turn_detection transcription"),
    **_refused("the model hears the sound as it is", "noise_reduction"),
}
TURN_DETECTION: Fields = {
    **_honoured("type threshold prefix_padding_ms silence_duration_ms create_response interrupt_response"),
    **_refused("a turn ends with a pause", "eagerness", "auto"),
    **_refused("nothing is said to a client that is silent", "idle_timeout_ms"),
}
TRANSCRIPTION: Fields = {
    **_honoured("language prompt"),
    **_harmless("the session's model transcribes", "model"),
    **_refused("write it into prompt", "keywords", []),
    **_refused("name one language with language", "languages", []),
    **_refused("a transcript comes when the turn has ended", "delay"),
}
RESPONSE: Fields = {
    **_honoured("conversation instructions max_output_tokens metadata output_modalities temperature top_p"),
    **_honoured("seed lora_scale"),
    **_harmless(_NO_VOICE, "audio voice output_audio_format"),
    **_refused("the conversation is the input: add items to it", "input"),
    **{name: SESSION[name] for name in ("tools", "tool_choice", "parallel_tool_calls", "prompt")},
    **{name: SESSION[name] for name in ("reasoning", "modalities", "max_response_output_tokens")},
}
DETECTIONS: Fields = {**_honoured("file model sound"), **_HEARD}

TABLE: dict[str, Fields] = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": RESPONSES,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/audio/transcriptions": SPEECH,
    "/v1/audio/translations": SPEECH,
    "/v1/audio/detections": DETECTIONS,
    "/v1/realtime session": SESSION,
    "/v1/realtime session.audio": SESSION_AUDIO,
    "/v1/realtime session.audio.input": SESSION_INPUT,
    "/v1/realtime session.audio.input.turn_detection": TURN_DETECTION,
    "/v1/realtime session.audio.input.transcription": TRANSCRIPTION,
    "/v1/realtime response": RESPONSE,
}


def check_fields(path: str, given: Mapping[str, Any]) -> None:
    """Raise FieldRefused, in one sentence, for the first field that would have to be ignored."""
    for name, value in given.items():
        field = TABLE[path].get(name)
        if field is None:
            raise FieldRefused(f"{path} has no field '{name[:80]}'")
        if field.status == "refused" and value is not None and not _is_neutral(value, field.neutral):
            raise FieldRefused(f"{name} is not supported: {field.note}")


def check_session(given: Mapping[str, Any], path: str = "/v1/realtime session") -> None:
    """The same for a realtime session and the objects in it."""
    check_fields(path, given)
    for name, value in given.items():
        if f"{path}.{name}" in TABLE and isinstance(value, dict):
            check_session(value, f"{path}.{name}")


def _is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Whether ``value`` is one of ``neutral``; in a form all values are text."""
    said = value.lower() if isinstance(value, str) else value
    return any(
        (value == one and isinstance(value, bool) == isinstance(one, bool)) or said == _as_text(one)
        for one in neutral
    )


def _as_text(value: Any) -> str:
    return str(value).lower()

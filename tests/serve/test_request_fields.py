"""The table of request fields: complete, true of the running server, and what the docs print."""

import base64
import runpy
from pathlib import Path

import httpx
import pytest
from openai.types import completion_create_params as completions
from openai.types import embedding_create_params, realtime
from openai.types.audio import transcription_create_params, translation_create_params
from openai.types.chat import completion_create_params
from openai.types.responses import response_create_params
from test_api import turn, wav

from lalm.serve.embeddings import EmbeddingRequest
from lalm.serve.protocol import ChatRequest
from lalm.serve.request_fields import TABLE, FieldRefused, check_fields
from lalm.serve.responses import ResponsesRequest
from lalm.serve.session_options import SessionOptions
from lalm.serve.text_completions import CompletionRequest

# vLLM's fields beyond OpenAI's: {chat_completion,speech_to_text}/protocol.py below its openai/ at d5dba2d.
VLLM_SAMPLING = """
    use_beam_search top_k min_p repetition_penalty length_penalty stop_token_ids include_stop_str_in_output
    ignore_eos min_tokens skip_special_tokens spaces_between_special_tokens truncate_prompt_tokens
    prompt_logprobs allowed_token_ids bad_words priority request_id logits_processors
    return_tokens_as_token_ids return_token_ids cache_salt kv_transfer_params vllm_xargs
    max_repetition_pattern_size min_repetition_pattern_size repetition_min_count structured_outputs
"""
VLLM_CHAT = """
    include_reasoning echo add_generation_prompt continue_final_message add_special_tokens documents
    chat_template chat_template_kwargs mm_processor_kwargs
    guided_json guided_regex guided_choice guided_grammar guided_decoding_backend guided_whitespace_pattern
"""
VLLM_SPEECH = """
    stream_include_usage stream_continuous_usage_stats vllm_xargs to_language use_beam_search n length_penalty
    include_stop_str_in_output top_p top_k min_p seed frequency_penalty repetition_penalty presence_penalty
    max_completion_tokens hotwords
"""
VLLM_RESPONSES = """
    logit_bias top_k skip_special_tokens include_stop_str_in_output request_id media_io_kwargs
    mm_processor_kwargs priority cache_salt kv_transfer_params enable_response_messages chat_template_kwargs
    previous_input_messages structured_outputs repetition_penalty seed stop ignore_eos vllm_xargs
"""
KNOWN = {
    "/v1/responses": [
        *response_create_params.ResponseCreateParamsBase.__annotations__,
        *response_create_params.ResponseCreateParamsStreaming.__annotations__,
        *VLLM_RESPONSES.split(),
    ],
    "/v1/completions": [
        *completions.CompletionCreateParamsBase.__annotations__,
        *completions.CompletionCreateParamsStreaming.__annotations__,
        *VLLM_SAMPLING.replace("bad_words", "").split(),
        *("prompt_embeds", "add_special_tokens", "response_format"),
    ],
    "/v1/embeddings": [*embedding_create_params.EmbeddingCreateParams.__annotations__],
    "/v1/chat/completions": [
        *completion_create_params.CompletionCreateParamsStreaming.__annotations__,
        *completion_create_params.CompletionCreateParamsBase.__annotations__,
        *(VLLM_SAMPLING + VLLM_CHAT).split(),
    ],
    "/v1/audio/transcriptions": [
        *transcription_create_params.TranscriptionCreateParamsBase.__annotations__,
        *transcription_create_params.TranscriptionCreateParamsStreaming.__annotations__,
        *VLLM_SPEECH.split(),
    ],
    "/v1/audio/translations": [
        *translation_create_params.TranslationCreateParams.__annotations__,
        *VLLM_SPEECH.split(),
    ],
}


@pytest.mark.parametrize("path", KNOWN)
def test_every_field_of_openai_and_vllm_has_a_row(path):
    assert not set(KNOWN[path]) - set(TABLE[path])


MODELS = {
    "/v1/chat/completions": ChatRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/completions": CompletionRequest,
    "/v1/embeddings": EmbeddingRequest,
}


@pytest.mark.parametrize("path", MODELS)
def test_the_model_of_a_request_has_the_honoured_fields(path):
    honoured = {name for name, field in TABLE[path].items() if field.status == "honoured"}
    assert {field.alias or name for name, field in MODELS[path].model_fields.items()} == honoured


def asked(path: str, fields: dict) -> dict:
    """A request with these fields, as httpx sends it."""
    if path.startswith("/v1/audio"):
        text = {name: str(value) for name, value in fields.items()}
        return {
            "data": {"sound": "a dog", **text} if "detections" in path else text,
            "files": {"file": wav(0.2)},
        }
    url = f"data:audio/wav;base64,{base64.b64encode(wav(0.2)).decode()}"
    need = {
        "/v1/chat/completions": {"messages": turn("?"), "max_tokens": 1, "max_completion_tokens": 1},
        "/v1/responses": {"input": "?", "max_output_tokens": 1},
        "/v1/completions": {"prompt": "?", "max_tokens": 1},
        "/v1/embeddings": {"input": url},
    }
    return {"json": {**need[path], **fields}}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("lalm.serve.transcriptions.find_speech", lambda clip, vad: [])


@pytest.mark.parametrize("path", [path for path in TABLE if "realtime" not in path])
def test_every_row_is_true(serve, quick, path):
    address = serve()
    with httpx.Client(timeout=60) as client:
        for name, field in TABLE[path].items():
            if field.status == "honoured":
                continue
            got = client.post(address + path, **asked(path, {name: "x"}))
            if field.status == "harmless":
                assert got.status_code == 200, name
                continue
            said = got.json()["error"]["message"]
            assert got.status_code == 400 and said == f"{name} is not supported: {field.note}"
            for value in field.neutral:
                got = client.post(address + path, **asked(path, {name: value}))
                assert got.status_code == 200, (name, value, got.text)
        said = client.post(address + path, **asked(path, {"quack": 1})).json()["error"]["message"]
        assert said == f"{path} has no field 'quack'"


SESSIONS = {  # where each table's fields stand, and OpenAI's names for them
    "/v1/realtime session": ((), realtime.RealtimeSessionCreateRequestParam),
    "/v1/realtime session.audio": (("audio",), realtime.RealtimeAudioConfigParam),
    "/v1/realtime session.audio.input": (("audio", "input"), realtime.RealtimeAudioConfigInputParam),
    "/v1/realtime session.audio.input.turn_detection": (
        ("audio", "input", "turn_detection"),
        realtime.realtime_audio_input_turn_detection_param.ServerVad,
    ),
    "/v1/realtime session.audio.input.transcription": (
        ("audio", "input", "transcription"),
        realtime.AudioTranscriptionParam,
    ),
}
BETA = """
    modalities voice input_audio_format output_audio_format input_audio_transcription turn_detection
    input_audio_noise_reduction temperature max_response_output_tokens speed
"""


@pytest.mark.parametrize("path", SESSIONS)
def test_every_row_of_a_session_is_true(path):
    inner, theirs = SESSIONS[path]
    assert not set(theirs.__annotations__) - set(TABLE[path])
    assert path != "/v1/realtime session" or not set(BETA.split()) - set(TABLE[path])

    def update(name: str, value: object) -> None:
        given: dict = {name: value}
        for outer in reversed(inner):
            given = {outer: given}
        SessionOptions().updated(given)

    for name, field in TABLE[path].items():
        if field.status == "harmless":
            update(name, "x")
        elif field.status == "refused":
            for value in field.neutral:
                update(name, value)
            with pytest.raises(ValueError, match=f"{name}( is not supported|\\.|\n| *Input)"):
                update(name, ["x"])
    with pytest.raises(FieldRefused, match="has no field 'quack'"):
        update("quack", 1)


def test_every_field_of_a_realtime_response_has_a_row():
    theirs = realtime.RealtimeResponseCreateParamsParam.__annotations__
    assert not set(theirs) - set(TABLE["/v1/realtime response"])
    with pytest.raises(FieldRefused, match="input is not supported"):
        check_fields("/v1/realtime response", {"input": []})


def test_the_docs_are_printed_from_the_table():
    docs = Path(__file__).parents[2] / "docs"
    page = runpy.run_path(str(docs / "fields.py"))["page"]()
    assert (docs / "fields.md").read_text() == page, "run: python docs/fields.py"

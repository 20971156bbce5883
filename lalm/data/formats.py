"""Converts manifest rows of other toolkits: ms-swift, LLaMA-Factory, OpenAI, Hugging Face, TRL, SLAM-LLM,
Lhotse, NeMo's conversations, and the evaluation files of Qwen2-Audio.

A row is recognised by its keys and parts, never by the file's name. What a row says that a sample cannot
hold is refused, not dropped. Errors say what is wrong; the reader adds file and line.
"""

import re
from collections.abc import Sequence
from typing import Any

from lalm.data.messages import SampleError, json_list, json_object, json_seconds, json_text

TAG = "<audio>"
TAGS = re.compile(r"<audio>|<sound>|<speech>")  # the others are those of LLaVA's descendants
NAMED = re.compile(r"(?:Audio \d+: ?)?<audio>(.+?)</audio>\n?")  # as Qwen-Audio's training data have it
QWEN_AUDIO = re.compile(r"(?:Audio \d+: ?)?<\|audio_bos\|><\|AUDIO\|><\|audio_eos\|>\n?")
SPEAKERS = {"human": "user", "gpt": "assistant", "system": "system"}  # LLaMA-Factory's sharegpt form
SPEAKERS |= {"user": "user", "assistant": "assistant"}
SAID_BESIDE = ("source_len", "target_len", "text_language", "emo_target", "event_target", "with_or_wo_itn")
OF_CLIP = ("audio", "sound", "speech")  # LLaVA's form: one recording, or a list of them

RATED = ("label", "kto_tag")  # ms-swift's and TRL's, LLaMA-Factory's: whether the last answer is good


def known_form(row: dict[str, Any]) -> bool:
    """Whether a row is a whole sample, ours or another toolkit's, rather than columns of a table."""
    whole = ("messages", "conversations", "preferred_output", "non_preferred_output")
    return (
        any(key in row for key in whole)
        or _is_slam_llm(row)
        or _is_cut(row)
        or _is_qwen2_audio(row)
        or _is_query(row)
        or _is_completion(row)
    )


def _is_completion(row: dict[str, Any]) -> bool:
    return isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list)


def _is_slam_llm(row: dict[str, Any]) -> bool:
    return "source" in row and "target" in row


def _is_qwen2_audio(row: dict[str, Any]) -> bool:
    return isinstance(row.get("audio"), str) and ("query" in row or {"prompt", "gt"} <= row.keys())


def _is_query(row: dict[str, Any]) -> bool:
    return (
        isinstance(row.get("query"), str)
        and "response" in row
        and ("audios" in row or NAMED.search(row["query"]) is not None)
    )


def _is_cut(row: dict[str, Any]) -> bool:
    return ("recording" in row and "start" in row) or str(row.get("type", "")).endswith("Cut")


def native(row: Any) -> Any:
    """The row as a manifest row of ours; one that is ours already, or no object, is returned as it is."""
    if not isinstance(row, dict):
        return row
    if _is_completion(row):  # TRL's conversational form: the turns before the answer, and the answer
        others = {key: value for key, value in row.items() if key not in ("prompt", "completion")}
        return native({**others, "messages": [*row["prompt"], *row["completion"]]})
    tag = next((key for key in RATED if isinstance(row.get(key), bool)), None)
    if tag is not None and ("conversations" in row or "messages" in row):
        return _rated(native({key: value for key, value in row.items() if key != tag}), tag, good=row[tag])
    if "conversations" in row:
        turns = row["conversations"]
        typed = isinstance(turns, list) and any(isinstance(turn, dict) and "type" in turn for turn in turns)
        return _nemo(row) if typed else _llama_factory(row)
    if "preferred_output" in row or "non_preferred_output" in row:
        return _openai_pair(row)
    if "messages" not in row:
        if _is_slam_llm(row):
            return _slam_llm(row)
        if _is_query(row):
            return _query(row)
        if _is_qwen2_audio(row):
            return _qwen2_audio(row)
        return _cut(row) if _is_cut(row) else row
    clips = next((key for key in OF_CLIP if key in row), None)
    if clips is not None and "audios" not in row:  # as with conversations
        held = row[clips]
        row = {k: v for k, v in row.items() if k != clips} | {
            "audios": [held] if isinstance(held, str) else held
        }
    if any(key in row for key in ("audios", "rejected_response", "rejected_messages", "rejected_audios")):
        return _ms_swift(row)
    return {**row, "messages": _openai(row["messages"])}


def _ms_swift(row: dict[str, Any]) -> dict[str, Any]:
    """{"messages": [{"role", "content"}], "audios": [...]}, preferences by ``rejected_response``."""
    keys = ["messages", "audios", "system", "rejected_response", "rejected_messages", "rejected_audios", "id"]
    json_object(row, "an ms-swift row", keys, ["messages"])
    turns = _turns(row["messages"], "messages", "role", "content")
    audios = _list_of_text(row.get("audios", []), "audios")
    if "rejected_audios" in row and _list_of_text(row["rejected_audios"], "rejected_audios") != audios:
        raise SampleError(
            "rejected_audios differs from audios; both answers of a pair must be about the same"
        )
    rejected = row.get("rejected_response", row.get("rejected_messages"))
    if isinstance(rejected, list):
        rejected = _last_answer(_turns(rejected, "rejected_messages", "role", "content"), "rejected_messages")
    made = _with_audio(_with_system(turns, row), audios)
    if rejected is None:
        return made | _id(row)
    if turns[-1][0] != "assistant":
        raise SampleError("there is a rejected answer, but messages does not end with the chosen one")
    rejected = json_text(rejected, "rejected_response")
    return {"messages": made["messages"][:-1], "chosen": turns[-1][1], "rejected": rejected, **_id(row)}


def _rated(made: dict[str, Any], tag: str, *, good: bool) -> dict[str, Any]:
    """The row whose last answer is good or bad by itself, as KTO learns from it."""
    *before, last = json_list(made["messages"], "messages") or [None]
    said = last.get("content") if isinstance(last, dict) and last.get("role") == "assistant" else None
    if isinstance(said, list):
        said = "".join(str(part.get("text", "")) for part in said if isinstance(part, dict))
    if not isinstance(said, str) or "chosen" in made or "rejected" in made:
        raise SampleError(
            f"'{tag}' says whether the one answer at the end is good, and there is no such answer"
        )
    return {**made, "messages": before, "chosen" if good else "rejected": said}


def _query(row: dict[str, Any]) -> dict[str, Any]:
    """ms-swift's older form: {"query", "response", "system", "history": [[query, response]], "audios"}.

    Without "audios" the recordings stand in the text, ``<audio>dog.wav</audio>``.
    """
    json_object(row, "an ms-swift row", ["query", "response", "system", "history", "audios", "id"])
    turns: list[tuple[str, str]] = []
    for number, pair in enumerate(
        [*json_list(row.get("history") or [], "history"), [row["query"], row["response"]]]
    ):
        asked, said = json_list(pair, f"history[{number}]")
        turns += [("user", json_text(asked, "query")), ("assistant", json_text(said, "response"))]
    named = [name for _, text in turns for name in NAMED.findall(text)]
    turns = [(role, NAMED.sub(TAG, text)) for role, text in turns]
    audios = _list_of_text(row["audios"], "audios") if "audios" in row else named
    return _with_audio(_with_system(turns, row), audios) | _id(row)


def _llama_factory(row: dict[str, Any]) -> dict[str, Any]:
    """{"conversations": [{"from", "value"}], "audios": [...]}, preferences by ``chosen`` and ``rejected``."""
    clips = next((key for key in OF_CLIP if key in row), "audios")
    aside = ["duration", "dataset", "source"]
    allowed = ["conversations", "audios", *OF_CLIP, "system", "chosen", "rejected", "id", "task", "split"]
    json_object({k: v for k, v in row.items() if k not in aside}, "a sharegpt row", allowed)
    turns = []
    for number, (speaker, text) in enumerate(
        _turns(row["conversations"], "conversations", "from", "value"), 1
    ):
        if speaker not in SPEAKERS:
            raise SampleError(f"turn {number} is from {speaker!r}; turns are from {', '.join(SPEAKERS)}")
        turns.append((SPEAKERS[speaker], text))
    if clips not in row and (named := [name for _, text in turns for name in NAMED.findall(text)]):
        turns = [(role, NAMED.sub(TAG, text)) for role, text in turns]
        row = {**row, clips: named}
    made = _with_audio(_with_system(turns, row), _list_of_text(row.get(clips, []), clips))
    for name in ("chosen", "rejected"):
        if name in row:
            answer = row[name]
            if isinstance(answer, dict):
                answer = json_object(answer, name, ["from", "value"], ["value"])["value"]
            made[name] = json_text(answer, name)
    made |= {name: row[name] for name in ("task", "split") if row.get(name)}
    return made | _id(row)


def _nemo(row: dict[str, Any]) -> dict[str, Any]:
    """{"id", "conversations": [{"value", "from": "User", "type": "text" or "audio", "duration", "offset"}]}.

    Turns of one speaker behind one another are parts of one message.
    """
    json_object(row, "a NeMo conversation", ["id", "conversations", "system"])
    system = json_text(row.get("system", ""), "system")
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for number, turn in enumerate(json_list(row["conversations"], "conversations"), 1):
        where = f"conversations turn {number}"
        keys = ["value", "from", "type"]
        json_object(turn, where, [*keys, "duration", "offset"], keys)
        role = json_text(turn["from"], f"{where} from").lower()
        if role not in ("user", "assistant", "system"):
            raise SampleError(f"{where} is from {turn['from']!r}; turns are from User, Assistant and System")
        value = json_text(turn["value"], f"{where} value")
        if turn["type"] not in ("text", "audio"):
            raise SampleError(f"{where} has the type {turn['type']!r}; types are text and audio")
        part: dict[str, Any] = {"type": turn["type"], turn["type"]: value}
        if turn["type"] == "audio":
            for ours, theirs in (("offset_s", "offset"), ("duration_s", "duration")):
                if turn.get(theirs) is not None:
                    part[ours] = json_seconds(turn[theirs], f"{where} {theirs}")
        if messages and messages[-1]["role"] == role and isinstance(messages[-1]["content"], list):
            messages[-1]["content"].append(part)
        else:
            messages.append({"role": role, "content": [part]})
    return {"messages": messages, **_id(row)}


def _slam_llm(row: dict[str, Any]) -> dict[str, Any]:
    """{"key", "source": the audio file, "target": the answer, "prompt": the question if there is one}."""
    row = {name: value for name, value in row.items() if name not in SAID_BESIDE}  # FunASR's and SenseVoice's
    json_object(row, "a SLAM-LLM row", ["key", "source", "target", "prompt"])
    parts = [{"type": "audio", "audio": json_text(row["source"], "source")}]
    if "prompt" in row:
        parts.append({"type": "text", "text": json_text(row["prompt"], "prompt")})
    messages = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": json_text(row["target"], "target")},
    ]
    return {"messages": messages, **({"id": str(row["key"])} if "key" in row else {})}


def _qwen2_audio(row: dict[str, Any]) -> dict[str, Any]:
    """{"audio", "prompt", "gt", "source"} of Qwen2-Audio's evaluation, ``source`` being the test set; of its
    chats {"audio", "id", "query"}, whose answers a judge knows. The audio comes first; marks of languages
    in ``gt`` ("<|en|>") are no part of the words."""
    json_object(row, "a row of Qwen2-Audio's evaluation", ["audio", "prompt", "gt", "source", "id", "query"])
    asked = json_text(row.get("prompt", row.get("query")), "prompt")
    text = QWEN_AUDIO.sub("", asked).strip()
    parts = [{"type": "audio", "audio": json_text(row["audio"], "audio")}]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [*parts, *([{"type": "text", "text": text}] if text else [])]}
    ]
    made: dict[str, Any] = {"messages": messages, **_id(row)}
    if "gt" in row:
        answer = " ".join(re.sub(r"<\|.*?\|>", " ", json_text(row["gt"], "gt")).split())
        messages.append({"role": "assistant", "content": answer})
    if source := json_text(row.get("source", ""), "source"):
        made["origin"] = {"category": source}
    return made


def _cut(row: dict[str, Any]) -> dict[str, Any]:
    """A Lhotse MonoCut whose recording is one file; the supervisions' texts, in their order, are the answer.

    The cut's channel is the one that is heard. Cuts that are mixed, padded, made at run time or have several
    channels at once are refused:
    ``CutSet.save_audios`` stores their audio as it is heard.
    """
    advice = "store the cuts' audio with CutSet.save_audios"
    if row.get("type", "MonoCut") != "MonoCut":
        raise SampleError(f"a cut of type {row['type']} cannot be read from its files: {advice}")
    recording = json_object(row["recording"], "recording")
    sources = [
        json_object(source, f"recording.sources[{number}]")
        for number, source in enumerate(json_list(recording.get("sources", []), "recording.sources"))
    ]
    number = row.get("channel", sources[0].get("channels", [0])[0] if len(sources) == 1 else 0)
    source = next((s for s in sources if number in json_list(s.get("channels", [0]), "channels")), {})
    if source.get("type") != "file" or recording.get("transforms"):
        raise SampleError(f"the cut's recording is not a file with its channel as it lies there: {advice}")
    audio: dict[str, Any] = {"type": "audio", "audio": json_text(source.get("source"), "source")}
    channels = source.get("channels", [0])
    audio |= {"channel": channels.index(number)} if len(channels) > 1 else {}
    start_s = json_seconds(row["start"], "start")
    audio |= {"offset_s": start_s} if start_s else {}
    if "duration" in row:
        audio["duration_s"] = json_seconds(row["duration"], "duration")
    said = [json_object(s, "a supervision") for s in json_list(row.get("supervisions", []), "supervisions")]
    said.sort(key=lambda s: s.get("start", 0.0))
    texts = [json_text(s["text"], "supervision text").strip() for s in said if s.get("text")]
    messages: list[dict[str, Any]] = [{"role": "user", "content": [audio]}]
    if texts:
        messages.append({"role": "assistant", "content": " ".join(texts)})
    first = said[0] if said else {}
    origin = {key: first[key] for key in ("language", "speaker") if isinstance(first.get(key), str)}
    return {"messages": messages, "id": str(row.get("id", "")), **({"origin": origin} if origin else {})}


def _openai_pair(row: dict[str, Any]) -> dict[str, Any]:
    """{"input": {"messages"}, "preferred_output": [message], "non_preferred_output": [message]}."""
    keys = ["input", "preferred_output", "non_preferred_output"]
    json_object(row, "a preference row", [*keys, "id"], keys)
    asked = json_object(row["input"], "input", ["messages"], ["messages"])
    answers = [_last_answer(_turns(row[key], key, "role", "content"), key) for key in keys[1:]]
    return {"messages": _openai(asked["messages"]), "chosen": answers[0], "rejected": answers[1], **_id(row)}


def _openai(messages: Any) -> Any:
    """OpenAI's and Hugging Face's parts as ours; what is wrong otherwise is left for the sample to refuse."""
    if not isinstance(messages, list):
        return messages
    return [
        _openai_message(m, f"message {n}") if isinstance(m, dict) else m for n, m in enumerate(messages, 1)
    ]


def _openai_message(message: dict[str, Any], where: str) -> dict[str, Any]:
    made = dict(message)
    if made.get("role") == "developer":
        made["role"] = "system"
    if isinstance(made.get("content"), list):
        made["content"] = [
            _openai_part(part, f"{where} part {n}") for n, part in enumerate(made["content"], 1)
        ]
    return made


def _openai_part(part: Any, where: str) -> Any:
    if not isinstance(part, dict):
        return part
    match part.get("type"):
        case "input_audio":
            inside = json_object(
                part.get("input_audio"), f"{where} input_audio", ["data", "format"], ["data"]
            )
            data = "".join(json_text(inside["data"], f"{where} input_audio.data").split())
            return {"type": "audio", "audio": f"data:audio/{inside.get('format', 'wav')};base64,{data}"}
        case "audio_url":
            url = part.get("audio_url")
            url = url if isinstance(url, str) else json_object(url, f"{where} audio_url").get("url")
            return {"type": "audio", "audio": json_text(url, f"{where} audio_url.url")}
        case "audio" if "audio" not in part:
            named = next(
                (key for key in ("url", "path") if key in part), ""
            )  # as Hugging Face's chats have it
            return {"audio" if key == named else key: value for key, value in part.items()}
    return part


def _with_audio(turns: Sequence[tuple[str, str]], audios: Sequence[str]) -> dict[str, Any]:
    """Messages whose <audio> tags have become parts, in the order of ``audios``."""
    turns = [(role, TAGS.sub(TAG, text)) for role, text in turns]
    tags = sum(text.count(TAG) for _, text in turns)
    if tags != len(audios):
        raise SampleError(f"the text has {tags} {TAG} tags but audios holds {len(audios)}")
    left = iter(audios)
    messages: list[dict[str, Any]] = []
    for role, text in turns:
        if TAG not in text:
            messages.append({"role": role, "content": text})
            continue
        parts: list[dict[str, str]] = []
        for piece in re.split(f"({TAG})", text):
            if piece == TAG:
                parts.append({"type": "audio", "audio": next(left)})
            elif piece.strip("\n"):
                parts.append({"type": "text", "text": piece.strip("\n")})
        messages.append({"role": role, "content": parts})
    return {"messages": messages}


def _turns(value: Any, name: str, speaker: str, text: str) -> list[tuple[str, str]]:
    """(speaker, text) of every turn."""
    turns = []
    for number, turn in enumerate(json_list(value, name), 1):
        where = f"{name} turn {number}"
        json_object(turn, where, [speaker, text], [speaker, text])
        turns.append(
            (json_text(turn[speaker], f"{where} {speaker}"), json_text(turn[text], f"{where} {text}"))
        )
    if not turns:
        raise SampleError(f"{name} is empty")
    return turns


def _with_system(turns: list[tuple[str, str]], row: dict[str, Any]) -> list[tuple[str, str]]:
    system = json_text(row.get("system", ""), "system")
    return [("system", system), *turns] if system else turns


def _last_answer(turns: Sequence[tuple[str, str]], where: str) -> str:
    if turns[-1][0] != "assistant":
        raise SampleError(f"{where} does not end with an assistant turn")
    return turns[-1][1]


def _list_of_text(value: Any, where: str) -> list[str]:
    items = [value] if isinstance(value, str) else json_list(value, where)
    return [json_text(item, f"{where}[{number}]") for number, item in enumerate(items)]


def _id(row: dict[str, Any]) -> dict[str, str]:
    return {"id": str(row["id"])} if "id" in row else {}

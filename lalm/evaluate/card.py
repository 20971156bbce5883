"""The evaluation card: hashes of weights, data, prompts, template, parser, normaliser, judge, versions."""

import hashlib
import json
import platform
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from lalm.data.messages import part_choice
from lalm.data.sample import Sample
from lalm.evaluate.answer_settings import Decoding
from lalm.evaluate.answering import Answerer, Endpoint, Local, Vision
from lalm.evaluate.controls import asked, recording_of
from lalm.evaluate.items import Asked, brings_instruction, question_of
from lalm.evaluate.metrics.normalise import normaliser_name
from lalm.evaluate.parsers import fingerprint
from lalm.evaluate.task import Task
from lalm.inference.engine import Engine
from lalm.models.int4 import Int4Product
from lalm.models.int8 import Int8Product
from lalm.weights.fetch import resolve

LIBRARIES = ("lalm", "torch", "transformers", "peft", "jiwer", "sacrebleu", "numpy", "soundfile")
# What a task may say beside its prompts, as it stands in the card where it is not the usual.
PROTOCOL = ("system", "protocol", *(name for name in Decoding._fields if name != "max_new_tokens"))
# Two runs of a task can be compared only when these agree.
MUST_MATCH = (
    *(
        "data",
        "prompt",
        "prompts",
        "parser",
        "parser_code",
        "normaliser",
        "max_new_tokens",
        "judge",
        "judge_form",
    ),
    *PROTOCOL,
)


def versions() -> dict[str, str]:
    """Of Python and of the libraries whose numbers these are."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def model_card(answerer: Answerer, folder: Path | None) -> dict[str, Any]:
    """Who answered. For a local model the hash of every weight that acts, and of the chat template."""
    if isinstance(answerer, Endpoint):
        return {"name": answerer.name, "kind": "endpoint", "url": answerer.writer.url}
    if isinstance(answerer, Vision):
        files = [path for folder in answerer.folders for path in _weight_files(folder)]
        return {"name": answerer.name, "kind": "two folders", "weights": _digest(_file(f) for f in files)}
    if not isinstance(answerer, Local):
        return {"name": answerer.name, "kind": "predictions"}
    engine = answerer.engine
    return {
        "name": engine.name,
        "kind": "local",
        "weights": _weights(engine, folder),
        "template": _template(engine),
        "dtype": number_format(engine.model),
        "device": str(engine.model.device),
        "lora_scale": answerer.lora_scale,
        **({"transcript": mode} if (mode := engine.model.config.transcript) != "none" else {}),
        **engine.hearing.model_dump(exclude_defaults=True),
        **({"autocast": str(engine.autocast).removeprefix("torch.")} if engine.autocast else {}),
    }


def number_format(model: Any) -> str:
    """That of the weights which answer: int8 or int4 where the LLM's are rounded to it, else the tensors'."""
    kinds = {type(module) for module in model.modules()}
    rounded = next(
        (name for kind, name in ((Int4Product, "int4"), (Int8Product, "int8")) if kind in kinds), ""
    )
    return rounded or str(model.dtype).removeprefix("torch.")


def _weights(engine: Engine, folder: Path | None) -> str:
    folders = [folder] if folder else []
    parts = [name for name in engine.model.config.parts.values() if name]
    folders += [place for name in parts if (place := resolve(name)) != folder]
    files = [path for place in folders for path in _weight_files(place)]
    if not files:  # a model that was never on a disk: of its tensors then
        state = engine.model.state_dict()
        return _digest(bytes(f"{k} {state[k].float().sum().item()}", "utf-8") for k in sorted(state))
    return _digest(_file(path) for path in files)


def folder_digest(place: Path) -> str:
    """Hash of a folder's weights and configuration. Raises ValueError when it has none."""
    files = _weight_files(place)
    if not files:
        raise ValueError(f"'{place}' holds no weights")
    return _digest(_file(path) for path in files)


def _weight_files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return sorted(p for p in place.glob("*") if p.suffix in (".safetensors", ".json", ".gguf", ".bin"))


def _template(engine: Engine) -> str:
    processor = engine.processor
    prompt = json.dumps(processor.question_prompt, sort_keys=True)
    return _digest([str(processor.chat_template).encode(), prompt.encode()])


def task_card(opened: Asked, judge: str) -> dict[str, Any]:
    """What a task's items, question and reading are."""
    task, samples = opened.task, opened.samples
    put = asked(task, samples)
    languages = {sample.origin.get("language", "en") for sample in samples}
    scores_text = {"wer", "following"} & set(task.metrics)
    return {
        "about": task.about,
        "citation": task.citation,
        "source": "/".join(Path(opened.source).parts[-2:]),  # a card is for others: no folders of one machine
        "items": len(samples),
        "recordings": len({recording_of(sample) for sample in samples}),
        "missing": opened.missing,
        "data": _digest(_item(sample) for sample in samples),
        "prompt": _prompt(opened),
        "prompts": _digest(f"{s.id} {question_of(s)}".encode() for s in put),
        "parser": task.parser,
        "parser_code": fingerprint(task.parser),
        "normaliser": sorted({normaliser_name(name) for name in languages}) if scores_text else [],
        "max_new_tokens": task.max_new_tokens,
        **_protocol(task),
        "judge": judge if "judge" in task.metrics else "",
        **({"judge_form": task.judge} if task.judge == "quality_explained" else {}),
        "chance": _chance(opened),
    }


def _protocol(task: Task) -> dict[str, Any]:
    """What the task has of ``PROTOCOL`` that is not the usual."""
    own = task.model_dump(mode="json", include=set(PROTOCOL), exclude_defaults=True)
    return {name: own[name] for name in PROTOCOL if name in own}


def _prompt(opened: Asked) -> str:
    """The task's first wording, unless no item is asked with it."""
    if all(brings_instruction(opened.task, sample.prompt()) for sample in opened.samples):
        return "each item's own"
    return opened.task.prompts[0]


def _chance(opened: Asked) -> float | None:
    """What guessing scores; None where guessing has no fixed score."""
    if opened.task.metrics[0] not in ("accuracy", "string_match"):
        return None
    if opened.task.parser == "yes_no":
        return 0.5
    sizes = [len(sample.choices) for sample in opened.samples]
    return sum(1 / size for size in sizes) / len(sizes) if all(sizes) else None


def item_digest(sample: Sample) -> str:
    """A short hash of one item and its recordings: two runs' answers to it can be compared."""
    return hashlib.sha256(_item(sample)).hexdigest()[:16]


def _item(sample: Sample) -> bytes:
    """One item: id, answers, choices and the bytes of its audio."""
    told = json.dumps([sample.id, sample.references, sample.choices, sample.events], ensure_ascii=False)
    return told.encode() + b"".join(_audio(part) for part in sample.audios)


def _audio(part: Any) -> bytes:
    source, place = part["audio"], f" {part_choice(part)}".encode()
    if isinstance(source, np.ndarray):
        return hashlib.sha256(source.tobytes()).digest() + place
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest() + place
    path = Path(str(source))
    is_file = isinstance(source, Path) or ":" not in str(source)[:12]
    return (_file(path) if is_file else hashlib.sha256(str(source).encode()).digest()) + place


def _file(path: Path) -> bytes:
    """sha256 of a file; of its name where it cannot be read, which is a failed item later."""
    try:
        found = path.stat()
        return _file_at(path, found.st_mtime_ns, found.st_size)
    except OSError:
        return hashlib.sha256(str(path.name).encode()).digest()


@lru_cache(maxsize=1 << 16)
def _file_at(path: Path, changed: int, size: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _digest(pieces: Iterable[bytes]) -> str:
    """sha256 of the pieces, each with its length before it."""
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(len(piece).to_bytes(8, "big") + piece)
    return whole.hexdigest()[:32]


def differing(mine: dict[str, Any], other: dict[str, Any], keys: Sequence[str] = MUST_MATCH) -> list[str]:
    """The keys in which two cards' tasks differ."""
    return [key for key in keys if mine.get(key) != other.get(key)]

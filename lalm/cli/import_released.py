"""``lalm import``: a released checkpoint becomes a model folder that names its frozen parts."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig

from lalm.encoders import read_config
from lalm.encoders.pair import PairConfig
from lalm.models import assemble as systems
from lalm.models.processing import AudioLMProcessor
from lalm.systems.salmonn import released
from lalm.weights import fetch as weights


@dataclass(frozen=True)
class Parts:
    """The frozen parts of the model, by pinned name, folder, file or Hub id."""

    llm: str
    whisper: str
    beats: str


def salmonn(file: Path, parts: Parts, out: Path) -> None:
    """Write a released SALMONN as a slim model folder; print what was read, left out and assumed.

    Short clips are padded to 30 s for Whisper and cost 88 tokens each, as the released model was trained.
    Raises ValueError when file and parts do not fit each other.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"'{out}' is not empty: name a new folder")
    found = released.read(file)
    llm_folder = weights.resolve(parts.llm)
    try:
        text = AutoConfig.from_pretrained(llm_folder)
    except (OSError, ValueError):
        raise ValueError(f"'{parts.llm}' is no LLM folder: its config.json cannot be read") from None
    shape = (text.hidden_size, text.num_hidden_layers)
    if shape != (found.llm_width, found.llm_layers):
        raise ValueError(
            f"'{file.name}' belongs to an LLM {found.llm_width} wide with {found.llm_layers} layers, "
            f"and '{parts.llm}' is {shape[0]} wide with {shape[1]}"
        )
    first = read_config(weights.resolve(parts.whisper), {"pad_to_window": True})
    second = read_config(weights.resolve(parts.beats))
    for name, width, due in (
        (parts.whisper, first.width, found.speech_width),
        (parts.beats, second.width, found.audio_width),
    ):
        if width != due:
            raise ValueError(f"'{file.name}' belongs to an encoder {due} wide, and '{name}' is {width} wide")
    config_class, _, model_class, question_prompt = systems.SYSTEMS["salmonn"]
    config = config_class(
        audio_config=PairConfig(first, second),
        text_config=text,
        parts={"encoder": parts.whisper, "encoder_2": parts.beats, "llm": parts.llm},
        **found.options,
    )
    processor = AudioLMProcessor.build(systems.load_tokenizer(llm_folder), config, question_prompt)
    with torch.device("meta"):
        model = model_class(config)
        systems.add_lora(model, found.lora)
    state = model.state_dict()
    released.check(file, found.tensors, {name: state[name] for name in systems.trained_names(model)})
    model.load_state_dict(found.tensors, strict=False, assign=True)
    systems.save(model, processor, out, slim=True)
    buffers = f", {len(found.skipped)} buffers left out" if found.skipped else ""
    print(f"{out}: {len(found.tensors) - 2} tensors read{buffers}, LoRA scale {released.LORA_SCALE:g}")
    print(f"The file does not say which LLM {found.llm_width} wide it is for: you said '{parts.llm}'.")

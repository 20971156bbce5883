"""``lalm import``: a released checkpoint becomes a model folder that names its frozen parts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from lalm.encoders.pair import PairConfig
    from lalm.systems.salmonn.released import Released


def import_released(
    system: Annotated[Literal["salmonn"], typer.Argument(help="Whose released file.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="Such as salmonn_v1.pth.", show_default=False)],
    llm: Annotated[str, typer.Option(help="Its LLM: folder or Hub id.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The model folder to write.", show_default=False)],
    whisper: Annotated[str, typer.Option(help="Its speech encoder.")] = "openai/whisper-large-v2",
    beats: Annotated[
        str, typer.Option(help="Its other encoder; a BEATs .pt file will do.")
    ] = "WeiChihChen/BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2",
) -> None:
    """Turn a released checkpoint into a model folder.

    salmonn_v1.pth needs Vicuna-13B v1.1 as its LLM.
    """
    _import_salmonn(file, out, llm=llm, whisper=whisper, beats=beats)


def _import_salmonn(file: Path, out: Path, *, llm: str, whisper: str, beats: str) -> None:
    """Write a released SALMONN as a slim model folder; print what was read, left out and assumed.

    Clips are padded to 1 s for BEATs and to 30 s for Whisper, and cost 88 tokens each, as the released model
    was trained.
    Raises ValueError when file and parts do not fit each other.
    """
    import torch

    from lalm.models.classes import classes_of
    from lalm.models.lora import add_lora
    from lalm.models.processing import AudioLMProcessor
    from lalm.models.save import save_model, trained_names
    from lalm.systems.salmonn import released
    from lalm.weights.llm import load_tokenizer

    if out.exists() and any(out.iterdir()):
        raise ValueError(f"'{out}' is not empty: name a new folder")
    found = released.read(file)
    llm_folder, text = _llm_of(file, found, llm)
    classes = classes_of("salmonn")
    config = classes.config(
        audio_config=_encoders_of(file, found, whisper, beats),
        text_config=text,
        parts={"encoder": whisper, "encoder_2": beats, "llm": llm},
        shortest_s=released.SHORTEST_S,
        **found.options,
    )
    processor = AudioLMProcessor.build(load_tokenizer(llm_folder), config, classes.question_prompt)
    with torch.device("meta"):
        model = classes.model(config)
        add_lora(model, found.lora)
    state = model.state_dict()
    released.check(file, found.tensors, {name: state[name] for name in trained_names(model)})
    model.load_state_dict(found.tensors, strict=False, assign=True)
    save_model(model, processor, out, slim=True)
    tables = f", {len(found.beats_tables)} of them BEATs' own" if found.beats_tables else ""
    left = f", {len(found.skipped)} left out{tables}" if found.skipped else ""
    print(f"{out}: {len(found.tensors) - 2} tensors read{left}, LoRA scale {released.LORA_SCALE:g}")
    print(f"The file does not say which LLM {found.llm_width} wide it is for: you said '{llm}'.")
    print("As its authors run it: lalm ask or lalm eval --protocol salmonn --prompts THEIR/test_prompt.json")


def _llm_of(file: Path, found: "Released", llm: str) -> tuple[Path, Any]:
    """The LLM's folder and config. Raises ValueError when the file is for an LLM of another shape."""
    from transformers import AutoConfig

    from lalm.weights import fetch as weights
    from lalm.weights.llm import check_llm

    folder = weights.resolve(llm)
    check_llm(folder)
    try:
        text = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError):
        raise ValueError(f"'{llm}' is no LLM folder: its config.json cannot be read") from None
    shape = (text.hidden_size, text.num_hidden_layers)
    if shape != (found.llm_width, found.llm_layers):
        raise ValueError(
            f"'{file.name}' belongs to an LLM {found.llm_width} wide with {found.llm_layers} layers, "
            f"and '{llm}' is {shape[0]} wide with {shape[1]}"
        )
    return folder, text


def _encoders_of(file: Path, found: "Released", whisper: str, beats: str) -> "PairConfig":
    """Both encoders' config. Raises ValueError when the file is for other encoders.

    They are opened, so that one that is not whole is refused before any question.
    """
    from lalm.encoders import load_encoder
    from lalm.encoders.pair import PairConfig
    from lalm.systems.salmonn import released
    from lalm.weights import fetch as weights

    first: Any = load_encoder(weights.resolve(whisper), {"pad_to_window": True})
    second: Any = load_encoder(weights.resolve(beats))
    for name, width, due in (
        (whisper, first.width, found.speech_width),
        (beats, second.width, found.audio_width),
    ):
        if width != due:
            raise ValueError(f"'{file.name}' belongs to an encoder {due} wide, and '{name}' is {width} wide")
    if found.beats_tables:
        released.check_beats(file, found, second.state_dict()["relative_bias.weight"])
    return PairConfig(first.config, second.config)

"""``lalm export``: a model folder in the layout of a released model, for other programs to run."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

if TYPE_CHECKING:
    from torch import Tensor


def export(
    model: Annotated[str, typer.Argument(help="Model folder.", show_default=False)],
    to: Annotated[
        Literal["qwen2-audio", "peft", "salmonn", "transformers", "gguf"],
        typer.Option(
            help="Whose layout; peft: LoRA alone; transformers: lalm's own, whole; gguf: llama.cpp's.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(help="Number format of what is written (not of LoRA)."),
    ] = "bfloat16",
    no_transcript: Annotated[
        bool, typer.Option("--no-transcript", help="Leave out that the model reads transcripts beside audio.")
    ] = False,
    quantize: Annotated[
        Literal["q8_0", "q6_k", "q5_k_m", "q4_k_m"] | None,
        typer.Option(help="With gguf: pack the LLM's weights.", show_default=False),
    ] = None,
    pad_to_window: Annotated[
        bool,
        typer.Option("--pad-to-window", help="With gguf: hear every clip as 30 s, silence behind it."),
    ] = False,
) -> None:
    """Write a model for other programs, and check it there.

    Examples:

    lalm export runs/mine --to qwen2-audio --out exported

    For transformers, PEFT, vLLM, SGLang, llama.cpp and others: docs/export.md.

    The result is opened in a fresh process, by the other program's classes: another sound must move what is
    said, and all must be as it is here. SALMONN's files run in their authors' code alone: such a file is read
    again and compared.
    """
    from lalm.weights.checkpoint import filled_whole, staging

    if out.exists() and any(file != staging(out) for file in out.iterdir()):
        raise ValueError(f"'{out}' is not empty: name a new folder")
    if to != "gguf" and (quantize or pad_to_window):
        raise ValueError(f"--quantize and --pad-to-window go with --to gguf, not with --to {to}")
    check_transcript(model, no_transcript)
    from lalm.cli.weights import fetch_for

    fetch_for(model, False)
    if to == "gguf":
        from lalm.doctor.exported_gguf import check_gguf
        from lalm.inference.llamacpp.export import export_gguf

        written = export_gguf(model, out, dtype, quantize, pad_to_window)
        print(check_gguf(written, exact=quantize is None), file=sys.stderr)
        print(written.llm)
        print(written.projector)
        return
    if to == "salmonn":
        print(_as_salmonn(model, out))
        return
    import torch

    from lalm.doctor.exported import check_export

    write = {"transformers": complete, "qwen2-audio": _as_qwen2_audio, "peft": _as_peft}[to]
    with filled_whole(out) as draft:
        wanted = write(model, draft, dtype)
    precision = torch.float32 if to == "peft" else getattr(torch, dtype)
    print(check_export(to, out, wanted, precision), file=sys.stderr)
    print(out)


def check_transcript(model: str | Path, alone: bool) -> None:
    """Raise ValueError for a model that reads transcripts beside its audio: no other program makes them."""
    from lalm.models.load import read_config

    if not alone and (mode := read_config(Path(model))[1].transcript) != "none":
        raise ValueError(
            f"'{model}' reads transcripts beside its audio tokens (transcript: {mode}), and other programs "
            f"give it none: say --no-transcript to have the audio tokens alone"
        )


def _as_salmonn(name: str, out: Path) -> Path:
    """Write what was trained of a SALMONN folder to ``out``/salmonn.pth, as the authors' files are, and read
    it into the model again."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from lalm.doctor.exported import check_released, expected
    from lalm.models.load import load_model, model_folder, read_config
    from lalm.systems.salmonn import released
    from lalm.weights.checkpoint import filled_whole

    model = model_folder(name)
    system, config = read_config(model)
    if system != "salmonn" or not config.lora:
        raise ValueError(f"'{model}' is no SALMONN with LoRA, so it cannot be written as one")
    if config.qformer_heads * released.HEAD_WIDTH != config.qformer_width:
        raise ValueError(f"the Q-Former of '{model}' has heads of another width than the released ones' 64")
    weights = model / "model.safetensors"
    try:
        tensors = load_file(weights)
    except FileNotFoundError:
        raise ValueError(f"'{model}' has no model.safetensors: the copy is not whole") from None
    except SafetensorError as error:
        raise ValueError(f"'{weights}' is damaged or cut short ({error})") from None
    windows = {"second_per_window": config.window_s, "second_stride": config.stride_s}
    file = out / "salmonn.pth"
    with filled_whole(out) as draft:
        released.write(tensors, config.lora, windows, draft / file.name)
    opened, processor = load_model(model)
    wanted = expected(opened, processor)
    state = opened.state_dict()
    for key in tensors:
        state[key].zero_()  # so that what is heard now comes from the file
    opened.load_state_dict(released.read(file).tensors, strict=False)
    heard = expected(opened, processor)
    print(check_released(file, opened.config.text_config, heard, wanted), file=sys.stderr)
    return file


def _as_peft(model: str, out: Path, dtype: str) -> "Tensor":
    """Write LoRA and connector as an adapter; what the model makes of the check's sounds, (2, V)."""
    from lalm.doctor.exported import expected
    from lalm.models.load import load_model
    from lalm.systems.qwen2_audio import released

    opened, processor = load_model(model)
    released.export_adapter(cast(Any, opened), out)
    return expected(opened, processor)


def _as_qwen2_audio(model: str, out: Path, dtype: str) -> "Tensor":
    """Write the model as Qwen2-Audio's release is laid out, with LoRA merged in; returns as ``_as_peft``."""
    import torch

    from lalm.doctor.exported import expected
    from lalm.models.load import load_model
    from lalm.models.lora import merge_lora
    from lalm.systems.qwen2_audio import released

    opened, processor = load_model(model)
    if opened.config.lora:
        merge_lora(opened)
    released.export(opened.to(getattr(torch, dtype)), processor, out)
    return expected(opened, processor)


def complete(folder: str | Path, out: Path, dtype: str) -> "Tensor":
    """All weights of a model folder with LoRA merged in, and one chat template that says everything.

    Encoder and LLM are written in ``dtype``, the connector in float32. Of the LLM's own settings of
    generation only the tokens that end an answer stay. Returns as ``_as_peft``.
    """
    import torch
    from transformers import GenerationConfig

    from lalm.doctor.exported import expected
    from lalm.inference.engine import Engine
    from lalm.models.chat_template import with_parts
    from lalm.models.load import load_model
    from lalm.models.lora import merge_lora
    from lalm.models.save import save_model

    opened, processor = load_model(folder)
    if opened.config.lora:
        merge_lora(opened)
    for part in (opened.model.audio_tower, opened.model.language_model, opened.lm_head):
        part.to(getattr(torch, dtype))
    opened.config.dtype = getattr(torch, dtype)
    opened.config.text_config.dtype = getattr(torch, dtype)
    opened.config.parts, opened.config.transcript = {}, "none"
    heard = expected(opened, processor)
    opened.generation_config = GenerationConfig(
        eos_token_id=sorted(Engine(opened, processor, str(folder)).ends()),
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    if not processor.parts:
        processor.chat_template = with_parts(
            processor.chat_template, processor.question_prompt, processor.audio_token
        )
        processor.parts, processor.question_prompt = True, {}
    processor.tokenizer.chat_template = processor.chat_template
    save_model(opened, processor, out, slim=False)
    return heard

"""Are llama.cpp's answers ours? A folder exported to GGUF, in its library and server, beside our engine.

    pip install 'lalm[llamacpp]'
    python benchmarks/gguf_answers.py runs/mine --clips ~/clips --out gguf_answers.json

Clips are those of ``samples/`` and, up to 20 in all, evenly taken ones of the folder ``--clips``. Both sides
answer greedily. In float32 llama.cpp keeps its cache and its attention in float32 too; its convolutions stay
float16. Beside that: bfloat16 and packed weights as users have them, and the server's chat API with its own
settings. llama.cpp's spectrogram has a floor of 6e-8 where Whisper's is 1e-10: "floor" repeats ours with it
(``init.options.encoder.mel_floor``), which must leave nothing but rounding between audio tokens.
"""

import argparse
import base64
import io
import json
import math
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import xllamacpp

from lalm import ask
from lalm.audio.load import load_audio
from lalm.encoders import whisper
from lalm.inference.engine import Engine, Options
from lalm.inference.llamacpp.export import Written, export_gguf
from lalm.inference.llamacpp.prompt import MARKER
from lalm.inference.llamacpp.running import Llama, Projection

QUESTION = "What do you hear?"
NEW_TOKENS = 32
NUM_CLIPS = 20
OPTIONS = Options(max_new_tokens=NEW_TOKENS, loop_guard=False)
THEIR_FLOOR = math.log10(5.960464477539063e-08)  # mel_floor in llama.cpp's tools/mtmd/mtmd-audio.cpp


def clips_of(folder: Path) -> list[Path]:
    """The samples, and clips of the folder at even distances."""
    own = sorted(path for path in Path("samples").iterdir() if path.suffix in (".ogg", ".flac"))
    others = sorted(folder.glob("*.flac"))
    count = NUM_CLIPS - len(own)
    return own + [others[i * len(others) // count] for i in range(count)]


@torch.no_grad()
def audio_tokens(written: Written, wave: np.ndarray) -> torch.Tensor:
    """The audio tokens of a clip here, (K, D)."""
    batch = written.processor.batch([ask([wave], QUESTION)])
    return written.model.get_audio_features(batch["input_values"], batch["audio_lengths"]).pooler_output


def loudest_bin(wave: np.ndarray) -> float:
    """log10 of the loudest bin of a clip's spectrogram; below THEIR_FLOOR + 8 the floors differ."""
    return float(whisper.log_mel(torch.from_numpy(wave)[None]).max()) * 4 - 4


def with_their_floor(make: Callable[[], Any]) -> Any:
    """What ``make`` gives when our spectrogram has llama.cpp's floor."""
    ours = whisper.log_mel

    def floored(*args: Any, **kwargs: Any) -> torch.Tensor:
        return ours(*args, **kwargs).clamp(min=(THEIR_FLOOR + 4) / 4)

    whisper.log_mel = floored
    try:
        return make()
    finally:
        whisper.log_mel = ours


def greedy(llama: Llama, pieces: list[np.ndarray], tokenizer: Any) -> tuple[str, float]:
    """llama.cpp's answer, and how far the second token of the closest choice lay behind, in logits."""
    llama.keep(0)
    for piece in pieces:
        logits = llama.read(piece)
    said, closest = [], math.inf
    for _ in range(NEW_TOKENS):
        first, second = np.partition(logits, -2)[[-1, -2]]
        closest = min(closest, float(first - second))
        token = int(logits.argmax())
        if llama.ends(token):
            break
        said.append(token)
        logits = llama.read([token])
    return tokenizer.decode(said, skip_special_tokens=True).strip(), closest


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Root of the mean square between two (K, D), in shares of the first's spread."""
    return float((one - other).square().mean().sqrt() / one.std())


def prompt_of(written: Written) -> str:
    """The prompt with a marker, as llama.cpp's server writes it."""
    return str(
        written.processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": MARKER + QUESTION}],
            chat_template=written.template,
            tokenize=False,
            add_generation_prompt=True,
        )
    )


def served(written: Written, waves: list[np.ndarray]) -> list[str]:
    """The answers of llama.cpp's server to the clips as ``input_audio``."""
    params = xllamacpp.CommonParams()
    params.model.path, params.mmproj.path = str(written.llm), str(written.projector)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 2048, 1, False, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
    server, answers = xllamacpp.Server(params), []
    for wave in waves:
        file = io.BytesIO()
        soundfile.write(file, wave, 16_000, format="WAV", subtype="FLOAT")
        heard = {"data": base64.b64encode(file.getvalue()).decode(), "format": "wav"}
        content = [{"type": "input_audio", "input_audio": heard}, {"type": "text", "text": QUESTION}]
        body = {
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": NEW_TOKENS,
        }
        answers.append(server.handle_chat_completions(body)["choices"][0]["message"]["content"].strip())
    return answers


def main() -> None:
    """Export, ask both sides, and write what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pad-to-window", action="store_true")
    parser.add_argument("--also", nargs="*", default=["bfloat16", "q8_0", "q4_k_m"])
    args = parser.parse_args()
    paths = clips_of(args.clips)
    waves = [load_audio(path) for path in paths]
    result: dict[str, Any] = {"xllamacpp": version("xllamacpp"), "clips": len(paths)}
    with tempfile.TemporaryDirectory() as place:
        exact = export_gguf(args.model, Path(place) / "exact", "float32", None, args.pad_to_window)
        result["rows"] = rows_of(exact, paths, waves, lambda rows: keep(args.out, args.model, {"rows": rows}))
        keep(args.out, args.model, result)
        ours = [row["ours"] for row in result["rows"]]
        result["served_float32"] = same(served(exact, waves), ours)
        keep(args.out, args.model, result)
        for kind in args.also:
            quantize = None if kind == "bfloat16" else kind
            other = export_gguf(args.model, Path(place) / kind, "bfloat16", quantize, args.pad_to_window)
            result[f"served_{kind}"] = same(served(other, waves), ours)
            result[f"served_{kind}"]["megabytes"] = round(other.llm.stat().st_size / 1e6)
            keep(args.out, args.model, result)


def keep(out: Path, model: str, result: dict[str, Any]) -> None:
    """Put what is known of a model into the file, beside other models'."""
    whole = json.loads(out.read_text()) if out.exists() else {}
    out.write_text(json.dumps(whole | {Path(model).name: summary(result)}, indent=1) + "\n")


def rows_of(
    exact: Written, paths: list[Path], waves: list[np.ndarray], done: Callable[[list[dict[str, Any]]], None]
) -> list[dict[str, Any]]:
    """Clip by clip: audio tokens and answers of both sides, in float32."""
    llama = Llama(exact.llm, threads=torch.get_num_threads(), exact=True)
    projection, prompt = Projection(exact.projector, llama), prompt_of(exact)
    engine, tokenizer = Engine(exact.model, exact.processor, "mine"), exact.processor.tokenizer
    rows = []
    for path, wave in zip(paths, waves, strict=True):
        pieces = projection.pieces(prompt, [wave])
        theirs = torch.from_numpy(np.concatenate([piece for piece in pieces if piece.ndim == 2]))
        own = audio_tokens(exact, wave)
        loudest = loudest_bin(wave)
        quiet = loudest < THEIR_FLOOR + 8
        floored = with_their_floor(lambda wave=wave: audio_tokens(exact, wave)) if quiet else own
        ids = [token for piece in pieces if piece.ndim == 1 for token in piece.tolist()]
        asked = exact.processor.batch([ask([wave], QUESTION)])["input_ids"][0].tolist()
        slot = exact.processor.audio_token_id
        answer, margin = greedy(llama, pieces, tokenizer)
        answering = lambda wave=wave: engine.reply([ask([wave], QUESTION)], OPTIONS)[0].text  # noqa: E731
        ours = answering()
        rows.append(
            {
                "clip": path.name,
                "seconds": round(len(wave) / 16_000, 2),
                "loudest_log10": round(loudest, 2),
                "tokens": len(theirs),
                "same_prompt": ids == [token for token in asked if token != slot],
                "tokens_apart": apart(own, theirs),
                "tokens_apart_same_floor": apart(floored, theirs),
                "ours": ours,
                "ours_same_floor": with_their_floor(answering) if quiet else ours,
                "llama.cpp": answer,
                "closest_choice": round(margin, 4),
            }
        )
        done(rows)
        print(json.dumps(rows[-1]), flush=True)
    projection.close()
    llama.close()
    return rows


def same(answers: list[str], ours: list[str]) -> dict[str, Any]:
    """How many answers are the same, and the others."""
    pairs = list(zip(ours, answers, strict=True))
    return {"same": sum(a == b for a, b in pairs), "others": [pair for pair in pairs if pair[0] != pair[1]]}


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The counts before the rows."""
    result = dict(result)
    rows = result.pop("rows")
    counts = {
        "same_answers": sum(row["ours"] == row["llama.cpp"] for row in rows),
        "same_answers_same_floor": sum(row["ours_same_floor"] == row["llama.cpp"] for row in rows),
        "different_answers_of_ours": len({row["ours"] for row in rows}),
        "same_prompts": sum(row["same_prompt"] for row in rows),
        "largest_tokens_apart": max(row["tokens_apart"] for row in rows),
        "largest_tokens_apart_same_floor": max(row["tokens_apart_same_floor"] for row in rows),
    }
    return {**result, **counts, "rows": rows}


if __name__ == "__main__":
    main()

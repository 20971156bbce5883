"""Where the server's processor seconds go: each phase of an answer, of one at a time and of many together.

    python benchmarks/serve_phases.py --clips 32 --out results/serve_phases.json

The clips and the question of serve_load.py, through the server's own parts in one process and one thread:
what the recording holds of speech and its transcript, the text of the prompt, the encoder, the LLM's reading
of the prompt, the decoding steps. The first three are a clip's own, whoever else asks. Processor seconds, so
other programs are not in them; a busy machine's caches are.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from serve_load import QUESTION, Clips

from lalm import Engine, Options, ask
from lalm.data.audio_inputs import Clip
from lalm.inference.answer import Answer
from lalm.inference.speech import recogniser
from lalm.models.lora import set_lora_scale
from lalm.models.processing import pad_audio
from lalm.models.sampling import TokenRules
from lalm.serve.encoder_cache import EncoderCache
from lalm.serve.jobs import Job
from lalm.serve.prompts import prompt_of
from lalm.serve.running_batch import BatchRow, RunningBatch
from lalm.training.malloc import keep_freed_memory


class Phases:
    """Processor seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._last = time.process_time()

    def begin(self) -> None:
        """What comes next counts."""
        self._last = time.process_time()

    def end(self, phase: str) -> None:
        """What came since the last call was this phase."""
        now = time.process_time()
        self.seconds[phase] += now - self._last
        self._last = now


class Question:
    """One clip's question, prepared as the server prepares it; each phase is counted."""

    def __init__(self, engine: Engine, sound: np.ndarray, options: Options, phases: Phases) -> None:
        self.engine, self.options = engine, options
        self.sample, self.clips = ask([sound], QUESTION), [Clip("audio 1", sound)]
        phases.begin()
        self.transcript = engine.transcripts.of(sound)
        phases.end("speech and transcript")
        self.prompt = prompt_of(engine, self.sample, self.clips, options)
        phases.end("text of the prompt")
        frames = EncoderCache(engine.model, 1 << 28).frames(self.clips)
        phases.end("encoder")
        inputs: dict[str, Any] = {**self.prompt, **pad_audio(frames)}
        inputs.pop("attention_mask")
        self.embeds = engine.model.model.embed(**inputs)[0]
        phases.end("connector")

    def row(self) -> BatchRow:
        """A new row of the batch."""
        engine, ids = self.engine, self.prompt["input_ids"][0]
        job = Job(self.sample, self.clips, self.options, lambda event: None, prompt=self.prompt)
        answer = Answer(self.options, engine.ends(), engine.processor.tokenizer)
        vocabulary = engine.model.config.text_config.vocab_size
        rules = TokenRules(ids, vocabulary, engine.ends(), self.options)
        return BatchRow(job, ids, self.embeds, 0, answer, rules)


def answered(batch: RunningBatch, rows: list[BatchRow], phases: Phases) -> int:
    """Answer all rows together; the number of decoding steps."""
    phases.begin()
    batch.add(rows)
    phases.end("reading of the prompt")
    steps = 0
    while batch.rows:
        batch.step()
        steps += 1
        batch.remove([number for number, row in enumerate(batch.rows) if row.answer.reason is not None])
    phases.end("decoding")
    return steps


@torch.inference_mode()
def measure(engine: Engine, count: int, tokens: int) -> dict[str, Any]:
    """All of it."""
    clips, options, batch = Clips(), Options(tokens), RunningBatch(engine)
    set_lora_scale(engine.model, None)
    heard = count_windows()
    answered(batch, [Question(engine, clips.clip(5.0), options, Phases()).row()], Phases())  # warms up
    sounds = [clips.clip() for _ in range(count)]
    heard.clear()
    alone, own, together, steps = Phases(), [], Phases(), 0
    for sound in sounds:
        question = Question(engine, sound, options, alone)
        own.append((question, question.row()))
        steps += answered(batch, [own[-1][1]], alone)
    rows = [question.row() for question, _ in own]
    steps_together = answered(batch, rows, together)
    shared = {**{name: s for name, s in alone.seconds.items() if name not in together.seconds}}
    return {
        "clips": count,
        "clip_s_mean": round(sum(len(sound) for sound in sounds) / 16_000 / count, 2),
        "prompt_tokens_mean": round(sum(len(row.embeds) for row in rows) / count, 1),
        "answer_tokens_mean": round(sum(len(row.tokens) for row in rows) / count, 1),
        "windows_with_speech": len(heard),
        "whisper_cpu_s_a_window": round(sum(heard) / len(heard), 2) if heard else None,
        "same_answers": sum(row.tokens == one.tokens for row, (_, one) in zip(rows, own, strict=True)),
        "steps": {"alone": steps, "together": steps_together},
        "cpu_s_an_answer": {
            "one at a time": _of_one(alone.seconds, count),
            "all together": _of_one({**shared, **together.seconds}, count),
        },
    }


def _of_one(seconds: dict[str, float], count: int) -> dict[str, float]:
    found = {name: round(own / count, 3) for name, own in seconds.items()}
    return {**found, "all": round(sum(seconds.values()) / count, 3)}


def count_windows() -> list[float]:
    """Processor seconds of each window that Whisper is given from now on."""
    found: list[float] = []
    real = recogniser.Whisper.window

    def window(self: Any, *given: Any) -> Any:
        before = time.process_time()
        result = real(self, *given)
        found.append(time.process_time() - before)
        return result

    recogniser.shared()
    recogniser.Whisper.window = window  # type: ignore[method-assign]
    return found


def main() -> None:
    """Open the model, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="model folder (default: the embedded one)")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32, help="longest answer")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    parser.add_argument("--out", type=Path, default=Path("results/serve_phases.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    engine = Engine.load(options.model)
    engine.pack()
    found = measure(engine, options.clips, options.tokens)
    found["conditions"] = {"model": options.model or "small", "threads": 1, "note": options.note}
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

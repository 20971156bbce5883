"""Activation tuning (section 3.2): a model writes stories at a low LoRA scale, then learns a dozen of them.

Stages 1 and 2 leave a model that transcribes and captions whatever it is asked (task over-fitting). With a
smaller LoRA scale it follows instructions again, but hears worse; training a few steps on what it wrote then
brings the first without the second. Table 5's other ways are here too: long answers or transcripts in place
of stories (``longest``), stories without audio (``without_audio``), and LoRA alone.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lalm.data.english import words
from lalm.data.readers import read_manifest
from lalm.data.sample import Message, Sample, message_text, write_manifest
from lalm.errors import LalmError
from lalm.evaluate.metrics.instruction_following import STORY_TOKENS, STORY_WORDS, follows_story, repeats
from lalm.inference.engine import Engine, Options
from lalm.models.load import read_config
from lalm.tasks.instructions import instruct
from lalm.training import run as train
from lalm.training.recipe import Recipe

NUM_STORIES = 12  # section 4.2 "twelve stories ... 12 steps, with each step using only one story sample"


class ActivationError(LalmError, ValueError):
    """Too few stories, or clips that cannot be used."""


@dataclass(frozen=True)
class Stories:
    """Stories that were kept, and how many were written for them."""

    kept: tuple[Sample, ...]
    written: int


def write_stories(
    engine: Engine,
    clips: Sequence[Sample],
    *,
    lora_scale: float,
    count: int = NUM_STORIES,
    temperature: float = 0.7,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda kept, written: None,
    draft: Path | None = None,
) -> Stories:
    """Stories about clips by the model itself at ``lora_scale``: the first ``count`` that are long and do
    not repeat, of clips in an order drawn with ``seed``.

    Prompts are drawn from the task's own. A story that ran into the token limit is marked truncated, so that
    its end is not taught. ``progress`` is told after every ``count`` stories how many are kept of how many.
    The temperature is ours. With ``draft`` what was kept so far is written to that manifest after each of
    these batches, and a call with the same arguments goes on after the last one. Raises ActivationError when
    the clips run out.
    """
    bare = [_bare(clip) for clip in clips]
    order = [bare[i] for i in np.random.default_rng(seed).permutation(len(bare))]
    kept, written = _drafted(draft)
    if len(kept) >= count:
        return Stories(tuple(kept[:count]), written)
    for start in range(written, len(order), count):
        asked = list(instruct(order[start : start + count], seed=seed))
        options = Options(STORY_TOKENS, temperature=temperature, seed=seed + start, lora_scale=lora_scale)
        for sample, reply in zip(asked, engine.reply(asked, options), strict=True):
            written += 1
            if good(reply.text):
                story = sample.with_target(reply.text)
                kept.append(replace(story, truncated=reply.finish_reason != "stop"))
        if draft is not None:
            write_manifest(draft, kept)
            state = {"written": written, "kept": len(kept)}
            draft.with_suffix(".state.json").write_text(json.dumps(state) + "\n")
        progress(len(kept), written)
        if len(kept) >= count:
            return Stories(tuple(kept[:count]), written)
    raise ActivationError(
        f"of {written} stories at LoRA scale {lora_scale:g}, {len(kept)} had {STORY_WORDS} words without "
        f"repeating; {count} are needed: give more clips or another scale"
    )


def _drafted(draft: Path | None) -> tuple[list[Sample], int]:
    """Stories that an interrupted call has kept, and how many it had written."""
    if draft is None or not draft.with_suffix(".state.json").is_file():
        return [], 0
    state = json.loads(draft.with_suffix(".state.json").read_text())
    kept = list(read_manifest(draft))[: state["kept"]] if state["kept"] else []
    return kept, int(state["written"])


def good(story: str) -> bool:
    """Long enough to count as a story, and not repeating itself."""
    return follows_story(story) and not repeats(story)


def longest(samples: Sequence[Sample], count: int = NUM_STORIES) -> tuple[Sample, ...]:
    """The ``count`` samples with the longest targets, in words: table 5's "QA (Long)" and "ASR (Long)"."""
    usable = [sample for sample in samples if sample.target]
    if len(usable) < count:
        raise ActivationError(f"{count} samples with an answer are needed, and there are {len(usable)}")
    return tuple(sorted(usable, key=lambda sample: -len(words(sample.target)))[:count])


def without_audio(samples: Sequence[Sample]) -> Iterator[Sample]:
    """Table 5's "Story (Text based)": the clip's caption or transcript in the audio's place."""
    for sample in samples:
        text = sample.origin.get("caption") or sample.origin.get("transcript")
        if not text:
            raise ActivationError(
                f"{sample.id}: no caption or transcript is known to put in the audio's place"
            )
        prompt = message_text(sample.messages[0])
        user: Message = {"role": "user", "content": f"{text}\n{prompt}"}
        yield replace(sample, messages=(user, *sample.messages[1:]))


def learn(
    model: Path,
    stories: Path,
    out: Path,
    *,
    steps: int,
    learning_rate: float,
    connector: bool,
    seed: int,
    save_every: int | None = None,
) -> Path:
    """Train ``steps`` steps of one sample each from ``model``'s folder; returns ``out``.

    LoRA goes on training at full scale, and the connector with it unless ``connector`` is false. A run in
    ``out`` goes on from its newest checkpoint, one of which is kept every ``save_every`` steps (None: at the
    end): called for 1, 2, 3 steps in turn it leaves what one call for 3 does.
    """
    system, config = read_config(model)
    if not config.lora:
        raise ActivationError(f"'{model}' has no LoRA, so there is nothing to activate")
    fields = {
        "system": system,
        "init": {"from": str(model)},
        "trainable": ["connector"] if connector else [],
        "lora": config.lora,
        "data": {"train": [{"path": str(stories)}]},
        "optim": {
            "learning_rate": learning_rate,
            "schedule": "constant",
            "batch_size": 1,
            "max_steps": steps,
            "dtype": "auto",
            "seed": seed,
        },
        "every": {"log": 1, "save": save_every or steps, "valid": 0},
        "out": str(out),
    }
    return train.run(Recipe.model_validate(fields))


def _bare(clip: Sample) -> Sample:
    """The clip alone, to be told a story about."""
    if not clip.audios:
        raise ActivationError(f"{clip.id or 'a clip'}: there is no audio")
    name = clip.origin.get("recording", clip.id)
    captions = (clip.target, *clip.references) if clip.task == "caption" else ()
    caption = clip.origin.get("caption") or next((text for text in captions if text), "")
    origin = {**clip.origin, "caption": caption} if caption else dict(clip.origin)
    user: Message = {"role": "user", "content": [clip.audios[0]]}
    return Sample((user,), id=f"story-{name}", task="story", events=clip.events, origin=origin)

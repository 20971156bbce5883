"""Checks of a model's wiring on generated sounds: padding, lengths, gradients, saving and more.

Two runs are compared by how far the logits of the next token lie apart, as a share of the logits' own
spread: what only rounding changes stays below ``ROUNDING`` of the model's dtype, what the audio changes
must lie above it. Letters in shapes as in ``lalm.models.modeling``.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from lalm.audio.load import SAMPLE_RATE
from lalm.data.sample import Sample, ask
from lalm.doctor.weight_checks import missing_tensors, other_parts, parts_that_look_random
from lalm.encoders.eat import EATEncoder
from lalm.encoders.eat_import import check_eat
from lalm.inference.engine import Engine, Options
from lalm.models.answer_end import AnswerEndError, check_learned, written_end
from lalm.models.finite import NonFiniteError
from lalm.models.load import in_words
from lalm.weights.fetch import resolve

QUESTION = "What do you hear?"
QUESTIONS = (
    *("What do you hear?", "Is someone speaking?", "Describe the sound.", "Which animal is it?"),
    *("Where was this recorded?", "How many times is it heard?", "What comes first?", "Name the sound."),
    *("Is it loud or soft?", "Tell a short story about it.", "Is it music? Say yes or no.", "Why?"),
)
ANSWERS_S, ANSWER_TOKENS = 60.0, 16
LONG_S = 75.0  # more than two windows of 30 s, the longest that any encoder here has
END_S = 2.0
# The share of the logits' spread that batching may change. Measured on the embedded model: 3e-6 in float32,
# 0.02 in bfloat16; swapping two clips gives 0.1, other audio 0.26.
ROUNDING = {torch.float32: 2e-3, torch.float16: 0.02, torch.bfloat16: 0.06}
EAT_TOLERANCE = 0.01  # largest difference of a value; the frames' own spread is about 1


@dataclass(frozen=True)
class Check:
    """One line of the report. ``passed`` is None for what was measured only, or does not apply."""

    name: str
    passed: bool | None
    found: str
    fix: str = ""


@dataclass(frozen=True)
class _View:
    """What the model makes of a batch: each row's audio tokens, (K, D), and next-token logits, (B, V)."""

    tokens: list[Tensor]
    logits: Tensor


def examine(
    engine: Engine, folder: Path, golden: tuple[Path, Path] | None = None, *, untrained: bool = False
) -> Iterator[Check]:
    """The checks, one by one as they are done.

    ``folder`` is the model's; ``golden`` a recording and the frames that the released EAT gives for it, a
    ``.npy`` (513, 768), for models with an EAT encoder. Raises ValueError when there is a golden file but
    no EAT. ``untrained``: it is known that training has not begun, so random weights are as they should be.
    """
    if golden:
        yield _golden(engine, *golden)
    yield _weights(engine, folder)
    yield _looks(engine, untrained)
    for part in (_base_or_chat, _round_trip):
        yield part(engine)
    for side in ("left", "right"):
        yield _batch(engine, side)
    generating = {_replies: "batch answers equal single ones", _speed: "speed and memory"}
    for part in (_replies, _order, _matters, _odd_audio, _long, _overflow, _speed):
        try:
            yield part(engine)
        except NonFiniteError as error:
            yield Check(generating[part], False, str(error), "see the first line")


def knocks(seconds: float = 2.0) -> np.ndarray:
    """A knock every half second, (N,) float32."""
    audio = np.zeros(int(seconds * SAMPLE_RATE), np.float32)
    burst = np.random.default_rng(0).normal(0, 0.3, 800) * np.exp(-np.arange(800) / 150)
    for start in range(0, len(audio) - 800, SAMPLE_RATE // 2):
        audio[start : start + 800] = burst
    return audio


def siren(seconds: float = 3.0) -> np.ndarray:
    """A tone that rises from 300 to 2000 Hz again and again, (N,) float32."""
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    rate = 300 + 1700 * (t % 1.0)
    return (0.3 * np.sin(2 * np.pi * np.cumsum(rate) / SAMPLE_RATE)).astype(np.float32)


def rain(seconds: float = 5.0, level: float = 0.1) -> np.ndarray:
    """White noise, (N,) float32."""
    noise = np.random.default_rng(1).normal(0, level, int(seconds * SAMPLE_RATE))
    return noise.clip(-1, 1).astype(np.float32)


@torch.no_grad()
def _view(engine: Engine, samples: Sequence[Sample], padding_side: str = "left") -> _View:
    model, processor = engine.model, engine.processor
    batch = processor.batch(samples, padding_side=padding_side).to(model.device)
    mask = batch.pop("attention_mask")
    with torch.enable_grad():  # all clips in one pass, as in training: padding that is heard shows
        embeds = model.model.embed(**batch).detach()  # (B, L, D)
    hidden = model.model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)
    ).last_hidden_state
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    last = (places * mask).argmax(1)  # (B,)
    slots = batch["input_ids"] == model.config.audio_token_id
    tokens = [row[own].float() for row, own in zip(embeds, slots, strict=True)]
    return _View(tokens, model.logits(hidden[torch.arange(len(mask), device=mask.device), last]))


def _apart(a: Tensor, b: Tensor) -> float:
    """Root mean square of the difference over the spread of ``a``."""
    a, b = a.float(), b.float()
    return float((a - b).square().mean().sqrt() / a.std(correction=0).clamp(min=1e-12))


def _limit(engine: Engine) -> float:
    return ROUNDING.get(engine.model.dtype, ROUNDING[torch.bfloat16])


def _about(*clips: np.ndarray) -> Sample:
    return ask(list(clips), QUESTION)


def _rows() -> list[Sample]:
    """Conversations of several lengths, one of them with two clips."""
    return [_about(knocks(1.0)), _about(siren(7.0)), _about(rain(3.3), knocks(0.7)), _about(siren(0.6))]


def _weights(engine: Engine, folder: Path) -> Check:
    bad = [
        name for name, value in engine.model.state_dict().items() if not bool(value.float().isfinite().all())
    ]
    missing = missing_tensors(engine.model, folder)
    if other := other_parts(folder):
        return Check("weights are whole", False, other, "bring the weights that the model was trained with")
    if missing:
        found = f"{len(missing)} tensors are not in the folder and so are random, e.g. {missing[0]}"
        return Check("weights are whole", False, found, "copy or download the model folder again")
    if bad:
        fix = "take an earlier checkpoint, or the same weights in bfloat16 or float32"
        return Check("weights are whole", False, f"{len(bad)} hold NaN or infinity, e.g. {bad[0]}", fix)
    return Check("weights are whole", True, f"{len(engine.model.state_dict())} tensors, all finite")


def _looks(engine: Engine, untrained: bool) -> Check:
    judged, random, lora = parts_that_look_random(engine.model)
    name = "weights look trained"
    if untrained and (lora or random) and set(random) <= {"connector"}:
        return Check(name, None, "not yet: the recipe has not been run")
    if random:
        found = f"most matrices of the {' and the '.join(random)} look freshly initialised"
        return Check(name, False, found, "load trained weights into that part, or train it")
    if lora:
        fix = "if LoRA was trained, its checkpoint was not loaded: look for its tensors in the folder"
        return Check(name, False, "LoRA adds nothing: its second matrices are all zero", fix)
    if not judged:
        return Check(name, None, "all matrices are too small to tell")
    return Check(name, True, f"rows and columns of {judged} matrices differ as trained ones do")


def _base_or_chat(engine: Engine) -> Check:
    """A base model that is asked as a chat model answers badly, and the other way round; nothing fails."""
    origin = engine.processor.template_from
    return Check("base or chat", None, in_words(engine.model.config.role_markers, origin))


def _round_trip(engine: Engine) -> Check:
    """The prompt begins the training text, which has the answer and its end as labels."""
    processor, name = engine.processor, "template round trip"
    fix = "look at the chat template: what it writes around turns, and where it ends them"
    asked = _about(knocks(1.0))
    prompt = processor.batch([asked])["input_ids"][0].tolist()
    slots = prompt.count(engine.model.config.audio_token_id)
    wanted = engine.model.config.num_audio_tokens(SAMPLE_RATE)
    if slots != wanted:
        return Check(name, False, f"{slots} audio slots for {wanted} audio tokens", fix)
    try:
        learned = check_learned(processor)
    except AnswerEndError as error:
        return Check(name, False, str(error), fix)
    end = written_end(processor.tokenizer, str(processor.chat_template))
    shown = processor.tokenizer.convert_ids_to_tokens(end)
    if end not in engine.ends():
        return Check(name, False, f"generation does not stop at {shown}, which ends an answer", fix)
    counts = f"{len(prompt)} tokens of prompt, {slots} of them audio, {learned} learned"
    return Check(name, True, f"{counts}; an answer ends with {shown}")


def _batch(engine: Engine, side: str) -> Check:
    """Rows of a padded batch against the same rows alone."""
    name, rows = f"batch equals single, padded {side}", _rows()
    together = _view(engine, rows, side)
    alone = [_view(engine, [row], side) for row in rows]
    audio = max(_apart(a.tokens[0], b) for a, b in zip(alone, together.tokens, strict=True))
    text = max(_apart(a.logits[0], b) for a, b in zip(alone, together.logits, strict=True))
    found = f"audio tokens differ by {audio:.1g}, logits by {text:.1g} of their spread"
    if audio > _limit(engine):
        return Check(
            name, False, found, "the encoder or connector hears padding: check its lengths and masks"
        )
    fix = "" if text <= _limit(engine) else "check the attention mask and positions of padded rows"
    return Check(name, not fix, found, fix)


def _replies(engine: Engine) -> Check:
    """Whole answers through the engine, in batches and alone: 96 questions, or as many as a minute allows."""
    name, options, clips = "batch answers equal single ones", Options(max_new_tokens=ANSWER_TOKENS), _clips()
    began, asked, other = time.perf_counter(), 0, 0
    for question in QUESTIONS:
        rows = [ask([clip], question) for clip in clips]
        together = engine.reply(rows, options)
        for row, reply in zip(rows, together, strict=True):
            asked += 1
            other += engine.reply([row], options)[0].text != reply.text
        if time.perf_counter() - began > ANSWERS_S:
            break
    found = f"{asked - other} of {asked} answers are the same"
    if not other:
        return Check(name, True, found)
    fix = "generation of padded rows is wrong: see the lines above; if they are right, rounding goes further "
    return Check(name, False, found, fix + "than TOLERANCE in lalm/models/alone.py says")


def _clips() -> list[np.ndarray]:
    """Eight sounds of different lengths."""
    sounds = [make(seconds) for make in (knocks, siren, rain) for seconds in (0.7, 2.0)]
    return [*sounds, 0 * rain(1.0), np.concatenate([knocks(1.0), siren(2.0)])]


def _order(engine: Engine) -> Check:
    name, first, second = "order of clips matters", knocks(), siren()
    try:
        one = _view(engine, [_about(first, second)])
        other = _view(engine, [_about(second, first)])
    except ValueError as error:
        return Check(name, None, f"several clips are refused: {error}")
    apart = _apart(one.logits[0], other.logits[0])
    found = f"swapping two clips moves the logits by {apart:.2g} of their spread"
    fix = "" if apart > _limit(engine) else "the clips are mixed up or merged on their way to their places"
    return Check(name, not fix, found, fix)


def _matters(engine: Engine) -> Check:
    views = [_view(engine, [_about(clip)]) for clip in (knocks(3.0), siren(3.0), rain(3.0), 0 * rain(3.0))]
    audio = min(_apart(views[0].tokens[0], view.tokens[0]) for view in views[1:])
    text = min(_apart(views[0].logits[0], view.logits[0]) for view in views[1:])
    found = f"other audio moves the audio tokens by {audio:.2g}, the logits by {text:.2g} of their spread"
    fix = ""
    if audio <= _limit(engine):
        fix = "the encoder gives the same for every sound: check its weights and the scale of its input"
    elif text <= _limit(engine):
        fix = "the LLM does not attend to the audio tokens: check places and scale, train the connector"
    return Check("audio matters", not fix, found, fix)


def _odd_audio(engine: Engine) -> Check:
    """Silence, loud noise, a constant, a tenth of a second."""
    clips = {
        "silence": 0 * rain(3.0),
        "full-scale noise": rain(3.0, 1.0),
        "a constant": 0 * rain(1.0) + 0.5,
        "0.1 s": rain(0.1),
    }
    refused = []
    for what, clip in clips.items():
        try:
            view = _view(engine, [_about(clip)])
        except ValueError as error:
            refused.append(f"{what} is refused ({error})")
            continue
        if not bool(view.logits.isfinite().all()):
            fix = "guard the encoder's normalisation against zero variance, and logarithms against zero"
            return Check("silence and noise", False, f"{what} gives logits that are not finite", fix)
    return Check("silence and noise", True, "; ".join(refused) or f"{', '.join(clips)}: all answered")


def _long(engine: Engine) -> Check:
    """The last two seconds of a long clip must change the last audio tokens."""
    name = f"{LONG_S:.0f} s are heard to the end"
    whole = np.concatenate([siren(LONG_S / 2), rain(LONG_S / 2)])
    other = whole.copy()
    other[-int(END_S * SAMPLE_RATE) :] = knocks(END_S)
    (heard,) = engine.heard(_about(whole))
    if heard.seconds_heard < heard.seconds_given - 0.1:
        fix = "the system cuts audio: split clips yourself, or turn its limit off"
        return Check(name, False, f"only {heard.seconds_heard:.1f} s are heard", fix)
    try:
        one, changed = _view(engine, [_about(whole)]), _view(engine, [_about(other)])
    except ValueError as error:
        return Check(name, None, f"refused: {error}")
    tokens = one.tokens[0]
    moved = (tokens - changed.tokens[0]).square().mean(1).sqrt() / tokens.std(correction=0).clamp(min=1e-12)
    places = (moved > _limit(engine)).nonzero()[:, 0]
    end = 1 - 2 * END_S / LONG_S  # where the change may begin to be looked for, as a share of the clip
    if not len(places) or float(places[-1] + 1) / len(tokens) < end:
        fix = "the encoder's windows end too early: look at the system's num_audio_tokens and its windows"
        return Check(name, False, "a change in the last two seconds changes no late audio token", fix)
    apart = _apart(one.logits[0], changed.logits[0])
    return Check(
        name, True, f"{len(tokens)} audio tokens; the last {END_S:.0f} s move the logits by {apart:.2g}"
    )


def _overflow(engine: Engine) -> Check:
    """Largest activation anywhere, on loud audio, beside what the dtype holds."""
    name, worst, broken = "no overflow", (0.0, ""), list[str]()

    def watch(place: str) -> Callable[[nn.Module, object, object], None]:
        def look(module: nn.Module, given: object, made: object) -> None:
            nonlocal worst
            if isinstance(made, Tensor) and made.is_floating_point() and made.numel():
                if not bool(made.isfinite().all()):
                    broken.append(place)
                else:
                    share = float(made.abs().max()) / torch.finfo(made.dtype).max
                    worst = max(worst, (share, place))

        return look

    leaves = [(n, m) for n, m in engine.model.named_modules() if not any(True for _ in m.children())]
    hooks = [module.register_forward_hook(watch(place)) for place, module in leaves]
    try:
        _view(engine, [_about(rain(3.0, 1.0), siren())])
    finally:
        for hook in hooks:
            hook.remove()
    fix = "load the model in bfloat16 or float32"
    if broken:
        return Check(name, False, f"{broken[0]} gives NaN or infinity on loud audio", fix)
    found = f"the largest activation is {worst[0]:.1g} of what its dtype holds, in {worst[1]}"
    return Check(name, worst[0] < 0.5, found, "" if worst[0] < 0.5 else fix)


def _speed(engine: Engine) -> Check:
    began = time.perf_counter()
    (reply,) = engine.reply([_about(siren(10.0))], Options(max_new_tokens=24))
    took = time.perf_counter() - began
    process = psutil.Process().memory_info().rss
    found = f"first word of a 10 s clip after {reply.first_token_s:.1f} s, {reply.tokens_per_s:.1f} tokens/s"
    found += f" ({took:.1f} s in all), {process / 2**30:.1f} GiB of memory"
    if engine.model.device.type == "cuda":
        found += f" and {torch.cuda.max_memory_allocated(engine.model.device) / 2**30:.1f} GiB on the GPU"
    return Check("speed and memory", None, found)


def _golden(engine: Engine, audio: Path, reference: Path) -> Check:
    if not isinstance(engine.model.model.audio_tower, EATEncoder):
        raise ValueError("a golden file is for models with an EAT encoder, and this one has none")
    name = "EAT gives the released frames"
    if "encoder" not in engine.model.config.parts:
        return Check(name, None, "the model keeps its encoder inside and does not name its folder")
    worst = check_eat(resolve(engine.model.config.parts["encoder"]), audio, reference)
    found = f"largest difference {worst:.2g}"
    fix = (
        ""
        if worst <= EAT_TOLERANCE
        else "these are other weights, or another recording, than the reference's"
    )
    return Check(name, not fix, found, fix)

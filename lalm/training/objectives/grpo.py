"""Group relative policy optimisation: answers are drawn in groups and rewarded by what can be checked.

Of each prompt G answers are drawn; an answer's advantage is how much better it is than its group,

    A_i = (r_i - mean r) / (std r + 1e-4)

(DeepSeekMath, arXiv 2402.03300, section 4.1; TRL's constant), and the loss of its tokens is

    -min(w A, clip(w, 1 - low, 1 + high) A) + kl * (exp(ref - p) - (ref - p) - 1)

with w the ratio of a token's probability to that when it was drawn. Variants: ``dr_grpo`` (arXiv 2503.20783)
neither divides by the deviation nor by the answers' own lengths; ``gspo`` (arXiv 2507.18071) takes one ratio
an answer, the geometric mean of its tokens'; ``dapo`` (arXiv 2503.14476) averages over all tokens.
Questions that the model answers rightly without hearing teach it nothing about hearing: ``unheard_weight``
says what they count (AudioMCQ, arXiv 2509.21060, leaves them out).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset
from transformers import BatchFeature

from lalm.data.sample import Sample
from lalm.models.loss import in_parts
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor
from lalm.training.batches import Batch, Batches, Collator
from lalm.training.objectives.dpo import check_adapter, frozen_copy, reference_model
from lalm.training.objectives.rewards import RewardError, check_rewardable, reward_of
from lalm.training.objectives.rollout_server import Server
from lalm.training.objectives.rollouts import Rollouts, draw, prompt_batch, row_seeds, unheard
from lalm.training.report import Report
from lalm.training.sections import Grpo
from lalm.training.trainer import Read, RecipeTrainer

SMALLEST_DEVIATION = 1e-4  # added to a group's deviation, as in TRL
RIGHT = 0.5  # a reward of the unheard prompt from which its question counts as answered
ROLLOUTS = "rollouts-{}.safetensors"  # of a checkpoint between two updates on the same answers, by process


def advantages(rewards: Tensor, group: int, loss: str) -> Tensor:
    """rewards: (P * G,) -> how much better each answer is than its group, (P * G,)."""
    grouped = rewards.view(-1, group)
    above = grouped - grouped.mean(1, keepdim=True)
    if loss != "dr_grpo":
        above = above / (grouped.std(1, keepdim=True) + SMALLEST_DEVIATION)
    return above.flatten()


def policy_loss(
    new: Tensor,
    old: Tensor,
    rows: Tensor,
    advantage: Tensor,
    settings: Grpo,
    reference: Tensor | None = None,
    weight: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of drawn answers and what is logged of it.

    new, old, reference: (R,) log-probabilities of all answers' tokens; rows: (R,) which of the B answers each
    is of; advantage: (B,); weight: (R,) what each counts, where another program drew them.
    """
    count = len(advantage)
    lengths = new.new_zeros(count).index_add(0, rows, torch.ones_like(new)).clamp(min=1)  # (B,)
    log_ratio = new - old
    if settings.loss == "gspo":
        log_ratio = (new.new_zeros(count).index_add(0, rows, log_ratio) / lengths)[rows]
    ratio, own = log_ratio.exp(), advantage[rows]
    low, high = settings.clip
    clipped = ratio.clamp(1 - low, 1 + high)
    losses = -torch.minimum(ratio * own, clipped * own)
    if weight is not None:
        losses = losses * weight
    found = {"clipped": ((ratio != clipped) & (clipped * own < ratio * own)).float().mean().detach()}
    if reference is not None:
        kl = (reference - new).exp() - (reference - new) - 1
        losses = losses + settings.kl * kl
        found["kl"] = kl.detach().mean()
    if settings.loss == "dr_grpo":
        return losses.sum() / (count * settings.max_new_tokens), found
    if settings.loss == "dapo":
        return losses.mean(), found
    return (new.new_zeros(count).index_add(0, rows, losses) / lengths).mean(), found


def token_log_probs(
    model: AudioLMForConditionalGeneration, hidden: Tensor, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and the entropy at its place, (R,) each, at the drawing temperature."""

    def part(states: Tensor, wanted: Tensor) -> Tensor:
        logits = model.logits(states) / temperature
        log_probs = logits.log_softmax(1)
        entropy = -(log_probs.detach().exp() * log_probs.detach()).sum(1)
        return torch.stack([log_probs.gather(1, wanted[:, None])[:, 0], entropy], 1)

    both = torch.cat(in_parts(part, model.config.text_config.vocab_size, hidden, targets))
    return both[:, 0], both[:, 1].detach()


class Repeated(Dataset[Batch]):
    """Batches each of which comes in ``updates`` optimizer steps of ``accumulation`` batches running."""

    def __init__(self, batches: Batches, accumulation: int, updates: int) -> None:
        self.mixture, self.purpose = batches.mixture, batches.purpose
        self._batches, self._accumulation, self._updates = batches, accumulation, updates

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Batch:
        step, part = divmod(index, self._accumulation)
        return self._batches[step // self._updates * self._accumulation + part]


@dataclass
class Kept:
    """Drawn answers for as many updates as they serve.

    rows: their batch; advantage: (B,); old: (R,) log-probabilities of their tokens when they were drawn, or
    empty, where they serve once; weight: (R,) what each token counts, or empty, where all count alike.
    """

    rows: dict[str, Tensor]
    advantage: Tensor
    old: Tensor
    weight: Tensor


class GroupTrainer(RecipeTrainer):
    """The recipe's trainer with rewards; logs the reward, its parts, its spread within groups and more.

    ``spread`` is the share of groups whose answers differ in reward: the others teach nothing. Validation
    rewards one greedy answer a prompt; its loss is 1 minus the mean reward.
    """

    def __init__(self, settings: Grpo, **others: Any) -> None:
        super().__init__(**others)
        self.model_accepts_loss_kwargs = False  # the loss is a mean over answers
        self._grpo = settings
        self._rewards = [(reward, reward_of(reward)) for reward in settings.rewards]
        self._kept: dict[int, Kept] = {}  # by part of the step
        self._server = None
        if settings.rollouts is not None:
            self._server = Server(settings.rollouts, self._processor, settings, self._out)
        if any(parameter.requires_grad for parameter in self.model.model.audio_tower.parameters()):
            raise RewardError("grpo: answers are drawn from frames that stay, so the encoder cannot train")
        self._copy: AudioLMForConditionalGeneration | None = None
        if settings.kl > 0 and settings.reference == "copy":
            self._copy = frozen_copy(self.model)
        elif settings.kl > 0:
            check_adapter(self.model)
        self._part, self._told = 0, -1

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a step's answers; of validation, 1 minus the mean reward of the likeliest answers."""
        plain, settings = self.model, self._grpo
        samples, clips = inputs["samples"], inputs["clips"]
        prompts = {k: v for k, v in inputs.items() if k not in ("samples", "clips", "labels")}
        if not plain.training:
            loss = self._validate(prompts, samples, clips)
            return (loss, {}) if return_outputs else loss
        step, part = self.state.global_step, self._next_part()
        if step % settings.updates == 0 or part not in self._kept:
            self._kept[part] = self._drawn(prompts, samples, clips, step, part)
        kept = self._kept[part]
        rows, old = kept.rows, kept.old
        reference = self._log_probs(rows, reference=True) if settings.kl > 0 else None
        found: dict[str, Tensor] = {}

        def answer_loss(hidden: Tensor, targets: Tensor, owners: Tensor) -> Tensor:
            new, entropy = token_log_probs(plain, hidden, targets, settings.temperature)
            before = new.detach() if not len(old) else old
            weight = kept.weight if len(kept.weight) else None
            loss, told = policy_loss(new, before, owners, kept.advantage, settings, reference, weight)
            found.update(told, entropy=entropy.mean())
            return loss

        loss = model(**rows, answer_loss=answer_loss).loss
        for name, value in found.items():
            self.note(name, float(value))
        return (loss, {}) if return_outputs else loss

    def _next_part(self) -> int:
        """Which of a step's accumulated batches this one is."""
        if self._told != self.state.global_step:
            self._told, self._part = self.state.global_step, 0
        else:
            self._part += 1
        return self._part

    @torch.no_grad()
    def _drawn(
        self,
        prompts: dict[str, Tensor],
        samples: Sequence[Sample],
        clips: Sequence[int],
        step: int,
        part: int,
    ) -> Kept:
        """New answers, drawn here or by a server."""
        settings = self._grpo
        place = (step * self.args.gradient_accumulation_steps + part) * self.args.world_size
        seeds = row_seeds(self.args.seed, place + self.args.process_index, len(samples) * settings.group)
        if self._server is not None:
            if part == 0 and self.args.process_index == 0:
                self._server.load(self.model)
            self.accelerator.wait_for_everyone()
            drawn = self._server.draw(self.model, prompts, samples, clips, seeds)
        else:
            drawn = self._answers(prompts, clips, settings.group, seeds)
        rewards = self._rewarded(samples, drawn, settings.group)
        advantage = advantages(rewards, settings.group, settings.loss)
        advantage = advantage * self._counts(samples).repeat_interleave(settings.group)
        if settings.drop_cut:
            advantage = advantage * (1 - torch.tensor(drawn.cut, dtype=torch.float32))
        self._note_groups(samples, drawn, rewards)
        old, weight = torch.zeros(0), torch.zeros(0)
        if settings.updates > 1 or drawn.log_probs is not None:
            old = self._log_probs(drawn.batch, reference=False)
        if drawn.log_probs is not None and settings.rollouts is not None:
            gap = old - drawn.log_probs.to(old.device)
            weight = gap.exp().clamp(max=settings.rollouts.cap)
            self.note("sampler_gap", float(gap.abs().mean()))
        return Kept(drawn.batch, advantage.to(self.args.device), old, weight)

    def _answers(
        self, prompts: Mapping[str, Tensor], clips: Sequence[int], group: int, seeds: Sequence[int] | None
    ) -> Rollouts:
        """Drawn answers, or without seeds the likeliest."""
        drawing = self._grpo if seeds else self._grpo.model_copy(update={"temperature": 0.0})
        own = seeds or [0] * len(clips) * group
        return draw(
            self.model, self._processor, prompts, clips, group, drawing, self._grpo.max_new_tokens, own
        )

    def _rewarded(self, samples: Sequence[Sample], drawn: Rollouts, group: int) -> Tensor:
        """The weighted sum of the rewards of each answer, (P * G,); notes the mean of each."""
        total = torch.zeros(len(drawn.texts))
        for settings, reward in self._rewards:
            values: list[float] = []
            for i, sample in enumerate(samples):
                values += reward(sample, drawn.texts[i * group : (i + 1) * group])
            given = torch.tensor(values)
            if not bool(given.isfinite().all()):
                raise RewardError(f"grpo.rewards: '{settings.name}' gave {values} instead of numbers")
            self.note(f"reward_{settings.label}", float(given.mean()))
            total += settings.weight * given
        if self._grpo.overlong:  # the last tokens before the limit cost more and more (DAPO, equation 13)
            lengths = (drawn.batch["labels"] >= 0).sum(1).cpu()
            allowed = self._grpo.max_new_tokens - self._grpo.overlong
            total -= ((lengths - allowed) / self._grpo.overlong).clamp(0, 1)
        return total

    def _counts(self, samples: Sequence[Sample]) -> Tensor:
        """What each prompt counts, (P,): less where the model answers it rightly without hearing."""
        settings = self._grpo
        counts = torch.ones(len(samples))
        if settings.unheard_weight == 1:
            return counts
        heard_by_none = [unheard(sample) for sample in samples]
        batch = self._processor.batch(heard_by_none, audios=[()] * len(samples)).to(self.args.device)
        blind = self._answers(batch, [0] * len(samples), 1, None)
        right = torch.zeros(len(samples))
        _, reward = self._rewards[0]
        for i, sample in enumerate(samples):
            right[i] = reward(sample, blind.texts[i : i + 1])[0]
        self.note("unheard", float((right >= RIGHT).float().mean()))
        return torch.where(right >= RIGHT, settings.unheard_weight, counts)

    def _note_groups(self, samples: Sequence[Sample], drawn: Rollouts, rewards: Tensor) -> None:
        groups = rewards.view(len(samples), -1)
        self.note("reward", float(rewards.mean()))
        self.note("spread", float((groups.amax(1) - groups.amin(1) > 1e-6).float().mean()))
        self.note("cut", sum(drawn.cut) / len(drawn.cut))
        self.note("tokens", float((drawn.batch["labels"] >= 0).sum(1).float().mean()))
        step = self.state.global_step + 1
        report = next((c for c in self.callback_handler.callbacks if isinstance(c, Report)), None)
        if (
            report is not None
            and self.args.should_save
            and (step == 1 or step % self.args.logging_steps == 0)
        ):
            size = groups.shape[1]
            shown = {"id": samples[0].id, "answers": drawn.texts[:size], "rewards": groups[0].tolist()}
            report.write(step, {"drawn": [shown]})

    @torch.no_grad()
    def _log_probs(self, rows: Mapping[str, Tensor], *, reference: bool) -> Tensor:
        """Log-probabilities (R,) of the answers' tokens, by the model as it is or by the reference."""
        found: list[Tensor] = []

        def kept(model: AudioLMForConditionalGeneration) -> None:
            def loss(hidden: Tensor, targets: Tensor, owners: Tensor) -> Tensor:
                found.append(token_log_probs(model, hidden, targets, self._grpo.temperature)[0])
                return hidden.new_zeros(())

            model(**rows, answer_loss=loss)

        if not reference:
            kept(self.model)
        else:
            with reference_model(self.model, self._copy) as other:
                kept(other)
        return found[0]

    @torch.no_grad()
    def _validate(
        self, prompts: dict[str, Tensor], samples: Sequence[Sample], clips: Sequence[int]
    ) -> Tensor:
        drawn = self._answers(prompts, clips, 1, None)
        rewards = self._rewarded(samples, drawn, 1)
        self.note("reward", float(rewards.mean()))
        return 1 - rewards.mean()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self._grpo.updates > 1 and self.state.global_step % self._grpo.updates:
            rank, count = self.args.process_index, self.args.world_size
            tensors = {
                f"{part * count + rank}.{name}": value.contiguous()
                for part, kept in self._kept.items()
                for name, value in {**kept.rows, **_tensors(kept)}.items()
            }
            folder = Path(output_dir or self._out)
            folder.mkdir(parents=True, exist_ok=True)  # each process has answers of its own
            save_file(tensors, folder / ROLLOUTS.format(rank))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        found: dict[int, dict[str, Tensor]] = {}
        for file in sorted(Path(resume_from_checkpoint).glob(ROLLOUTS.format("*").replace("-", ""))):
            for key, value in load_file(file).items():
                number, _, name = key.partition(".")
                part, rank = divmod(int(number), self.args.world_size)
                if rank == self.args.process_index:
                    found.setdefault(part, {})[name] = value.to(self.args.device)
        for at, rows in found.items():
            own = {name: rows.pop(name) for name in ("advantage", "old", "weight")}
            self._kept[at] = Kept(rows, **own)


def _tensors(kept: Kept) -> dict[str, Tensor]:
    return {"advantage": kept.advantage, "old": kept.old, "weight": kept.weight}


def group_collator(processor: AudioLMProcessor, read: Read, settings: Grpo) -> Collator:
    """Batches of prompts, with their samples for the rewards; samples that lack what a reward needs are left
    out by name."""

    def render(samples: Sequence[Sample], audios: Sequence[Any]) -> BatchFeature:
        for sample in samples:
            check_rewardable(settings.rewards, sample, sample.id or "a sample")
        batch = prompt_batch(processor, samples, audios)
        batch["labels"] = torch.full_like(batch["input_ids"], -100)  # nothing is learned word for word
        return BatchFeature(batch)

    return Collator(processor, read, render)

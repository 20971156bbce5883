"""Stage 0 of APT (sections 3.3 and A.1): trains the aligner on captions, without an LLM.

Three losses of equal weight, of a batch of clips and their captions, in two passes of the aligner::

    pass 1  [queries | caption | caption'] with a mask: queries see queries (and, across, the audio);
            the caption sees itself, both ways; caption', which opens with [DEC], sees queries and its past
              queries x caption's [CLS]  -> ATC: which caption belongs to which clip
              caption'                   -> AGTG: the caption, token by token
    pass 2  [queries | caption], all see all, for B true pairs and 2 B false ones
              mean over the queries      -> ATM: does the caption fit the clip?

Masks are additive float32 of four dimensions: a boolean one would be added as 0 and 1 by the plain attention
of transformers' Q-Former, silently. False pairs are drawn by similarity; two samples with the same clip or
the same caption are never a false pair, and are both right for ATC.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.distributed
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize
from transformers import BatchFeature

from lalm.data.audio_inputs import CachedFrames, Clip
from lalm.data.messages import part_choice
from lalm.data.sample import Sample
from lalm.models.modeling import IGNORE_INDEX
from lalm.models.processing import AudioLMProcessor, pad_audio
from lalm.systems.apt.model import AlignmentHeads, APTConnector

Encode: TypeAlias = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]

CAPTION_TOKENS = 32  # code
SMOOTHING = 0.1  # of the labels of ATC and AGTG; code
LOSSES = ("loss", "atc", "atm", "agtg")


class Alignment(nn.Module):
    """A connector with the heads of stage 0, as one module that gives the losses of a batch.

    ``encode`` is what makes frames of audio, ``AudioLMModel.encode``; it is not trained here.
    """

    def __init__(self, connector: APTConnector, encode: Encode) -> None:
        super().__init__()
        connector.add_heads()
        self.connector = connector
        self._encode = encode

    @property
    def heads(self) -> AlignmentHeads:
        """The connector's."""
        assert self.connector.heads is not None
        return self.connector.heads

    def forward(
        self,
        captions: Tensor,
        caption_mask: Tensor,
        keys: Tensor,
        input_values: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        frames: Tensor | None = None,
        frame_lengths: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """captions, caption_mask: (B, L) int64, [CLS] first; keys: (B, 2) int64, who clip and caption are.

        Audio as for ``AudioLMModel.embed``. -> atc, atm, agtg, their sum loss, and the embeddings audio
        (B, Q, E) and text (B, E). In several processes every one must hold as many clips.
        """
        if frames is None or frame_lengths is None:
            assert input_values is not None, "give frames or input_values"
            with torch.no_grad():
                frames, frame_lengths = self._encode(input_values, audio_lengths)
        heard, inside = first_segment(self.connector, frames, frame_lengths)
        queries, text, generated = self.pass_1(heard, inside, captions, caption_mask)
        audio_vectors, text_vectors = self.embeddings(queries, text)
        sides = self.similarities(audio_vectors, text_vectors)
        same = same_pairs(keys, gathered(keys))
        atc = contrastive_loss(*sides, same)
        atm = self.matching_loss((heard, inside), (captions, caption_mask), sides, same)
        agtg = self.generation_loss(generated, captions, caption_mask)
        losses = {"loss": atc + atm + agtg, "atc": atc, "atm": atm, "agtg": agtg}
        return losses | {"audio": audio_vectors, "text": text_vectors}

    def pass_1(
        self, heard: Tensor, inside: Tensor, captions: Tensor, caption_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs of the queries (B, Q, H), of the caption (B, L, H) and of the one to generate (B, L, H)."""
        connector, length = self.connector, captions.shape[1]
        size = connector.queries.shape[1]
        opened = captions.clone()
        opened[:, 0] = connector.config.aligner["vocab_size"] - 1  # [DEC]
        positions = torch.arange(length, device=captions.device).repeat(2)[None].expand(len(captions), -1)
        output = connector.aligner(
            input_ids=torch.cat([captions, opened], dim=1),
            attention_mask=joint_mask(caption_mask, size),
            position_ids=positions,
            query_embeds=connector.queries.expand(len(heard), -1, -1),
            encoder_hidden_states=heard,
            encoder_attention_mask=inside.long(),
        ).last_hidden_state
        queries, text, generated = output.split([size, length, length], dim=1)
        return queries, text, generated

    def embeddings(self, queries: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of the clips' queries, (B, Q, E), and of the captions' [CLS], (B, E)."""
        return normalize(self.heads.audio(queries), dim=-1), normalize(self.heads.text(text[:, 0]), dim=-1)

    def similarities(self, audio: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Own clips against all captions, and own captions against all clips: (B, N) each."""
        audio_side = likeness(audio, gathered(text))
        text_side = likeness(gathered(audio), text).T
        return audio_side / self.heads.temperature, text_side / self.heads.temperature

    def matching_loss(
        self,
        audio: tuple[Tensor, Tensor],
        text: tuple[Tensor, Tensor],
        sides: tuple[Tensor, Tensor],
        same: Tensor,
    ) -> Tensor:
        """ATM: true pairs, each clip with a false caption and each caption with a false clip.

        A sample that shares clip or caption with all others has no false pairs.
        """
        rows = (~same.all(1)).nonzero()[:, 0]
        false_text, false_audio = (draw_false(side, same, rows) for side in sides)
        heard, inside = (torch.cat([x, x[rows], gathered(x)[false_audio]]) for x in audio)
        ids, mask = (torch.cat([x, gathered(x)[false_text], x[rows]]) for x in text)
        outputs = self.connector.align(heard, inside, ids, mask)  # (B + 2 R, Q, H)
        true = torch.arange(len(ids), device=ids.device) < len(same)
        return cross_entropy(self.heads.match(outputs).mean(1), true.long())

    def generation_loss(self, generated: Tensor, captions: Tensor, caption_mask: Tensor) -> Tensor:
        """AGTG: every token of the caption from the queries and the tokens before it."""
        table = self.connector.aligner.get_input_embeddings().weight
        logits = linear(self.heads.transform(generated[:, :-1]), table, self.heads.bias)  # (B, L - 1, V)
        targets = captions.masked_fill(caption_mask == 0, IGNORE_INDEX)[:, 1:]
        return cross_entropy(
            logits.flatten(0, 1), targets.flatten(), label_smoothing=SMOOTHING, ignore_index=IGNORE_INDEX
        )


def joint_mask(caption_mask: Tensor, num_queries: int) -> Tensor:
    """caption_mask: (B, L) -> what is added to the attention of [queries | caption | caption'].

    (B, 1, Q + 2 L, Q + 2 L) float32: 0 where a row may see a column, the lowest number elsewhere.
    """
    batch, length = caption_mask.shape
    size, real = num_queries + 2 * length, caption_mask.bool()[:, None]
    q, c = slice(0, num_queries), slice(num_queries, num_queries + length)
    g = slice(num_queries + length, size)
    sees = torch.zeros(batch, size, size, dtype=torch.bool, device=caption_mask.device)
    sees[:, q, q] = True
    sees[:, c, c] = real
    sees[:, g, q] = True
    sees[:, g, g] = real & torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(sees.shape, device=sees.device).masked_fill(~sees, lowest)[:, None]


def contrastive_loss(audio_side: Tensor, text_side: Tensor, same: Tensor) -> Tensor:
    """ATC: cross-entropy both ways, (B, N) each; what is ``same`` shares the target."""
    targets = same / same.sum(1, keepdim=True)
    both = [cross_entropy(side, targets, label_smoothing=SMOOTHING) for side in (audio_side, text_side)]
    return (both[0] + both[1]) / 2


def likeness(audio: Tensor, text: Tensor) -> Tensor:
    """audio: (A, Q, E), text: (C, E), unit vectors -> cosine of the query nearest to each text, (A, C)."""
    return torch.einsum("aqe,ce->acq", audio, text).amax(2)


def same_pairs(own: Tensor, all_keys: Tensor) -> Tensor:
    """own: (B, 2), all_keys: (N, 2) -> True where two samples share clip or caption, (B, N)."""
    return (own[:, None] == all_keys[None]).any(2)


def draw_false(similarity: Tensor, same: Tensor, rows: Tensor) -> Tensor:
    """For each of ``rows`` one column that is not the same, the likelier the more similar: (R,) int64."""
    weights = similarity.detach()[rows].masked_fill(same[rows], -torch.inf).softmax(1)
    return torch.multinomial(weights, 1)[:, 0] if len(rows) else rows


def gathered(own: Tensor) -> Tensor:
    """The tensor's rows of all processes in their order, with gradients to every one of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return own
    if own.is_floating_point():
        return torch.cat(torch.distributed.nn.functional.all_gather(own))
    parts = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, own)
    return torch.cat(parts)


def first_segment(connector: APTConnector, frames: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The clips' frames as the aligner hears them, (B, T, W), and where there are any, (B, T).

    Of a longer clip the first segment counts: the code of the lineage cuts every clip to 1,024 mel frames.
    """
    segments, inside = connector.segments(frames, frame_lengths)
    return segments[:, 0], inside[:, 0]


def alignment_batch(
    processor: AudioLMProcessor, samples: Sequence[Sample], audios: Sequence[Sequence[Clip | CachedFrames]]
) -> BatchFeature:
    """Samples of one clip and its caption, the final assistant turn, as the keyword arguments of a step."""
    assert processor.instructions is not None, "the processor is of a system that hears no instructions"
    for sample, clips in zip(samples, audios, strict=True):
        if len(clips) != 1 or not sample.target.strip():
            raise ValueError(
                f"{sample.id or 'sample'}: alignment takes one clip and its caption, "
                f"not {len(clips)} clips and '{sample.target[:40]}'"
            )
    text = processor.instructions(
        [sample.target for sample in samples],
        padding="max_length",
        truncation=True,
        max_length=CAPTION_TOKENS,
        return_tensors="pt",
    )
    data: dict[str, Any] = {"captions": text["input_ids"], "caption_mask": text["attention_mask"]}
    data["keys"] = torch.tensor([[_clip_key(sample), _key(_words(sample.target))] for sample in samples])
    return BatchFeature(data | pad_audio([clip for (clip,) in audios]))


def recalls(audio: Tensor, text: Tensor, keys: Tensor, at: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Share of captions that find a right clip among the first ``at``, and of clips that find a caption.

    audio: (N, Q, E) and text: (N, E) as ``Alignment.embeddings`` gives them; keys: (N, 2).
    """
    scores, right = likeness(audio, text), same_pairs(keys, keys)  # (N, N) each
    found: dict[str, float] = {}
    for name, table in (("audio_to_text", scores), ("text_to_audio", scores.T)):
        order = table.argsort(dim=1, descending=True)
        hits = right.gather(1, order)  # (N, N): is the n-th nearest right?
        for k in at:
            found[f"{name}_recall_at_{k}"] = float(hits[:, :k].any(1).float().mean())
    return found


def _clip_key(sample: Sample) -> int:
    (part,) = sample.audios
    source = part["audio"]
    name = source if isinstance(source, bytes) else str(source).encode()
    return _key(f"{hashlib.sha256(name).hexdigest()} {part_choice(part)}")


def _words(caption: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in caption.lower()).split())


def _key(text: str) -> int:
    """63 bits that tell texts apart."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1

"""A Q-Former whose queries also read a clip's instruction (APT, arXiv 2312.00249, section 3.2)."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, InstructBlipQFormerConfig, InstructBlipQFormerModel

from lalm.errors import refuse_pickled_code
from lalm.models.connectors.contract import Shape
from lalm.models.connectors.queries import Queries


class InstructedQFormer(Queries):
    """Queries and the instruction's words see each other; queries alone see the frames.

    It starts from the BERT that ``init.aligner`` names, whose shape it must have: by default BERT-mini's.
    """

    hears_instructions: ClassVar[bool] = True

    def __init__(
        self,
        shape: Shape,
        segment_s: float = 10.24,
        num_queries: int = 32,
        width: int = 256,
        layers: int = 4,
        heads: int = 4,
        inner: int = 1024,
        vocabulary: int = 30_522,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(shape, segment_s, num_queries, width)
        self.norm = nn.LayerNorm(shape.frame_width)
        self.aligner = InstructBlipQFormerModel(
            InstructBlipQFormerConfig(
                vocab_size=vocabulary,
                hidden_size=width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=inner,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
                cross_attention_frequency=2,
                encoder_hidden_size=shape.frame_width,
            )
        )

    def forward(
        self,
        frames: Tensor,
        frame_lengths: Tensor,
        instruction_ids: Tensor | None = None,
        instruction_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """frames: (A, T, W), instructions (A, I) int64 -> tokens (A, stretches * queries, D)."""
        rows, held, there = self.segments(self.norm(frames), frame_lengths)
        queries = self.queries.expand(len(rows), -1, -1)
        told: dict[str, Any] = {"input_ids": None}
        if instruction_ids is not None and instruction_mask is not None:
            clips = there.nonzero()[:, 0]
            words, mask = instruction_ids[clips], instruction_mask[clips]  # (R, I)
            told["input_ids"] = words
            told["attention_mask"] = torch.cat([mask.new_ones(queries.shape[:2]), mask], dim=1)
            told["position_ids"] = torch.arange(words.shape[1], device=words.device)[None].expand_as(words)
        heard = self.aligner(
            query_embeds=queries,
            encoder_hidden_states=rows,
            encoder_attention_mask=held.long(),
            **told,
        ).last_hidden_state
        return self.tokens(heard[:, : self.num_queries], there)

    def start(self, folder: Path) -> None:
        """Take what the BERT in ``folder`` has; cross-attention, queries and projection stay new."""
        start_from_bert(self.aligner, folder)


def start_from_bert(aligner: nn.Module, folder: Path) -> None:
    """Fill a Q-Former's embeddings, self-attention and feed-forward layers with those of a BERT of its shape.

    Its queries start with the text's feed-forward layers. Raises ValueError for a folder without such a BERT.
    """
    if AutoConfig.from_pretrained(folder, trust_remote_code=False).model_type != "bert":
        raise ValueError(f"'{folder}' is no BERT: an aligner starts from one")
    with refuse_pickled_code(f"the weights in '{folder}'"):
        bert: Any = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    own = aligner.state_dict()
    for name, tensor in bert.state_dict().items():
        name = name.replace("LayerNorm", "layernorm") if name.startswith("embeddings.") else name
        name = name.replace(".attention.self.", ".attention.attention.")
        if name not in own:  # token types and the pooler, which a Q-Former lacks
            continue
        rows = slice(len(tensor)) if name == "embeddings.word_embeddings.weight" else slice(None)
        if own[name][rows].shape != tensor.shape:
            raise ValueError(
                f"the BERT in '{folder}' has {name} of shape {tuple(tensor.shape)}, the aligner "
                f"{tuple(own[name].shape)}: say so in the option 'aligner' (modular: connector_options)"
            )
        with torch.no_grad():
            own[name][rows] = tensor
            twin = name.replace(".intermediate.", ".intermediate_query.")
            if ".attention." not in name:
                twin = twin.replace(".output.", ".output_query.")
            own[twin][rows] = tensor

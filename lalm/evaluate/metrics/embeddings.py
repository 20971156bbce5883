"""Metrics that need an embedding model: sentence similarity and FENSE (Zhou et al. 2022), tagging by text.

Tagging is scored by a sentence encoder, or as APT has it by the text side of its own stage 0.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lalm.errors import refuse_pickled_code
from lalm.evaluate.metrics.intervals import Array

BATCH = 64
LONGEST_CAPTION = 64  # tokens of a caption that the error checker reads
ERROR_THRESHOLD, ERROR_COST = 0.9, 0.9  # FENSE: a caption that is surely broken keeps a tenth of its score


class SentenceEncoder:
    """A sentence-transformers folder of the common kind: a transformer, its tokens' mean, length 1."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        inner = next((p for p in (folder, folder / "0_Transformer") if (p / "config.json").is_file()), None)
        if inner is None:
            raise ValueError(f"'{folder}' is no sentence encoder: it has no config.json")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(inner, trust_remote_code=False)
        with refuse_pickled_code(f"the weights in '{inner}'"):
            opened: Any = AutoModel.from_pretrained(inner, dtype=torch.float32, trust_remote_code=False)
        self.model: Any = opened.eval()

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Array:
        """(texts, width) float32, each of length 1."""
        rows = []
        for start in range(0, len(texts), BATCH):
            batch = self.tokenizer(
                list(texts[start : start + BATCH]), padding=True, truncation=True, return_tensors="pt"
            )
            hidden = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
            rows.append(torch.nn.functional.normalize(mean, dim=1).numpy())
        return np.concatenate(rows)


class AlignerTexts:
    """The text side of an APT of stage 0, whose states of an answer's tokens tag it (section 4.2).

    The rest is its lineage's code: a class is the mean of its name's states, and the answer's best token
    counts.
    """

    def __init__(self, folder: Path) -> None:
        from lalm.models.load import load_hearing

        hearing, tokenizer = load_hearing(folder)
        if tokenizer is None or not hearing.config.hears_instructions:
            raise ValueError(f"'{folder}' is no APT: its connector reads no text")
        self.connector: Any = hearing.connector.eval()
        self.tokenizer: Any = tokenizer

    @torch.no_grad()
    def states(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """States of each text's tokens without [CLS], (tokens, H); none of a text without words."""
        found = []
        for start in range(0, len(texts), BATCH):
            batch = list(texts[start : start + BATCH])
            settings = {"padding": True, "truncation": True, "max_length": 512, "return_tensors": "pt"}
            inputs = self.tokenizer(batch, **settings)
            hidden = self.connector.read_text(inputs["input_ids"], inputs["attention_mask"])
            for row, mask, text in zip(hidden, inputs["attention_mask"], batch, strict=True):
                kept = row[mask.bool()][1:] if text.strip() else row[:0]
                found.append(kept)
        return found

    def scores(self, answers: Sequence[str], classes: Sequence[str]) -> Array:
        """(answers, classes) float32: the cosine of a class and the answer's token nearest to it; an answer
        without words scores 0."""
        names = torch.stack([states.mean(0) for states in self.states(classes)])
        names = torch.nn.functional.normalize(names, dim=1)
        rows = [
            (torch.nn.functional.normalize(states, dim=1) @ names.T).amax(0)
            if len(states)
            else torch.zeros(len(names))
            for states in self.states(answers)
        ]
        return torch.stack(rows).numpy()


def similarities(
    encoder: SentenceEncoder, hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> Array:
    """Mean cosine of each caption with its references, (items,)."""
    said = encoder(hypotheses)
    flat = encoder([text for texts in references for text in texts])
    scores, at = np.zeros(len(said)), 0
    for i, texts in enumerate(references):
        scores[i] = (flat[at : at + len(texts)] @ said[i]).mean()
        at += len(texts)
    return scores


@torch.no_grad()
def broken(folder: Path, texts: Sequence[str]) -> Array:
    """Probability that each caption has an error, by a classifier of kinds of errors whose last output means
    any; outputs are independent, as the released error checker's, unless the folder's configuration says
    ``"problem_type": "single_label_classification"``."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    with refuse_pickled_code(f"the weights in '{folder}'"):
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False
        ).eval()
    exclusive = model.config.problem_type == "single_label_classification"
    rows = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(
            list(texts[start : start + BATCH]),
            padding=True,
            truncation=True,
            max_length=LONGEST_CAPTION,
            return_tensors="pt",
        )
        logits = model(**batch).logits  # (B, kinds)
        rows.append((logits.softmax(1) if exclusive else logits.sigmoid())[:, -1].numpy())
    return np.concatenate(rows)


def punished(scores: Array, error: Array) -> Array:
    """Each caption's score, a tenth of it where an error is likelier than 0.9 (FENSE of similarities,
    SPIDEr-FL of SPIDEr's)."""
    return scores * np.where(error > ERROR_THRESHOLD, 1 - ERROR_COST, 1.0)

"""The aligner of APT's lineage: one set of weights, the authors' outputs and stage 0 losses, and lalm's.

Fixture ``apt/``: the LAVIS fork of APT as anusfoil/LLaQo carries it, tiny; see README.md there.
"""

import json
import re

import pytest
import torch
from parity_fixtures import FIXTURES
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig

from lalm.models.conditioning import tokenised
from lalm.systems.apt.alignment import Alignment
from lalm.systems.apt.model import APTConfig, APTConnector

HERE = FIXTURES / "apt"
FACTS = json.loads((HERE / "outputs.json").read_text("utf-8"))
WANTED = load_file(HERE / "outputs.safetensors")
QUERIES, WIDTH, LLM = 4, 16, 24
ALIGNER = {
    **{"vocab_size": 67, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2},
    **{"intermediate_size": 32, "max_position_embeddings": 64},
}
NAMES = (  # theirs -> ours
    (r"query_tokens", "queries"),
    (r"ln_audio\.(\w+)", r"norm.\1"),
    (r"llm_proj\.(\w+)", r"projection.\1"),
    (r"audio_proj\.(\w+)", r"heads.audio.\1"),
    (r"text_proj\.(\w+)", r"heads.text.\1"),
    (r"itm_head\.(\w+)", r"heads.match.\1"),
    (r"temp", "heads.temperature"),
    (r"Qformer\.cls\.predictions\.transform\.dense\.(\w+)", r"heads.transform.0.\1"),
    (r"Qformer\.cls\.predictions\.transform\.LayerNorm\.(\w+)", r"heads.transform.2.\1"),
    (r"Qformer\.cls\.predictions\.bias", "heads.bias"),
    (r"Qformer\.bert\.embeddings\.LayerNorm\.(\w+)", r"aligner.embeddings.layernorm.\1"),
    (r"Qformer\.bert\.(embeddings\.\w+_embeddings\.weight)", r"aligner.\1"),
    (r"Qformer\.bert\.(encoder\.layer\.\d+\.(?:cross)?attention)\.self\.(.+)", r"aligner.\1.attention.\2"),
    (r"Qformer\.bert\.(encoder\.layer\..+)", r"aligner.\1"),
)
# Buffers, and two names of tensors that stand elsewhere: the decoder's matrix and its bias.
REPEATED = r"Qformer\.bert\.embeddings\.position_ids|Qformer\.cls\.predictions\.decoder\.(?:weight|bias)"


@pytest.fixture(scope="module")
def connector():
    """Ours, with every tensor of theirs in it."""
    model = APTConnector(
        APTConfig(
            audio_config={"model_type": "lalm_audio_mae", "hidden_size": WIDTH, "num_attention_heads": 2},
            text_config=LlamaConfig(hidden_size=LLM, num_attention_heads=2),
            num_queries=QUERIES,
            aligner=ALIGNER,
            alignment=True,
        )
    )
    state = {}
    for name, value in load_file(HERE / "checkpoint.safetensors").items():
        if not re.fullmatch(REPEATED, name):
            state[next(re.sub(p, r, name) for p, r in NAMES if re.fullmatch(p, name))] = value
    report = model.load_state_dict(state, strict=False)
    assert not report.unexpected_keys
    own = [n for n in report.missing_keys if not n.endswith(("frame_mean", "frame_scale", "position_ids"))]
    assert own == ["audio_token"]  # in theirs a parameter of the LLM's side
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(HERE / "bert")


def heard(frames):
    return frames, torch.full((len(frames),), frames.shape[1])


def test_instructed_queries_are_the_authors(connector, tokenizer):
    frames, lengths = heard(WANTED["frames"])
    text = tokenised(FACTS["instructions"], tokenizer, 128)
    assert torch.equal(text["instruction_ids"], WANTED["instruction_ids"])
    assert torch.equal(text["instruction_mask"], WANTED["instruction_mask"])
    with torch.no_grad():
        segments, inside = connector.segments(frames, lengths)
        queries = connector.align(segments[:, 0], inside[:, 0], *text.values())
        tokens, counts = connector(frames, lengths, **text)
    torch.testing.assert_close(queries, WANTED["instructed"], atol=1e-5, rtol=1e-4)
    assert counts.tolist() == [1 + QUERIES] * 2
    torch.testing.assert_close(tokens[:, 1:], WANTED["instructed.tokens"], atol=1e-5, rtol=1e-4)


def test_a_long_instruction_is_heard_as_the_authors_hear_it(connector, tokenizer):
    frames, lengths = heard(WANTED["frames"][:1])
    with torch.no_grad():
        segments, inside = connector.segments(frames, lengths)
        text = tokenised([FACTS["long"]], tokenizer, 128)
        queries = connector.align(segments[:, 0], inside[:, 0], *text.values())
    torch.testing.assert_close(queries, WANTED["long"], atol=1e-5, rtol=1e-4)


def test_stage_0_gives_the_authors_vectors_and_losses(connector, tokenizer):
    """Two clips: the only false pair of each is the other, so that nothing is drawn by chance."""
    text = tokenizer(
        FACTS["captions"], padding="max_length", truncation=True, max_length=16, return_tensors="pt"
    )
    assert torch.equal(text["input_ids"], WANTED["captions"])
    frames, lengths = heard(WANTED["frames"])
    stage = Alignment(connector, lambda audio, lengths: (audio, lengths)).eval()
    with torch.no_grad():
        found = stage(
            captions=text["input_ids"],
            caption_mask=text["attention_mask"],
            keys=torch.tensor([[1, 2], [3, 4]]),
            frames=frames,
            frame_lengths=lengths,
        )
    torch.testing.assert_close(found["audio"], WANTED["stage0.audio"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["text"], WANTED["stage0.text"], atol=1e-5, rtol=1e-4)
    losses = FACTS["losses"]
    assert float(found["atc"]) == pytest.approx(losses["loss_atc"], abs=1e-4)
    assert float(found["atm"]) == pytest.approx(losses["loss_atm"], abs=1e-4)
    assert float(found["agtg"]) == pytest.approx(losses["loss_lm"], abs=1e-4)
    assert float(found["loss"]) == pytest.approx(losses["loss"], abs=3e-4)

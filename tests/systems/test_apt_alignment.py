"""Stage 0: masks against separate passes, losses against plain formulas, negatives, several processes."""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from lalm.data.sample import Sample
from lalm.systems.apt import alignment
from lalm.systems.apt.alignment import (
    Alignment,
    alignment_batch,
    contrastive_loss,
    draw_false,
    joint_mask,
    recalls,
    same_pairs,
)
from lalm.systems.apt.model import APTConfig, APTConnector

SHAPE = {
    **{"vocab_size": 90, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2},
    **{"intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}


def learner() -> Alignment:
    torch.manual_seed(0)
    config = APTConfig(
        {"model_type": "lalm_whisper", "d_model": 16},
        text_config={"model_type": "llama", "hidden_size": 32},
        num_queries=4,
        aligner=SHAPE,
    )
    made = Alignment(APTConnector(config), no_audio).eval()
    for parameter in made.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return made


def no_audio(*_):
    raise AssertionError("the frames are there already")


def batch(size: int = 4) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    captions = torch.randint(5, 80, (size, 6))
    captions[:, 0] = 2
    mask = torch.ones_like(captions)
    captions[1, 4:], mask[1, 4:] = 0, 0
    return {
        "frames": torch.randn(size, 40, 16),
        "frame_lengths": torch.tensor([40, 25, 40, 31, 12, 40][:size]),
        "captions": captions,
        "caption_mask": mask,
        "keys": torch.stack([torch.arange(size), torch.arange(100, 100 + size)], dim=1),
    }


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_texts_alone_are_read_as_stage_0_reads_them(backend):
    made = learner()
    made.connector.aligner.set_attn_implementation(backend)
    b = batch()
    _, text, _ = made.pass_1(*heard(made, b), b["captions"], b["caption_mask"])
    alone = made.connector.read_text(b["captions"], b["caption_mask"])
    there = b["caption_mask"].bool()
    torch.testing.assert_close(alone[there], text[there], atol=1e-5, rtol=1e-5)
    row = made.connector.read_text(b["captions"][1:2, :4], b["caption_mask"][1:2, :4])
    torch.testing.assert_close(row[0], alone[1, :4], atol=1e-5, rtol=1e-5)


def heard(made, b):
    return alignment.first_segment(made.connector, b["frames"], b["frame_lengths"])


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_one_pass_equals_the_separate_passes(backend):
    made = learner()
    made.connector.aligner.set_attn_implementation(backend)
    b = batch()
    frames, inside = heard(made, b)
    queries, text, generated = made.pass_1(frames, inside, b["captions"], b["caption_mask"])
    alone = made.connector.align(frames, inside, None, None)
    torch.testing.assert_close(queries, alone, atol=1e-5, rtol=1e-4)
    only_text = made.connector.aligner(
        input_ids=b["captions"], attention_mask=b["caption_mask"]
    ).last_hidden_state
    real = b["caption_mask"].bool()
    torch.testing.assert_close(text[real], only_text[real], atol=1e-5, rtol=1e-4)
    for row in range(4):  # the caption so far, one token at a time: queries are read, and read no text
        for count in range(1, int(b["caption_mask"][row].sum()) + 1):
            so_far = b["captions"][row : row + 1, :count].clone()
            so_far[0, 0] = 89
            sees = torch.zeros(4 + count, 4 + count).fill_(torch.finfo(torch.float32).min)
            sees[:4, :4], sees[4:, :4] = 0, 0
            sees[4:, 4:] = torch.triu(sees[4:, 4:], diagonal=1)
            found = made.connector.aligner(
                input_ids=so_far,
                attention_mask=sees[None, None],
                query_embeds=made.connector.queries,
                encoder_hidden_states=frames[row : row + 1],
                encoder_attention_mask=inside[row : row + 1].long(),
            ).last_hidden_state[0, -1]
            torch.testing.assert_close(generated[row, count - 1], found, atol=1e-5, rtol=1e-4)


def test_nothing_leaks_through_the_mask():
    made = learner()
    b = batch()
    frames, inside = heard(made, b)
    before = made.pass_1(frames, inside, b["captions"], b["caption_mask"])
    other = b["captions"].clone()
    other[0, 3] = 50 if other[0, 3] != 50 else 51
    after = made.pass_1(frames, inside, other, b["caption_mask"])
    assert torch.equal(before[0], after[0])  # the queries see no text
    assert torch.equal(before[2][0, :3], after[2][0, :3])  # nor does a token see what comes after it
    assert not torch.allclose(before[2][0, 3:], after[2][0, 3:], atol=1e-3)
    quiet = made.pass_1(frames * 0, inside, b["captions"], b["caption_mask"])
    torch.testing.assert_close(before[1], quiet[1])  # the caption hears nothing
    assert not torch.allclose(before[2], quiet[2], atol=1e-3)


def test_the_mask_is_additive_float():
    mask = joint_mask(torch.tensor([[1, 1, 0]]), 2)
    assert mask.dtype == torch.float32 and mask.shape == (1, 1, 8, 8)
    shown = ["".join(".#"[int(x == 0)] for x in row) for row in mask[0, 0]]
    assert shown == [
        *["##......", "##......"],
        *["..##....", "..##....", "..##...."],
        *["##...#..", "##...##.", "##...##."],
    ]


def test_the_losses_are_the_plain_formulas(monkeypatch):
    made = learner()
    b = batch()
    drawn = iter([torch.tensor([1, 2, 3, 0]), torch.tensor([3, 0, 1, 2])])  # false captions, false clips
    monkeypatch.setattr(alignment, "draw_false", lambda *_: next(drawn))
    found = made(**b)
    frames, inside = heard(made, b)
    queries = made.connector.align(frames, inside, None, None)
    words = made.connector.aligner(
        input_ids=b["captions"], attention_mask=b["caption_mask"]
    ).last_hidden_state
    audio, text = (
        normalize(made.heads.audio(queries), dim=-1),
        normalize(made.heads.text(words[:, 0]), dim=-1),
    )
    table = torch.tensor([[max(float(q @ t) for q in clip) for t in text] for clip in audio]) / 0.07
    diagonal = torch.arange(4)
    atc = sum(cross_entropy(t, diagonal, label_smoothing=0.1) for t in (table, table.T)) / 2
    torch.testing.assert_close(found["atc"], atc, atol=1e-4, rtol=1e-4)
    logits = []
    for clip, caption in (
        [(i, i) for i in range(4)]
        + [(i, (i + 1) % 4) for i in range(4)]
        + [((i + 3) % 4, i) for i in range(4)]
    ):
        pair = (frames[[clip]], inside[[clip]], b["captions"][[caption]], b["caption_mask"][[caption]])
        logits.append(made.heads.match(made.connector.align(*pair)).mean(1)[0])
    atm = cross_entropy(torch.stack(logits), torch.tensor([1] * 4 + [0] * 8))
    torch.testing.assert_close(found["atm"], atm, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["loss"], found["atc"] + found["atm"] + found["agtg"])
    found["loss"].backward()
    silent = {name.removeprefix("connector.") for name, p in made.named_parameters() if p.grad is None}
    assert silent == {"audio_token", "projection.weight", "projection.bias"}  # they wait for the LLM


def test_captions_of_one_clip_and_clips_of_one_caption_are_no_false_pairs():
    keys = torch.tensor([[1, 10], [1, 11], [2, 10], [3, 12]])
    same = same_pairs(keys, keys)
    expected = torch.eye(4, dtype=torch.bool)
    for i, j in ((0, 1), (0, 2)):  # one clip, one caption
        expected[i, j] = expected[j, i] = True
    assert torch.equal(same, expected)
    torch.manual_seed(0)
    similar = torch.tensor([[9.0, 9, 9, -9]] * 4)
    drawn = torch.stack([draw_false(similar, same, torch.arange(4)) for _ in range(50)])
    assert set(drawn[:, 0].tolist()) == {3}
    assert set(drawn[:, 1].tolist()) == {2} and set(drawn[:, 2].tolist()) == {
        1
    }  # the likeliest of the others
    sides = torch.randn(2, 4, 4)
    plain = contrastive_loss(*sides, torch.eye(4, dtype=torch.bool))
    torch.testing.assert_close(
        plain, sum(cross_entropy(s, torch.arange(4), label_smoothing=0.1) for s in sides) / 2
    )
    made = learner()
    alone = batch() | {"keys": torch.zeros(4, 2, dtype=torch.long)}  # no false pair can be made
    assert all(torch.isfinite(value).all() for value in made(**alone).values())


def test_it_learns_which_caption_belongs_to_which_clip():
    made = learner()
    b = batch()
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        torch.manual_seed(0)
        found = made(**b)
        losses.append(found)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
    for name in ("atc", "atm", "agtg"):
        assert losses[-1][name] < 0.7 * losses[0][name], name
    frames, inside = heard(made, b)
    with torch.no_grad():
        queries, text, _ = made.pass_1(frames, inside, b["captions"], b["caption_mask"])
        found = recalls(*made.embeddings(queries, text), b["keys"], at=(1, 2))
    assert found["audio_to_text_recall_at_1"] == found["text_to_audio_recall_at_1"] == 1.0


def test_recall_counts_the_first_right_one():
    text = torch.eye(4)
    audio = torch.eye(4)[[1, 0, 2, 3]][:, None]  # the first two clips are mixed up
    keys = torch.arange(8).view(4, 2)
    found = recalls(audio, text, keys, at=(1, 4))
    assert found["audio_to_text_recall_at_1"] == 0.5 and found["audio_to_text_recall_at_4"] == 1.0
    same_caption = torch.tensor([[0, 9], [1, 9], [2, 3], [4, 5]])
    assert recalls(audio, text, same_caption, at=(1,))["text_to_audio_recall_at_1"] == 1.0


def test_a_batch_is_one_clip_and_its_caption_each(tiny, tmp_path):
    _, processor = tiny("apt")
    clip = {"type": "audio", "audio": torch.randn(8000).numpy(), "rate": 16_000}
    rows = [
        Sample(({"role": "user", "content": [clip]}, {"role": "assistant", "content": caption}))
        for caption in ("A dog barks.", "a dog barks", "Rain")
    ]
    made = alignment_batch(processor, rows, [processor.clips(row) for row in rows])
    assert made["captions"].shape == made["caption_mask"].shape == (3, 32)
    assert made["captions"][0, 0] == processor.instructions.cls_token_id
    keys = made["keys"]
    assert keys[0, 1] == keys[1, 1] != keys[2, 1] and len(set(keys[:, 0].tolist())) == 1
    with pytest.raises(ValueError, match="alignment takes one clip and its caption, not 1 clips and ''"):
        alignment_batch(processor, [rows[0].prompt()], [processor.clips(rows[0])])


def test_of_longer_clips_the_first_segment_is_heard():
    made = learner()
    b = batch() | {"frames": torch.randn(4, 1100, 16), "frame_lengths": torch.tensor([1100, 600, 512, 5])}
    cut = b | {"frames": b["frames"][:, :512], "frame_lengths": torch.tensor([512, 512, 512, 5])}
    torch.testing.assert_close(made(**b)["audio"], made(**cut)["audio"])


def of_rank(rank: int, place: str) -> None:
    expected = torch.load(f"{place}/expected.pt", weights_only=True)
    meeting = f"file://{place}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    made = learner()
    own = {name: value[rank * 2 : rank * 2 + 2] for name, value in batch().items()}
    frames, inside = heard(made, own)
    queries, text, _ = made.pass_1(frames, inside, own["captions"], own["caption_mask"])
    sides = made.similarities(*made.embeddings(queries, text))
    same = same_pairs(own["keys"], alignment.gathered(own["keys"]))
    loss = contrastive_loss(*sides, same)
    loss.backward()
    gradient = made.heads.audio.weight.grad / 2  # as DistributedDataParallel averages
    torch.distributed.all_reduce(gradient)
    torch.distributed.all_reduce(loss := loss.detach() / 2)
    torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradient, expected["gradient"], atol=1e-5, rtol=1e-4)
    torch.distributed.destroy_process_group()


def test_two_processes_are_one_batch(tmp_path, crew):
    made = learner()
    b = batch()
    frames, inside = heard(made, b)
    queries, text, _ = made.pass_1(frames, inside, b["captions"], b["caption_mask"])
    loss = contrastive_loss(
        *made.similarities(*made.embeddings(queries, text)), same_pairs(b["keys"], b["keys"])
    )
    loss.backward()
    expected = {"loss": loss.detach(), "gradient": made.heads.audio.weight.grad}
    torch.save(expected, tmp_path / "expected.pt")
    code = f"import os, test_apt_alignment as t; t.of_rank(int(os.environ['RANK']), {str(tmp_path)!r})"
    codes = crew(code, [{"RANK": rank} for rank in "01"], tmp_path / "said")
    assert codes == [0, 0], [(tmp_path / f"said{rank}").read_text()[-3000:] for rank in (0, 1)]

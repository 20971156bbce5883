"""What APT's paper and its lineage's code state: counts, segments, instructions, order, the context."""

import numpy as np
import pytest
import torch
from tiny_parts import OPTIONS
from transformers import AutoModel, AutoTokenizer

from lalm.cli import info
from lalm.data.sample import Sample, ask
from lalm.inference.engine import Engine, Options
from lalm.models.assemble import build_model
from lalm.models.conditioning import instructions, tokenised
from lalm.models.load import load_model
from lalm.models.save import save_model
from lalm.systems.apt.model import BERT_MINI, APTConfig, APTConnector
from lalm.systems.apt.prompts import FEW_SHOT

SECOND = 16_000


def clip(num_samples: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(num_samples) * 0.1
    return (noise + 0.3 * np.sin(np.arange(num_samples) * (0.02 + 0.01 * seed))).astype(np.float32)


def audio(num_samples: int, seed: int = 0) -> dict:
    return {"type": "audio", "audio": clip(num_samples, seed), "rate": SECOND}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def user(*parts: dict) -> Sample:
    return Sample(({"role": "user", "content": list(parts)},))


@pytest.fixture
def pair(tiny):
    torch.manual_seed(0)
    model, processor = tiny("apt")
    return model.eval(), processor


def test_parameters_are_the_papers_101_million():
    with torch.device("meta"):
        connector = APTConnector(APTConfig(text_config={"model_type": "llama", "hidden_size": 4096}))
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in connector.named_children()}
    assert round(counts["aligner"] / 1e6, 2) == 14.26 and counts["norm"] == 1536
    assert counts["projection"] == 257 * 4096 and connector.audio_token.numel() == 4096
    total = sum(p.numel() for p in connector.parameters())
    assert round(total / 1e6, 2) == 15.33
    found = info.of_system("apt")
    parts = {part.role: part.parameters for part in found.parts}
    classifier = 2 * 768 + 768 * 527 + 527  # of the finetuned Audio-MAE; nothing of APT's reads it
    assert parts["connector"] == total and round((parts["encoder"] + classifier) / 1e6, 2) == 85.66
    assert round((total + parts["encoder"] + classifier) / 1e6) == 101
    stage_0 = counts["aligner"] + counts["norm"] + connector.queries.numel()
    assert found.trainable_parameters == stage_0
    assert parts["llm"] == 6_738_415_616
    crossing = [layer.has_cross_attention for layer in connector.aligner.encoder.layer]
    assert crossing == [True, False, True, False]


@pytest.mark.parametrize(
    ("seconds", "count"), [(0.1, 33), (5, 33), (10.24, 33), (10.5, 65), (20.4, 65), (60, 193)]
)
def test_a_clip_is_33_tokens_and_32_for_every_further_segment(seconds, count):
    assert APTConfig().num_audio_tokens(round(seconds * SECOND)) == count


def test_segments_are_heard_apart_and_joined_in_time_order(pair):
    connector = pair[0].model.connector
    torch.manual_seed(0)
    frames = torch.randn(1, 1300, 16)
    ids = torch.tensor([[2, 7, 9, 3]])
    whole, lengths = connector(frames, torch.tensor([1300]), ids, torch.ones_like(ids))
    assert lengths.tolist() == [1 + 3 * 3]
    apart = [
        connector(part, torch.tensor([part.shape[1]]), ids, torch.ones_like(ids))[0]
        for part in frames.split(512, dim=1)
    ]
    torch.testing.assert_close(whole[:, :1], connector.audio_token)
    torch.testing.assert_close(whole[:, 1:], torch.cat([part[:, 1:] for part in apart], dim=1))


def test_the_instruction_changes_the_tokens_and_its_padding_does_not(pair):
    connector = pair[0].model.connector
    frames, lengths = torch.randn(3, 100, 16), torch.tensor([100, 100, 60])
    ids = torch.tensor([[2, 7, 9, 11, 3], [2, 8, 3, 0, 0], [2, 7, 9, 11, 3]])
    tokens, _ = connector(frames, lengths, ids, (ids > 0).long())
    alone, _ = connector(frames[1:2], lengths[1:2], ids[1:2, :3], torch.ones(1, 3, dtype=torch.long))
    torch.testing.assert_close(tokens[1:2], alone, atol=1e-5, rtol=1e-4)
    other, _ = connector(frames[1:2], lengths[1:2], ids[:1], (ids[:1] > 0).long())
    deaf, _ = connector(frames[1:2], lengths[1:2])
    assert not torch.allclose(other, alone, atol=1e-3) and not torch.allclose(deaf, alone, atol=1e-3)
    torch.testing.assert_close(other[:, 0], alone[:, 0])


def test_both_attention_backends_agree(pair):
    connector = pair[0].model.connector
    frames, lengths = torch.randn(2, 600, 16), torch.tensor([600, 130])
    ids = torch.tensor([[2, 7, 9, 11, 3], [2, 8, 3, 0, 0]])
    found = []
    for backend in ("eager", "sdpa"):
        connector.aligner.set_attn_implementation(backend)
        found.append(connector(frames, lengths, ids, (ids > 0).long())[0])
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


def test_the_aligners_text_branch_starts_as_the_bert_it_is_given(pair, tiny_bert):
    aligner = pair[0].model.connector.aligner
    bert = AutoModel.from_pretrained(tiny_bert).eval()
    bert.embeddings.token_type_embeddings.weight.data.zero_()  # a Q-Former has none
    ids = torch.tensor([[2, 7, 9, 11, 3]])
    torch.testing.assert_close(aligner(input_ids=ids).last_hidden_state, bert(ids).last_hidden_state)
    layer = aligner.encoder.layer[1]
    torch.testing.assert_close(layer.intermediate_query.dense.weight, layer.intermediate.dense.weight)
    torch.testing.assert_close(layer.output_query.dense.weight, layer.output.dense.weight)


def test_a_bert_of_another_shape_is_refused(tiny_folders, tiny_bert):
    encoder, llm = map(str, tiny_folders)
    with pytest.raises(ValueError, match="say so in the option 'aligner'"):
        build_model("apt", encoder=encoder, aligner=str(tiny_bert), llm=llm)
    with pytest.raises(ValueError, match="is no BERT"):
        build_model("apt", encoder=encoder, aligner=llm, llm=llm)
    with pytest.raises(ValueError, match="apt needs an 'aligner'"):
        build_model("apt", encoder=encoder, llm=llm)
    with pytest.raises(ValueError, match="acdc has no aligner"):
        build_model("acdc", encoder=encoder, aligner=str(tiny_bert), llm=llm)
    with pytest.raises(ValueError, match=f"aligner has no field 'layers'; it has: {next(iter(BERT_MINI))}"):
        APTConfig(aligner={"layers": 2})
    with pytest.raises(ValueError, match="keep_cls: false"):
        APTConfig({"model_type": "lalm_eat"})


def test_each_clip_is_told_its_own_text_or_the_whole():
    a, b, c = (audio(1000, i) for i in range(3))
    sample = user(text("Listen."), a, text("A dog"), text(" barks."), b, c, text("What is it?"))
    whole = "Listen. A dog barks. What is it?"
    assert instructions(sample, "own") == ["A dog barks.", whole, "What is it?"]
    assert instructions(sample, "whole") == [whole] * 3
    turns = Sample(
        (
            *(
                {"role": "user", "content": [text("Describe:"), a]},
                {"role": "assistant", "content": "A dog."},
            ),
            {"role": "user", "content": [b, text("And this?")]},
        )
    )
    for scope in ("own", "whole"):
        assert instructions(turns, scope) == ["Describe:", "And this?"]


def test_of_a_long_instruction_the_end_is_read(tiny_bert):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    found = tokenised(["abcdefgh", "x"], tokenizer, 6)
    pieces = tokenizer.convert_ids_to_tokens(found["instruction_ids"][0])
    assert pieces == ["[CLS]", "##e", "##f", "##g", "##h", "[SEP]"]
    assert found["instruction_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]


def test_text_and_clips_stand_where_they_were_put(pair):
    _, processor = pair
    sample = user(
        text("First "), audio(2000), text(" then "), audio(2000, 1), audio(2000, 2), text(" which?")
    )
    ids = processor.batch([sample])["input_ids"][0]
    shown = processor.tokenizer.decode(ids).replace(processor.audio_token, "*")
    assert "First **** then ******** which?" in shown  # the AUDIO token and 3 queries a clip
    batch = processor.batch([sample, user(text("Hello."))])
    assert batch["instruction_ids"].shape[0] == 3 == len(batch["audio_lengths"])
    assert "instruction_ids" not in processor.batch([user(text("Hello."))])


def test_an_answer_goes_on_where_the_text_ends(tiny_folders, tiny_bert):
    """No role markers, as in the paper: and what is asked is a beginning of what is learned from."""
    encoder, llm = map(str, tiny_folders)
    turns = (
        user(audio(2000), text("This is a sound of")).with_target("dog.").messages
        + user(audio(2000, 1), text("And this?")).messages
    )
    asked = Sample(turns)
    for role_markers in (False, True):
        options = OPTIONS["apt"] | {"role_markers": role_markers}
        _, processor = build_model("apt", encoder=encoder, aligner=str(tiny_bert), llm=llm, options=options)
        shown, spans = processor.render(asked.with_target("rain."), labels=True)
        end = processor.tokenizer.eos_token
        heard = processor.audio_token
        plain = f"{heard}This is a sound of dog.{end}\n{heard}And this? rain.{end}"
        assert (shown == plain) != role_markers
        begun = processor.render(asked)[0]
        assert shown.startswith(begun) and spans[-1] == (len(begun), len(shown.rstrip("\n")))
        learned = processor.batch([asked.with_target("rain.")], labels=True)
        ids, labels = learned["input_ids"][0], learned["labels"][0]
        told = processor.tokenizer.decode(ids[labels >= 0])
        assert told.split(end)[:2] == ([" dog.", " rain."] if not role_markers else ["dog.", "rain."])
        prompt = processor.batch([asked])["input_ids"][0]
        assert torch.equal(ids[: len(prompt)], prompt)


def test_the_answer_depends_on_what_each_clip_is_asked(pair):
    model, processor = pair
    sample = user(audio(9000), text("what animal?"), audio(9000, 1), text("how loud?"))
    batch = processor.batch([sample])
    base = model(**batch).logits[0, -1]
    batch["instruction_ids"][0, 1:3] = batch["instruction_ids"][0, 3:5].clone()
    assert not torch.allclose(model(**batch).logits[0, -1], base, atol=1e-5)
    model.config.instruction = "whole"
    both = processor.batch([sample])["instruction_ids"]
    assert torch.equal(both[0], both[1])


def few_shot(ways: int, shots: int) -> Sample:
    parts = []
    for n in range(ways * shots):
        parts += [audio(1600, n % 5), text(f"{FEW_SHOT} dog. ")]
    return user(*parts, audio(1600, 6), text(FEW_SHOT))


def test_twelve_ways_of_five_shots_fit_the_context_and_more_is_refused(tiny_folders, tiny_bert):
    encoder, llm = map(str, tiny_folders)
    aligner = {
        **{"vocab_size": 90, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
        "intermediate_size": 32,
    }
    model, processor = build_model(
        "apt", encoder=encoder, aligner=str(tiny_bert), llm=llm, options={"aligner": aligner}
    )
    sample = few_shot(12, 5)
    with pytest.raises(
        ValueError, match=r"61 audios in 2013 tokens .* make (\d+) tokens, more than the 2048"
    ):
        processor.batch([sample.with_target("dog.")], labels=True)
    model.config.text_config.max_position_embeddings = 4096
    batch = processor.batch([sample])
    slots = int((batch["input_ids"] == model.config.audio_token_id).sum())
    assert slots == 61 * 33 == 2013 and batch["instruction_ids"].shape[0] == 61
    with torch.no_grad():
        assert torch.isfinite(model(**batch, logits_to_keep=1).logits).all()
    with pytest.raises(ValueError, match="that is more than the model's 4096"):
        Engine(model, processor, "tiny").reply([sample], Options(max_new_tokens=4000))


def test_options_of_a_checkpoint_can_change_where_its_tensors_fit(pair, tmp_path):
    save_model(*pair, tmp_path / "run", slim=True)
    model, processor = load_model(tmp_path / "run", options={"segment_s": 5.12, "role_markers": False})
    assert {c.segment_s for c in (model.config, model.model.connector.config, processor.config)} == {5.12}
    assert not processor.config.role_markers
    with pytest.raises(ValueError, match=r"run' has no option 'segments' that could be changed"):
        load_model(tmp_path / "run", options={"segments": 2})
    with pytest.raises(ValueError, match=r"model\.connector\.queries has shape"):
        load_model(tmp_path / "run", options={"num_queries": 5})
    save_model(*pair, tmp_path / "whole", slim=False)
    with pytest.raises(ValueError, match="whole' is not a slim checkpoint, whose options"):
        load_model(tmp_path / "whole", options={"segment_s": 5.12})


def test_a_slim_checkpoint_names_its_aligner(pair, tmp_path):
    model, processor = pair
    torch.nn.init.normal_(model.model.connector.audio_token)
    save_model(model, processor, tmp_path / "run", slim=True)
    again, processor_again = load_model(tmp_path / "run")
    batch = processor_again.batch([user(audio(20_000), text("what is it?"))])
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits)
    assert set(again.config.parts) == {"encoder", "aligner", "llm"}


def test_answers_stream_and_turns_are_remembered(pair):
    engine = Engine(*pair, "tiny")
    sample = ask(["samples/bell.flac"], "what is it?")
    assert "".join(engine.stream(sample, Options(6))) == engine.reply([sample], Options(6))[0].text

"""Packed rows are the rows apart: same loss and gradients, for several attentions; and what is refused."""

from typing import Any

import pytest
import torch
from tiny_parts import llama_folder, noise, whisper_folder
from torch import Tensor
from transformers import AutoModel, BloomConfig, GPT2Config, LlamaConfig, MistralConfig

from lalm.data.sample import Sample
from lalm.models import loss
from lalm.models.assemble import build_model
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.packing import PackingError, check_packable, pack
from lalm.training.llm_layers import compile_layers, enable_gradient_checkpointing, layers_of

LORA = {"rank": 2, "alpha": 4, "targets": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[AudioLMForConditionalGeneration, Any]:
    """A tiny model with LoRA, and a batch of four rows: two clips, one, none, one."""
    folder = tmp_path_factory.mktemp("packing")
    model, processor = build_model(
        "acdc",
        encoder=str(whisper_folder(folder / "encoder")),
        llm=str(llama_folder(folder / "llm")),
        options={"group_size": 10, "connector_width": 16},
        lora=LORA,
    )
    model.set_trainable(["connector", "*lora_*"])
    clips = [noise(folder / f"{i}.wav", 0.6 + 0.4 * i, seed=i) for i in range(4)]
    samples = []
    for i, heard in enumerate([clips[:2], clips[2:3], [], clips[3:]]):
        content: list[Any] = [{"type": "audio", "audio": str(clip)} for clip in heard]
        content += [{"type": "text", "text": "What is it?" * (i + 1)}]
        answer = "A sound, " * (3 - i) + "I think."
        samples.append(
            Sample(({"role": "user", "content": content}, {"role": "assistant", "content": answer}))
        )
    return model, processor.batch(samples, labels=True)


def loss_and_gradients(model: AudioLMForConditionalGeneration, batch: Any) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    total = model(**batch).loss
    total.backward()
    return float(total.detach()), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_rows_have_the_loss_and_gradients_of_padded_ones(parts: Any, attention: str) -> None:
    model, batch = parts
    model.model.language_model.set_attn_implementation(attention)
    check_packable(model.model.language_model)
    packed = pack(batch)
    assert packed["input_ids"].shape == (1, int(batch["attention_mask"].sum()))
    assert "attention_mask" not in packed and int((packed["position_ids"] == 0).sum()) == 4
    expected, gradients = loss_and_gradients(model, batch)
    found, packed_gradients = loss_and_gradients(model, packed)
    assert found == pytest.approx(expected, abs=1e-5)
    assert gradients.keys() == packed_gradients.keys() and gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, atol=1e-5, rtol=1e-4)


def test_rows_really_stay_apart(parts: Any) -> None:
    """Another word in the first row changes nothing behind it, to the bit."""
    model, batch = parts
    packed = pack(batch)
    changed = packed["input_ids"].clone()
    changed[0, 1] += 1
    with torch.no_grad():
        plain = {**packed, "labels": None, "use_cache": False}
        before = model(**plain).logits[0]
        after = model(**{**plain, "input_ids": changed}).logits[0]
    second = int(batch["attention_mask"][0].sum())
    assert torch.equal(before[second:], after[second:]) and not torch.equal(before[:second], after[:second])


@pytest.mark.parametrize("config", [MistralConfig, GPT2Config])
def test_other_families_are_checked_and_pass(config: Any) -> None:
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 20}
    if config is MistralConfig:
        small |= {"num_key_value_heads": 2, "intermediate_size": 32, "sliding_window": 4}
    else:
        small |= {"initializer_range": 0.5}
    check_packable(AutoModel.from_config(config(**small, bos_token_id=0, eos_token_id=0, pad_token_id=0)))


def test_a_family_without_positions_is_refused() -> None:
    bloom = AutoModel.from_config(BloomConfig(hidden_size=16, n_layer=1, n_head=2, vocab_size=20))
    with pytest.raises(PackingError, match=r"optim.packing: the LLM \(bloom\) takes no positions"):
        check_packable(bloom)


def test_an_llm_that_mixes_rows_is_refused(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    body = parts[0].model.language_model
    forward = body.forward

    def forgetful(position_ids: Tensor | None = None, **given: Any) -> Any:
        return forward(**given)

    monkeypatch.setattr(body, "forward", forgetful)
    with pytest.raises(PackingError, match=r"the LLM \(llama\) mixes rows that are packed"):
        check_packable(body)


def test_rounding_that_hangs_on_the_shape_is_no_mixing(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    body = parts[0].model.language_model
    forward = body.forward

    # bfloat16 of SmolLM2: .04 of the largest number between two shapes.
    def rounded(position_ids: Tensor, **given: Any) -> Any:
        output = forward(position_ids=position_ids, **given)
        states = output.last_hidden_state
        states += 0.04 * states.abs().max() * (states.shape[1] == 3)
        return output

    monkeypatch.setattr(body, "forward", rounded)
    check_packable(body)


def test_the_loss_in_parts_is_the_loss(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = parts
    whole = loss_and_gradients(model, batch)
    sizes = []
    logits = AudioLMForConditionalGeneration.logits

    def counted(self: Any, hidden: Tensor) -> Tensor:
        sizes.append(len(hidden))
        return logits(self, hidden)

    monkeypatch.setattr(AudioLMForConditionalGeneration, "logits", counted)
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 7 * model.config.text_config.vocab_size)
    pieces = loss_and_gradients(model, batch)
    assert max(sizes) == 7 and len(sizes) > 4
    assert pieces[0] == pytest.approx(whole[0], abs=1e-5)
    for name, gradient in whole[1].items():
        torch.testing.assert_close(pieces[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_recomputing_keeps_less_and_changes_nothing(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = parts
    model.train()

    def kept() -> tuple[int, tuple[float, dict[str, Tensor]]]:
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            total = model(**batch).loss
        model.zero_grad()
        total.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        return sum(sizes.values()), (float(total.detach()), gradients)

    whole, expected = kept()
    for layer in layers_of(model.model.language_model):
        monkeypatch.setattr(layer, "forward", layer.forward)  # put back afterwards
    enable_gradient_checkpointing(model.model.language_model)
    less, found = kept()
    assert less < 0.7 * whole
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], gradient) for name, gradient in expected[1].items())


def test_compiled_layers_compute_the_same() -> None:
    """Traced and then run as it is: building the code would take a minute."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 20}
    body = AutoModel.from_config(LlamaConfig(**sizes, num_hidden_layers=1)).eval()
    ids = torch.arange(7)[None]
    expected = body(ids, use_cache=False).last_hidden_state
    with pytest.MonkeyPatch.context() as patch:
        traced: list[Any] = []
        plain = torch.compile
        patch.setattr(
            torch, "compile", lambda f, **how: traced.append(how) or plain(f, backend="eager", **how)
        )
        compile_layers(body)
    torch.testing.assert_close(body(ids, use_cache=False).last_hidden_state, expected)
    assert traced == [{"dynamic": True}]

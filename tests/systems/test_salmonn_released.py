"""A file in the released layout, built here at small width, gives the outputs of a second computation.

The second computation reads the file's own names: plain formulas for norms, windows, Q-Former and projection,
and for the LLM a Llama of transformers into whose weights LoRA is written, fed with the prompt's pieces.
"""

import json
import math

import pytest
import torch
from safetensors import safe_open
from tiny_parts import beats_folder, sentencepiece_llama, whisper_folder
from torch.nn import functional
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lalm.cli import app as cli
from lalm.data.sample import ask
from lalm.doctor import exported, outside
from lalm.encoders import load_encoder
from lalm.models.load import load_model
from lalm.models.lora import set_lora_scale
from lalm.systems.salmonn.released import SALMONNImportError, read, write

SPEECH, AUDIO, WIDTH, INNER, LLM, LAYERS, RANK = 16, 16, 128, 48, 32, 3, 8


def released(default: str = ".default") -> dict[str, torch.Tensor]:
    """``model`` of a released file, as the table of its keys has it, with random values."""
    rng = torch.Generator().manual_seed(5)

    def t(*shape):
        return torch.randn(*shape, generator=rng) * 0.2

    def norm(size):
        return {"weight": 1 + t(size), "bias": t(size)}

    def linear(outer, inner):
        return {"weight": t(outer, inner), "bias": t(outer)}

    groups = {"ln_speech": norm(SPEECH), "ln_audio": norm(AUDIO), "speech_llama_proj": linear(LLM, WIDTH)}
    groups["speech_Qformer.bert.embeddings.LayerNorm"] = norm(WIDTH)
    for i in (0, 1):
        at = f"speech_Qformer.bert.encoder.layer.{i}"
        for kind, source in (("attention", WIDTH), ("crossattention", SPEECH + AUDIO)):
            groups[f"{at}.{kind}.self.query"] = linear(WIDTH, WIDTH)
            groups[f"{at}.{kind}.self.key"] = linear(WIDTH, source)
            groups[f"{at}.{kind}.self.value"] = linear(WIDTH, source)
            groups[f"{at}.{kind}.output.dense"] = linear(WIDTH, WIDTH)
            groups[f"{at}.{kind}.output.LayerNorm"] = norm(WIDTH)
        groups[f"{at}.intermediate_query.dense"] = linear(INNER, WIDTH)
        groups[f"{at}.output_query.dense"] = linear(WIDTH, INNER)
        groups[f"{at}.output_query.LayerNorm"] = norm(WIDTH)
    state = {f"{name}.{kind}": value for name, pair in groups.items() for kind, value in pair.items()}
    state["speech_query_tokens"] = t(1, 1, WIDTH)
    state["speech_Qformer.bert.embeddings.position_ids"] = torch.arange(512)[None]
    for i in range(LAYERS):
        at = f"llama_model.base_model.model.model.layers.{i}.self_attn"
        state[f"{at}.rotary_emb.inv_freq"] = torch.ones(4)
        for name in ("q_proj", "v_proj"):
            state[f"{at}.{name}.lora_A{default}.weight"] = t(RANK, LLM)
            state[f"{at}.{name}.lora_B{default}.weight"] = t(LLM, RANK)
    return state


def container(state: dict, **others) -> dict:
    return {"model": state, **others}


TRAINING = {
    "optimizer": {"state": {0: {"step": torch.tensor(9.0), "exp_avg": torch.zeros(3)}}, "param_groups": []},
    "config": {"model": {"lora_rank": 8, "lora_alpha": 32, "second_per_window": 0.333333}},
    "scaler": {"scale": 65536.0},
    "epoch": 3,
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of the LLM, Whisper and BEATs."""
    root = tmp_path_factory.mktemp("parts")
    return llm_folder(root / "vicuna"), whisper_folder(root / "whisper"), beats_folder(root / "beats")


def llm_folder(folder, **changes):
    sentencepiece_llama(folder)
    torch.manual_seed(0)
    fields = {"hidden_size": LLM, "num_hidden_layers": LAYERS, "num_attention_heads": 4} | changes
    config = LlamaConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(folder)),
        intermediate_size=48,
        num_key_value_heads=4,
        initializer_range=0.2,
        **fields,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def imported(parts, tmp_path, capsys):
    """``imported(content) -> (exit code, stdout, stderr)``; the model folder is tmp_path / "out"."""

    def run(content, llm=None, beats=None):
        torch.save(content, tmp_path / "salmonn_v1.pth")
        words = [
            "import",
            "salmonn",
            tmp_path / "salmonn_v1.pth",
            "--llm",
            llm or parts[0],
            "--out",
            tmp_path / "out",
        ]
        words += ["--whisper", parts[1], "--beats", beats or parts[2]]
        return cli.run([str(word) for word in words]), *capsys.readouterr()

    return run


# The second computation.


def dense(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def normal(x, state, name, eps):
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / (variance + eps).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def attention(x, source, state, name):
    """Multi-head attention of x (Q, D) over source (S, W), heads of 64, then BERT's output part."""
    query, key, value = (
        dense(y, state, f"{name}.self.{k}").unflatten(1, (-1, 64))
        for y, k in ((x, "query"), (source, "key"), (source, "value"))
    )
    heard = []
    for h in range(query.shape[1]):
        scores = query[:, h] @ key[:, h].T / math.sqrt(64)
        heard.append(torch.softmax(scores, 1) @ value[:, h])
    y = dense(torch.cat(heard, 1), state, f"{name}.output.dense")
    return normal(y + x, state, f"{name}.output.LayerNorm", 1e-12)


def plain_tokens(speech, audio, state):
    """speech (1500, 16), audio (T, 16): what the encoders gave -> (88, D)."""
    speech = normal(speech, state, "ln_speech", 1e-5)
    audio = functional.pad(normal(audio, state, "ln_audio", 1e-5), (0, 0, 0, len(speech) - len(audio)))
    both = torch.cat([speech, audio], 1)
    tokens = []
    for window in range((len(both) - 17) // 17 + 1):
        frames = both[17 * window : 17 * window + 17]
        x = normal(state["speech_query_tokens"][0], state, "speech_Qformer.bert.embeddings.LayerNorm", 1e-12)
        for i in (0, 1):
            at = f"speech_Qformer.bert.encoder.layer.{i}"
            x = attention(x, x, state, f"{at}.attention")
            x = attention(x, frames, state, f"{at}.crossattention")
            inner = functional.gelu(dense(x, state, f"{at}.intermediate_query.dense"))
            y = dense(inner, state, f"{at}.output_query.dense")
            x = normal(y + x, state, f"{at}.output_query.LayerNorm", 1e-12)
        tokens.append(dense(x, state, "speech_llama_proj")[0])
    return torch.stack(tokens)


def plain_logits(tokens, question, folder, state, scale):
    """Next-token logits after the prompt, LoRA written into the LLM's weights."""
    llm = LlamaForCausalLM.from_pretrained(folder).eval()
    for i, layer in enumerate(llm.model.layers):
        at = f"llama_model.base_model.model.model.layers.{i}.self_attn"
        for name, linear in (("q_proj", layer.self_attn.q_proj), ("v_proj", layer.self_attn.v_proj)):
            a, b = (state[f"{at}.{name}.lora_{k}.default.weight"] for k in "AB")
            linear.weight.data += scale * b @ a
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before, after = (
        tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0]
        for text in ("USER: <Speech>", f"</Speech> {question}\nASSISTANT:")
    )
    embed = llm.get_input_embeddings()
    row = torch.cat([embed(torch.tensor([1])), embed(before), tokens, embed(after)])
    return llm(inputs_embeds=row[None]).logits[0, -1]


@torch.no_grad()
@pytest.mark.parametrize(
    ("default", "others"), [(".default", TRAINING), ("", {})], ids=["as published", "bare"]
)
def test_imported_model_equals_the_second_computation(imported, parts, tmp_path, default, others):
    code, out, err = imported(container(released(default), **others))
    assert code == 0, err
    assert "73 tensors read, 4 left out, LoRA scale 4" in out
    assert f"you said '{parts[0]}'" in out
    state = released()  # the same values
    model, processor = load_model(tmp_path / "out")
    audio = torch.randn(40_000, generator=torch.Generator().manual_seed(1)) * 0.1
    batch = processor.batch([ask([audio.numpy()], "Describe A dog.")])
    # Whisper hears the clip within 30 s of silence; BEATs hears the clip.
    padded = functional.pad(audio, (0, 480_000 - 40_000))[None]
    speech = load_encoder(parts[1])(padded, torch.tensor([480_000]))[0][0]
    sounds = load_encoder(parts[2])(audio[None], torch.tensor([40_000]))[0][0]
    assert speech.shape == (1500, SPEECH) and sounds.shape == (120, AUDIO)
    tokens = plain_tokens(speech, sounds, state)
    found = model.get_audio_features(batch["input_values"], batch["audio_lengths"]).pooler_output
    assert found.shape == (88, LLM)
    torch.testing.assert_close(found, tokens, atol=1e-4, rtol=1e-3)
    for scale in (4.0, 1.5, 0.0):
        set_lora_scale(model, scale)
        wanted = plain_logits(tokens, "Describe A dog.", parts[0], state, scale)
        torch.testing.assert_close(model(**batch).logits[0, -1], wanted, atol=1e-3, rtol=1e-3)


def test_export_is_the_released_file_again(imported, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exported, "_elsewhere", lambda kind, *words: None)  # below
    state = released()
    code, _, error = imported(container(state, **TRAINING))
    assert code == 0, error
    words = ["export", str(tmp_path / "out"), "--to", "salmonn", "--out", str(tmp_path / "again")]
    assert cli.run(words) == 0, capsys.readouterr().err
    assert "another sound moves the logits" in capsys.readouterr().err
    again = torch.load(tmp_path / "again" / "salmonn.pth", weights_only=True)
    buffers = {name for name in state if name.endswith(("position_ids", "inv_freq"))}
    assert set(again["model"]) == set(state) - buffers
    assert all(torch.equal(again["model"][name], state[name]) for name in again["model"])
    assert again["config"]["model"]["lora_alpha"] == 32
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["model.connector.frame_mean"] = tensors["model.connector.frame_mean"] + 1
    with pytest.raises(SALMONNImportError, match="no place for this model's standardised frames"):
        write(tensors, {"rank": 8, "alpha": 32.0}, {}, tmp_path / "no.pth")


def test_lora_that_peft_would_not_find_is_named(parts, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "lalm", sys.modules["lalm"])  # which the program takes away
    file, state = tmp_path / "salmonn.pth", released()
    config = {"model": {**TRAINING["config"]["model"], "lora_rank": RANK}}
    torch.save(container(state, config=config), file)
    outside.check_lora(file, parts[0])
    name = next(key for key in state if "lora_B" in key)
    del state[name]
    torch.save(container(state, config=config), file)
    with pytest.raises(ValueError, match=r"lora_B\S*\.weight is absent instead of \("):
        outside.check_lora(file, parts[0])


def test_what_cannot_be_exported_is_said(imported, tmp_path, capsys):
    assert imported(container(released()))[0] == 0
    weights, words = tmp_path / "out" / "model.safetensors", ["export", str(tmp_path / "out")]
    weights.write_bytes(weights.read_bytes()[:900])
    for model, said in (("gone", "there is no model folder 'gone'"), (words[1], "is damaged or cut short")):
        assert cli.run(["export", model, "--to", "salmonn", "--out", str(tmp_path / "no")]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_written_folder_names_its_parts(imported, parts, tmp_path):
    assert imported(container(released()))[0] == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["parts"] == {"encoder": str(parts[1]), "encoder_2": str(parts[2]), "llm": str(parts[0])}
    assert config["lora"] == {"rank": 8, "alpha": 32.0, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert len(file.keys()) == 73 + 2  # and two buffers of ours
    assert imported(container(released()))[2].endswith("is not empty: name a new folder\n")


def test_counts_of_the_full_size_files():
    """The released table has 61 tensors and 4 a layer: 221 at 40 layers, 189 at 32."""
    own = [k for k in released() if "position_ids" not in k and "inv_freq" not in k]
    without = [k for k in own if "lora_" not in k]
    assert len(without) + 4 * 40 == 221 and len(without) + 4 * 32 == 189


class Trap:
    def __reduce__(self):
        return (print, ("run!",))


def changed(**changes):
    state = released()
    for name, value in changes.items():
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


BIAS = "speech_Qformer.bert.encoder.layer.1.output_query.dense.bias"
LORA_B = "llama_model.base_model.model.model.layers.2.self_attn.v_proj.lora_B.default.weight"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (container(changed(**{BIAS: None})), "layer.1.output_query.dense.bias' is absent instead of (128,)"),
        (container(changed(**{LORA_B: torch.zeros(3, 8)})), "is (3, 8) instead of (32, 8)"),
        (
            container(changed(**{"speech_Qformer.cls.bias": torch.zeros(1)})),
            "no SALMONN has: speech_Qformer.cls",
        ),
        (container(changed(speech_query_tokens=None)), "'model.connector.queries' is absent"),
        (container(released(), config={"model": {"lora_alpha": 16}}), "LoRA alpha 16 at rank 8"),
        (
            container(released(), config={"model": {"second_per_window": 1e9}}),
            "gives window_s = 1000000000.0",
        ),
        (released(), "it holds no 'model'"),
        (container(released(), trap=Trap()), "which may run code"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(imported, tmp_path, content, message):
    code, _, err = imported(content)
    assert code == 2 and message in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_the_wrong_llm_or_encoder_is_refused(imported, tmp_path):
    narrow = llm_folder(tmp_path / "narrow", hidden_size=16)
    assert "32 wide with 3 layers, and" in imported(container(released()), llm=narrow)[2]
    short = llm_folder(tmp_path / "short", num_hidden_layers=2)
    assert "is 32 wide with 2" in imported(container(released()), llm=short)[2]
    code, _, err = imported(changed_widths())
    assert code == 2 and "an encoder 24 wide" in err


def changed_widths():
    return container(changed(**{"ln_audio.weight": torch.ones(24), "ln_audio.bias": torch.ones(24)}))


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"no pickle")
    with pytest.raises(SALMONNImportError, match=r"cannot be read|is not opened"):
        read(tmp_path / "x.pth")

"""BEATs against a plain second writing of it on the released names, lengths, padding, and the importer."""

import math

import kaldi_native_fbank
import numpy as np
import pytest
import torch
from torch.nn import functional

from lalm.encoders import build_encoder, load_encoder, save_encoder
from lalm.encoders.beats import BEATsConfig, BEATsEncoder, GatedAttention
from lalm.encoders.beats_import import BEATsImportError, import_beats

CFG = {
    "encoder_layers": 3,
    "encoder_embed_dim": 24,
    "encoder_ffn_embed_dim": 40,
    "encoder_attention_heads": 3,
    "embed_dim": 12,
    "input_patch_size": 16,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "deep_norm": True,
    "conv_bias": False,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "relative_position_embedding": True,
    "num_buckets": 20,
    "max_distance": 30,
    "gru_rel_pos": True,
    "dropout": 0.0,
    "encoder_layerdrop": 0.05,
    "finetuned_model": True,
    "predictor_class": 5,
    "layer_wise_gradient_decay_ratio": 0.6,
}


def released(**changes) -> dict:
    """A file's content in the released layout, random and small."""
    rng = torch.Generator().manual_seed(3)
    cfg = {**CFG, **changes}
    width, inner, heads = (
        cfg["encoder_embed_dim"],
        cfg["encoder_ffn_embed_dim"],
        cfg["encoder_attention_heads"],
    )

    def t(*shape, scale=0.2):
        return scale * torch.randn(*shape, generator=rng)

    def norm(name, size):
        return {f"{name}.weight": 1 + t(size), f"{name}.bias": t(size)}

    def linear(name, outer, inner):
        return {f"{name}.weight": t(outer, inner), f"{name}.bias": t(outer)}

    model = {"patch_embedding.weight": t(cfg["embed_dim"], 1, 16, 16, scale=0.1)}
    model |= norm("layer_norm", cfg["embed_dim"]) | linear("post_extract_proj", width, cfg["embed_dim"])
    groups, size = cfg["conv_pos_groups"], cfg["conv_pos"]
    model |= {
        "encoder.pos_conv.0.bias": t(width),
        "encoder.pos_conv.0.weight_g": 1 + t(1, 1, size),
        "encoder.pos_conv.0.weight_v": t(width, width // groups, size),
    }
    model |= norm("encoder.layer_norm", width)
    table = t(cfg["num_buckets"], heads, scale=1.0)
    for i in range(cfg["encoder_layers"]):
        at = f"encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            model |= linear(f"{at}.self_attn.{name}", width, width)
        model |= linear(f"{at}.self_attn.grep_linear", 8, width // heads)
        model |= {f"{at}.self_attn.grep_a": 1 + t(1, heads, 1, 1)}
        model |= {f"{at}.self_attn.relative_attention_bias.weight": table}
        model |= norm(f"{at}.self_attn_layer_norm", width) | norm(f"{at}.final_layer_norm", width)
        model |= linear(f"{at}.fc1", inner, width) | linear(f"{at}.fc2", width, inner)
    model |= linear("predictor", 5, width)
    return {"cfg": cfg, "model": model, "label_dict": {0: "/m/09x0r"}}


# The second writing: official names, one clip, the attention as the paper's formula with its max trick.


def plain_bucket(distance: int, buckets: int, longest: int) -> int:
    half = buckets // 2
    exact = half // 2
    side = half if distance > 0 else 0
    distance = abs(distance)
    if distance < exact:
        return side + distance
    return side + min(
        half - 1, exact + int(math.log(distance / exact) / math.log(longest / exact) * (half - exact))
    )


def plain_attention(x: torch.Tensor, weights: dict, table: torch.Tensor, cfg: dict) -> torch.Tensor:
    heads = cfg["encoder_attention_heads"]
    size = x.shape[1] // heads
    q, k, v = (x @ weights[f"{n}_proj.weight"].T + weights[f"{n}_proj.bias"] for n in "qkv")
    buckets = [
        [plain_bucket(j - i, cfg["num_buckets"], cfg["max_distance"]) for j in range(len(x))]
        for i in range(len(x))
    ]
    out = []
    for h in range(heads):
        qh, kh, vh = (m[:, h * size : (h + 1) * size] for m in (q, k, v))
        scores = qh / math.sqrt(size) / 32 @ kh.T
        scores = (scores - scores.max(1, keepdim=True)[0]) * 32
        eight = qh @ weights["grep_linear.weight"].T + weights["grep_linear.bias"]
        a, b = torch.sigmoid(eight[:, :4].sum(1)), torch.sigmoid(eight[:, 4:].sum(1))
        gate = a * (b * weights["grep_a"][0, h, 0, 0] - 1) + 2
        bias = table[torch.tensor(buckets), h]
        out.append(torch.softmax(scores + gate[:, None] * bias, 1) @ vh)
    return torch.cat(out, 1) @ weights["out_proj.weight"].T + weights["out_proj.bias"]


def plain_norm(x, model, name):
    return functional.layer_norm(x, x.shape[-1:], model[f"{name}.weight"], model[f"{name}.bias"], 1e-5)


def plain_beats(audio: np.ndarray, content: dict) -> torch.Tensor:
    cfg, model = content["cfg"], content["model"]
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = 128
    options.use_energy = False
    computer = kaldi_native_fbank.OnlineFbank(options)
    computer.accept_waveform(16_000, (audio * 2**15).tolist())
    computer.input_finished()
    mel = np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])
    mel = torch.from_numpy((mel - 15.41663) / (2 * 6.55582)).float()
    steps = len(mel) // 16
    kernel = model["patch_embedding.weight"].flatten(1)
    patches = [
        mel[16 * t : 16 * t + 16, 16 * f : 16 * f + 16].flatten() for t in range(steps) for f in range(8)
    ]
    x = plain_norm(torch.stack(patches) @ kernel.T, model, "layer_norm")
    x = x @ model["post_extract_proj.weight"].T + model["post_extract_proj.bias"]
    conv = torch.nn.Conv1d(
        x.shape[1], x.shape[1], cfg["conv_pos"], padding=cfg["conv_pos"] // 2, groups=cfg["conv_pos_groups"]
    )
    torch.nn.utils.parametrizations.weight_norm(conv, dim=2)
    conv.bias.data = model["encoder.pos_conv.0.bias"]
    conv.parametrizations.weight.original0.data = model["encoder.pos_conv.0.weight_g"]
    conv.parametrizations.weight.original1.data = model["encoder.pos_conv.0.weight_v"]
    with torch.no_grad():
        x = x + functional.gelu(conv(x.T[None])[0, :, :-1].T)
    x = plain_norm(x, model, "encoder.layer_norm")
    alpha = (2 * cfg["encoder_layers"]) ** 0.25
    table = model["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    for i in range(cfg["encoder_layers"]):
        at = f"encoder.layers.{i}."
        own = {k.removeprefix(at): v for k, v in model.items() if k.startswith(at)}
        attention = {k.removeprefix("self_attn."): v for k, v in own.items()}
        x = plain_norm(alpha * x + plain_attention(x, attention, table, cfg), own, "self_attn_layer_norm")
        inner = functional.gelu(x @ own["fc1.weight"].T + own["fc1.bias"])
        x = plain_norm(alpha * x + inner @ own["fc2.weight"].T + own["fc2.bias"], own, "final_layer_norm")
    return x


def clip(num_samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(num_samples) + 0.2 * np.sin(0.05 * np.arange(num_samples))).astype("f")


@pytest.fixture
def file(tmp_path):
    def write(content, name="BEATs_iter3_plus.pt"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


def test_released_file_gives_the_plain_formulas_frames(file):
    content = released()
    encoder = load_encoder(file(content))
    audio = clip(16_000)
    with torch.no_grad():
        frames, lengths = encoder(torch.from_numpy(audio)[None], torch.tensor([16_000]))
    assert lengths.tolist() == [48]
    torch.testing.assert_close(frames[0], plain_beats(audio, content), atol=2e-4, rtol=1e-3)


def test_attention_kernel_equals_the_plain_formula():
    config = BEATsConfig(hidden_size=24, num_attention_heads=3, num_buckets=20, max_distance=30)
    torch.manual_seed(0)
    attention = GatedAttention(config).eval()
    torch.nn.init.normal_(attention.grep_a)
    table, x = torch.randn(20, 3), torch.randn(1, 50, 24)
    buckets = torch.tensor([[plain_bucket(j - i, 20, 30) for j in range(50)] for i in range(50)])
    with torch.no_grad():
        found = attention(x, table[buckets].permute(2, 0, 1), None)[0]
        plain = plain_attention(
            x[0],
            attention.state_dict(),
            table,
            {"encoder_attention_heads": 3, "num_buckets": 20, "max_distance": 30},
        )
    torch.testing.assert_close(found, plain, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("buckets", "longest"), [(320, 800), (20, 30)])
def test_buckets_of_relative_positions(buckets, longest):
    encoder = build_encoder(BEATsConfig(num_buckets=buckets, max_distance=longest, num_hidden_layers=0))
    found = encoder._buckets(900 if buckets == 320 else 50)
    for i, j in [(0, 0), (5, 5), (5, 6), (6, 5), (0, 49), (49, 0), (3, 12), (30, 10)]:
        assert found[i, j] == plain_bucket(j - i, buckets, longest)
    if buckets == 320:
        assert found[0, 899] == 319 and found[899, 0] == 159 and found[0, 79] == 160 + 79


def test_counts_are_those_of_the_original():
    config = BEATsConfig()
    counts = {s: config.num_frames(s * 16_000) for s in (1, 2, 5, 10, 20, 30)}
    assert counts == {1: 48, 2: 96, 5: 248, 10: 496, 20: 992, 30: 1496}
    assert config.num_frames(2799) == 0 and config.num_frames(2800) == 8
    assert config.residual_scale == pytest.approx(2.2134, abs=1e-4)


def test_padding_and_windows_change_nothing(file):
    config, state = import_beats(file(released()))
    encoder = BEATsEncoder(config).eval()
    encoder.load_state_dict(state)
    config.window_frames = 64  # 0.64 s
    clips = [torch.from_numpy(clip(n, n)) for n in (1600, 30_123, 16_000)]
    lengths = [len(c) for c in clips]
    with torch.no_grad():
        batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        frames, counts = encoder(batch, torch.tensor(lengths))
        assert counts.tolist() == [config.num_frames(n) for n in lengths] == [0, 88, 48]
        for row, samples in enumerate(clips[1:], 1):
            alone, (count,) = encoder(samples[None], torch.tensor([len(samples)]))
            torch.testing.assert_close(frames[row, :count], alone[0], atol=1e-5, rtol=1e-4)
        window, _ = encoder(clips[1][None, : 63 * 160 + 400], torch.tensor([63 * 160 + 400]))
    torch.testing.assert_close(frames[1, :32], window[0], atol=1e-5, rtol=1e-4)


def test_converted_folder_gives_the_same_frames(file, tmp_path):
    path = file(released())
    audio, lengths = torch.from_numpy(clip(20_000))[None], torch.tensor([20_000])
    with torch.no_grad():
        wanted, _ = load_encoder(path)(audio, lengths)
        again, _ = load_encoder(save_encoder(load_encoder(path), tmp_path / "out"))(audio, lengths)
    assert torch.equal(wanted, again)
    assert load_encoder(tmp_path).config.max_distance == 30  # the folder that holds nothing but the file


class Trap:
    def __reduce__(self):
        return (print, ("run!",))


def broken(change):
    content = released()
    change(content)
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].pop("encoder.layers.1.fc1.bias"), "'blocks.1.fc1.bias' is absent instead of"),
        (lambda c: c["model"].update(extra=torch.zeros(1)), "1 tensors that no BEATs has: extra"),
        (lambda c: c["model"].pop("encoder.pos_conv.0.weight_g"), "'position.conv.weight' is absent"),
        (lambda c: c["model"].update({"layer_norm.bias": torch.zeros(7)}), r"'layer_norm.bias' is \(7,\)"),
        (
            lambda c: c["model"].update(
                {"encoder.layers.2.self_attn.relative_attention_bias.weight": torch.zeros(20, 3)}
            ),
            "not the table of layer 0",
        ),
        (lambda c: c["cfg"].update(layer_norm_first=True), "only False is implemented"),
        (lambda c: c["cfg"].update(encoder_embed_dim=10**9), "cfg gives hidden_size = 1000000000"),
        (lambda c: c["cfg"].update(surprise=1), "cfg has keys that no BEATs has: surprise"),
        (lambda c: c["cfg"].update(encoder_attention_heads=0), "cfg cannot be used"),
        (lambda c: c.pop("cfg"), "does not hold 'cfg' and 'model'"),
        (lambda c: c.update(trap=Trap()), "which may run code"),
    ],
)
def test_anything_odd_is_refused_by_name(file, change, message):
    with pytest.raises(BEATsImportError, match=message):
        import_beats(file(broken(change)))

"""``lalm export --to gguf``: what stands in the files, what is refused, and that llama.cpp says the same."""

import json
import shutil

import gguf
import numpy as np
import pytest
import torch
from tiny_llms import config_of
from tiny_parts import OPTIONS, noise, warnings_of
from transformers import AutoTokenizer, LlamaForCausalLM

from lalm import ask
from lalm.cli.app import run
from lalm.doctor import exported_gguf
from lalm.inference.engine import Engine, Options
from lalm.inference.llamacpp import engine, library
from lalm.inference.llamacpp.engine import LlamaCppEngine
from lalm.inference.llamacpp.export import read_back
from lalm.inference.llamacpp.gguf_file import GGUFError, mixed_type
from lalm.inference.llamacpp.language_model import check_llm, write_llm
from lalm.inference.llamacpp.projector import MARKS, check_encoder, projector_of, write_projector
from lalm.inference.llamacpp.prompt import template_for
from lalm.inference.llamacpp.running import Llama, Projection
from lalm.models import load
from lalm.models.assemble import build_model
from lalm.models.load import load_model
from lalm.models.lora import add_lora, merge_lora
from lalm.models.save import save_model


@pytest.fixture(scope="module")
def llm(tiny_folders, tmp_path_factory):
    """The tiny LLM with a tokenizer that joins letters, and with the tokens of Qwen2-Audio's turns."""
    place = tmp_path_factory.mktemp("llm")
    shutil.copytree(tiny_folders[1], place, dirs_exist_ok=True)
    fields = json.loads((place / "tokenizer.json").read_text())
    rarest = max(fields["model"]["vocab"].items(), key=lambda item: item[1])
    del fields["model"]["vocab"][rarest[0]]
    fields["model"] |= {"vocab": fields["model"]["vocab"] | {"he": rarest[1]}, "merges": [["h", "e"]]}
    (place / "tokenizer.json").write_text(json.dumps(fields))
    tokenizer = AutoTokenizer.from_pretrained(place)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|audio_bos|>", "<|audio_eos|>"]})
    whole = LlamaForCausalLM.from_pretrained(place)
    whole.resize_token_embeddings(len(tokenizer))
    for one in (whole, tokenizer):
        one.save_pretrained(place)
    return place


@pytest.fixture
def folder(tiny_folders, llm, tmp_path):
    """Writes a model folder of a system with options of its encoder, the frames standardised, with LoRA."""

    def make(system="modular", connector="swiglu", **of_encoder):
        options = {"encoder": of_encoder} if of_encoder else {}
        if system == "modular":
            options |= {"connector": connector}
        if system == "acdc":
            options |= OPTIONS["acdc"]
        if connector == "swiglu" and system == "modular":
            options["connector_options"] = {"stack": 10, "hidden": 24}
        model, processor = build_model(system, encoder=str(tiny_folders[0]), llm=str(llm), options=options)
        torch.manual_seed(5)
        width = model.config.audio_config.width
        if system != "acdc":
            model.model.connector.standardise(torch.randn(width) / 9, 1 + torch.rand(width))
        add_lora(model, {"rank": 2, "alpha": 4, "targets": ["q_proj", "v_proj"]})
        for name, one in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(one, std=0.1)
        save_model(model, processor, tmp_path / "mine", slim=True)
        return tmp_path / "mine"

    return make


PADDED = {"pad_to_window": True}


def test_the_files_hold_the_models_numbers_under_llama_cpps_names(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(exported_gguf, "installed", lambda: False)
    model = folder(**PADDED)
    out = tmp_path / "out"
    assert run(["export", str(model), "--to", "gguf", "--out", str(out), "--dtype", "float32"]) == 0
    told = capsys.readouterr()
    assert "pip install 'lalm[llamacpp]'" in told.err
    assert told.out.split() == [str(out / "mine-F32.gguf"), str(out / "mmproj-mine-F32.gguf")]

    opened, processor = load_model(model)
    merge_lora(opened)
    body, head = opened.model.language_model.state_dict(), opened.lm_head.weight
    there = read_back(out / "mine-F32.gguf")
    assert len(there) == len(body) + 1
    for key in ("mlp.down_proj.weight", "input_layernorm.weight", "self_attn.v_proj.weight"):
        named = {"mlp": "ffn_down", "input_layernorm": "attn_norm", "self_attn": "attn_v"}[key.split(".")[0]]
        assert np.array_equal(there[f"blk.1.{named}.weight"], body[f"layers.1.{key}"].numpy())
    assert np.array_equal(there["output.weight"], head.detach().numpy())
    # A llama's queries: numbers i and i + width / 2 of a head lie side by side in the file.
    queries, ours = there["blk.0.attn_q.weight"], body["layers.0.self_attn.q_proj.weight"].numpy()
    assert np.array_equal(queries.reshape(4, 4, 2, 32), ours.reshape(4, 2, 4, 32).swapaxes(1, 2))

    heard = read_back(out / "mmproj-mine-F32.gguf")
    opened.requires_grad_(False)
    connector, layers = opened.model.connector, opened.model.audio_tower.whisper
    assert np.array_equal(heard["mm.a.mlp.1.weight"], connector.connector.gate_and_value.weight)
    assert np.array_equal(heard["a.blk.0.attn_out.weight"], layers.layers[0].self_attn.out_proj.weight)
    frames = torch.randn(3, 16)  # the last norm holds what standardises the frames
    normed = torch.nn.functional.layer_norm(
        frames, (16,), *(torch.from_numpy(heard[f"a.post_ln.{leaf}"]) for leaf in ("weight", "bias"))
    )
    wanted = (layers.layer_norm(frames) - connector.frame_mean) * connector.frame_scale
    torch.testing.assert_close(normed, wanted)

    fields = gguf.GGUFReader(out / "mmproj-mine-F32.gguf").fields
    assert fields["clip.projector_type"].contents() == "ultravox"
    assert fields["clip.audio.projector.stack_factor"].contents() == 10
    fields = gguf.GGUFReader(out / "mine-F32.gguf").fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == len(body["embed_tokens.weight"])
    assert processor.audio_token not in tokens
    assert tokens[fields["tokenizer.ggml.eos_token_id"].contents()] == "<|im_end|>"
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"


needs_library = pytest.mark.skipif(not library.installed(), reason="pip install 'lalm[llamacpp]'")


@needs_library
@pytest.mark.parametrize("kind", ["float32", "q4_k_m"])
def test_llama_cpp_hears_and_says_the_same(folder, tmp_path, capsys, kind):
    out = tmp_path / "out"
    words = ["--dtype", kind] if kind == "float32" else ["--quantize", kind]
    assert run(["export", str(folder(**PADDED)), "--to", "gguf", "--out", str(out), *words]) == 0
    told = capsys.readouterr().err
    assert "checked in llama.cpp: audio tokens" in told
    assert ("another sound moves the logits" in told) == (kind == "float32")


@needs_library
def test_quiet_clips_are_heard_as_llama_cpp_does_with_its_floor(folder, tmp_path):
    model, processor = load_model(folder(**PADDED, mel_floor=2**-24))
    merge_lora(model)
    kind, llm, beside = "float32", tmp_path / "llm.gguf", tmp_path / "mmproj.gguf"
    write_llm(model, processor, llm, kind, str(processor.chat_template), "mine")
    write_projector(model, projector_of(model, "mine"), beside, kind, "mine")
    clip = np.random.default_rng(0).normal(0, 1e-4, 32_000).astype(np.float32)
    llama = Llama(llm, exact=True)
    theirs = torch.from_numpy(Projection(beside, llama).pieces("<__media__>", [clip])[0])
    apart = []
    for floor in (2**-24, 1e-10):
        model.model.audio_tower.config.mel_floor = floor
        with torch.no_grad():
            given = torch.from_numpy(clip)[None], torch.tensor([len(clip)])
            ours = model.get_audio_features(*given).pooler_output
        apart.append(float((ours - theirs).square().mean().sqrt() / ours.std()))
    assert apart[0] < 1e-3 and apart[1] > 5 * apart[0]


@needs_library
def test_qwen2_audio_hears_as_llama_cpp_does(folder, tmp_path, capsys):
    words = ["export", str(folder("qwen2-audio")), "--to", "gguf", "--dtype", "float32", "--out"]
    assert run([*words, str(tmp_path / "out")]) == 2
    assert "--pad-to-window" in capsys.readouterr().err
    assert run([*words, str(tmp_path / "out"), "--pad-to-window"]) == 0
    assert "another sound moves the logits" in capsys.readouterr().err


@pytest.mark.parametrize("system", ["acdc", "salmonn", "apt"])
def test_systems_without_a_projector_are_refused(tiny, system):
    with pytest.raises(GGUFError, match=f"'mine' cannot run in llama.cpp: {system} .*--to transformers"):
        check_encoder(tiny(system)[0].config, "mine")


@pytest.mark.parametrize(
    "connector,of_encoder,told",
    [
        ("mlp", {}, "'mlp' of 'mine' is none that llama.cpp has: train .* 'swiglu'"),
        ("swiglu", {"pool": 2}, "without pool"),
        ("swiglu", {"layers": [0, 1]}, r"layers \[0, 1\], and llama.cpp gives the last one alone"),
        ("swiglu", {"pad_to_window": False}, "always hears 30 s.*--pad-to-window"),
        ("swiglu", {"stack": 8}, "187 audio tokens of 30 s and 'mine' makes 188.*such as 4, 5, 6, 10, 12"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(tiny_folders, connector, of_encoder, told):
    encoder, llm = map(str, tiny_folders)
    options = {"connector": connector, "encoder": PADDED | of_encoder}
    if stack := options["encoder"].pop("stack", None):
        options["connector_options"] = {"stack": stack}
    model, _ = build_model("modular", encoder=encoder, llm=llm, options=options)
    with pytest.raises(GGUFError, match=told):
        projector_of(model, "mine")


def test_a_servers_markers_become_what_the_model_learned(folder):
    processor = load_model(folder("qwen2-audio"))[1]
    template = template_for(processor, MARKS["qwen2a"], "mine")
    one, two = "<__media_Ab1__>", "Which <b>__> is louder?"
    text = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": one + one + two}], chat_template=template, tokenize=False
    )
    assert f"user\nAudio 1: {one}\nAudio 2: {one}\n{two}<|im_end|>" in text
    with pytest.raises(GGUFError, match="was trained without"):
        template_for(load_model(folder(**PADDED))[1], MARKS["qwen2a"], "mine")


def test_llama_cpps_mix_of_types():
    kinds = {
        name: mixed_type(name, (512, width), "q4_k_m", 24, True).name
        for name, width in {
            "token_embd.weight": 512,
            "blk.0.attn_v.weight": 512,
            "blk.4.attn_v.weight": 512,
            "blk.4.ffn_down.weight": 896,
            "blk.5.ffn_down.weight": 896,
            "blk.4.attn_q.weight": 500,
        }.items()
    }
    assert list(kinds.values()) == ["Q6_K", "Q6_K", "Q4_K", "Q5_0", "Q8_0", "F16"]
    assert mixed_type("blk.0.attn_norm.weight", (512,), "q4_k_m", 24, True).name == "F32"


@needs_library
def test_the_engine_answers_alike_with_llama_cpp_as_its_llm(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LALM_CACHE", str(tmp_path / "cache"))
    model = str(folder("acdc"))
    clips = [str(noise(tmp_path / f"{i}.wav", 0.5 + i, seed=i)) for i in range(2)]
    options = Options(max_new_tokens=24, loop_guard=False, repetition_penalty=1.1)
    asked = [ask(clips, "Which?"), ask(clips[:1], "What?"), ask(clips[:1], "What?")]
    wanted = [reply.text for reply in Engine.load(model, "cpu", torch.float32).reply(asked, options)]
    opened = LlamaCppEngine.open(model, "float32")
    assert [reply.text for reply in opened.reply(asked, options)] == wanted
    assert "".join(opened.stream(asked[0], options)) == wanted[0] != wanted[1]
    (kept,) = (tmp_path / "cache" / "gguf").glob("*.gguf")
    made = kept.stat().st_mtime_ns
    monkeypatch.setattr(load, "load_causal_lm", None)  # the LLM's own weights are not read again
    again = LlamaCppEngine.open(model, "float32")
    assert [reply.text for reply in again.reply(asked, options)] == wanted
    words = ["ask", *clips[:1], "What?", "--model", model, "--engine", "llamacpp", "--dtype", "float32"]
    assert run([*words, "--max-new-tokens", "24", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"]
    assert kept.stat().st_mtime_ns == made
    assert run([*words, "--beams", "2"]) == 2
    assert "without beams" in capsys.readouterr().err
    assert run([*words, "--lora-scale", "0.5"]) == 2
    assert "scale cannot be set" in capsys.readouterr().err


@needs_library
def test_the_engines_file_is_made_anew_or_elsewhere_with_a_word(folder, tmp_path, monkeypatch, caplog):
    model, kept = str(folder("acdc")), tmp_path / "cache" / "gguf"
    asked, options = [ask([str(noise(tmp_path / "a.wav", 0.5, seed=1))], "What?")], Options(max_new_tokens=8)
    monkeypatch.setenv("LALM_CACHE", str(tmp_path / "cache"))
    (wanted,) = (reply.text for reply in LlamaCppEngine.open(model, "float32").reply(asked, options))
    (file,) = kept.glob("*.gguf")
    assert not warnings_of(caplog)
    with monkeypatch.context() as patch:
        patch.setattr("lalm.weights.kept_files.FileLock.acquire", None)  # what is kept is only read
        assert LlamaCppEngine.open(model, "float32").reply(asked, options)[0].text == wanted
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[: size // 2])
    assert LlamaCppEngine.open(model, "float32").reply(asked, options)[0].text == wanted
    (said,) = warnings_of(caplog)
    assert said.startswith(f"llama.cpp cannot open '{file}'") and said.endswith(": it is made anew")
    assert file.stat().st_size == size
    caplog.clear()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LALM_CACHE", str(tmp_path / "file"))
    assert LlamaCppEngine.open(model, "float32").reply(asked, options)[0].text == wanted
    assert warnings_of(caplog) == [
        f"the LLM's file for llama.cpp cannot be kept in '{tmp_path / 'file' / 'gguf'}' (Not a directory): "
        "it is written at every start"
    ]


@pytest.mark.parametrize("file", ["mine-BF16.gguf", "mmproj-mine-F16.gguf"])
def test_of_an_export_that_finds_no_room_nothing_is_left(folder, tmp_path, monkeypatch, capsys, file):
    model, out, write = str(folder(**PADDED)), tmp_path / "out", gguf.GGUFWriter.write_tensor_data

    def full(writer, values):
        if str(writer.fout[0].name).endswith(f"/{file}"):
            raise OSError("16384 requested and 8192 written")  # as numpy says it
        write(writer, values)

    words = ["export", model, "--to", "gguf", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
        assert run(words) == 1
    assert capsys.readouterr().err == f"lalm: the disk is full '{out}'\n" and not out.exists()
    left = out / ".writing" / file  # of a process that was killed
    left.parent.mkdir(parents=True)
    left.write_text("half")
    monkeypatch.setattr(exported_gguf, "installed", lambda: False)
    assert run(words) == 0
    assert sorted(one.name for one in out.iterdir()) == ["mine-BF16.gguf", "mmproj-mine-F16.gguf"]


def test_a_tokenizer_with_more_tokens_than_the_table_has_rows_is_refused(folder, tmp_path):
    model, processor = load_model(folder(**PADDED))
    merge_lora(model)
    model.model.language_model.resize_token_embeddings(200)
    with pytest.raises(GGUFError, match="256 tokens and its LLM's table of embeddings 200 rows"):
        write_llm(model, processor, tmp_path / "llm.gguf", "float32", "", "mine")
    assert not list(tmp_path.glob("*.gguf"))


def test_what_llama_cpp_would_leave_out_of_an_llm_is_refused():
    with pytest.raises(GGUFError, match="'mine' is a qwen3 with biases in attention"):
        check_llm(config_of("qwen3", attention_bias=True), "mine")


@needs_library
def test_all_of_three_ends_end_an_answer_there(folder, tmp_path):
    model, processor = load_model(folder(**PADDED))
    merge_lora(model)
    names = ["<|im_end|>", "<|audio_bos|>", "<|audio_eos|>"]  # the last two llama.cpp does not know as ends
    ends = processor.tokenizer.convert_tokens_to_ids(names)
    model.generation_config.eos_token_id = ends
    write_llm(model, processor, tmp_path / "llm.gguf", "float32", str(processor.chat_template), "mine")
    llama = Llama(tmp_path / "llm.gguf", context=64)
    assert all(llama.ends(token) for token in ends) and not llama.ends(3)


@needs_library
def test_a_refused_llm_is_not_read_and_leaves_nothing_in_the_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LALM_CACHE", str(tmp_path / "cache"))
    model = folder("acdc")
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["hidden_act"] = "gelu"
    (model / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(engine, "load_model", None)
    with pytest.raises(GGUFError, match="has the activation 'gelu', not SiLU"):
        LlamaCppEngine.open(str(model))
    assert not (tmp_path / "cache" / "gguf").exists()

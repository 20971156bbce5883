"""Parts as the Hub really has them: file kinds, shards, tokenizers and index files of each full-size recipe.

Every folder is tiny and random and has the very files of the repository it stands for (licences, READMEs and
copies for other frameworks left out).
"""

import copy
import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_parts import bert_folder, llama_folder, whisper_folder
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)

from lalm.encoders import EncoderError, load_encoder
from lalm.models.chat_template import bare_template
from lalm.models.load import read_config
from lalm.models.save import found_name, lasting_name
from lalm.weights import sources
from lalm.weights.llm import LLMError, load_causal_lm, load_tokenizer

PIECES = ["Describe the sound.", "A dog barks twice near a road.", "USER: what do you hear? ASSISTANT: rain"]


def split(folder, whole, count, suffix):
    """Weights of ``whole`` in ``count`` shards with their index, as transformers' own names have it."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, weight_map = sorted(state), {}
    for i in range(count):
        stem = whole.removesuffix(suffix)
        shard = f"{stem}-{i + 1:05d}-of-{count:05d}{suffix}"
        part = {name: state[name] for name in names[i::count]}
        save_file(part, folder / shard, {"format": "pt"}) if suffix == ".safetensors" else torch.save(
            part, folder / shard
        )
        weight_map |= dict.fromkeys(part, shard)
    (folder / f"{whole}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return state


def vicuna(folder, shards):
    """lmsys/vicuna-*: SentencePiece alone, float16 ``.bin`` shards."""
    import sentencepiece

    folder.mkdir()
    (folder / "corpus.txt").write_text("\n".join(PIECES * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    (folder / "corpus.txt").unlink()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=300, **shape)).half().save_pretrained(folder)
    return split(folder, "pytorch_model.bin", shards, ".bin")


@pytest.mark.parametrize("shards", [2, 3], ids=["vicuna-7b", "vicuna-13b"])
def test_vicuna(tmp_path, shards):
    import sentencepiece

    state = vicuna(tmp_path / "vicuna", shards)
    assert sorted(path.suffix for path in (tmp_path / "vicuna").iterdir()) == sorted(
        [*[".bin"] * shards, ".model", *[".json"] * 5]
    )
    model = load_causal_lm(str(tmp_path / "vicuna"), dtype=torch.float32)
    assert all(torch.equal(value, state[name].float()) for name, value in model.state_dict().items())
    tokenizer = load_tokenizer(tmp_path / "vicuna")
    own = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "vicuna" / "tokenizer.model"))
    for text in [*PIECES, " two  spaces", "naïve 漢字", "line\nbreak"]:
        assert tokenizer(text)["input_ids"] == [1, *own.encode(text)]
    assert tokenizer("A dog</s>A dog")["input_ids"] == [1, *own.encode("A dog"), 2, *own.encode("A dog")]
    assert "ASSISTANT:" in bare_template(tokenizer)


def test_a_tokenizer_without_its_second_vocabulary_is_the_same(tmp_path):
    """Qwen2.5: transformers' class keeps the vocabulary and the merges as Python objects, too."""
    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", *"abcĠ", "ab", "abc"])}
    Qwen2Tokenizer(vocabulary, [("a", "b"), ("ab", "c")]).save_pretrained(tmp_path / "qwen")
    usual, ours = AutoTokenizer.from_pretrained(tmp_path / "qwen"), load_tokenizer(tmp_path / "qwen")
    assert type(ours) is type(usual) is Qwen2Tokenizer and {"_vocab", "_merges"} <= set(vars(usual))
    assert not {"_vocab", "_merges"} & set(vars(ours))
    for one in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert one("abc ab<|endoftext|>")["input_ids"] == usual("abc ab<|endoftext|>")["input_ids"]
        assert one.get_vocab() == usual.get_vocab()
    for name, one in (("ours", ours), ("usual", usual)):
        one.save_pretrained(tmp_path / name)
    for file in (tmp_path / "usual").iterdir():
        assert (tmp_path / "ours" / file.name).read_bytes() == file.read_bytes()


def test_llama_3(tmp_path):
    """meta-llama/Meta-Llama-3-8B-Instruct: four safetensors, tokenizer.json; original/ holds another copy."""
    folder = llama_folder(tmp_path / "llama")
    state = split(folder, "model.safetensors", 4, ".safetensors")
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.00.pth").write_bytes(b"never read")
    model = load_causal_lm(str(folder))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items() if name in state)
    assert (
        load_tokenizer(folder)("ab")["input_ids"] == AutoTokenizer.from_pretrained(folder)("ab")["input_ids"]
    )


@pytest.mark.parametrize("kind", ["large-v2", "large-v3", "bin alone", "bin shards"])
def test_whisper(tmp_path, kind):
    """openai/whisper-large-v2 has model.safetensors in float32; large-v3 float16, and float32 in shards."""
    folder = whisper_folder(tmp_path / "whisper")
    state = load_file(folder / "model.safetensors")
    plain = load_encoder(folder).state_dict()
    if kind == "large-v3":
        half = {name: value.half() for name, value in state.items()}
        save_file(half, folder / "model.safetensors", {"format": "pt"})
        for i in (1, 2):
            (folder / f"model.fp32-0000{i}-of-00002.safetensors").write_bytes(b"never read")
        plain = {name: value.half().float() for name, value in plain.items()}
    if kind == "bin alone":
        (folder / "model.safetensors").unlink()
        torch.save(state, folder / "pytorch_model.bin")
    if kind == "bin shards":
        split(folder, "pytorch_model.bin", 2, ".bin")
    opened = load_encoder(folder).state_dict()
    assert opened.keys() == plain.keys()
    assert all(torch.equal(opened[name], plain[name]) for name in plain)


def test_bert(tmp_path):
    """google/bert_uncased_L-4_H-256_A-4: config.json, pytorch_model.bin, vocab.txt and no more."""
    folder = bert_folder(tmp_path / "bert_uncased")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("a dog barks")["input_ids"]
    vocabulary = tokenizer.get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n")
    state = load_file(folder / "model.safetensors")
    torch.save({f"bert.{name}": value for name, value in state.items()}, folder / "pytorch_model.bin")
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert AutoTokenizer.from_pretrained(folder)("a dog barks")["input_ids"] == ids
    from lalm.models.classes import classes_of
    from lalm.systems.apt.model import APTConfig

    aligner = {"vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": 2}
    aligner |= {"num_attention_heads": 2, "intermediate_size": 32}
    config = APTConfig(
        audio_config={"model_type": "lalm_audio_mae", "hidden_size": 64, "num_attention_heads": 1},
        text_config=LlamaConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
        ),
        aligner=aligner,
    )
    connector = classes_of("apt").model(config).model.connector
    connector.start(folder)
    words = connector.aligner.state_dict()["embeddings.word_embeddings.weight"]
    assert torch.equal(words[: len(vocabulary)], state["embeddings.word_embeddings.weight"])


def test_qwen_7b_of_the_hub_is_refused_with_a_way_out(tmp_path):
    """Qwen/Qwen-7B: configuration_qwen.py and qwen.tiktoken, which only its own code reads."""
    fields = {"model_type": "qwen", "auto_map": {"AutoConfig": "configuration_qwen.QWenConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(fields | {"architectures": ["QWenLMHeadModel"]}))
    (tmp_path / "qwen.tiktoken").write_text("IQ== 0\n")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    for opening in (lambda: load_causal_lm(str(tmp_path)), lambda: load_tokenizer(tmp_path)):
        with pytest.raises(LLMError, match=r"is a 'qwen', .* not run; convert it to the qwen2 format"):
            opening()


def test_qwen_in_the_qwen2_format(tmp_path):
    """Qwen/Qwen1.5-7B and what Qwen2-Audio was made of: vocab.json and merges.txt beside tokenizer.json."""
    folder = llama_folder(tmp_path / "qwen")
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=300, num_key_value_heads=2, **shape))
    model.save_pretrained(folder)
    state = split(folder, "model.safetensors", 4, ".safetensors")
    opened = load_causal_lm(str(folder)).state_dict()
    assert all(torch.equal(opened[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (
            lambda f: (f / "pytorch_model-00002-of-00002.bin").unlink(),
            "lacks pytorch_model-00002-of-00002.bin",
        ),
        (
            lambda f: (f / "pytorch_model.bin.index.json").unlink(),
            "has no weights: neither model.safetensors",
        ),
        (lambda f: (f / "pytorch_model.bin.index.json").write_text("[]"), "is damaged: it has no weight_map"),
        (
            lambda f: (f / "tokenizer.model").unlink(),
            "has no tokenizer: none of tokenizer.json, tokenizer.model",
        ),
        (lambda f: (f / "tokenizer.model").write_bytes(b"x"), "the tokenizer in .* cannot be read"),
        (lambda f: (f / "config.json").unlink(), "is no LLM folder: its config.json cannot be read"),
    ],
)
def test_a_part_that_is_not_whole_is_refused_by_name(tmp_path, damage, problem):
    vicuna(tmp_path / "vicuna", 2)
    damage(tmp_path / "vicuna")
    with pytest.raises(LLMError, match=problem):
        load_causal_lm(str(tmp_path / "vicuna"))
        load_tokenizer(tmp_path / "vicuna")


def test_an_encoder_that_is_not_whole_is_refused_by_name(tmp_path):
    folder = whisper_folder(tmp_path / "whisper")
    split(folder, "pytorch_model.bin", 2, ".bin")
    (folder / "pytorch_model-00001-of-00002.bin").unlink()
    with pytest.raises(EncoderError, match=r"lacks pytorch_model-00001-of-00002\.bin"):
        load_encoder(folder)
    (folder / "pytorch_model.bin.index.json").unlink()
    with pytest.raises(ValueError, match=r"it has no model.safetensors or pytorch_model.bin"):
        load_encoder(folder)


# What the repositories of the recipes hold, and what of it is to be fetched.
HUB = {
    "lmsys/vicuna-13b-v1.1": (
        "config.json generation_config.json pytorch_model-00001-of-00003.bin "
        "pytorch_model-00002-of-00003.bin pytorch_model-00003-of-00003.bin pytorch_model.bin.index.json "
        "special_tokens_map.json tokenizer.model tokenizer_config.json",
        "",
    ),
    "openai/whisper-large-v3": (
        "config.json model.safetensors preprocessor_config.json tokenizer.json",
        "model.fp32-00001-of-00002.safetensors model.fp32-00002-of-00002.safetensors flax_model.msgpack "
        "model.safetensors.index.fp32.json pytorch_model.bin pytorch_model.fp32-00001-of-00002.bin",
    ),
    "meta-llama/Meta-Llama-3-8B-Instruct": (
        "config.json model-00001-of-00004.safetensors model.safetensors.index.json tokenizer.json",
        "original/consolidated.00.pth original/params.json original/tokenizer.model",
    ),
    "google/bert_uncased_L-4_H-256_A-4": ("config.json pytorch_model.bin vocab.txt", "flax_model.msgpack"),
    "Salesforce/instructblip-vicuna-7b": (
        "config.json model-00001-of-00004.safetensors model.safetensors.index.json tokenizer.model "
        "tokenizer_config.json preprocessor_config.json qformer_tokenizer/tokenizer.json "
        "qformer_tokenizer/vocab.txt",
        "pytorch_model-00001-of-00004.bin pytorch_model.bin.index.bin",
    ),
    "Qwen/Qwen2-Audio-7B-Instruct": (
        "config.json model-00001-of-00005.safetensors model.safetensors.index.json chat_template.json "
        "merges.txt vocab.json tokenizer.json preprocessor_config.json generation_config.json",
        "",
    ),
    "WeiChihChen/BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2": (
        "BEATs_iter3_plus_AS2M.pt",
        ".gitattributes",
    ),
    "gaunernst/vit_base_patch16_1024_128.audiomae_as2m_ft_as20k": ("config.json model.safetensors", ""),
    "worstchan/EAT-base_epoch30_finetune_AS2M": (
        "config.json model.safetensors",
        "configuration_eat.py modeling_eat.py",
    ),
}


@pytest.mark.parametrize("repository", HUB)
def test_what_is_fetched_of_a_repository(tmp_path, monkeypatch, repository):
    from huggingface_hub.utils import filter_repo_objects

    wanted, rest = (names.split() for names in HUB[repository])

    def snapshot_download(name, *, allow_patterns, ignore_patterns, etag_timeout):
        assert name == repository
        for file in filter_repo_objects(
            [*wanted, *rest], allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        ):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
        return str(tmp_path)

    monkeypatch.setattr(sources, "snapshot_download", snapshot_download)
    sources.hub_snapshot(repository)
    here = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert here == set(wanted)


def test_paths_of_parts_hold_from_any_working_folder(tmp_path, monkeypatch):
    llm, inner = tmp_path / "parts" / "vicuna", tmp_path / "model" / "whisper"
    llm.mkdir(parents=True)
    inner.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "parts")
    assert lasting_name("vicuna", tmp_path / "model") == str(llm)
    assert lasting_name("../model/whisper", tmp_path / "model") == "./whisper"
    assert lasting_name("whisper-base", tmp_path / "model") == "whisper-base"
    assert lasting_name("openai/whisper-large-v2", tmp_path / "model") == "openai/whisper-large-v2"
    monkeypatch.chdir("/")
    assert found_name("./whisper", tmp_path / "model") == str(inner)
    assert found_name(str(llm), tmp_path / "model") == str(llm)
    assert found_name("openai/whisper-large-v2", tmp_path / "model") == "openai/whisper-large-v2"
    fields = {
        "lalm_slim": True,
        "model_type": "lalm_salmonn",
        "parts": {"encoder": "./whisper", "llm": "x/y"},
    }
    (tmp_path / "model" / "config.json").write_text(json.dumps(fields))
    _, config = read_config(tmp_path / "model")
    assert config.parts == {"encoder": str(inner), "llm": "x/y"}

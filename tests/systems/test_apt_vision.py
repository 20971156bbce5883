"""APT-BLIP-2: what a BLIP-2 of transformers sees stays what it saw, and sound stands beside it, untrained."""

import base64
import io
import json

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tiny_parts import byte_tokenizer
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    BlipImageProcessorPil,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipVideoConfig,
    InstructBlipVideoForConditionalGeneration,
)

from lalm.audio.images import PictureError, load_image, video_frames
from lalm.cli import app as cli
from lalm.data.sample import Sample
from lalm.evaluate.items import open_task
from lalm.inference.device import pick_dtype
from lalm.inference.engine import Options
from lalm.models.load import load_hearing
from lalm.models.lora import add_lora
from lalm.models.save import save_model
from lalm.systems.apt.vision import APTBlip2

VISION = {
    **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    **{"image_size": 28, "patch_size": 14},
}
QFORMER = {
    **{"vocab_size": 90, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"intermediate_size": 32, "initializer_range": 0.2},
}
NUM_QUERIES = 4


def llm(width: int = 32) -> dict:
    tokenizer = byte_tokenizer()
    return {
        **{"model_type": "llama", "vocab_size": len(tokenizer) + 1, "hidden_size": width},
        **{"intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4},
        **{"initializer_range": 0.2, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None},
        **{"pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 512},
    }


def vlm(whole, config_class, text: dict):
    torch.manual_seed(5)
    tokens = {"num_query_tokens": NUM_QUERIES, "image_token_index": len(byte_tokenizer())}
    if config_class is InstructBlipVideoConfig:
        tokens = {"num_query_tokens": NUM_QUERIES, "video_token_index": len(byte_tokenizer())}
    config = config_class(vision_config=VISION, qformer_config=QFORMER, text_config=text, **tokens)
    model = whole(config).eval()
    torch.nn.init.normal_(model.query_tokens)
    return model


def share_embeddings(eyes, model) -> None:
    """Give a vision model the embedding table that the connector was trained beside, and a row more."""
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        eyes.language_model.get_input_embeddings().weight[: len(table)] = table


def images() -> BlipImageProcessorPil:
    return BlipImageProcessorPil(size={"height": 28, "width": 28})


@pytest.fixture
def seeing(tiny, tiny_bert, tmp_path):
    """An InstructBLIP that hears, from folders: its own in the Hub's layout, and a slim APT checkpoint."""
    torch.manual_seed(0)
    model, processor = tiny("apt")
    save_model(model, processor, tmp_path / "apt", slim=True)
    eyes = vlm(InstructBlipForConditionalGeneration, InstructBlipConfig, llm())
    share_embeddings(eyes, model)
    eyes.save_pretrained(tmp_path / "vlm")
    byte_tokenizer().save_pretrained(tmp_path / "vlm")
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path / "vlm" / "qformer_tokenizer")
    images().save_pretrained(tmp_path / "vlm")
    return APTBlip2.load(tmp_path / "vlm", tmp_path / "apt"), eyes, model, processor


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8))


def sound(seed: int, seconds: float = 0.5) -> dict:
    noise = np.random.default_rng(seed).standard_normal(int(seconds * 16_000)).astype(np.float32) * 0.1
    return {"type": "audio", "audio": noise, "rate": 16_000}


def user(*parts) -> Sample:
    made = [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
    return Sample(({"role": "user", "content": made},))


def film(colours: list[tuple[int, int, int]]) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        track = container.add_stream("mpeg4", rate=4)
        track.width, track.height, track.pix_fmt = 64, 64, "yuv420p"
        for colour in colours:
            plain = np.full((64, 64, 3), colour, dtype=np.uint8)
            container.mux(track.encode(av.VideoFrame.from_ndarray(plain, format="rgb24")))
        container.mux(track.encode())
    return file.getvalue()


@torch.no_grad()
def test_without_sound_it_is_the_vision_model(seeing):
    whole, eyes, _, _ = seeing
    sample = user({"type": "image", "image": picture(0)}, "what is it?")
    ids = whole.tokenizer("what is it?")["input_ids"]
    asked = whole.question_tokenizer("what is it?", return_tensors="pt")
    image_token = eyes.config.image_token_index
    expected = eyes(
        pixel_values=images()([picture(0)], return_tensors="pt")["pixel_values"],
        qformer_input_ids=asked["input_ids"],
        qformer_attention_mask=asked["attention_mask"],
        input_ids=torch.tensor([[image_token] * NUM_QUERIES + ids]),
    ).logits
    found = whole.vlm.language_model(inputs_embeds=whole.embed(sample)).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_sound_stands_where_it_was_put_as_apt_hears_it(seeing):
    whole, _, model, processor = seeing
    a, b = sound(1), sound(2)
    embeds = whole.embed(user({"type": "image", "image": picture(0)}, "hear ", a, "then ", b, "which?"))[0]
    batch = processor.batch([user("hear ", a, "then ", b, "which?")])
    heard = model.get_audio_features(
        batch["input_values"], batch["audio_lengths"], batch["instruction_ids"], batch["instruction_mask"]
    ).pooler_output
    at = NUM_QUERIES + len("hear ")  # one token a byte
    torch.testing.assert_close(embeds[at : at + 4], heard[:4], atol=1e-5, rtol=1e-4)
    at += 4 + len("then ")
    torch.testing.assert_close(embeds[at : at + 4], heard[4:], atol=1e-5, rtol=1e-4)
    assert len(embeds) == at + 4 + len("which?")


@torch.no_grad()
def test_frames_of_a_video_are_seen_as_instructblips_video_model_sees_them(seeing):
    whole, eyes, _, _ = seeing
    video = vlm(InstructBlipVideoForConditionalGeneration, InstructBlipVideoConfig, llm())
    video.load_state_dict(eyes.state_dict())
    clip = film([(20 * i, 200 - 10 * i, 90) for i in range(12)])
    found = whole.see({"type": "video", "video": clip}, "who?")
    pixels = images()(video_frames(clip, 8), return_tensors="pt")["pixel_values"]
    asked = whole.question_tokenizer("who?", return_tensors="pt")
    expected = video.get_video_features(
        pixels[None], qformer_input_ids=asked["input_ids"], return_dict=True
    ).pooler_output[0]
    assert found.shape == (8 * NUM_QUERIES, 32)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_it_answers_what_it_sees_and_hears(seeing):
    whole, *_ = seeing
    rows = [
        user({"type": "image", "image": picture(0)}, sound(1), "what?"),
        user({"type": "image", "image": picture(0)}, sound(2), "what?"),
        user({"type": "image", "image": picture(3)}, sound(1), "what?"),
        user({"type": "video", "video": film([(9, 9, 9)] * 3)}, "what?"),
        user(sound(1), "what?"),
        user("hello"),
    ]
    replies = whole.reply(rows, Options(max_new_tokens=12))
    with torch.no_grad():
        one, other_sound, other_picture = (whole.embed(row) for row in rows[:3])
    assert one.shape == other_sound.shape == other_picture.shape
    assert not torch.equal(one, other_sound) and not torch.equal(one, other_picture)
    assert [len(reply.heard) for reply in replies] == [1, 1, 1, 0, 1, 0]
    assert whole.reply(rows[:1], Options(max_new_tokens=12))[0].text == replies[0].text
    assert not any(p.grad is not None for p in whole.vlm.parameters())


def test_encoder_decoder_language_models_and_blip_2_work(tiny, tmp_path):
    model, processor = tiny("apt")
    save_model(model, processor, tmp_path / "apt", slim=True)
    tokenizer = byte_tokenizer()
    t5 = {
        **{"model_type": "t5", "vocab_size": len(tokenizer) + 1, "d_model": 32, "d_kv": 8, "d_ff": 32},
        **{"num_layers": 1, "num_heads": 4, "pad_token_id": tokenizer.pad_token_id},
        **{"eos_token_id": tokenizer.eos_token_id, "decoder_start_token_id": tokenizer.pad_token_id},
    }
    hearing, instruction_tokenizer = load_hearing(tmp_path / "apt")
    blip = vlm(Blip2ForConditionalGeneration, Blip2Config, t5)
    share_embeddings(blip, model)
    whole = APTBlip2(blip, tokenizer, images(), hearing, instruction_tokenizer)
    (reply,) = whole.reply([user({"type": "image", "image": picture(0)}, sound(1), "what?")], Options(5))
    assert isinstance(reply.text, str) and reply.num_tokens >= 1


def test_a_vision_model_with_another_llm_is_refused(seeing, tmp_path):
    """Equally wide is not the same: Vicuna v1.1 and v1.5."""
    _, eyes, model, processor = seeing
    APTBlip2.load(tmp_path / "vlm", tmp_path / "apt", dtype=torch.bfloat16)  # rounded, it is the same
    with torch.no_grad():
        table = eyes.language_model.get_input_embeddings().weight
        table += 0.3 * table.std() * torch.randn_like(table)
    eyes.save_pretrained(tmp_path / "vlm")
    with pytest.raises(ValueError, match=r"LLM is not '.*', beside .*: its embedding table"):
        APTBlip2.load(tmp_path / "vlm", tmp_path / "apt")
    model.config.llm_sketch = None  # of an older checkpoint; the tiny LLMs differ in their layers
    save_model(model, processor, tmp_path / "old", slim=True)
    with pytest.raises(ValueError, match="its num_hidden_layers differs"):
        APTBlip2.load(tmp_path / "vlm", tmp_path / "old")


def test_what_does_not_fit_is_refused(seeing, tiny, tmp_path, tiny_folders):
    whole, _, model, processor = seeing
    with pytest.raises(ValueError, match="trained for an LLM 32 wide, and this one is 64 wide"):
        APTBlip2(
            vlm(InstructBlipForConditionalGeneration, InstructBlipConfig, llm(64)),
            whole.tokenizer,
            images(),
            whole.hearing,
            whole.instruction_tokenizer,
        )
    with pytest.raises(ValueError, match="answers one user message"):
        whole.reply(
            [Sample((*user("a").messages, {"role": "assistant", "content": "b"}, *user("c").messages))]
        )
    with pytest.raises(ValueError, match="is a llama, and only blip-2 and instructblip see"):
        APTBlip2.load(tiny_folders[1], tmp_path / "apt")
    with pytest.raises(ValueError, match="with 600 for the answer that is more than the model's 512"):
        whole.reply([user("a")], Options(600))
    with pytest.raises(ValueError, match="has an image, and this model takes audio and text"):
        processor.batch([user({"type": "image", "image": picture(0)}, "what?")])
    acdc, acdc_processor = tiny("acdc")
    save_model(acdc, acdc_processor, tmp_path / "acdc", slim=True)
    with pytest.raises(ValueError, match="is no APT"):
        APTBlip2.load(tmp_path / "vlm", tmp_path / "acdc")
    save_model(model, processor, tmp_path / "whole", slim=False)
    with pytest.raises(ValueError, match="is not a slim checkpoint"):
        load_hearing(tmp_path / "whole")
    lora = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": ["q_proj"]}
    add_lora(model, lora)
    save_model(model, processor, tmp_path / "lora", slim=True)
    with pytest.raises(ValueError, match="beside an LLM that LoRA"):
        load_hearing(tmp_path / "lora")


def test_pictures_come_from_files_urls_and_bytes(tmp_path):
    file = tmp_path / "a.png"
    picture(1).save(file)
    url = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
    for source in (file, str(file), url, file.read_bytes(), picture(1)):
        assert load_image(source).size == (50, 40) and load_image(source).mode == "RGB"
    for source, what in ((b"nothing", "an inline picture"), (tmp_path / "none.png", "none.png")):
        with pytest.raises(PictureError, match=what):
            load_image(source)


def test_frames_are_spread_over_a_video(tmp_path):
    shades = [(20 * i, 20 * i, 20 * i) for i in range(12)]
    file = tmp_path / "film.mp4"
    file.write_bytes(film(shades))
    for count, expected in ((1, [6]), (3, [2, 6, 10]), (20, list(range(12)))):
        found = [np.asarray(frame).mean() / 20 for frame in video_frames(file, count)]
        np.testing.assert_allclose(found, expected, atol=0.4)
    with pytest.raises(PictureError, match=r"bad\.mp4 is not a video"):
        (tmp_path / "bad.mp4").write_bytes(b"nothing")
        video_frames(tmp_path / "bad.mp4", 2)
    with pytest.raises(PictureError, match="holds no video track"):
        video_frames("samples/bell.flac", 2)


def test_the_command_asks_about_files_that_are_seen_and_heard(seeing, tmp_path, capsys):
    picture(1).save(tmp_path / "street.png")
    soundfile.write(tmp_path / "horn.wav", sound(1)["audio"], 16_000)
    (tmp_path / "silent.mp4").write_bytes(film([(9, 9, 9)] * 3))
    files = [str(tmp_path / name) for name in ("street.png", "silent.mp4", "horn.wav")]
    given = ["--vision", str(tmp_path / "vlm"), "--device", "cpu", "--max-new-tokens", "5"]
    apt = ["--model", str(tmp_path / "apt")]
    assert cli.run(["ask", *files, "What is it?", *given, *apt, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["model"] == "vlm with apt" and [a["name"] for a in told["audio"]] == ["horn.wav"]
    assert told["audio"][0]["account"]["heard_s"] == told["audio"][0]["seconds_heard"]
    whole, *_ = seeing
    parts = [{"type": "image", "image": files[0]}, {"type": "video", "video": files[1]}]
    sample = user(*parts, {"type": "audio", "audio": files[2]}, "What is it?")
    if next(whole.vlm.parameters()).dtype == pick_dtype(torch.device("cpu")):
        assert told["answer"] == whole.reply([sample], Options(5))[0].text
    for words, said in (
        ([*files, "What?", *given], "--vision needs the folder of a trained APT"),
        ([*files, "What?", *given, *apt, "--orders", "2"], "no --orders"),
        ([files[0], "What?", *apt], "street.png"),  # a picture for a model that only hears
        ([str(tmp_path / "vlm" / "config.json"), "What?", *given, *apt], "config.json"),
    ):
        assert cli.run(["ask", *words]) == 2, words
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) == 1, error


def test_avqa_is_asked_with_its_videos(seeing, tmp_path, capsys):
    """Four options, one video with its sound in a file and one that is not there."""
    folder = tmp_path / "data" / "AVQA"
    folder.mkdir(parents=True)
    row = {
        "id": 5,
        "video_name": "v_1",
        "question_text": "What drives?",
        "answer": 2,
        "question_relation": "View",
    }
    row["multi_choice"] = ["bird", "train", "car", "boat"]
    (folder / "val_qa.json").write_text(json.dumps([row, {**row, "id": 6, "video_name": "v_2"}]))
    (folder / "v_1.mp4").write_bytes(film([(9, 9, 9)] * 3))
    soundfile.write(folder / "v_1.wav", sound(1)["audio"], 16_000)
    words = [
        "--vision",
        str(tmp_path / "vlm"),
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "out"),
        "--controls",
    ]
    task = ["--task", "avqa_video", "--data", str(tmp_path / "data"), "--json"]
    assert cli.run(["eval", str(tmp_path / "apt"), *task, *words]) == 0
    card = json.loads(capsys.readouterr().out)
    entry = card["tasks"]["avqa_video"]
    assert entry["items"] == 1 and entry["missing"] == 1 and entry["chance"] == 0.25
    assert 0 <= entry["metrics"]["accuracy"]["mean"] <= 1 and len(card["model"]["weights"]) == 32
    controls = [json.loads(line)["control"] for line in (tmp_path / "out" / "predictions.jsonl").open()]
    assert {"audio", "silent"} <= set(controls)
    words[words.index("--controls") :] = ["--control", "unseen"]
    words[words.index("--out") + 1] = str(tmp_path / "unseen")
    assert cli.run(["eval", str(tmp_path / "apt"), *task, *words]) == 0
    rows = [json.loads(line) for line in (tmp_path / "unseen" / "predictions.jsonl").open()]
    assert [row["control"] for row in rows] == ["audio", "unseen"]  # the sound and the question alone
    capsys.readouterr()
    (asked,) = [s for s in open_task("avqa_video", tmp_path / "data")[0].samples]
    assert [part["type"] for part in asked.messages[0]["content"]] == ["video", "audio", "text"]
    assert asked.references == ("car",) and len(asked.choices) == 4

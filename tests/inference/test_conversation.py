"""Turns of a chat: same answers as when everything is read anew, and nothing is heard twice."""

import numpy as np
import pytest
import soundfile
import torch

from lalm.data.sample import Sample, ask
from lalm.inference.conversation import Conversation
from lalm.inference.engine import Engine, Options
from lalm.models import prefill
from lalm.systems import SYSTEMS

SHORT = Options(max_new_tokens=8)


@pytest.fixture(params=sorted(SYSTEMS))
def engine(request, tiny) -> Engine:
    torch.manual_seed(0)
    return Engine(*tiny(request.param), "tiny")


def sound(num_samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(num_samples) * 0.1).astype(np.float32)


def counted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """Clips encoded and positions read, call by call."""
    clips, positions = [], []
    encode, body = engine.model.model.encode, engine.model.model.language_model
    forward = body.forward
    monkeypatch.setattr(
        engine.model.model, "encode", lambda *given: (clips.append(len(given[0])), encode(*given))[1]
    )

    def read(**given):
        positions.append(given["inputs_embeds"].shape[1])
        return forward(**given)

    monkeypatch.setattr(body, "forward", read)
    return clips, positions


def test_turns_equal_an_uncached_chat_and_clips_are_encoded_once(engine, monkeypatch):
    chat = Conversation(engine, SHORT)
    first, second = sound(30_000, 1), sound(20_000, 2)
    turns = [([first], "What is it?"), ([], "Sure? Say more."), ([second], ""), ([], "Which is louder?")]
    clips, positions = counted(engine, monkeypatch)
    answers, read = [], []
    for audios, text in turns:
        positions.clear()
        answers.append("".join(chat.stream(audios, text)))
        read.append(positions[0])
    assert clips == [1, 1]  # one a recording, none for the turns of text
    fresh = []
    for end in range(1, len(chat.messages), 2):
        fresh.append(engine.reply([Sample(tuple(chat.messages[:end]))], SHORT)[0].text)
    assert answers == fresh and len(set(answers)) > 1
    whole = engine.processor.batch([Sample(tuple(chat.messages[:-1]))])["input_ids"].shape[1]
    assert sum(read) < whole + 4 * SHORT.max_new_tokens


def test_a_turn_hears_the_channel_it_names_and_tells_what_is_odd(engine, tmp_path):
    both = np.stack([sound(16_000), np.zeros(16_000, np.float32)], 1)
    soundfile.write(tmp_path / "call.wav", both, 16_000)
    chat = Conversation(engine, SHORT)
    part = {"type": "audio", "audio": str(tmp_path / "call.wav"), "channel": 1}
    assert "".join(chat.say([part, {"type": "text", "text": "What?"}])) == chat.messages[-1]["content"]
    assert chat.messages[0]["content"][0]["audio"].account.channels == (1,)
    assert chat.remarks == ["call.wav: it holds nothing but digital silence"]
    assert chat.as_given()[0]["content"][0] == part  # as it is saved
    chat.reply([sound(8_000)], "And this?")
    assert chat.remarks == []


def test_a_stream_left_early_and_a_failing_turn_leave_a_sound_chat(engine, monkeypatch):
    chat = Conversation(engine, Options(max_new_tokens=40, temperature=1.0), system="Be brief.")
    monkeypatch.setattr(Engine, "ends", lambda self: {10**6})
    stream = chat.stream([sound(30_000)], "What is it?")
    piece = next(stream)
    stream.close()
    assert chat.messages[-1] == {"role": "assistant", "content": piece}
    before = list(chat.messages)
    with pytest.raises(ValueError, match="a turn needs a recording or some text"):
        chat.reply(text="  ")
    monkeypatch.setattr(engine.model, "generate", lambda **given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        chat.reply(text="And?")
    assert chat.messages == before
    monkeypatch.undo()
    chat.options = SHORT
    answer = chat.reply([sound(9_000, 3)], "And this?")
    assert answer == engine.reply([Sample(tuple(chat.messages[:-1]))], SHORT)[0].text


def test_a_conversation_with_beams_answers_as_if_all_were_read_anew(engine):
    chat = Conversation(engine, Options(max_new_tokens=8, beams=2))
    chat.reply([sound(30_000)], "What is it?")
    answer = chat.reply(text="Sure?")
    assert answer == engine.reply([Sample(tuple(chat.messages[:-1]))], chat.options)[0].text


def test_memory_reads_a_clip_again_that_it_knows_in_part():
    prefix_cache = prefill.PrefixCache()
    prefix_cache.cache.update(torch.zeros(1, 1, 6, 2), torch.zeros(1, 1, 6, 2), 0)
    batch = {
        "input_ids": torch.tensor([[1, 9, 9, 2, 9, 9, 9, 3]]),
        "input_values": torch.zeros(2, 5),
        "audio_lengths": torch.tensor([4, 5]),
    }
    ids = prefill.content_ids(batch, 9, [sound(4), sound(5)], [2, 3])
    assert (ids < 0).tolist() == [False, True, True, False, True, True, True, False]
    assert len(set(ids.tolist())) == 5
    prefix_cache.ids = ids[:6]
    left = prefix_cache.reuse(batch, ids, [2, 3], None)
    assert left["past_key_values"].get_seq_length() == 4  # the second clip begins there
    assert left["audio_lengths"].tolist() == [5]
    other = prefix_cache.reuse({"input_ids": torch.tensor([[5, 6]])}, torch.tensor([5, 6]), [], None)
    assert other["past_key_values"].get_seq_length() == 0


def test_memory_knows_clips_of_the_same_length_and_lora_scales_apart(engine, monkeypatch):
    prefix_cache, first, second = prefill.PrefixCache(), sound(20_000, 1), sound(20_000, 2)
    encoded, _ = counted(engine, monkeypatch)
    for clip in (first, second, first):
        sample, before = ask([clip], "What?"), len(encoded)
        text = "".join(engine.stream(sample, SHORT, prefix_cache))
        assert len(encoded) == before + 1
        assert text == engine.reply([sample], SHORT)[0].text
    batch = {"input_ids": torch.tensor([[1, 2]])}
    assert prefix_cache.reuse(batch, prefix_cache.ids, [], 2.0)["past_key_values"].get_seq_length() == 0


def rows() -> list[Sample]:
    return [
        ask([sound(n, n % 5)], text)
        for n, text in [(64_000, "What?"), (8_000, "Why?"), (30_000, "Who is it? " * 14)]  # some hear tersely
    ]


def test_rows_of_unlike_length_are_read_apart_and_answered_the_same(engine, monkeypatch):
    alone = [engine.reply([row], SHORT)[0].text for row in rows()]
    _, positions = counted(engine, monkeypatch)
    assert [reply.text for reply in engine.reply(rows(), SHORT)] == alone
    lengths = [engine.processor.batch([row])["input_ids"].shape[1] for row in rows()]
    assert len(positions) > len(prefill.length_groups(lengths)) > 1
    assert sum(positions[: len(prefill.length_groups(lengths))]) < max(lengths) * len(lengths)


def test_groups_hold_rows_of_like_length():
    assert prefill.length_groups([10, 100, 9, 85, 50]) == [[1, 3], [4], [0, 2]]


def test_a_row_of_one_token_among_longer_ones(tiny):
    body = tiny("acdc")[0].model.language_model.eval()
    embeds, mask = torch.randn(2, 6, 32), torch.tensor([[1] * 6, [0] * 5 + [1]])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        whole = body(inputs_embeds=embeds, attention_mask=mask, position_ids=places).last_hidden_state[:, -1]
        cache = prefill.read_in_groups(body, embeds, mask)
        last = {"inputs_embeds": embeds[:, -1:], "position_ids": places[:, -1:]}
        found = body(**last, attention_mask=mask, past_key_values=cache).last_hidden_state[:, -1]
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-4)


def test_a_layer_with_room_holds_what_transformers_own_holds():
    from transformers.cache_utils import DynamicLayer

    preallocated, plain = prefill.PreallocatedLayer(), DynamicLayer()
    torch.manual_seed(0)

    def both(change) -> None:
        for layer in (preallocated, plain):
            change(layer)
        assert torch.equal(preallocated.keys, plain.keys)
        assert torch.equal(preallocated.values, plain.values)

    def add(rows: int, positions: int) -> None:
        keys, values = torch.randn(2, rows, 2, positions, 3)
        both(lambda layer: layer.update(keys, values))

    add(3, 5)
    for _ in range(prefill.SPARE_POSITIONS + 2):  # more than there is room for at first
        add(3, 1)
    place = preallocated.keys.data_ptr()
    add(3, 2)
    assert preallocated.keys.data_ptr() == place  # nothing was moved
    both(lambda layer: layer.crop(-4))
    add(3, 1)
    both(lambda layer: layer.reorder_cache(torch.tensor([2, 0, 0])))
    add(3, 1)
    both(lambda layer: layer.batch_select_indices(torch.tensor([1])))
    add(1, 2)
    assert preallocated.get_seq_length() == plain.get_seq_length() == prefill.SPARE_POSITIONS + 9

"""The incremental detokenizer: its pieces join to the decoded text, up to a stop."""

import pytest

from lalm.inference.detokenizer import Detokenizer


@pytest.mark.parametrize("stop", [(), ("END",), ("a stop", "EN D")])
def test_the_detokenizers_text_is_the_decoded_text_stripped(tiny, stop):
    tokenizer = tiny("acdc")[1].tokenizer
    ids = tokenizer(" \n ä€ 音声 🐴 E EN END  tail \n", add_special_tokens=False)["input_ids"] + [
        200,
        130,
        200,
        64,
        131,
    ]
    detokenizer = Detokenizer(tokenizer, stop)
    said = ""
    for token in ids:
        said += detokenizer.add(token)
        if detokenizer.stopped:
            break
    said += detokenizer.flush()
    whole = tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert said == (whole.split("END")[0].strip() if "END" in stop else whole)

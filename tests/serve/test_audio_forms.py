"""A recording in a request: every way in which clients write its bytes, and what is said to other ones."""

import base64

import httpx
import numpy as np
import pytest
from test_api import wav

from lalm.audio.data_url import decode_base64, decode_data_url
from lalm.serve.url_fetch import _address

SOUND = wav(0.2) + b"\xfb\xff"  # trailing bytes that become + and / in base64, - and _ in its other alphabet
BARE = base64.b64encode(SOUND).decode()
OTHER = base64.urlsafe_b64encode(SOUND).decode()
FORMS = {
    "bare": BARE,
    "without padding": BARE.rstrip("="),
    "url-safe": OTHER,
    "url-safe without padding": OTHER.rstrip("="),
    "lines": base64.encodebytes(SOUND).decode(),
    "lines of mail": base64.encodebytes(SOUND).decode().replace("\n", "\r\n"),
    "blanks around": f"  {BARE}\n",
    "data URL": f"data:audio/wav;base64,{BARE}",
    "data URL with parameters": f"data:audio/ogg;codecs=opus;base64,{BARE}",
    "data URL in capitals": f"DATA:audio/wav;BASE64,{BARE}",
    "data URL without type": f"data:;base64,{BARE}",
    "data URL of bytes": f"data:application/octet-stream;base64,{BARE}",
    "data URL, url-safe": f"data:audio/wav;base64,{OTHER}",
    "data URL, percent": "data:audio/wav;base64,"
    + BARE.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
    "data URL, lines": f"data:audio/wav;base64,{base64.encodebytes(SOUND).decode()}",
}
assert {"+", "/"} <= set(BARE) and {"-", "_"} <= set(OTHER) and BARE.endswith("=")


@pytest.mark.parametrize("form", FORMS)
def test_base64_is_read_as_clients_write_it(form):
    text = FORMS[form]
    assert (decode_data_url if text[:5].lower() == "data:" else decode_base64)(text) == SOUND


@pytest.mark.parametrize("text", ["!", "abcde", "data", "YWJj\u00e4", "YW=Jj", "%41%42"])
def test_what_is_not_base64_is_refused(text):
    if text == "data":
        with pytest.raises(ValueError, match="without base64"):
            decode_data_url("data:audio/wav,abcd")
        return
    with pytest.raises(ValueError):
        decode_base64(text)


def test_every_form_is_heard_in_every_request(serve):
    address = serve()
    with httpx.Client(base_url=address, timeout=60) as client:

        def heard(part: dict) -> int:
            body = {"messages": [{"role": "user", "content": [part]}]}
            got = client.post("/tokenize", json=body)
            assert got.status_code == 200, got.text
            return got.json()["count"]

        counts = {heard({"type": "input_audio", "input_audio": {"data": text}}) for text in FORMS.values()}
        urls = [text for text in FORMS.values() if text[:5].lower() == "data:"]
        counts |= {heard({"type": "audio_url", "audio_url": {"url": url}}) for url in urls}
        counts |= {heard({"type": "audio_url", "audio_url": urls[0]})}  # as some clients write it
        assert len(counts) == 1
        vectors = client.post("/v1/embeddings", json={"input": urls}).json()["data"]
        assert np.ptp([one["embedding"] for one in vectors], axis=0).max() == 0
        wrong = {"type": "input_audio", "input_audio": {"data": "https://example.org/a.wav"}}
        said = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": [wrong]}]})
        assert said.status_code == 400 and "as audio_url" in said.json()["error"]["message"]


def test_an_address_is_found_in_both_forms_of_an_audio_url():
    place = "https://example.org/a.wav"
    for told in (place, {"url": place}):
        assert _address({"type": "audio_url", "audio_url": told}) == place
    for told in (FORMS["data URL"], {"url": FORMS["data URL"]}, {"url": 3}, None):
        assert _address({"type": "audio_url", "audio_url": told}) is None

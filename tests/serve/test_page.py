"""The page in a real browser: headless Chromium with a file for its microphone asks a tiny model."""

import re
import shutil
import subprocess
import sys
import time
from typing import Any, ClassVar

import httpx
import numpy as np
import torch
from browser import ROOT, SAMPLES, TOKENS, needs_browser, tone
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from lalm.data.episode import Labelled, episode
from lalm.data.sample import Sample, ask
from lalm.inference import detection
from lalm.inference.detection import Found, detect
from lalm.inference.engine import Options
from lalm.models.lora import add_lora
from lalm.serve import detections
from lalm.serve.running_batch import RunningBatch
from lalm.serve.transcriptions import instruction
from lalm.systems.apt.prompts import FEW_SHOT

FILES = ROOT / "lalm" / "serve" / "page"


def test_the_page_comes_from_the_package_and_loads_nothing_from_elsewhere(serve):
    client = httpx.Client(base_url=serve(api_key="secret"))
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "html": "text/html"}
    for path in FILES.iterdir():
        got = client.get(f"/page/{path.name}")
        assert got.status_code == 200 and got.content == path.read_bytes()
        assert got.headers["content-type"].startswith(kinds.get(path.suffix[1:], "audio/"))
        if path.suffix[1:] in kinds:
            links = set(re.findall(r"(?:https?:)?//[\w.]+\w/", path.read_text()))
            assert links <= {"https://creativecommons.org/", "http://www.w3.org/"}
        else:
            assert path.read_bytes() == (SAMPLES / path.name).read_bytes()
    got = client.get("/")
    assert "<h1>" in got.text and got.headers["cache-control"] == "no-cache"
    policy = got.headers["content-security-policy"]
    assert (
        "default-src 'none'" in policy and "unsafe" not in policy and got.headers["x-frame-options"] == "DENY"
    )
    for wrong in ("/page/", "/page/nothing.js", "/page/%2e%2e/app.py", "/page/..%2fapp.py"):
        assert client.get(wrong).status_code == 404


def test_detections_are_those_of_lalm_detect(serve, engine, monkeypatch):
    for module in (detections, detection):
        monkeypatch.setattr(module, "ANSWER_TOKENS", 12)
    client = httpx.Client(base_url=serve(), timeout=120)
    data = (SAMPLES / "horse.ogg").read_bytes()

    def post(**fields: Any) -> httpx.Response:
        return client.post("/v1/audio/detections", files={"file": ("horse.ogg", data)}, data=fields)

    got = post(sound=["a horse", "rain"]).json()
    found = detect(engine, SAMPLES / "horse.ogg", ["a horse", "rain"])
    assert [(one["sound"], one["answer"]) for one in got["sounds"]] == [(f.sound, f.answer) for f in found]
    assert got["seconds"] == round(found[0].seconds, 3)
    monkeypatch.setattr(detections, "read", lambda *a: Found(a[0], ((0.25, 1.0004),), a[1], a[2], False))
    assert post(sound="a horse").json()["sounds"][0]["spans"] == [{"onset_s": 0.25, "offset_s": 1.0}]
    for fields in ({}, {"sound": " "}, {"sound": "x" * 101}, {"sound": ["x"] * 9}):
        wrong = post(**fields)
        assert wrong.status_code == 400 and "sound" in wrong.json()["error"]["message"]


@needs_browser
def test_questions_are_answered_one_after_the_other(page, engine):
    here = page()
    assert here.text("#model") == "tiny" and not here.one("#lora-row").is_displayed()
    here.sample("bell.flac")
    here.press("Describe")
    bell, horse = SAMPLES / "bell.flac", SAMPLES / "horse.ogg"
    first = here.ask("")
    asked = ask([bell], "What do you hear?")
    assert first == engine.reply([asked], Options(TOKENS))[0].text
    assert re.fullmatch(r"heard 2\.8 s · first words after \d+\.\d s", here.text(".turn.answer .facts"))
    assert (
        here.text("#said") == f"Answer: {first}"
        and here.one(".turn.answer").get_attribute("aria-busy") == "false"
    )
    here.sample("horse.ogg")
    second = here.ask("And this?")
    longer = Sample((*asked.with_target(first).messages, *ask([horse], "And this?").messages))
    assert second == engine.reply([longer], Options(TOKENS))[0].text
    assert here.all(".turn.user .with")[-1].text == "2 horse.ogg"  # the bell is not sent twice
    here.one("#fresh").click()
    assert not here.all(".turn")
    both = here.ask("Which?")
    assert both == engine.reply([ask([bell, horse], "Which?")], Options(TOKENS))[0].text
    here.set("temperature", 1.5)
    here.one("#settings summary").click()
    here.one("#seed").send_keys("4")
    here.one("#fresh").click()
    drawn = here.ask("Which?")
    wish = {"messages": ask([bell, horse], "Which?").to_openai(), "max_tokens": TOKENS}
    wish |= {"temperature": 1.5, "seed": 4}
    got = httpx.post(f"{here.address}/v1/chat/completions", json=wish, timeout=120).json()
    assert drawn == got["choices"][0]["message"]["content"] != both


@needs_browser
def test_starters_ask_what_they_say(page, engine):
    here = page()
    here.sample("bell.flac")
    bell, horse = SAMPLES / "bell.flac", SAMPLES / "horse.ogg"
    for label, task in (("Transcribe", "transcribe"), ("Translate", "translate")):
        here.press(label)
        asked = ask([bell], instruction(task, "", ""))
        assert here.ask("") == engine.reply([asked], Options(TOKENS))[0].text
        here.one("#fresh").click()
    here.sample("horse.ogg")
    here.press("Compare")
    asked = ask([bell, horse], "How do these recordings differ?")
    assert here.ask("") == engine.reply([asked], Options(TOKENS))[0].text


@needs_browser
def test_lora_can_be_turned_down(page, engine):
    add_lora(engine.model, {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "v_proj"]})
    for name, parameter in engine.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    said = {s: engine.reply([ask([], "What?")], Options(TOKENS, lora_scale=s))[0].text for s in (None, 0.0)}
    here = page()
    here.one("#settings summary").click()
    slider = here.one("#lora_scale")
    assert slider.is_displayed() and slider.get_attribute("max") == "4"
    assert slider.get_attribute("aria-valuetext") == "2, as trained" and here.ask("What?") == said[None]
    here.one("#fresh").click()
    here.set("lora_scale", 0)
    assert slider.get_attribute("aria-valuetext") == "0" and here.ask("What?") == said[0.0] != said[None]
    assert 'extra_body={"lora_scale": 0}' in here.copied("as Python")


@needs_browser
def test_a_sound_is_seen_and_played(page, tmp_path):
    here = page()
    files = [tone(tmp_path / f"{name} tone.wav", 1000, 40.0, silent_s=20.0) for name in ("late", "other")]
    here.files(*files)  # long, so that a slow machine still finds them playing
    assert [name.text for name in here.all(".clip .name")] == ["late tone.wav", "other tone.wav"]
    assert here.text(".clip .facts") == "40.0 s"
    picture = "a[0].getContext('2d').getImageData(0, 0, a[0].width, a[0].height)"
    width, height, data = here.js(
        f"((p) => [p.width, p.height, [...p.data]])({picture})", here.one(".spectrum")
    )
    light = np.array(data).reshape(height, width, 4)[:, :, :3].sum(2)
    assert light[:, : width // 2 - 20].max() < 60 and light[:, width // 2 + 20 :].max() > 500
    mels = 2595 * np.log10(1 + np.array([1000, 8000]) / 700)
    assert abs(light[:, -20].argmax() - height * (1 - mels[0] / mels[1])) < 2
    heights = [2 * float(h) for h in re.findall(r"v([\d.]+)", here.one(".played").get_attribute("d"))]
    assert max(heights[:78]) < 10 < min(heights[82:])
    view = here.one(".view")
    assert view.get_attribute("role") == "slider" and view.get_attribute("aria-valuemax") == "40.0"
    view.send_keys(Keys.ARROW_RIGHT)
    here.wait(lambda: view.get_attribute("aria-valuenow") == "0.5")
    assert here.one(".cursor").get_attribute("style") == "left: 1.25%;"
    ActionChains(here.browser).move_to_element(view).click().perform()
    here.wait(lambda: abs(float(view.get_attribute("aria-valuenow")) - 20) < 0.3)
    here.one(".play").click()
    here.wait(lambda: "playing" in here.one(".clip").get_attribute("class"))
    here.wait(lambda: float(view.get_attribute("aria-valuenow")) > 20.6)
    here.all(".clip .play")[1].click()  # one at a time
    here.wait(lambda: here.js("clips.map((clip) => clip.player.paused)") == [True, False])
    here.one(".clip .remove").click()
    assert [name.text for name in here.all(".clip .name")] == ["other tone.wav"]


@needs_browser
def test_what_the_microphone_hears_is_recorded(page, engine):
    here = page()
    here.one("#record").click()
    here.wait(lambda: int(here.one("#level").get_attribute("aria-valuenow")) > 30)
    assert here.one("#record").text == "Stop" and here.one("#record").get_attribute("aria-pressed") == "true"
    time.sleep(0.8)
    here.one("#record").click()
    here.wait(lambda: here.js("clips.length && clips[0].seconds"))
    samples = np.array(here.js("[...clips[0].mono]"))
    assert len(samples) > 8000 and np.abs(samples).max() > 0.1
    loudest = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * 16_000 / len(samples)
    assert abs(loudest - 440) < 5
    assert here.one(".clip .save").get_attribute("download").startswith("recording-")
    assert here.ask("What?") and here.text(".turn.answer .facts").startswith("heard ")


@needs_browser
def test_turns_are_spoken_by_holding_a_button_or_a_key(page):
    here = page()
    here.one("#voice-open").click()
    hold = here.one("#hold")
    ActionChains(here.browser).click_and_hold(hold).pause(1.0).perform()
    assert hold.text == "Listening" and int(here.one("#voice-level").get_attribute("aria-valuenow")) > 30
    ActionChains(here.browser).release().perform()
    assert here.answer(1)
    assert (
        here.text(".turn.user .part button") == "▸ spoken-1.wav" and here.text("#voice-state") == "Your turn."
    )
    assert not here.all(".clip")
    here.one(".turn.user .part button").click()  # what was said can be heard again
    here.wait(lambda: here.js("turns[0].content[0].clip.player.currentTime") > 0)
    hold.send_keys(Keys.SPACE)  # a tap begins
    time.sleep(0.8)
    hold.send_keys(Keys.SPACE)  # and another one ends
    assert here.answer(2)
    key = "new KeyboardEvent(name, {key: ' '})"
    here.js(f"['keydown', 'keyup', 'keydown', 'keyup'].map((name) => a[0].dispatchEvent({key}))", hold)
    here.wait(lambda: "too short" in here.text("#voice-state"))
    assert len(here.all(".turn.user")) == 2


class Script:
    """Stands in for silero-vad: one turn from the 20th frame to the 50th, whatever is heard."""

    heard: ClassVar[list[np.ndarray]] = []

    def __init__(self, pause_s: float, threshold: float = 0.5) -> None:
        self.heard.clear()

    def reset_states(self) -> None:
        pass

    def __call__(self, frame: Any) -> dict[str, int] | None:
        self.heard.append(frame.numpy().copy())
        return {20: {"start": 0}, 50: {"end": 0}}.get(len(self.heard))


@needs_browser
def test_turns_are_heard_hands_free(page, monkeypatch):
    monkeypatch.setattr("lalm.serve.turn_detection.load_detector", Script)
    here = page(api_key="secret")
    here.one("#key").send_keys("secret", Keys.ENTER)
    here.wait(lambda: here.text("#model") == "tiny")
    here.one("#voice-open").click()
    here.one("#understood").click()
    here.one("#hands-free").click()
    assert here.answer(1)
    assert here.text(".turn.user .part button") == "▸ spoken-1.wav"
    pcm = "turns[0].content[0].clip.file.arrayBuffer().then((b) => [...new Int16Array(b, 44)])"
    said = np.array(here.js(pcm))
    rate = here.js("turns[0].content[0].clip.file.arrayBuffer().then((b) => new Uint32Array(b, 24, 1)[0])")
    assert 0.5 < len(said) / rate < 1.6  # what was said can be heard again, and no more
    loudest = np.abs(np.fft.rfft(said * np.hanning(len(said)))).argmax() * rate / len(said)
    assert abs(loudest - 440) < 5
    here.wait(lambda: here.text(".turn.user .understood").startswith("Understood: "))
    assert here.text("#voice-state") == "Speak whenever you like." and not here.one("#hold").is_enabled()
    assert int(here.one("#voice-level").get_attribute("aria-valuenow")) > 30
    sound = np.concatenate(Script.heard[20:50])
    loudest = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))).argmax() * 16_000 / len(sound)
    assert abs(loudest - 440) < 3
    here.one("#hands-free").click()
    assert here.one("#hold").is_enabled() and here.text("#voice-state") == ""


@needs_browser
def test_found_sounds_are_marked_on_the_spectrogram(page, monkeypatch):
    spans = {"bell": ((0.7, 1.4),), "rain": ()}
    monkeypatch.setattr(detections, "ANSWER_TOKENS", 4)
    monkeypatch.setattr(detections, "read", lambda *a: Found(a[0], spans[a[0]], "never", a[2], False))
    here = page()
    here.press("Find a sound")
    here.one("#question").send_keys("bell", Keys.ENTER)
    assert here.text("#status") == "Add a recording to find sounds in."
    here.sample("bell.flac")
    said = here.ask(", rain")
    assert said == "bell.flac, bell: 0.7\u20131.4 s\nbell.flac, rain: no times. The model says: never"
    [mark] = here.all(".mark")
    box, whole = mark.rect, here.one(".spectrum").rect
    seconds = here.js("clips[0].seconds")
    assert abs(box["x"] - whole["x"] - whole["width"] * 0.7 / seconds) < 2
    assert abs(box["width"] - whole["width"] * 0.7 / seconds) < 2 and mark.text == "bell"
    if shutil.which("curl"):
        done = run(["sh", "-c", here.copied("as curl")])
        assert '"onset_s":0.7,"offset_s":1.4' in done
    assert "bell [{'onset_s': 0.7, 'offset_s': 1.4}]" in run([sys.executable, "-c", here.copied("as Python")])


@needs_browser
def test_clips_are_named_by_labelled_ones(page, engine):
    here = page()
    for name in ("bird.ogg", "horse.ogg", "train.ogg"):
        here.sample(name)
    here.press("By example")
    here.one("#send").click()
    assert "what they are" in here.text("#status")
    for field, label in zip(here.all(".called input"), ("bird", "horse"), strict=False):
        field.send_keys(label)
    here.one("#send").click()
    said = here.answer(1)
    clips = [
        Labelled({"type": "audio", "audio": str(SAMPLES / f"{name}.ogg")}, name, name)
        for name in ("bird", "horse", "train")
    ]
    shown = episode(clips[:2], clips[2], "", ("bird", "horse"), prompt=FEW_SHOT).prompt()
    assert said == engine.reply([shown], Options(TOKENS))[0].text
    assert here.text(".turn.user .text") == "1 is bird, 2 is horse. What is 3?"


def run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=SAMPLES, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_browser
def test_what_is_copied_asks_the_same(page):
    here = page()
    here.sample("horse.ogg")
    here.set("top_p", 0.9)
    here.ask("It's a \"horse\"\\n, isn't it?")
    here.sample("bird.ogg")
    said = here.ask("And $this `one`? $(true)")
    assert here.copied("Copy") == said
    here.js("window.copied = ''")
    assert run([sys.executable, "-c", here.copied("as Python")]).removesuffix("\n") == said
    here.js("window.copied = ''")
    if shutil.which("curl"):
        command = here.copied("as curl")
        assert (
            httpx.Response(200, text=run(["sh", "-c", command])).json()["choices"][0]["message"]["content"]
            == said
        )


@needs_browser
def test_an_answer_can_be_stopped(page, engine, monkeypatch):
    here = page()
    here.set("max_tokens", 1024)
    monkeypatch.setattr(type(engine), "ends", lambda self: set())
    step = RunningBatch.step
    monkeypatch.setattr(RunningBatch, "step", lambda self: (time.sleep(0.02), step(self))[1])  # 20 s
    here.one("#question").send_keys("Talk.", Keys.ENTER)
    here.wait(lambda: len(here.text(".turn.answer .text")) > 5)
    here.one("#question").send_keys(Keys.ESCAPE)
    here.answer(1)
    assert here.text(".turn.answer .facts") == "stopped" and not here.one("#stop").is_displayed()
    here.wait(lambda: httpx.get(f"{here.address}/health").json()["running"] == 0)


@needs_browser
def test_a_key_is_asked_for(page):
    here = page(api_key="secret")
    assert here.text("#model") == "locked"
    here.one("#key").send_keys("wrong", Keys.ENTER)
    here.one("#key").send_keys("", Keys.CONTROL + "a")
    here.one("#key").send_keys("secret", Keys.ENTER)
    here.wait(lambda: here.text("#model") == "tiny")
    assert not here.one("#lock").is_displayed() and here.ask("Hm?")
    code = here.copied("as Python")
    assert "secret" not in code and "LALM_API_KEY" in code

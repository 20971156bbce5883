"""The page in a real browser: what is refused, what is kept, two models, Markdown, and who cannot see it."""

import json

import httpx
import pytest
from browser import ROOT, SAMPLES, TOKENS, needs_browser
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from lalm.data.sample import Sample, ask
from lalm.inference.engine import Engine, Options
from lalm.models.lora import add_lora

BELL, HORSE = SAMPLES / "bell.flac", SAMPLES / "horse.ogg"
DROP = """((data) => {
  for (const [name, bytes] of a[1]) data.items.add(new File([Uint8Array.from(bytes)], name));
  const given = {dataTransfer: data, clipboardData: data, bubbles: true, cancelable: true};
  document.dispatchEvent(a[0] === 'drop' ? new DragEvent('drop', given) : new ClipboardEvent('paste', given));
})(new DataTransfer())"""
NOT_SOUND = {
    "notes.txt": ("Ein Gerät hört.\n".encode(), "text"),
    "speech.wav": (b"not really a wave file", "text"),
    "page.html": (b"<!doctype html><title>x</title>", "text"),
    "wide.csv": ("a;b\r\n".encode("utf-16"), "text"),
    "paper.mp3": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "a PDF document"),
    "photo.ogg": (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "a picture"),
    "all.zip": (b"PK\x03\x04\x14\0\0\0", "a ZIP archive or an office document"),
    "animal.webp": (b"RIFF\x24\0\0\0WEBPVP8 ", "a picture"),
}


@needs_browser
@pytest.mark.parametrize("how", ["drop", "paste"])
def test_files_are_checked_when_they_come(page, how):
    here = page(audio_s=2.5)
    given = [[name, list(data)] for name, (data, _) in NOT_SOUND.items()]
    wrong = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(30)
    given += [["void.wav", []], ["cut.wav", list(wrong)], ["bell.flac", list(BELL.read_bytes())]]
    given += [["horse.ogg", list(HORSE.read_bytes())]] if how == "paste" else []
    here.js(DROP, how, given)
    here.wait(lambda: "2.5 s" in here.text("#status"))
    told = here.text("#status")
    for name, (_, kind) in NOT_SOUND.items():
        assert f"{name} is {kind}, not a recording." in told
    assert "void.wav is empty." in told and "cut.wav is not taken: " in told  # by the server
    assert "bell.flac is 2.8 s long: the server takes 2.5 s." in told
    here.wait(lambda: len(here.all(".clip")) == (how == "paste"))
    here.press("Compare")
    here.one("#send").click()
    assert "another" in here.text("#status")


@needs_browser
def test_a_conversation_survives_a_reload_and_can_be_exported(page, engine, tmp_path):
    here = page()
    here.sample("bell.flac")
    here.files(BELL)
    here.all(".clip .remove")[1].click()
    first = here.ask("What do you hear?")
    here.reload(1)
    assert [name.text for name in here.all(".clip .name")] == ["bell.flac"]
    here.set("max_tokens", TOKENS)
    here.sample("horse.ogg")
    second = here.ask("And this?")  # goes on as if nothing had happened
    asked = ask([BELL], "What do you hear?").with_target(first)
    longer = Sample((*asked.messages, *ask([HORSE], "And this?").messages))
    assert second == engine.reply([longer], Options(TOKENS))[0].text
    folder = {"behavior": "allow", "downloadPath": str(tmp_path)}
    here.browser.execute_cdp_cmd("Page.setDownloadBehavior", folder)
    for name in ("json", "text"):
        here.one("#save summary").click()
        here.one(f"#save-{name}").click()
    request, text = tmp_path / "conversation.json", tmp_path / "conversation.md"
    here.wait(lambda: request.exists() and text.exists())
    body = json.loads(request.read_text())
    assert [message["role"] for message in body["messages"]] == ["user", "assistant"] * 2
    body["messages"].append({"role": "user", "content": "Sure?"})
    got = httpx.post(f"{here.address}/v1/chat/completions", json=body, timeout=120)
    assert got.status_code == 200 and body["max_tokens"] == TOKENS
    assert text.read_text().startswith(f"**You:** [bell.flac] What do you hear?\n\n**tiny:** {first}\n")
    here.one("#fresh").click()
    here.wait(lambda: not here.all(".turn"))
    here.one("#earlier summary").click()
    here.wait(lambda: here.all("#earlier-list li"))
    [kept] = here.all("#earlier-list li")
    assert kept.text.startswith("What do you hear?")
    kept.find_element("tag name", "button").click()
    here.wait(lambda: len(here.all(".turn.user")) == 2 and len(here.all(".clip")) == 2)


@needs_browser
def test_what_was_sent_can_be_taken_back(page, engine):
    here = page()
    here.sample("bell.flac")
    here.sample("horse.ogg")
    first = here.ask("What do you hear?")
    here.one(".clip .remove").click()
    assert here.text(".turn.user .gone") == "bell.flac, removed" and len(here.all(".turn.user .part")) == 1
    second = here.ask("Really?")
    asked = ask([HORSE], "What do you hear?").with_target(first)
    longer = Sample((*asked.messages, *ask([], "Really?").messages))
    assert second == engine.reply([longer], Options(TOKENS))[0].text
    here.one("#fresh").click()
    here.one("#voice-open").click()
    here.one("#understood").click()
    ActionChains(here.browser).click_and_hold(here.one("#hold")).pause(0.6).perform()
    ActionChains(here.browser).release().perform()
    here.answer(1)
    here.wait(lambda: here.text(".turn.user .understood") == "Understood: no speech")  # it was a tone
    here.all(".turn.user .part button")[-1].click()
    assert not here.all(".turn") and here.js("turns.length") == 0


@needs_browser
def test_two_models_answer_side_by_side(page, tiny, engine):
    add_lora(engine.model, {"rank": 2, "alpha": 4.0, "targets": ["q_proj"]})
    other = Engine(*tiny("salmonn"), "other")
    here = page(others={"other": lambda: other})
    here.sample("bell.flac")
    choices = [option.text for option in here.all("#second option")]
    assert choices == ["nobody", "tiny", "tiny, LoRA off", "other"]
    here.js("(a[0].value = 'other', a[0].dispatchEvent(new Event('change')))", here.one("#second"))
    said = []
    for question in ("What?", "Why?"):
        here.one("#question").send_keys(question, Keys.ENTER)
        here.answer(2 * len(said) + 2)
        said.append(here.js("turns.at(-1).answers.map((answer) => answer.text)"))
    assert [by.text for by in here.all(".by")] == ["tiny", "other"] * 2
    left, right = (item.rect for item in here.all(".answers")[1].find_elements("css selector", ".answer"))
    assert left["y"] == right["y"] and left["x"] + left["width"] < right["x"]
    for number, model in enumerate((engine, other)):  # each goes on with what it said itself
        asked = ask([BELL], "What?")
        replies = [model.reply([asked], Options(TOKENS))[0].text]
        longer = Sample((*asked.with_target(replies[0]).messages, *ask([], "Why?").messages))
        replies.append(model.reply([longer], Options(TOKENS))[0].text)
        assert [both[number] for both in said] == replies


MARKDOWN = {
    "a **b *c*** d": "<p>a <strong>b <em>c</em></strong> d</p>",
    "snake_case_name and 2 * 3 * 4": "<p>snake_case_name and 2 * 3 * 4</p>",
    "# One\n### Two\ntext": "<h3>One</h3><h4>Two</h4><p>text</p>",
    "- a\n- b\n  1. c\n  2. d\n\n- e": "<ul><li><p>a</p></li><li><p>b</p><ol start='1'><li><p>c</p></li>"
    "<li><p>d</p></li></ol></li><li><p>e</p></li></ul>",
    "3) x\n4) y": "<ol start='3'><li><p>x</p></li><li><p>y</p></li></ol>",
    "> q\n> r\n\ns": "<blockquote><p>q\nr</p></blockquote><p>s</p>",
    "```js\nlet a = '<b>';\n```\nend": "<pre tabindex='0'><code>let a = '&lt;b&gt;';</code></pre><p>end</p>",
    "~~~\nnever closed **x**": "<pre tabindex='0'><code>never closed **x**</code></pre>",
    "| a | b |\n|---|:-:|\n| `1` | 2 |": "<div class='wide' tabindex='0'><table><tbody><tr><th>a</th>"
    "<th>b</th></tr><tr><td><code>1</code></td><td>2</td></tr></tbody></table></div>",
    "one\ntwo\n\n---\nthree": "<p>one\ntwo</p><hr><p>three</p>",
    "\\*not\\* ``a`b``": "<p>*not* <code>a`b</code></p>",
    "0.7\u20131.4 s": "<p>0.7\u20131.4 s</p>",
    "[x](https://a.org/b_c) https://d.org/?e=1.": "<p><a LINK='https://a.org/b_c'>x</a> "
    "<a LINK='https://d.org/?e=1'>https://d.org/?e=1</a>.</p>",
}
KNOWN = "p strong em del code pre a ul ol li blockquote h3 h4 h5 h6 hr div table tbody tr th td"
HOSTILE = (
    "<script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 1'>",
    "**<svg onload=window.hit=1>**",
    "[x](javascript:window.hit=1)",
    "[x](JaVaScRiPt:window.hit=1)",
    "[x](data:text/html,<script>window.hit=1</script>)",
    "![x](https://tracker.example/pixel.png)",
    '[x](https://a.org/"onmouseover=window.hit=1)',
    "<https://a.org/><iframe src=//b.org>",
    "`<b onclick=window.hit=1>`\n\n| <i> | b |\n|---|---|\n| <u> | c |",
    "```<script>\nwindow.hit = 1\n```",
    "> " * 5000 + "deep",
    "*" * 3000 + "a" + "_" * 3000,
    "[" * 3000 + "](" * 3000,
)
RENDER = """import('./page/markdown.js').then(({markdown}) => {
  const place = document.createElement('div'), began = performance.now();
  place.append(markdown(a[0]));
  document.body.append(place);
  const names = [...place.querySelectorAll('*')].map((e) => e.localName);
  const attributes = [...place.querySelectorAll('*')].flatMap((e) => e.getAttributeNames());
  const links = [...place.querySelectorAll('[href]')].map((e) => e.protocol);
  const made = [place.innerHTML, names, attributes, links, place.textContent, performance.now() - began];
  place.remove();
  return made;
})"""


@needs_browser
def test_markdown_in_answers_is_shown_safely(page):
    here = page()
    for text, wanted in MARKDOWN.items():
        made = here.js(RENDER, text)[0].replace('"', "'")
        for place in ("https://a.org/b_c", "https://d.org/?e=1"):
            whole = f"href='{place}' title='{place}' target='_blank' rel='noopener noreferrer nofollow'"
            wanted = wanted.replace(f"LINK='{place}'", whole)
        assert made == wanted
    known = set(KNOWN.split())
    for text in HOSTILE:
        _, names, attributes, links, said, took_ms = here.js(RENDER, text)
        assert set(names) <= known and set(links) <= {"https:", "http:"}
        assert set(attributes) <= {"href", "title", "target", "rel", "tabindex", "class", "start"}
        assert took_ms < 5000 and said
    assert here.js("window.hit") is None


LONG = "a recording of the archive with a name that is much longer than a telephone is wide, take 7.flac"


@needs_browser
@pytest.mark.parametrize("width", [360, 375, 390, 1280])
def test_every_width_and_state_is_fit_to_use(page, tmp_path, width):
    here = page(others={"a second model with a long name": lambda: None})
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    here.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    every = width in (375, 1280)

    def check(state: str) -> None:
        assert here.js("Math.max(document.documentElement.scrollWidth, innerWidth)") == width, state
        assert here.js(BEYOND) == [], state
        for _ in range(2 if every else 0):  # light and dark
            assert here.faults() == [], state
            here.one("#theme").click()

    try:
        check("the first screen")
        (tmp_path / LONG).write_bytes(BELL.read_bytes())
        (text := tmp_path / ("x" * 120 + ".wav")).write_text("no sound")
        here.files(tmp_path / LONG)
        here.one("#files").send_keys(str(text))
        here.wait(lambda: "not a recording" in here.text("#status"))
        assert here.one(".clip .name").rect["width"] > 40
        check("a clip and a refusal")
        here.ask("A rather long question, which has to be broken into lines on a telephone: what is it?")
        here.js(SHOWN, (ROOT / "docs" / "respond.md").read_text()[:1500] + "\n\n" + "\n".join(MARKDOWN))
        check("an answer")
        here.one("#settings summary").click()
        here.one("#voice-open").click()
        check("settings and voice")
        for label in ("Find a sound", "By example"):
            here.press(label)
            check(label)
        for menu in ("earlier", "save"):
            here.one(f"#{menu} summary").click()
            check(menu)
            here.one(f"#{menu} summary").click()
        here.one(".clip .remove").click()
        check("a clip taken back")
        here.js("document.getElementById('by-hand').showModal()")
        check("a text to copy") if not every else here.faults() == []
        here.js("document.getElementById('by-hand').close()")
    finally:
        here.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@needs_browser
def test_a_locked_page_is_fit_to_use(page):
    here = page(api_key="secret")
    assert here.one("#lock").is_displayed() and here.faults() == []


@needs_browser
def test_the_first_screen_shows_what_one_can_do(page):
    here = page()
    assert len(here.all("#examples button")) == 6
    here.all("#examples button")[2].click()
    here.wait(lambda: here.js("clips.filter((clip) => clip.seconds).length") == 2)
    here.wait(lambda: here.one("#question").get_property("value") == "How do these recordings differ?")
    here.one("#send").click()
    assert here.answer(1) and not here.one("#examples").is_displayed()
    here.one("#fresh").click()
    here.all("#examples button")[4].click()
    here.wait(lambda: here.one("#send").text == "Name it")
    assert [field.get_property("value") for field in here.all(".called input")][-3:-1] != ["", ""]


BEYOND = """[...document.querySelectorAll('button, input, select, textarea, .clip, .turn, .menu > div')]
  .filter((e) => e.checkVisibility() && e.id !== 'files' && e.getBoundingClientRect().right > innerWidth)
  .map((e) => e.outerHTML)"""
SHOWN = """import('./page/markdown.js').then(({markdown}) => {
  document.querySelector('.answer .text').replaceChildren(markdown(a[0]));
})"""

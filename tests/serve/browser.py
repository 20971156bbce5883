"""The page in headless Chromium, which has a file for its microphone, and what a person does there."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
AXE = ROOT / "tests" / "fixtures" / "axe" / "axe.min.js"
PARTS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
needs_browser = pytest.mark.skipif(None in PARTS.values(), reason="chromium and chromium-driver are missing")
TOKENS = 16


def tone(path: Path, hertz: float, seconds: float, silent_s: float = 0.0) -> Path:
    time_s = np.arange(int(seconds * 16_000)) / 16_000
    samples = 0.3 * np.sin(2 * np.pi * hertz * time_s) * (time_s >= silent_s)
    soundfile.write(path, samples.astype(np.float32), 16_000)
    return path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    heard = tone(tmp_path_factory.mktemp("microphone") / "440.wav", 440, 2.0)
    options = webdriver.ChromeOptions()
    options.binary_location = PARTS["chromium"] or ""
    for flag in (
        *("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1280,900"),
        *("use-fake-ui-for-media-stream", "use-fake-device-for-media-stream"),
        *(f"use-file-for-fake-audio-capture={heard}", "autoplay-policy=no-user-gesture-required"),
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(PARTS["chromedriver"]))
    yield browser
    browser.quit()


# How many turns and recordings the browser keeps of this tab's conversation.
KEPT = """import('./page/storage.js').then(({get}) => get(sessionStorage.getItem('conversation')))
    .then((kept) => [kept?.turns.length, kept?.clips.filter((clip) => clip.card && clip.file).length])"""


class Page:
    """What a person does with the page, and sees of it."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self.browser = browser
        self.address = address
        browser.get(address)
        self.wait(lambda: self.text("#model") != "connecting")

    def wait(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.browser, 120, 0.05).until(lambda _: condition())

    def one(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.one(selector).get_property("textContent")

    def js(self, code: str, *given: Any) -> Any:
        """Value of a JavaScript expression in which ``clips``, ``turns`` and the given ``a`` are known."""
        body = "const done = arguments[arguments.length - 1], a = [...arguments].slice(0, -1);"
        modules = ", ".join(f"import('{self.address}/page/{name}.js')" for name in ("clips", "conversation"))
        body += f"Promise.all([{modules}]).then(async ([{{clips}}, {{turns}}]) => done(await ({code})));"
        return self.browser.execute_async_script(body, *given)

    def sample(self, name: str) -> None:
        count = len(self.all(".clip"))
        self.one(f"[data-file='{name}']").click()
        self.wait(lambda: self.js("clips.filter((clip) => clip.seconds).length") == count + 1)

    def files(self, *paths: Path) -> None:
        count = len(self.all(".clip"))
        self.one("#files").send_keys("\n".join(map(str, paths)))
        self.wait(lambda: self.js("clips.filter((clip) => clip.seconds).length") == count + len(paths))

    def set(self, name: str, value: float) -> None:
        code = "(a[0].value = a[1], a[0].dispatchEvent(new Event('input', {bubbles: true})))"
        self.js(code, self.one(f"#{name}"), value)

    def press(self, label: str) -> None:
        [chip] = [chip for chip in self.all("#starters button") if chip.text == label]
        chip.click()

    def ask(self, text: str) -> str:
        """Type and ask; the whole answer."""
        before = len(self.all(".turn.answer .actions"))  # counted first: the answer may be there at once
        self.one("#question").send_keys(text, Keys.ENTER)
        return self.answer(before + 1)

    def answer(self, number: int) -> str:
        self.wait(lambda: len(self.all(".turn.answer .actions")) == number)
        return self.js("turns.at(-1).answers[0].text")  # as it came, before it is read as Markdown

    def reload(self, turns: int) -> None:
        """Load the page again; it is to show so many turns."""
        self.wait(lambda: self.js(KEPT) == [turns, len(self.all(".clip"))])
        self.browser.refresh()
        self.wait(lambda: len(self.all(".turn.user")) == turns and self.text("#model") != "connecting")

    def faults(self) -> list[tuple[str, str]]:
        """What axe-core finds wrong with the page as it stands: rule and element."""
        if not self.browser.execute_script("return Boolean(window.axe)"):
            self.browser.execute_script(AXE.read_text() + ";window.axe = axe")
        found = (
            "({violations}) => violations.flatMap((v) => v.nodes.map((n) => [v.id, n.html.slice(0, 120)]))"
        )
        return self.js(f"axe.run(document, {{resultTypes: ['violations']}}).then({found})")

    def copied(self, label: str) -> str:
        self.js("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
        [*_, button] = [button for button in self.all(".actions button") if button.text == label]
        button.click()
        return self.wait(lambda: self.js("window.copied"))


@pytest.fixture
def page(chromium, serve) -> Iterator[Callable[..., Page]]:
    """``page(audio_s=5)``: the page of a server with these settings, short answers wanted."""

    def open_page(**settings: Any) -> Page:
        made = Page(chromium, serve(**settings))
        made.set("max_tokens", TOKENS)
        return made

    chromium.get_log("browser")
    yield open_page
    complaints = [line["message"] for line in chromium.get_log("browser") if line["level"] == "SEVERE"]
    assert [text for text in complaints if "favicon" not in text and "status of 4" not in text] == []

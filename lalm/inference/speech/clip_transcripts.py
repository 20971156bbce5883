"""Transcripts of the clips a model is asked about: made once by Whisper, remembered, on disk if wanted.

What a model may be given beside its audio tokens (``transcript: whisper`` in its config, as DeSTA2.5-Audio
has it). On disk they lie in one SQLite file, which several processes may share.
"""

import hashlib
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from lalm.audio.vad import Array
from lalm.inference.speech.recogniser import Whisper, Wish
from lalm.weights.fetch import cache_root

REMEMBERED = 512  # texts that are kept in memory
WISH = Wish(words=False, sure=True)
_TABLE = (
    "CREATE TABLE IF NOT EXISTS transcripts "
    "(clip TEXT, recogniser TEXT, text TEXT, PRIMARY KEY (clip, recogniser))"
)


class ClipTranscripts:
    """The transcript of each clip, as one line of text; "" where nobody speaks.

    ``open_whisper`` is called when the first is needed. ``file`` keeps them over runs; nothing is written
    without it. Example: ``ClipTranscripts(Whisper.load).of(audio)``.
    """

    def __init__(self, open_whisper: Callable[[], Whisper], file: Path | None = None) -> None:
        self._open, self._file = open_whisper, file
        self._whisper: Whisper | None = None
        self._texts: OrderedDict[str, str] = OrderedDict()
        self._coming: dict[str, Future[str]] = {}  # being transcribed
        self._lock = threading.Lock()

    def of(self, audio: Array | Callable[[], Array], clip: str = "") -> str:
        """The transcript of (N,) float32 samples at 16 kHz. Raises SpeechError, VoiceError, WeightsError.

        Where ``clip`` names the recording the samples may be a function, called if its transcript is missing.
        Of several threads that ask for one clip, the first transcribes it; another clip does not wait.
        """
        clip = clip or key(audio() if callable(audio) else audio)
        with self._lock:
            if clip in self._texts:
                self._texts.move_to_end(clip)
                return self._texts[clip]
            if (whisper := self._whisper) is None:
                whisper = self._whisper = self._open()
            coming, first = self._coming.get(clip), clip not in self._coming
            if coming is None:
                coming = self._coming[clip] = Future[str]()
        if first:
            try:
                coming.set_result(self._made(whisper, audio, clip))
            except BaseException as error:
                coming.set_exception(error)
            with self._lock:
                del self._coming[clip]
        return coming.result()

    def _made(self, whisper: Whisper, audio: Array | Callable[[], Array], clip: str) -> str:
        text = self._stored(clip)
        if text is None:
            text = whisper.transcribe(audio() if callable(audio) else audio, WISH).text
            self._store(clip, text)
        with self._lock:
            self._texts[clip] = text
            if len(self._texts) > REMEMBERED:
                self._texts.popitem(last=False)
        return text

    def _stored(self, clip: str) -> str | None:
        if self._file is None or not self._file.is_file():
            return None
        assert self._whisper is not None
        asked = (clip, self._recogniser())
        with _opened(self._file) as store:
            found = store.execute("SELECT text FROM transcripts WHERE clip = ? AND recogniser = ?", asked)
            row = found.fetchone()
        store.close()
        return None if row is None else str(row[0])

    def _recogniser(self) -> str:
        """Who wrote: texts of the times when Whisper drew again where it was not sure are others."""
        assert self._whisper is not None
        return f"{self._whisper.name}, sure"

    def _store(self, clip: str, text: str) -> None:
        if self._file is None:
            return
        assert self._whisper is not None
        with _opened(self._file) as store:
            store.execute(
                "INSERT OR REPLACE INTO transcripts VALUES (?, ?, ?)", (clip, self._recogniser(), text)
            )
        store.close()


def key(audio: Array) -> str:
    """What a clip's transcript is remembered by: a digest of its samples."""
    return hashlib.blake2b(audio.tobytes(), digest_size=16).hexdigest()


def kept_on_disk() -> Path:
    """Where training and evaluation keep transcripts: beside the pretrained parts."""
    return cache_root() / "transcripts.sqlite"


def _opened(file: Path) -> sqlite3.Connection:
    file.parent.mkdir(parents=True, exist_ok=True)
    store = sqlite3.connect(file, timeout=60)
    store.execute(_TABLE)
    return store

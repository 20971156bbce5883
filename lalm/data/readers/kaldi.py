"""Reads Kaldi data folders: ``wav.scp``, ``text``, and optionally ``segments``, ``utt2lang``, ``utt2spk``.

    wav.scp    RECORDING PATH              segments   UTTERANCE RECORDING START_S END_S [CHANNEL]
    text       UTTERANCE WORDS...          utt2lang   UTTERANCE LANGUAGE

Recordings that are the sides of one file have them in ``reco2file_and_channel`` (RECORDING FILE A).
A row is a line of ``text`` (without it: of segments or wav.scp). Relative paths start from the folder.
Commands are never run and archives (``x.ark:123``) not read: a row with one is refused, but for those that
only unpack a file that is read as it is (``flac -c -d -s x.flac |``).
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from lalm.data.readers.samples import ReaderError, Samples, spoken

DECODED = re.compile(
    r"(?:flac -c -d -s|flac -cds|cat) ([^\s|;&<>$`]+) \|"
)  # needs no command: the file is read


class Kaldi(Samples):
    """Utterances of a Kaldi data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._recordings = _table(folder / "wav.scp")
        self._segments = _table(folder / "segments")
        self._sides = _table(folder / "reco2file_and_channel")
        self._uses = Counter(self._recordings.values()) if self._sides else Counter()
        self._about = {
            "language": _table(folder / "utt2lang"),
            "speaker": _table(folder / "utt2spk"),
        }
        self._file = next(n for n in ("text", "segments", "wav.scp") if (folder / n).is_file())
        self._texts = _table(folder / self._file)
        self._names = list(self._texts)

    def __len__(self) -> int:
        return len(self._names)

    def place(self, number: int) -> str:
        return f"{self.folder.name}/{self._file} ({self._names[number]})"

    def row(self, number: int) -> Any:
        name = self._names[number]
        try:
            audio = self._audio(name)
        except ReaderError as error:
            raise ReaderError(f"{self.place(number)}: {error}") from None
        origin = {key: words[name] for key, words in self._about.items() if words.get(name)}
        text = self._texts[name] if self._file == "text" else None
        return spoken(audio, text, id=name, origin=origin)

    def _audio(self, name: str) -> dict[str, Any]:
        """The audio part of an utterance."""
        part: dict[str, Any] = {}
        recording = name
        if self._segments:
            fields = self._segments.get(name, "").split()
            if len(fields) not in (3, 4):
                raise ReaderError("segments has no 'RECORDING START END' for it")
            recording = fields[0]
            try:
                start_s, end_s = float(fields[1]), float(fields[2])
            except ValueError:
                raise ReaderError(f"segments has '{fields[1]} {fields[2]}' for its seconds") from None
            part = {"offset_s": start_s}
            if end_s != -1:  # -1 is Kaldi's word for the end
                if end_s <= start_s:
                    raise ReaderError(f"its segment ends at {end_s} s, before it starts")
                part["duration_s"] = round(end_s - start_s, 6)
        path = self._recordings.get(recording)
        if not path:
            raise ReaderError(f"wav.scp has no recording {recording}")
        if decoded := DECODED.fullmatch(path):
            path = decoded[1]
        if path.endswith("|"):
            raise ReaderError(f"wav.scp gives a command for {recording}; write its output to a file")
        if re.search(r"\.ark:\d+$", path):
            raise ReaderError(f"wav.scp points into an archive for {recording}; write it out as a file")
        side = fields[3] if self._segments and len(fields) == 4 else self._side(recording, path)
        return {"audio": path, **part, **({"channel": _channel(side)} if side else {})}

    def _side(self, recording: str, path: str) -> str:
        """A or B (or a number) for a recording that shares its file with another; else nothing."""
        said = self._sides.get(recording, "").split()
        return said[1] if len(said) == 2 and self._uses[path] > 1 else ""


def _channel(side: str) -> int:
    """The channel, from 0, that Kaldi calls A, B, ... or by its number."""
    if re.fullmatch(r"[A-Za-z]", side):
        return ord(side.upper()) - ord("A")
    if not side.isdecimal():
        raise ReaderError(f"its channel is {side!r}, which is neither a letter nor a number")
    return int(side)


def _table(path: Path) -> dict[str, str]:
    """KEY -> the rest of its line; nothing when there is no such file."""
    if not path.is_file():
        return {}
    found: dict[str, str] = {}
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise ReaderError(f"{path} is not UTF-8 text: save it as such") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        key, *rest = line.strip().split(maxsplit=1)  # between them spaces or tabs
        if key in found:
            raise ReaderError(f"{path}:{number}: {key} stands there twice")
        found[key] = "".join(rest)
    return found

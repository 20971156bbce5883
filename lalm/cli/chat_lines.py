"""What is typed or piped into ``lalm chat``: lines of recordings, text and commands."""

import io
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lalm.data.messages import Part

HELP = """A line is a turn: text, and recordings anywhere in it, such as
  rain.wav Is it raining?       "my dog.wav" and cat.flac: which is louder?
/undo        take back the last turn and its answer
/reset       forget all turns
/save FILE   write the conversation as a manifest (.jsonl)
/help        this text
/quit        end, as Ctrl-D does"""
COMMANDS = {"/undo": 0, "/reset": 0, "/save": 1, "/help": 0, "/quit": 0}  # and how many words follow
# A word in quotes, or up to white space; a backslash keeps the space after it.
_WORD = re.compile(r"""("(?:[^"\\]|\\.)*"|'[^']*')(?=[\s.,:;!?)]|$)|(?:\\.|\S)+""")
_BEFORE, _BEHIND = "([{\"'", ".,:;!?)]}\"'"  # what a sentence puts around a name


@dataclass(frozen=True)
class Turn:
    """What the user says at once: recordings (sources, or (N,) float32 at 16 kHz) and texts, in order."""

    parts: "tuple[Part, ...]" = ()

    @property
    def audios(self) -> list[Any]:
        """The recordings."""
        return [part["audio"] for part in self.parts if part["type"] == "audio"]

    def choosing(self, choice: dict[str, Any]) -> "Turn":
        """The turn with what of its recordings is heard; what was recorded just now is heard whole."""
        named = (str, Path)
        parts: Any = [
            {**part, **choice} if part["type"] == "audio" and isinstance(part["audio"], named) else part
            for part in self.parts
        ]
        return Turn(tuple(parts))

    @property
    def text(self) -> str:
        """The texts, joined."""
        return " ".join(part["text"] for part in self.parts if part["type"] == "text")


@dataclass(frozen=True)
class Command:
    """A line that is for the chat and not for the model, such as ``/save talk.jsonl``."""

    name: str
    word: str = ""


def read_line(line: str) -> Turn | Command:
    """A line as a turn or a command. Raises ValueError for a recording that is not there."""
    return _command(line.strip()) or Turn(tuple(_parts(line)))


def read_words(words: Sequence[str]) -> Turn:
    """Words of the command line, whose quotes the shell has read; - is standard input."""
    parts: list[Part] = []
    for word in words:
        if word == "-" or _exists(word):
            parts.append({"type": "audio", "audio": word})
            continue
        for part in _parts(word, before=Turn(tuple(parts[-1:])).text):
            last = parts[-1] if parts else None
            if part["type"] == "text" and last is not None and last["type"] == "text":
                parts[-1] = {"type": "text", "text": f"{last['text']} {part['text']}"}
            else:
                parts.append(part)
    return Turn(tuple(parts))


def lines() -> Iterator[str]:
    """Lines of standard input that say something; bytes that are not UTF-8 are kept as surrogates."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        line = line.removeprefix("\ufeff").strip()
        if line:
            yield line


def _parts(line: str, before: str = "") -> "list[Part]":
    """Recordings and the texts between them; ``before`` was said earlier in the turn."""
    parts: list[Part] = []
    begin = 0  # of the text that is not taken yet
    for match in _WORD.finditer(line):
        word, start, end = _named(match)
        first = not before and not parts and not line[:start].strip()
        if not _is_recording(word, first=first or match[1] is not None):
            continue
        _add_text(parts, line[begin:start])
        parts.append({"type": "audio", "audio": _found(word, f"{before} {line[:start]}")})
        begin = end
    _add_text(parts, line[begin:])
    return parts


def _command(line: str) -> Command | None:
    """The command that a line begins with, if it does; a path that is there is none."""
    name, *words = line.split(maxsplit=1)
    if not re.fullmatch(r"/[a-z]{1,20}", name) or Path(name).exists():
        return None
    if name not in COMMANDS:
        raise ValueError(f"there is no command {name}; there are {', '.join(COMMANDS)}")
    if len(words) != COMMANDS[name]:
        raise ValueError(f"say {name} FILE" if COMMANDS[name] else f"{name} stands alone on its line")
    return Command(name, *map(_unquoted, words))


def _named(match: re.Match[str]) -> tuple[str, int, int]:
    """A word without its quotes and what a sentence puts around it, and where it begins and ends."""
    word, start, end = match[0], match.start(), match.end()
    if match[1] is not None or _exists(_unquoted(word)):
        return _unquoted(word), start, end
    start += len(word) - len(word.lstrip(_BEFORE))
    end -= len(word) - len(word.rstrip(_BEHIND))
    return _unquoted(match.string[start:end]), start, max(start, end)


def _unquoted(word: str) -> str:
    """Without the quotes around it, or the backslashes that a terminal puts before spaces."""
    if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'":
        return re.sub(r'\\([\\"])', r"\1", word[1:-1]) if word[0] == '"' else word[1:-1]
    return re.sub(r"\\([\s'\"()&])", r"\1", word)


def _is_recording(word: str, *, first: bool) -> bool:
    """Whether a word stands for a recording, there or not.

    A file called "a" or "test" is one at the beginning of a line or in quotes (``first``) only: elsewhere
    that is a word of a sentence.
    """
    from lalm.audio.load import is_recording
    from lalm.audio.sources import is_data_url

    if is_data_url(word):
        return "," in word  # "data: what is it?" is a text
    if _exists(word):
        return first or "." in word or "/" in word
    if word == "-" or (word.startswith(".") and "/" not in word):  # such as ".wav"
        return False
    if word.startswith("/") and word.count("/") == 1 and "." not in word:  # such as "/help"
        return False
    if "/" not in word and Path(word).suffix == "":  # a folder called "tests" is a word of a sentence too
        return False
    return is_recording("_".join(word.split()))


def _exists(word: str) -> bool:
    try:
        path = Path(word).expanduser()
        return path.is_file() or path.is_fifo()
    except (OSError, ValueError, RuntimeError):  # longer than a name may be, or not one at all
        return False


def _found(word: str, before: str) -> str:
    """The recording's place. Raises ValueError where there is none, with the way out where it is known."""
    from lalm.audio.sources import is_data_url

    if is_data_url(word):
        return word
    if _exists(word):
        return str(Path(word).expanduser())
    said = before.split()
    for start in range(len(said)):
        name = " ".join([*said[start:], word])
        if _exists(name):
            raise ValueError(f'a file name with spaces needs quotes: "{name}"')
    if word.endswith("/") or Path(word).is_dir():
        raise ValueError(f"'{word}' is a folder, not a recording")
    raise ValueError(f"there is no file '{_readable(word)}'")


def _add_text(parts: "list[Part]", text: str) -> None:
    if text.strip():
        parts.append({"type": "text", "text": _readable(text.strip())})


def _readable(text: str) -> str:
    """Text as a tokenizer takes it: bytes that were no UTF-8 become U+FFFD, and NUL is left out."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\0", "")

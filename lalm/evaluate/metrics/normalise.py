"""Text normalisation before scoring: Whisper's normalisers from transformers, by language."""

import json
import re
from functools import cache
from importlib import resources
from typing import Any

CHARACTER_LANGUAGES = ("zh", "yue", "ja", "th", "my", "lo")  # written without spaces
LANGUAGES = {  # names that corpora use
    **{"cmn": "zh", "english": "en", "chinese": "zh", "mandarin": "zh", "cantonese": "yue", "japanese": "ja"},
    **{"german": "de", "french": "fr", "spanish": "es", "italian": "it", "thai": "th"},
    **{"burmese": "my", "myanmar": "my", "mya": "my", "lao": "lo", "tha": "th", "jpn": "ja", "zho": "zh"},
}


def language_code(name: str) -> str:
    """ "en" for "English", "en-US" or "en"; empty for empty."""
    code = name.strip().lower().replace("_", "-")
    first = code.split("-")[0]
    return LANGUAGES.get(first, first)


def normalised(text: str, language: str) -> str:
    """Whisper's English normaliser for English, its basic one for others and for rows of digits that the
    English one cannot read (thousands); characters apart where a language is written without spaces."""
    code = language_code(language or "en")
    if code == "en":
        return english_words(text)
    plain = str(basic()(text))
    if code in CHARACTER_LANGUAGES:
        return " ".join(re.sub(r"\s", "", plain))
    return " ".join(plain.split())


def normaliser_name(language: str) -> str:
    """For the card."""
    code = language_code(language or "en")
    if code == "en":
        return "whisper english"
    return "whisper basic, characters" if code in CHARACTER_LANGUAGES else "whisper basic"


def english_words(text: str) -> str:
    """By Whisper's English normaliser, or its basic one where the English one cannot read the digits."""
    try:
        return str(english()(text))
    except ValueError:
        return " ".join(str(basic()(text)).split())


@cache
def english() -> Any:
    """Whisper's English normaliser."""
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    # British and American spellings: data beside Whisper's tokenizer, which transformers does not contain.
    spellings = resources.files("whisper_normalizer") / "normalizers" / "english.json"
    return EnglishTextNormalizer(json.loads(spellings.read_text()))


@cache
def basic() -> Any:
    """Whisper's normaliser for other languages."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    return BasicTextNormalizer()

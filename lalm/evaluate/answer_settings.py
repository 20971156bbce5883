"""How the answers to a task are generated."""

from typing import Any, NamedTuple


class Decoding(NamedTuple):
    """How answers are generated; the names and defaults are those of ``lalm.inference.options.Options``."""

    max_new_tokens: int
    beams: int = 1
    repetition_penalty: float = 1.0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    no_repeat_ngram_size: int = 0
    stop: tuple[str, ...] = ()
    min_tokens: int = 0
    thinking_tokens: int = 0

    def unusual(self) -> dict[str, Any]:
        """What differs from the defaults, the longest answer aside."""
        usual = self._field_defaults
        return {name: value for name, value in self._asdict().items() if value != usual.get(name, value)}

"""The transcript of a clip as text beside its audio tokens, where a model's config asks for it.

``transcript`` of a config is "none"; "given": what a sample's audio parts have as their transcript; or
"whisper": the same, and Whisper's where a part has none (the way of DeSTA2.5-Audio, arXiv 2507.02768). A clip
without speech is put as if there were no transcripts, so the model's other answers stay what they are.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args

from lalm.data.audio_inputs import CachedFrames, Clip
from lalm.data.sample import Sample
from lalm.errors import LalmError

Mode: TypeAlias = Literal["none", "given", "whisper"]
MODES: tuple[str, ...] = get_args(Mode)
# Behind the audio tokens of a clip. Of 73 questions about speech the embedded model, not trained so, answers
# .863 [.781, .932] with this wording, and .836 [.740, .918] with "Transcript:" on a line of its own.
WORDING = ' Someone says: "{transcript}" '


class TranscriptError(LalmError, ValueError):
    """A transcript cannot be used as asked; the text says why."""


def check_mode(mode: object) -> str:
    """The mode itself. Raises TranscriptError for one that there is not."""
    if mode not in MODES:
        raise TranscriptError(f"'transcript' is none, given or whisper, not {mode!r}")
    return str(mode)


def with_transcripts(sample: Sample, clips: Sequence[Clip | CachedFrames], mode: str) -> Sample:
    """The sample whose audio parts have the clips' transcripts; none of them has one in mode "none"."""
    texts = iter([clip.transcript or "" if mode != "none" else "" for clip in clips])
    if not any("transcript" in part for part in sample.audios) and not any(
        mode != "none" and clip.transcript for clip in clips
    ):
        return sample
    messages: list[Any] = []
    for message in sample.messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [_part(part, texts) if part["type"] == "audio" else part for part in content]
        messages.append({**message, "content": content})
    return replace(sample, messages=tuple(messages))


def _part(part: Any, texts: Any) -> Any:
    text = " ".join(next(texts, "").split())
    bare = {name: value for name, value in part.items() if name != "transcript"}
    return {**bare, "transcript": text} if text else bare


def written(part: Any) -> str:
    """What stands behind the audio of a part: its transcript, or nothing."""
    return WORDING.format(transcript=part["transcript"]) if part.get("transcript") else ""

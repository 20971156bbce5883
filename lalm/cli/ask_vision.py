"""``--vision`` of ``lalm ask`` and ``lalm eval``: APT-BLIP-2 answers about images, videos and sounds."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lalm.audio.load import Recording
    from lalm.cli.ask import Piece
    from lalm.data.sample import Part, Sample
    from lalm.systems.apt.vision import APTBlip2

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
VIDEOS = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".mpg", ".mpeg")


def question_with_pictures(pieces: "Sequence[Piece]", read: "Callable[[str], Recording]") -> "Sample":
    """Files and texts in their order: images, sounds, and videos with their sound after them.

    ``read`` decodes a sound. Raises AudioError or PictureError for a file that cannot be used.
    """
    from lalm.audio.images import has_sound, load_image
    from lalm.data.sample import Sample

    content: list[Part] = []
    for file, is_file in pieces:
        if not is_file:
            content.append({"type": "text", "text": file})
            continue
        kind = Path(file).suffix.lower()
        if kind in IMAGES:
            load_image(file)
            content.append({"type": "image", "image": file})
            continue
        if kind in VIDEOS:
            content.append({"type": "video", "video": file})
            if not has_sound(file):
                continue
        content.append({"type": "audio", "audio": read(file)})
    return Sample(({"role": "user", "content": content},))


def open_vision(vision: str, model: str | None, device: str | None) -> "APTBlip2":
    """The vision model of folder ``vision`` with the connector of a trained APT. Raises ValueError."""
    if model is None:
        raise ValueError("--vision needs the folder of a trained APT: say --model with it")
    from lalm.cli.opening import silence_transformers
    from lalm.inference.device import pick_device, pick_dtype
    from lalm.systems.apt.vision import APTBlip2

    silence_transformers()
    place = pick_device(device)
    return APTBlip2.load(vision, model, dtype=pick_dtype(place), device=str(place))

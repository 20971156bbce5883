"""Images and video frames for systems with vision: files, bytes or ``data:`` URLs -> RGB."""

import io
from pathlib import Path
from typing import Any, TypeAlias

import av
from PIL import Image, UnidentifiedImageError

from lalm.audio.data_url import decode_data_url
from lalm.audio.ffmpeg_tracks import open_container
from lalm.errors import LalmError

Picture: TypeAlias = Image.Image
PictureSource: TypeAlias = str | Path | bytes | Image.Image

MAX_PIXELS = 100_000_000  # of one picture
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,ogg,flac,flv,asf,gif"
INLINE = "an inline picture"


class PictureError(LalmError, ValueError):
    """An image or video that cannot be used; the text names it."""


def load_image(source: PictureSource) -> Picture:
    """One picture in RGB. Raises PictureError."""
    if isinstance(source, Image.Image):
        return source.convert("RGB")
    name, content = _content(source)
    try:
        with Image.open(io.BytesIO(content)) as image:
            _check_size(name, *image.size)
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        if isinstance(error, PictureError):
            raise
        raise PictureError(f"{name} is not an image that can be read") from None


def video_frames(source: PictureSource, count: int) -> list[Picture]:
    """``count`` pictures from the middles of as many equal stretches of a video. Raises PictureError."""
    if isinstance(source, Image.Image):
        return [source.convert("RGB")]
    name, content = _content(source)
    try:
        with open_container(io.BytesIO(content), CONTAINERS) as container:
            if not container.streams.video:
                raise PictureError(f"{name} holds no video track")
            total = sum(packet.size > 0 for packet in container.demux(video=0))
        wanted = {min(total - 1, int((i + 0.5) * total / count)) for i in range(count)}
        with open_container(io.BytesIO(content), CONTAINERS) as container:
            frames: list[Any] = []
            for number, frame in enumerate(container.decode(video=0)):
                _check_size(name, frame.width, frame.height)
                if number in wanted:
                    frames.append(frame.to_image())
                if len(frames) == len(wanted):
                    break
    except av.error.FFmpegError:
        raise PictureError(f"{name} is not a video that can be read") from None
    if not frames:
        raise PictureError(f"{name} holds no picture that can be read")
    return frames


def has_sound(source: str | Path | bytes) -> bool:
    """Whether a video has an audio track. Raises PictureError for what is no video."""
    name, content = _content(source)
    try:
        with open_container(io.BytesIO(content), CONTAINERS) as container:
            return bool(container.streams.audio)
    except av.error.FFmpegError:
        raise PictureError(f"{name} is not a video that can be read") from None


def _content(source: str | Path | bytes) -> tuple[str, bytes]:
    """What to call a source in an error, and its bytes."""
    if isinstance(source, bytes):
        return INLINE, source
    if str(source)[:5].lower() == "data:":
        try:
            return INLINE, decode_data_url(str(source))
        except ValueError:
            raise PictureError(f"{INLINE} is not valid base64") from None
    try:
        return Path(source).name, Path(source).read_bytes()
    except OSError as error:
        raise PictureError(f"{source}: {error.strerror}") from None


def _check_size(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PictureError(f"{name} has {width} x {height} pixels, more than {MAX_PIXELS:,}")

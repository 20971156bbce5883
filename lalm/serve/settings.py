"""What whoever runs the server decides, and what every request is measured against."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Limits and permissions; sizes in bytes, times in seconds.

    ``audio_s`` is the audio of one request, all clips together. ``origins`` are the web pages that may ask
    from elsewhere; ``fetch`` allows https addresses as audio. An empty ``api_key`` asks for none.
    """

    api_key: str = ""
    origins: tuple[str, ...] = ()
    fetch: bool = False
    audio_s: float = 600.0
    body_bytes: int = 25 << 20
    bodies_bytes: int = 256 << 20  # of all requests that are being read or answered at a time
    body_s: float = 60.0  # to send a request
    answer_s: float = 300.0
    clips: int = 16
    max_new_tokens: int = 2048
    rows: int = 16
    waiting: int = 64
    per_minute: int = 0  # requests from one address; 0: as many as it likes
    sessions: int = 16  # realtime, those that may be resumed included
    resume_s: float = 120.0  # that a session is kept after its client has left

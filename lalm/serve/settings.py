"""Settings of the server: limits, permissions, the API key."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Limits and permissions; sizes in bytes, times in seconds.

    ``audio_s`` is the audio of one request, all clips together. ``origins`` are the other web
    origins allowed; ``fetch`` allows https addresses as audio. With an empty ``api_key`` none is required.
    """

    api_key: str = ""
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()  # names of this server beside localhost, addresses and the machine's name
    fetch: bool = False
    audio_s: float = 600.0
    body_bytes: int = 25 << 20
    bodies_bytes: int = 256 << 20  # of all requests that are read or answered at a time
    body_s: float = 60.0  # to send a request
    answer_s: float = 300.0
    clips: int = 16
    characters: int = 200_000  # of text in one request; no model here reads as much
    max_new_tokens: int = 2048
    rows: int = 16
    waiting: int = 64
    per_minute: int = 0  # requests from one address; 0: no limit
    sessions: int = 16  # realtime sessions, including those that can be resumed
    models: int = 2  # open at a time, of all that are served
    open_s: float = 60.0  # how long a request waits for an open model to become idle
    resume_s: float = 120.0  # how long a session is kept after its client disconnects

    def limits(self) -> dict[str, float]:
        """What a client may want to know before it asks: seconds, clips and bytes of one request."""
        return {"audio_s": self.audio_s, "clips": self.clips, "body_bytes": self.body_bytes}

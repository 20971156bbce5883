"""Blocks of many channels at any rate -> one channel at 16 kHz, without losing sound in the mix.

The mean of the channels is heard, but for two cases: channels that cancel each other (one of them is turned
round) are not mixed, the loudest is heard; and channels without sound do not make the mix quieter.
"""

from dataclasses import dataclass, field

import numpy as np
import soxr

from lalm.audio.asked import Asked, AudioError, Findings, shown_s
from lalm.audio.blocks import Array, Blocks

SAMPLE_RATE = 16_000  # Hz, of everything that is heard
SILENT = 2.0**-17  # half a step of 16 bits: what is below is digital silence
_QUIET_CHANNEL = 1e-4  # of the loudest channel's power: no sound of its own
_FRAME_S, _WINDOW_FRAMES = 0.064, 16  # for cancellation: spectra, and how many of them make a window
_CLOSELY, _STRIDE = 8, 4  # windows of which every frame is looked at; then one frame in so many
_CANCELLED = 0.15  # of the power that unrelated channels would leave in the mix
_LOST_FRACTION = 0.35  # of all power cancelled: the mix is not what was recorded
_LOST_WINDOW, _LOUD_WINDOW = 0.9, 1e-3  # of one window's power, in windows this loud beside the mean
INTEGER_PEAK = 100.0  # floats that reach this far above 1 are integers
_STEADY = 0.01  # a mean this far from 0 must not count as sound
_LOUD_PEAK = 2.0
_QUIET_PEAK = 2.0**-8
_SPIKES = 1e-2  # of all samples: so few that are far too large are damage, and not how the sound was saved
_OFFSET, _OFFSET_S = 0.1, 0.1  # a mean this far from 0, in clips at least this long
_EDGE_S = 0.02


class CancelledError(AudioError):
    """The mix of these channels loses sound; ``channel`` is the loudest."""

    def __init__(self, channel: int) -> None:
        super().__init__(f"the channels cancel each other; the loudest is {channel}")
        self.channel = channel


@dataclass
class Mixed:
    """(N,) float32 at 16 kHz and what was measured on the way."""

    audio: Array
    rate: int
    num_channels: int
    channels: tuple[int, ...]
    decoded_s: float
    silent_fraction: float


@dataclass
class Powers:
    """Sums over one recording's channels, and the power that their mix loses."""

    num_channels: int
    rate: int
    count: int = 0
    squares: Array = field(init=False)  # (C,), the constant part left out
    _left: Array = field(init=False)  # (n, C) samples that do not fill a window yet
    _windows: list[tuple[float, float]] = field(default_factory=list)  # power, power cancelled

    def __post_init__(self) -> None:
        self.squares = np.zeros(self.num_channels)
        self._left = np.zeros((0, self.num_channels), np.float32)
        self._size = 1 << max(5, round(np.log2(self.rate * _FRAME_S)))

    def add(self, block: Array) -> None:
        """Count a block, (n, C) float32."""
        self.count += len(block)
        if self.num_channels == 1:
            return
        level = np.ones(len(block), np.float32) @ block / len(block)
        still = block - level if np.abs(level).max() > _STEADY else block
        self.squares += np.einsum("nc,nc->c", still, still)
        rest = np.concatenate([self._left, block]) if len(self._left) else block
        window = self._size * _WINDOW_FRAMES
        whole = len(rest) // window * window
        for at in range(0, whole, window):
            self._windows.append(self._looked_at(rest[at : at + window]))
        self._left = rest[whole:].copy()

    def _looked_at(self, block: Array) -> tuple[float, float]:
        """Power of a window and what cancels; the spectra are spared where the sum alone rules it out."""
        together = block @ np.ones(self.num_channels, np.float32)
        kept, power = float(np.dot(together, together)), float(np.vdot(block, block))
        if kept > (1.05 - _LOST_FRACTION) * self.num_channels * power:
            return power, 0.0
        often = 1 if len(self._windows) < _CLOSELY else _STRIDE
        return self._lost(block, often)

    def _lost(self, block: Array, often: int = 1) -> tuple[float, float]:
        """Power of a window, and how much of it is in bands where the channels cancel.

        One frame in ``often`` is looked at.
        """
        bands = self._size // 16
        # power of the channels, and of their sum: the same for unrelated channels
        power, left = np.zeros(bands), np.zeros(bands)
        means = block.mean(axis=0)
        for at in range(0, len(block), often * self._size):
            frame = (block[at : at + self._size] - means).T  # (C, n)
            spectra = np.fft.rfft(frame, self._size)[:, 1:]  # (C, 8 * bands)
            together = spectra.sum(axis=0)
            power += (spectra.real**2 + spectra.imag**2).sum(axis=0).reshape(bands, 8).sum(axis=1)
            left += (together.real**2 + together.imag**2).reshape(bands, 8).sum(axis=1)
        return often * float(power.sum()), often * float(power[left < _CANCELLED * power].sum())

    def loudest(self) -> int:
        """The channel with the most power, its constant part left out."""
        return int(np.argmax(self.squares))

    def cancels(self) -> bool:
        """Whether the mean of the channels would lose what was recorded, wholly or in part."""
        if self.num_channels == 1:
            return False
        windows = list(self._windows)
        if len(self._left) >= self._size // 2 or (len(self._left) and not windows):
            windows.append(self._lost(self._left))
        power, lost = np.array(windows).reshape(-1, 2).T
        if not power.sum():
            return False
        loud = power > _LOUD_WINDOW * power.mean()
        in_all = lost.sum() > _LOST_FRACTION * power.sum()
        return bool(in_all or (lost[loud] > _LOST_WINDOW * power[loud]).any())


class Mixer:
    """Collects blocks into one (N,) array at 16 kHz."""

    def __init__(self, asked: Asked, channel: int | None) -> None:
        self.asked, self.channel = asked, channel
        self.samples = bytearray()  # grows in place; the result is a view of it, so nothing is held twice
        self.rate, self.decoded_s, self.silent, self.count = 0, 0.0, 0, 0
        self.powers: Powers | None = None
        self.used: set[int] = set()
        self._resampler: soxr.ResampleStream | None = None
        self._since = 0  # bytes of samples before the present stretch of one rate and channel count
        # one more than the rounding of the resampled length
        self._limit = None if asked.max_s is None else int(asked.max_s * SAMPLE_RATE) + 2

    def add(self, rate: int, block: Array) -> None:
        """Take a block, (n, C) float32."""
        if self.powers is None or (rate, block.shape[1]) != (self.rate, self.powers.num_channels):
            self._flush()
            self.asked.check_stream(rate, block.shape[1])
            same = rate == SAMPLE_RATE
            self._resampler = None if same else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
            self.rate, self.powers = rate, Powers(block.shape[1], rate)
        mono = self._mono(block)
        with np.errstate(all="ignore"):
            total = mono.sum()
        if not np.isfinite(total):
            block = self._without_bad(block)
            mono = self._mono(block)
        self.powers.add(block)
        self.silent += int(np.count_nonzero((mono < SILENT) & (mono > -SILENT)))
        self.count += len(mono)
        self.decoded_s += len(mono) / rate
        self._keep(mono if self._resampler is None else self._resampler.resample_chunk(mono))

    def taken(self) -> Array:
        """What has been mixed since this was last called, (N,): the rest is as if it had not been there."""
        part = np.frombuffer(bytes(self.samples), np.float32)
        self.samples = bytearray()
        self._since = 0
        return part

    def finish(self) -> Mixed:
        """The whole clip. Raises AudioError for one without samples, CancelledError for a mix that loses."""
        self._flush()
        if not self.samples or self.powers is None:
            raise AudioError(f"{self.asked.place} holds no audio (0 samples)")
        audio = np.frombuffer(self.samples, np.float32)
        channels = tuple(sorted(self.used))
        return Mixed(
            *(audio, self.rate, self.powers.num_channels, channels, self.decoded_s),
            self.silent / max(1, self.count),
        )

    def _mono(self, block: Array) -> Array:
        """(n,) the chosen channel, or the mean of all."""
        count = block.shape[1]
        if self.channel is not None or count == 1:
            return np.ascontiguousarray(block[:, min(self.channel or 0, count - 1)])
        if count == 2:
            return (block[:, 0] + block[:, 1]) * np.float32(0.5)
        with np.errstate(all="ignore"):
            mean: Array = block.mean(axis=1, dtype=np.float32)
        return mean

    def _without_bad(self, block: Array) -> Array:
        """NaN and infinite values are refused, or silenced when lenient."""
        finite = np.isfinite(block)
        if finite.all():  # only the sum was too large
            return block
        bad = np.flatnonzero(~finite.all(axis=1))
        at_s = self.asked.offset_s + self.decoded_s + int(bad[0]) / self.rate
        self.asked.hole(
            *(at_s, len(bad) / self.rate, "NaN or infinite values"),
            f"holds NaN or infinite values, first at {shown_s(at_s)} s",
        )
        return np.where(finite, block, np.float32(0))

    def _keep(self, part: Array) -> None:
        if not np.isfinite(part).all():
            raise AudioError(f"{self.asked.place} holds values too large to resample: scale them to -1 to 1")
        self.samples.extend(part.tobytes())
        if self._limit is not None and len(self.samples) > 4 * self._limit:
            raise self.asked.too_long(f"more than {shown_s((self._limit - 2) / SAMPLE_RATE)}")

    def _flush(self) -> None:
        """End a stretch of one rate and channel count."""
        if self._resampler is not None:
            self._keep(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        if self.powers is None or not self.powers.count:
            return
        if self.channel is None and self.powers.cancels():
            raise CancelledError(self.powers.loudest())
        self.used |= self._weigh(self.powers)
        self._since = len(self.samples)

    def _weigh(self, powers: Powers) -> set[int]:
        """Channels without sound do not make the mix quieter: the mean is that of the others."""
        if self.channel is not None:
            return {min(self.channel, powers.num_channels - 1)}
        if powers.num_channels == 1:
            return {0}
        power = powers.squares
        sounding = np.flatnonzero(power > _QUIET_CHANNEL * power.max())
        if not len(sounding) or len(sounding) == powers.num_channels:
            return set(range(powers.num_channels))
        stretch = np.frombuffer(self.samples, np.float32)[self._since // 4 :]
        stretch *= np.float32(powers.num_channels / len(sounding))
        del stretch
        silent = sorted(set(range(powers.num_channels)) - set(sounding.tolist()))
        self.asked.found.note(f"{_named(silent)} without sound and left out of the mix")
        return set(sounding.tolist())


def mixed(blocks: Blocks, asked: Asked, channel: int | None) -> Mixed:
    """All blocks as one clip. Raises CancelledError when ``channel`` is None and the channels cancel."""
    mixer = Mixer(asked, channel)
    for rate, block in blocks:
        mixer.add(rate, block)
    return mixer.finish()


def set_right(audio: Array, asked: Asked) -> Array:
    """The clip without what cannot be sound: integers saved as floats are refused, a constant taken out.

    ``audio``: (N,) float32, changed in place. What is odd and heard all the same is noted.
    """
    found: Findings = asked.found
    if found.scale > 1:
        audio *= np.float32(found.scale)
    peak = _peak(audio)
    if peak > INTEGER_PEAK and (large := np.flatnonzero(np.abs(audio) > _LOUD_PEAK)).size < _SPIKES * len(
        audio
    ):
        at_s = asked.offset_s + int(large[0]) / SAMPLE_RATE
        asked.hole(
            *(at_s, large.size / SAMPLE_RATE, "values far too large"),
            f"is damaged: some values reach {peak:.0f}, where 1 is the loudest, first at {shown_s(at_s)} s",
        )
        np.clip(audio, -1, 1, out=audio)
        peak = _peak(audio)
    if peak > INTEGER_PEAK:
        scale = next((2.0**bits for bits in (15, 23, 31) if peak <= 2.0**bits), 2.0 ** np.ceil(np.log2(peak)))
        if not asked.lenient:
            raise AudioError(
                f"{asked.place} holds values up to {peak:.0f}, where 1 is the loudest: these are integers "
                f"saved as floats; divide them by {scale:.0f}"
            )
        audio /= np.float32(scale)
        found.note(f"its values reach {peak:.0f} and were divided by {scale:.0f}")
        peak = _peak(audio)
    mean = float(audio.mean(dtype=np.float64))
    if abs(mean) > _OFFSET and len(audio) >= _OFFSET_S * SAMPLE_RATE:
        audio -= np.float32(mean)
        found.note(f"a constant offset of {mean:.2f} was taken out")
        edge = round(_EDGE_S * SAMPLE_RATE)
        if _peak(audio[edge:-edge]) < _QUIET_PEAK / 16:  # what is left is the resampler's ringing
            audio[:] = 0
        peak = _peak(audio)
    long = len(audio) >= _OFFSET_S * SAMPLE_RATE
    loudest = peak if abs(mean) > _OFFSET or not long else max(audio.max() - mean, mean - audio.min())
    if peak < SILENT:
        found.note("it holds nothing but digital silence")
    elif loudest < _QUIET_PEAK:
        below = -20 * np.log10(max(loudest, SILENT / 2))
        narrow = f", as if {found.bits - 8}-bit values stood in its {found.bits}-bit samples"
        found.note(
            f"it is very quiet: its loudest sample lies {below:.0f} dB below full scale"
            f"{narrow if found.bits in (16, 24, 32) and loudest > _QUIET_PEAK / 16 else ''}"
        )
    elif peak > _LOUD_PEAK:
        found.note(f"its values reach {peak:.1f}, where 1 is the loudest that a file of integers can hold")
    return audio


def _peak(audio: Array) -> float:
    return max(float(audio.max()), -float(audio.min()))


def _named(channels: list[int]) -> str:
    if len(channels) == 1:
        return f"channel {channels[0]} is"
    return f"channels {', '.join(map(str, channels[:-1]))} and {channels[-1]} are"

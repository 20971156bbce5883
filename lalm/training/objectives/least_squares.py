"""A start in closed form: ridge regression of a connector's last linear map, from encoder frames to words.

Each audio token within an event shall be the LLM's embedding of the words that name the event, as in
``lalm.training.objectives.warm_start``; the map W that comes nearest is

    W = (X'X + penalty diag(X'X))^-1 X'Y        X: (N, F) what goes into the map, Y: (N, D) the words

both from their means (Hoerl and Kennard, Ridge regression, Technometrics 1970, for columns of deviation 1).
X'X and X'Y are summed up clip by clip, so memory does not grow with the data. What stands before the last map
stays as it was drawn: random features (Rahimi and Recht, NIPS 2007). One recording of five is held out to
choose the penalty by; the map that stays is of all. No gradient, no LLM pass.
"""

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lalm.data.sample import Sample
from lalm.models.modeling import AudioLMForConditionalGeneration
from lalm.models.processing import AudioLMProcessor
from lalm.training.objectives.warm_start_targets import (
    MAX_CLIP_S,
    clip_groups,
    event_ids,
    name_targets,
)

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # times the diagonal of X'X
NEGLIGIBLE = (
    1e-8  # of the mean of that diagonal: the least that a column counts as, also one that is always 0
)
HELD_OUT = 5  # one recording of so many
SCALED_BY = 300  # clips that tell the channels' means and deviations
ROWS_AT_ONCE = 2048
REFUSED = (
    "warm_start: 'kind: least_squares' solves for a connector's last map, and the audio tokens of this one "
    "are not what one linear map makes of the sound alone: say 'kind: steps'"
)


@dataclass(frozen=True)
class Start:
    """What was fitted: rows (audio tokens), the penalty, the variance explained of held-out recordings."""

    tokens: int
    penalty: float
    explained: float


class Sums:
    """Sums over N rows x (F,) and y (D,) from which a regression is solved; float64.

    Rows wait until they are ``ROWS_AT_ONCE``: a sum of a few would touch the whole matrices each time.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        self.count = 0
        self.x, self.y = torch.zeros(inputs).double(), torch.zeros(outputs).double()
        self.xx, self.xy = torch.zeros(inputs, inputs).double(), torch.zeros(inputs, outputs).double()
        self.yy = 0.0
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """x: (n, F), y: (n, D)."""
        self._waiting.append((x.cpu(), y.cpu()))
        if sum(len(rows) for rows, _ in self._waiting) >= ROWS_AT_ONCE:
            self.settle()

    def settle(self) -> None:
        """Sum up the rows that wait."""
        if not self._waiting:
            return
        x, y = (torch.cat(rows).double() for rows in zip(*self._waiting, strict=True))
        self._waiting = []
        self.count += len(x)
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += float((y * y).sum())

    def joined(self, other: "Sums") -> "Sums":
        """Those of the rows of both."""
        both = Sums(len(self.x), len(self.y))
        for name in ("count", "x", "y", "xx", "xy", "yy"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def solve(self, penalty: float, *, bias: bool) -> tuple[Tensor, Tensor]:
        """Weight (D, F) and bias (D,) of the ridge regression; without a bias it is zero."""
        count = max(self.count, 1)
        mean_x, mean_y = (self.x / count, self.y / count) if bias else (self.x * 0, self.y * 0)
        within = self.xx - count * torch.outer(mean_x, mean_x)
        across = self.xy - count * torch.outer(mean_x, mean_y)
        diagonal = within.diagonal()
        size = diagonal.clamp(min=max(float(diagonal.mean()) * NEGLIGIBLE, 1e-12))
        factor = torch.linalg.cholesky(within + penalty * size.diag())
        weight = torch.cholesky_solve(across, factor).T
        return weight, mean_y - weight @ mean_x

    def error(self, weight: Tensor, bias: Tensor) -> float:
        """Sum over rows and columns of (W x + b - y)^2, from the sums alone."""
        fitted = float((weight @ self.xx * weight).sum()) + 2 * float(bias @ (weight @ self.x))
        fitted += self.count * float(bias @ bias)
        return fitted - 2 * float((weight.T * self.xy).sum()) - 2 * float(bias @ self.y) + self.yy

    def spread(self) -> float:
        """Sum over rows and columns of (y - mean y)^2."""
        return self.yy - float(self.y @ self.y) / max(self.count, 1)


def least_squares_start(
    model: AudioLMForConditionalGeneration,
    processor: AudioLMProcessor,
    samples: Sequence[Sample],
    frames_of: Callable[[Sample], Tensor],
) -> Start:
    """Set the connector's last linear map by regression on the events of one-clip samples.

    ``frames_of`` gives a sample's encoder frames (T, W). Raises ValueError when no sample has events, and for
    a connector whose tokens are not the output of one linear map of a group of frames.
    """
    captions = sorted({event["caption"] for sample in samples for event in sample.events})
    if not captions:
        raise ValueError("warm_start: no training sample has events to learn names from")
    if model.config.hears_instructions:
        raise ValueError(REFUSED)
    clips = [sample for sample in samples if sample.events and len(sample.audios) == 1]
    embedding: Any = model.get_input_embeddings()
    weights: Tensor = embedding.weight.detach().float()  # (V, D)
    connector: Any = model.model.connector
    training = connector.training
    connector.eval()
    few = clips[:: max(1, len(clips) // SCALED_BY)]
    connector.standardise(*scales_of(frames_of(sample) for sample in few))
    last = last_map(connector, frames_of(few[0])[None])
    _, _, count = model.config.token_groups or (1, 1, 1)
    words = torch.stack([name_targets(processor, name, count, weights) for name in captions])  # (N, count, D)
    heard = partial(named_inputs, model, last, frames_of, {name: i for i, name in enumerate(captions)})
    learned, held_out = (Sums(last.in_features, last.out_features) for _ in range(2))
    for number, sample in enumerate(clips):
        inputs, names = heard(sample)
        sums = held_out if _held_out(sample, number) else learned
        sums.add(inputs, words[names].reshape(-1, last.out_features))
    learned.settle()
    held_out.settle()
    bias = last.bias is not None
    fitted = learned.joined(held_out)
    tried, by = (held_out, learned) if held_out.count and learned.count else (fitted, fitted)
    solved = {one: by.solve(one, bias=bias) for one in PENALTIES}
    penalty = min(PENALTIES, key=lambda one: tried.error(*solved[one]))
    explained = 1 - tried.error(*solved[penalty]) / max(tried.spread(), 1e-12)
    weight, offset = fitted.solve(penalty, bias=bias)
    with torch.no_grad():
        last.weight.copy_(weight)
        if bias:
            last.bias.copy_(offset)
    connector.train(training)
    return Start(fitted.count, penalty, explained)


def _held_out(sample: Sample, number: int) -> bool:
    """Whether the penalty is chosen by this sample: by its recording's name, so that no recording is on both
    sides; one without a name by its number."""
    source = sample.audios[0]["audio"]
    key = zlib.crc32(str(source).encode()) if isinstance(source, str | Path) else number
    return key % HELD_OUT == HELD_OUT - 1


def named_inputs(
    model: AudioLMForConditionalGeneration,
    last: nn.Linear,
    frames_of: Callable[[Sample], Tensor],
    name_ids: dict[str, int],
    sample: Sample,
) -> tuple[Tensor, Tensor]:
    """What goes into ``last`` for the audio tokens within an event, (rows, F), and the events' ids.

    A connector of groups hears each group as a clip of its own, of ids (G,); any other the first 30 s of the
    clip, over whose time its tokens are spread evenly, of ids (rows,).
    """
    connector = model.model.connector
    if model.config.token_groups is not None:
        groups, names = clip_groups(model, sample, frames_of, name_ids)
        return inputs_of(last, connector, groups), names
    rate = model.config.audio_config.frames_per_second
    clip = frames_of(sample)[: round(MAX_CLIP_S * rate)]
    inputs = inputs_of(last, connector, clip[None])
    names = event_ids(sample, len(inputs), len(clip) / rate / len(inputs), name_ids)
    return inputs[names >= 0], names[names >= 0]


def scales_of(clips: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and inverse deviation of each channel of clips' frames (T, W), one by one: two of (W,)."""
    count, total, squares = 0, torch.zeros(()).double(), torch.zeros(()).double()
    for clip in clips:
        frames = clip.double()
        count, total, squares = count + len(frames), total + frames.sum(0), squares + (frames**2).sum(0)
    mean = total / max(count, 1)
    deviation = (squares / max(count, 1) - mean**2).clamp(min=0).sqrt()
    return mean.float(), (1 / deviation.clamp(min=1e-4)).float()


@torch.no_grad()
def last_map(connector: nn.Module, frames: Tensor) -> nn.Linear:
    """The linear map whose outputs are the tokens of ``frames`` (A, T, W). Raises ValueError for none."""
    found: list[nn.Linear] = []
    outputs: dict[nn.Module, Tensor] = {}
    maps = [module for module in connector.modules() if isinstance(module, nn.Linear)]
    hooks = [one.register_forward_hook(lambda m, _, out: outputs.update({m: out})) for one in maps]
    try:
        tokens = _tokens(connector, frames)
    finally:
        for hook in hooks:
            hook.remove()
    for module, output in outputs.items():
        if output.numel() == tokens.numel() and torch.equal(output.flatten(), tokens.flatten()):
            assert isinstance(module, nn.Linear)
            found.append(module)
    if len(found) != 1:
        raise ValueError(REFUSED)
    return found[0]


@torch.no_grad()
def inputs_of(last: nn.Linear, connector: nn.Module, frames: Tensor) -> Tensor:
    """What goes into ``last`` for clips or groups of frames (A, T, W): (rows, F)."""
    given: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    try:
        _tokens(connector, frames)
    finally:
        hook.remove()
    return given[0].flatten(0, -2)


def _tokens(connector: nn.Module, frames: Tensor) -> Tensor:
    """The tokens (A, K, D) of frames (A, T, W), each row a clip of its own."""
    device = next(connector.parameters()).device
    lengths = torch.full((len(frames),), frames.shape[1], device=device)
    tokens: Tensor = connector(frames.to(device), lengths)[0]
    return tokens

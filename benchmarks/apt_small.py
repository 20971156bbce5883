"""APT at small size: what its stages learned, beside what needs no learning, with 95 % intervals.

    python benchmarks/apt_small.py --align runs/apt-0 --run runs/apt-2 --data apt --frames frames --out proof

``--data`` is the folder that ``benchmarks/apt_small_data.py`` makes. Five parts, in this order:

recall     stage 0: held-out clips find their captions and captions their clips, among all of them
few_shot   classes that no stage was trained on: 5 ways of 1, 2 and 5 shots, 8 and 12 ways of 5 shots
compare    which of two recordings? Rules made the questions, and each is asked in both orders
detect     when does a sound occur? On recordings whose onsets are known, and on mixtures alone
count      how often?

Controls: chance; the same model with silence in place of every clip; with another item's clips; the answer
that would be best if it were always given; for few-shot, the nearest neighbour and the prototypes of the
frozen encoder's mean frames. Clips of one source file never meet in an episode.

Answers go to OUT/answers.jsonl as they come, and a killed run goes on there; OUT/scores.json and
OUT/few_shot.svg are written after each part. One thread; ``--parts`` and ``--cells`` split the work between
processes, each with an OUT of its own, and a last run over their joined answers.jsonl makes the scores.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from apt_small_scores import Said, compared, counted, detected, plotted, recalled, shot
from torch import Tensor
from transformers import GenerationConfig

from lalm.data.audio_inputs import CachedFrames
from lalm.data.episode import Labelled
from lalm.data.frame_cache import FrameCache
from lalm.data.readers import read_manifest
from lalm.data.sample import AudioPart, Sample
from lalm.evaluate.metrics.embeddings import SentenceEncoder
from lalm.evaluate.said import rows_of
from lalm.inference.engine import Engine
from lalm.inference.likelihood import answered
from lalm.models.load import load_model
from lalm.synthesis.resumable_rows import append, whole_lines
from lalm.systems.apt.alignment import Alignment, alignment_batch, likeness, same_pairs
from lalm.tasks.comparisons import BOTH, FIRST, NEITHER, SECOND
from lalm.tasks.episodes import episodes, labelled

CELLS = {"5x5": 120, "12x5": 80, "5x1": 120, "5x2": 80, "8x5": 80}  # ways x shots: queries
ASKED = 300  # questions of each other part
CLIPS_AT_ONCE, ROWS = 32, 16
STANDARD = 1000  # training clips that the encoder's means and deviations are of
TOKENS = {"compare": 8, "detect": 64, "count": 8}  # of an answer; 16 of a label
CONTROLS = ("audio", "silent", "shuffled")
SCORED = {"compare": compared, "detect": detected, "count": counted}
PARTS = ("recall", "few_shot", *SCORED)


@dataclass(frozen=True)
class Item:
    """A question of a part ("5x5", "detect", ...); ``options`` are the answers whose likelihood is told."""

    part: str
    sample: Sample
    options: tuple[str, ...]


class Hearing:
    """What the model hears: a clip's own frames, silence as long, or another item's clips."""

    def __init__(self, cache: FrameCache) -> None:
        self.cache = cache
        self._silence: dict[int, Tensor] = {}

    def __call__(self, sample: Sample, other: Sample, control: str) -> list[CachedFrames]:
        parts = [*sample.audios]
        if control == "shuffled":
            parts = [other.audios[i % len(other.audios)] for i in range(len(parts))]
        frames = [self.cache[part] for part in parts]
        return [CachedFrames(self.silent(len(f)) if control == "silent" else f) for f in frames]

    @torch.no_grad()
    def silent(self, count: int) -> Tensor:
        """Frames of a silent clip that has ``count`` of them."""
        if count not in self._silence:
            encoder = self.cache.encoder
            size = max(1, round((count - 0.5) / encoder.frames_per_second * 16_000))
            while encoder.num_frames(size) < count:
                size += 160
            zeros = torch.zeros(1, size)
            frames, _ = encoder(zeros, torch.tensor([size]))
            self._silence[count] = frames[0, :count].to(self.cache.dtype)
        return self._silence[count]

    def mean(self, part: AudioPart) -> np.ndarray:
        """A clip's mean frame, (W,)."""
        return self.cache[part].float().mean(0).numpy()


class Proof:
    """One run of the script: the model, and what it said already."""

    def __init__(self, engine: Engine, hearing: Hearing, out: Path) -> None:
        self.engine, self.hearing, self.out = engine, hearing, out
        self.log = out / "answers.jsonl"
        whole_lines(self.log)
        rows = [row for _, row in rows_of(self.log)] if self.log.exists() else []
        self.said = {(r["part"], r["control"], r["id"]): Said(r["text"], r["likelihoods"]) for r in rows}

    def answers(self, items: Sequence[Item], control: str) -> list[Said]:
        """The model's answer to each item, in order; those that are in the log are not asked again."""
        began, keys = monotonic(), [(item.part, control, item.sample.id) for item in items]
        others = donors(items)
        missing = [i for i, key in enumerate(keys) if key not in self.said]
        while missing:
            count = 1 if items[missing[0]].options else ROWS
            chunk, missing = missing[:count], missing[count:]
            clips = [self.hearing(items[i].sample, others[i], control) for i in chunk]
            replies = self.ask([items[i] for i in chunk], clips)
            lines = []
            for i, said in zip(chunk, replies, strict=True):
                self.said[keys[i]] = said
                row = {"part": keys[i][0], "control": control, "id": keys[i][2]}
                lines.append(json.dumps(row | asdict(said)))
            append(self.log, lines)
        print(f"{items[0].part}, {control}: {len(items)} answers, {monotonic() - began:.0f} s", flush=True)
        return [self.said[key] for key in keys]

    @torch.inference_mode()
    def ask(self, items: Sequence[Item], clips: Sequence[Sequence[CachedFrames]]) -> list[Said]:
        """The likeliest answers, token by token; one item at a time where options are weighed."""
        limit, processor = TOKENS.get(items[0].sample.task, 16), self.engine.processor
        if items[0].options:
            return [
                Said(*answered(self.engine, item.sample, item.options, heard, limit))
                for item, heard in zip(items, clips, strict=True)
            ]
        batch = processor.batch([item.sample.prompt() for item in items], audios=clips)
        settings = GenerationConfig(
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=sorted(self.engine.ends()),
            pad_token_id=processor.tokenizer.pad_token_id,
        )
        ids = self.engine.model.generate(**batch, generation_config=settings)
        return [Said(text, []) for text in processor.decode_new(ids)]

    def keep(self, part: str, scores: object) -> None:
        """Print a part's scores, and write them beside what other runs wrote."""
        kept = self.out / "scores.json"
        known = json.loads(kept.read_text()) if kept.exists() else {}
        kept.write_text(json.dumps(known | {part: scores}, indent=1) + "\n")
        print(json.dumps({part: scores}, indent=1), flush=True)


def donors(items: Sequence[Item]) -> list[Sample]:
    """For each item the sample, half the list further, whose clips are other recordings."""
    found = []
    for i, item in enumerate(items):
        own = {str(part["audio"]) for part in item.sample.audios}
        turned = (items[(i + len(items) // 2 + step) % len(items)].sample for step in range(len(items)))
        apart = (s for s in turned if not own & {str(part["audio"]) for part in s.audios})
        found.append(next(apart, item.sample))
    return found


def drawn(clips: Sequence[Labelled], ways: int, shots: int) -> Iterator[Item]:
    """Episodes of one query each, the classes of the queries taking turns by chance."""
    rng = np.random.default_rng([ways, shots])
    endless = episodes(clips, ways=ways, shots=shots, seed=ways * 100 + shots)
    while queries := list(islice(endless, ways)):
        sample = queries[int(rng.integers(ways))]
        yield Item(f"{ways}x{shots}", sample, tuple(f"{label}." for label in sample.choices))


def few_shot(proof: Proof, clips: Sequence[Labelled], center: tuple[np.ndarray, np.ndarray], args) -> None:
    """All cells, and the figure."""
    sources = {clip.id: clip.source or clip.id for clip in clips}
    encoder = SentenceEncoder(args.sentences) if args.sentences else None
    cells: dict[str, object] = {}
    for cell in args.cells:
        ways, shots = map(int, cell.split("x"))
        items = list(islice(drawn(clips, ways, shots), args.items or CELLS[cell]))
        said = {control: proof.answers(items, control) for control in ("audio", "silent")}
        vectors = [
            np.stack([(proof.hearing.mean(p) - center[0]) / center[1] for p in item.sample.audios])
            for item in items
        ]
        samples = [item.sample for item in items]
        groups = [sources[sample.origin["recording"]] for sample in samples]
        cells[cell] = shot(samples, said, vectors, groups, encoder)
        proof.keep("few_shot", cells)
        plotted(cells, proof.out / "few_shot.svg")


def compare_options(question: str) -> tuple[str, ...]:
    """The answers that a question of ``lalm build compare`` can have."""
    if "both or neither" in question:
        return tuple(f"{name.capitalize()}." for name in (FIRST, SECOND, BOTH, NEITHER))
    return ("Yes.", "No.") if question.startswith("Do both") else ("First.", "Second.")


def items_of(path: Path, part: str, limit: int) -> list[Item]:
    """The questions of a manifest; of a longer one ``limit``, in pairs, spread over it."""
    samples = list(read_manifest(path))
    if limit and limit < len(samples):
        starts = np.linspace(0, len(samples) - 2, max(1, limit // 2)).astype(int) // 2 * 2
        samples = [samples[i + step] for i in dict.fromkeys(starts.tolist()) for step in (0, 1)]
    return [Item(part, s, compare_options(asked(s)) if part == "compare" else ()) for s in samples]


def asked(sample: Sample) -> str:
    """A question's words."""
    content = sample.messages[0]["content"]
    return " ".join(part["text"] for part in content if part["type"] == "text")


@torch.no_grad()
def recall(folder: Path, cache: FrameCache, samples: Sequence[Sample]) -> dict[str, object]:
    """Retrieval by ATC's likeness, of the model folder of stage 0."""
    model, processor = load_model(folder, dtype=torch.bfloat16)
    alignment = Alignment(model.model.connector.float(), model.model.encode).eval()
    audio, text, keys = [], [], []
    for start in range(0, len(samples), CLIPS_AT_ONCE):
        part = samples[start : start + CLIPS_AT_ONCE]
        clips = [[CachedFrames(cache[p]) for p in sample.audios] for sample in part]
        batch = alignment_batch(processor, part, clips)
        frames, lengths = batch["frames"].float(), batch["frame_lengths"]
        heard, inside = (x[:, 0] for x in alignment.connector.segments(frames, lengths))
        outputs = alignment.pass_1(heard, inside, batch["captions"], batch["caption_mask"])
        vectors = alignment.embeddings(*outputs[:2])
        audio.append(vectors[0])
        text.append(vectors[1])
        keys.append(batch["keys"])
    every = torch.cat(keys)
    right = same_pairs(every, every).numpy()
    names = [sample.origin.get("recording") or sample.id for sample in samples]
    return recalled(likeness(torch.cat(audio), torch.cat(text)).numpy(), right, names)


def same_run(out: Path, runs: Sequence[Path], limit: int) -> None:
    """Note which weights and how many items this folder is about; refuse others."""
    out.mkdir(parents=True, exist_ok=True)
    weights = [hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()[:16] for run in runs]
    note, made = out / "run.json", {"weights": weights, "items": limit}
    if note.exists() and json.loads(note.read_text()) != made:
        raise SystemExit(f"'{out}' holds the answers of another run: name another folder")
    note.write_text(json.dumps(made) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("align", "run", "data", "frames", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--sentences", type=Path, help="a sentence encoder that reads answers by meaning")
    parser.add_argument("--items", type=int, default=0, help="of each part or cell, for a trial")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=[*CELLS], help="of few_shot")
    args = parser.parse_args()
    torch.set_num_threads(1)
    same_run(args.out, (args.align, args.run), args.items)
    engine = Engine.load(str(args.run), "cpu")
    cache = FrameCache(args.frames, engine.model.model.audio_tower)
    captions = list(read_manifest(args.data / "test.caption.jsonl"))
    novel = labelled(list(read_manifest(args.data / "novel.jsonl")))
    standard = list(islice(read_manifest(args.data / "train.caption.jsonl"), STANDARD))
    chosen = [name for name in PARTS if name in args.parts]
    asks = {
        name: items_of(args.data / f"test.{name}.jsonl", name, args.items or ASKED)
        for name in ("compare", "detect", "count")
        if name in chosen
    }
    tested = [*captions, *(item.sample for items in asks.values() for item in items), *standard]
    parts = [*(part for sample in tested for part in sample.audios), *(clip.part for clip in novel)]
    print(f"{cache.fill(parts)} clips encoded, {len(cache)} there", flush=True)
    proof = Proof(engine, Hearing(cache), args.out)
    means = np.stack([proof.hearing.mean(sample.audios[0]) for sample in standard])
    for name in chosen:
        if name == "recall":
            proof.keep(name, recall(args.align, cache, captions))
        elif name == "few_shot":
            few_shot(proof, novel, (means.mean(0), means.std(0) + 1e-6), args)
        else:
            said = {control: proof.answers(asks[name], control) for control in CONTROLS}
            proof.keep(name, SCORED[name]([item.sample for item in asks[name]], said))


if __name__ == "__main__":
    main()

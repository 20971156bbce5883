"""How much of music is in Whisper-base's frames: which instrument plays, major or minor, slow or fast.

    python benchmarks/music_probe.py --corpus corpus/music --out results/music_probe.json

Frames of the layers that the small model hears (2, 4 and 6), 80 ms each, of clips of ``lalm corpus music``:
learned from training clips, asked about new tunes ("known") and about another collection with another
soundfont ("unseen"). "linear" and "network" read groups of four frames, whose answers are added over a clip,
as in encoder_probe.py; "clip" is linear in the mean, the deviation and the mean change of a clip's frames.
Instruments are named in clips of one, and tempi where something sounds on every beat. 95 % intervals
over clips by Wilson's formula.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from encoder_probe import WIDTH, groups_of, interval, trained
from torch import Tensor, nn

from lalm.corpus.clips import read_flac
from lalm.data.readers import open_samples
from lalm.data.sample import Sample
from lalm.encoders import load_encoder
from lalm.weights.fetch import resolve

SPLITS = ("train", "test_known", "test_unseen")
SAVED_EVERY = 100  # clips: killed, it goes on from there
ASKED: dict[str, Callable[[Sample], str]] = {
    "instrument": lambda row: row.origin["instruments"] if row.origin["kind"] == "single" else "",
    "mode": lambda row: row.origin["mode"],
    "tempo": lambda row: row.origin.get("tempo", ""),
    "how many": lambda row: "" if "drum" in row.origin["instruments"] else str(len(row.events)),
}
Clip = tuple[str, str, Tensor]  # split, answer, frames (T, 3 x 512)


def frames_of(rows: list[Sample], store: Path) -> list[Tensor]:
    """Of each clip the frames of layers 2, 4 and 6: (T, 3 x 512)."""
    done: list[Tensor] = torch.load(store, weights_only=True) if store.exists() else []
    whisper = load_encoder(resolve("whisper-base"), {"layers": [2, 4, 6], "pool": 4}).eval()
    with torch.inference_mode():
        for row in rows[len(done) :]:
            audio = torch.from_numpy(read_flac(Path(str(row.audios[0]["audio"])))[:160_000])[None]
            heard, _ = whisper(audio, torch.tensor([audio.shape[1]]))
            done.append(heard[0].half().clone())
            if len(done) % SAVED_EVERY == 0 or len(done) == len(rows):
                torch.save(done, store)
                print(f"{len(done)} of {len(rows)} clips", flush=True)
    return done


def summary_of(clips: list[Clip], scale: tuple[Tensor, Tensor]) -> Tensor:
    """Of each clip mean, deviation and mean change of its frames: (clips, 9 x 512)."""
    rows = []
    for _, _, frames in clips:
        own = (frames.float() - scale[0]) * scale[1]
        rows.append(torch.cat([own.mean(0), own.std(0), own.diff(dim=0).abs().mean(0)]))
    return torch.stack(rows)


def probed(clips: list[Clip], names: list[str]) -> dict[str, Any]:
    """Shares of right answers of each way of reading, in each test."""
    train = [clip for clip in clips if clip[0] == "train"]
    labels = torch.tensor([names.index(answer) for _, answer, _ in train])
    sample = torch.cat([frames[::8].float() for _, _, frames in train])
    scale = (sample.mean(0), 1 / sample.std(0).clamp(min=1e-4))
    columns = torch.arange(3 * WIDTH)
    inputs, owner = groups_of(train, columns, scale)
    even = torch.ones(len(names))
    width = inputs.shape[1]
    by_group = {
        "linear": trained(nn.Linear(width, len(names)), inputs, labels[owner], even),
        "network": trained(
            nn.Sequential(nn.Linear(width, 512), nn.ReLU(), nn.Dropout(0.3), nn.Linear(512, len(names))),
            inputs,
            labels[owner],
            even,
        ),
    }
    whole = summary_of(train, scale)
    middle, spread = whole.mean(0), whole.std(0).clamp(min=1e-4)
    repeats = 30  # as many steps as clips alone would give too few
    by_clip = trained(
        nn.Sequential(nn.Dropout(0.5), nn.Linear(whole.shape[1], len(names))),
        ((whole - middle) / spread).repeat(repeats, 1),
        labels.repeat(repeats),
        even,
    )
    found: dict[str, Any] = {"answers": names, "train_clips": len(train)}
    for split in SPLITS[1:]:
        asked = [clip for clip in clips if clip[0] == split and clip[1] in names]
        wanted = torch.tensor([names.index(answer) for _, answer, _ in asked])
        tokens, owner = groups_of(asked, columns, scale)
        with torch.inference_mode():
            guesses = {
                name: torch.zeros(len(asked), len(names))
                .index_add_(0, owner, net(tokens.float()).log_softmax(1))
                .argmax(1)
                for name, net in by_group.items()
            }
            guesses["clip"] = by_clip((summary_of(asked, scale) - middle) / spread).argmax(1)
        for name, guess in guesses.items():
            found[f"{name}, {split}"] = interval(int((guess == wanted).sum()), len(asked))
        found[f"clips, {split}"] = len(asked)
        found[f"commonest, {split}"] = float(torch.bincount(wanted).max() / len(asked))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--frames", type=Path, default=Path("music_probe.frames"), help="kept between runs")
    parser.add_argument("--train", type=int, default=700, help="clips to learn from")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.manual_seed(0)
    rows: list[tuple[str, Sample]] = []
    for split in SPLITS:
        own = list(open_samples(given.corpus / f"{split}.jsonl"))
        own = [row for row in own if row.origin["kind"] in ("single", "together")]
        even = torch.randperm(len(own), generator=torch.Generator().manual_seed(0)).tolist()
        rows += [(split, own[i]) for i in (even[: given.train] if split == "train" else even)]
    frames = frames_of([row for _, row in rows], given.frames)
    found = {}
    for about, answer in ASKED.items():
        clips = [(s, answer(row), heard) for (s, row), heard in zip(rows, frames, strict=True) if answer(row)]
        found[about] = probed(clips, sorted({name for split, name, _ in clips if split == "train"}))
        print(about, json.dumps(found[about]), flush=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

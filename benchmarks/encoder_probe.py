"""How much of a sound's class is in an encoder's frames: linear probe, small network and nearest neighbour.

    python benchmarks/encoder_probe.py --corpus corpus/large --out results/encoder_probe.json

For each choice of Whisper-base's layers, with and without aiSFX's channels beside them: trained on the
training clips of a corpus, asked about other recordings ("known": of packages that were trained on) and
of other packages ("unseen"). Frames of 80 ms, four joined; a clip is named by the sum over its groups. 95 %
intervals over clips by Wilson's formula. Classes are the catalogue's labels, groups their first halves.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lalm.corpus.catalogue import catalogue
from lalm.corpus.clips import gather, read_flac
from lalm.encoders import load_encoder
from lalm.encoders.pair import at_times_of
from lalm.weights.fetch import resolve

WIDTH = 512  # of each of Whisper-base's layers, and of aiSFX
SAVED_EVERY = 100  # clips: killed, it goes on from there, and with the choices that are not in OUT yet
GROUP, TOKENS, EPOCHS, BATCH = 4, 64, 10, 512
CHOICES: dict[str, list[int]] = {
    "layer 6": [6],
    "layer 4": [4],
    "layers 2, 4, 6": [2, 4, 6],
    "layers 0 to 6": [0, 1, 2, 3, 4, 5, 6],
    "aiSFX": [7],
    "layers 2, 4, 6 and aiSFX": [2, 4, 6, 7],
}


def frames_of(corpus: Path, store: Path) -> list[tuple[str, str, Tensor]]:
    """Of each clip its split, its label, and the frames of all layers and aiSFX: (T, 8 x 512)."""
    clips = gather(catalogue("large"), corpus)
    rows: list[tuple[str, str, Tensor]] = torch.load(store, weights_only=True) if store.exists() else []
    if len(rows) == len(clips):
        return rows
    whisper = load_encoder(resolve("whisper-base"), {"layers": "all", "pool": 4}).eval()
    effects = load_encoder(resolve("aisfx")).eval()
    with torch.inference_mode():
        for clip in clips[len(rows) :]:
            audio = torch.from_numpy(read_flac(corpus / clip.path)[:160_000])[None]
            size = torch.tensor([audio.shape[1]])
            heard, _ = whisper(audio, size)
            beside, counts = effects(audio, size)
            ratio = effects.config.frames_per_second / whisper.config.frames_per_second
            beside = at_times_of(beside, counts, heard.shape[1], ratio)
            rows.append((clip.split, clip.row.label, torch.cat([heard, beside], 2)[0].half().clone()))
            if len(rows) % SAVED_EVERY == 0 or len(rows) == len(clips):
                torch.save(rows, store)
    return rows


def groups_of(rows: list[tuple[str, str, Tensor]], columns: Tensor, scale: tuple[Tensor, Tensor]) -> Any:
    """Groups (G, 4 x W) of all clips, and the number of each one's clip (G,)."""
    made, owner = [], []
    for number, (_, _, frames) in enumerate(rows):
        own = (frames[:, columns].float() - scale[0]) * scale[1]
        count = min(TOKENS, -(-len(own) // GROUP))
        own = nn.functional.pad(own, (0, 0, 0, max(0, count * GROUP - len(own))))[: count * GROUP]
        made.append(own.reshape(count, -1).half())
        owner += [number] * count
    return torch.cat(made), torch.tensor(owner)


def trained(net: nn.Module, inputs: Tensor, labels: Tensor, weights: Tensor) -> nn.Module:
    """The network after some passes over the groups; rare classes weigh more."""
    steps = EPOCHS * len(inputs) // BATCH + 1
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        batch = torch.randint(len(inputs), (BATCH,))
        loss = nn.functional.cross_entropy(
            net(inputs[batch].float()), labels[batch], weight=weights, label_smoothing=0.1
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def interval(right: int, count: int) -> tuple[float, float, float]:
    """A share and its 95 % interval (Wilson)."""
    share, z = right / count, 1.96
    middle, half = share + z * z / 2 / count, z * (share * (1 - share) / count + z * z / 4 / count**2) ** 0.5
    return share, (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--frames", type=Path, default=Path("encoder_probe.frames"), help="kept between runs")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.manual_seed(0)
    rows = frames_of(given.corpus, given.frames)
    train = [row for row in rows if row[0] == "train"]
    names = sorted({row[1] for row in train})
    kinds = sorted({name.split("/")[0] for name in names})
    kind_of = torch.tensor([kinds.index(name.split("/")[0]) for name in names])
    found: dict[str, Any] = {"classes": len(names), "train_clips": len(train)}
    found |= json.loads(given.out.read_text()) if given.out.exists() else {}
    for choice, layers in CHOICES.items():
        if choice in found:
            continue
        columns = torch.cat([torch.arange(WIDTH * layer, WIDTH * (layer + 1)) for layer in layers])
        sample = torch.cat([row[2][::8][:, columns].float() for row in train])
        scale = (sample.mean(0), 1 / sample.std(0).clamp(min=1e-4))
        inputs, owner = groups_of(train, columns, scale)
        labels = torch.tensor([names.index(train[int(i)][1]) for i in owner])
        weights = torch.bincount(labels, minlength=len(names)).clamp(min=1) ** -0.4
        nets = {
            "linear": nn.Linear(inputs.shape[1], len(names)),
            "network": nn.Sequential(
                *(nn.Linear(inputs.shape[1], 512), nn.ReLU(), nn.Dropout(0.3), nn.Linear(512, len(names)))
            ),
        }
        nets = {name: trained(net, inputs, labels, weights) for name, net in nets.items()}
        means = torch.stack([(row[2][:, columns].float().mean(0) - scale[0]) * scale[1] for row in train])
        own = torch.tensor([names.index(row[1]) for row in train])
        found[choice] = {}
        for split in ("test_known", "test_unseen"):
            asked = [row for row in rows if row[0] == split and row[1] in names]
            wanted = torch.tensor([names.index(row[1]) for row in asked])
            tokens, owner = groups_of(asked, columns, scale)
            guesses = {}
            with torch.inference_mode():
                for name, net in nets.items():
                    logits = net(tokens.float()).log_softmax(1)
                    guesses[name] = torch.zeros(len(asked), len(names)).index_add_(0, owner, logits).argmax(1)
            mine = torch.stack([(row[2][:, columns].float().mean(0) - scale[0]) * scale[1] for row in asked])
            mine, there = nn.functional.normalize(mine, dim=1), nn.functional.normalize(means, dim=1)
            guesses["nearest neighbour"] = own[(mine @ there.T).argmax(1)]
            for name, guess in guesses.items():
                right, kind = guess == wanted, kind_of[guess] == kind_of[wanted]
                found[choice][f"{name}, {split}"] = {
                    "clips": len(asked),
                    "class": interval(int(right.sum()), len(asked)),
                    "group": interval(int(kind.sum()), len(asked)),
                }
                shares = f"class {right.float().mean():.3f} group {kind.float().mean():.3f}"
                print(f"{choice:<28} {name:<18} {split:<12} {shares}", flush=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

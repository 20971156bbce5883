"""Makes docs/pictures: each system's NAME.svg, and the data's way, data.svg: python docs/diagrams.py"""

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

FROZEN, TRAINED, TEXT = "#e3e8f0", "#ffe2bd", "#ffffff"
INK, SOFT, LINE = "#1f2733", "#5a6472", "#8a94a3"
BOX_W, GAP, TOP, LINE_H, PAD = 168, 44, 62, 17, 12


@dataclass(frozen=True)
class Box:
    """A part of a system: its name, what it does in short lines, and whether it learns."""

    title: str
    lines: tuple[str, ...] = ()
    fill: str = FROZEN

    @property
    def height(self) -> int:
        """Pixels."""
        return 2 * PAD + LINE_H * (1 + len(self.lines))


@dataclass(frozen=True)
class System:
    """A diagram: columns from left to right, each box leading to those of the next; then stages."""

    title: str
    columns: tuple[tuple[Box, ...], ...]
    stages: tuple[str, ...]
    legend: tuple[tuple[str, str], ...] = (
        (FROZEN, "frozen"),
        (TRAINED, "learns, or comes from what learns"),
        (TEXT, "data"),
    )


SYSTEMS = {
    "acdc": System(
        "AC/DC: dialogue continuation",
        (
            (Box("recording", ("mono, 16 kHz",), TEXT),),
            (Box("EAT-base", ("128 mel, 513 frames", "of 768 for 10.24 s")),),
            (
                Box(
                    "connector",
                    ("5 frames side by side", "3840 -> 2048 -> 4096", "10 tokens a second"),
                    TRAINED,
                ),
            ),
            (
                Box("chat prefix", ("no instruction",), TEXT),
                Box("audio tokens", ("in the caption's place",), TRAINED),
                Box("chat suffix", (), TEXT),
            ),
            (Box("Llama-3-8B-Instruct", ("frozen, or with LoRA",)),),
            (Box("its own reply", ("the LLM's, to the", "caption alone"), TEXT),),
        ),
        (
            "before: the LLM replies to every caption, without instruction, at temperature 0.7",
            "training: the connector learns to make the LLM say that reply to the sound",
            "use: any instruction stands around the audio tokens, though none was ever trained",
        ),
    ),
    "salmonn": System(
        "SALMONN: two encoders, a Q-Former on windows, LoRA",
        (
            (Box("recording", ("mono, 16 kHz",), TEXT),),
            (Box("Whisper-large-v2", ("50 frames a second",)), Box("BEATs", ("50 frames a second",))),
            (Box("side by side", ("frame by frame",)),),
            (
                Box(
                    "window Q-Former",
                    ("windows of 17 frames,", "1 query: 3 tokens", "a second, 88 for 30 s"),
                    TRAINED,
                ),
            ),
            (Box("USER: <Speech>", ("audio tokens",), TRAINED), Box("instruction", ("ASSISTANT:",), TEXT)),
            (Box("Vicuna-13B", ("frozen", "LoRA on q and v,", "rank 8, scale 4"), TRAINED),),
            (Box("answer", (), TEXT),),
        ),
        (
            "1  speech recognition and captions      2  twelve tasks with instructions",
            "3  activation: twelve stories, written by the model with LoRA turned down, one step each",
        ),
    ),
    "apt": System(
        "APT: an aligner that hears what it is asked, clips and text in any order",
        (
            (Box("clip", ("10.24 s a segment",), TEXT), Box("its instruction", ("up to 128 tokens",), TEXT)),
            (
                Box("Audio-MAE", ("512 frames of 768",), TRAINED),
                Box("word embeddings", ("of the aligner",), TRAINED),
            ),
            (
                Box(
                    "aligner",
                    ("BERT-mini, 4 blocks,", "32 queries attend to", "text, then to sound"),
                    TRAINED,
                ),
            ),
            (
                Box("AUDIO, 32 tokens", ("the first clip",), TRAINED),
                Box("This is a bell.", (), TEXT),
                Box("AUDIO, 32 tokens", ("the next clip",), TRAINED),
                Box("This is a", (), TEXT),
            ),
            (Box("Vicuna-7B", ("frozen",)),),
            (Box("answer", ("a label, times,", "a comparison"), TEXT),),
        ),
        (
            "0  alignment: matching, contrast, text from sound, without the LLM",
            "1  single clips: tags, captions, questions, times, counts",
            "2  several clips: few-shot episodes, comparisons",
        ),
    ),
    "qwen2_audio": System(
        "Qwen2-Audio: one layer into an LLM that learns as a whole",
        (
            (Box("recording", ("or a spoken question",), TEXT),),
            (Box("Whisper-large-v3", ("128 mel, windows of", "30 s, pooled by 2"), TRAINED),),
            (Box("one linear layer", ("1280 -> 4096", "25 tokens a second"), TRAINED),),
            (Box("user", ("audio tokens",), TRAINED), Box("question", ("or none: voice chat",), TEXT)),
            (Box("Qwen-7B", ("learns in each stage",), TRAINED),),
            (Box("answer", (), TEXT),),
        ),
        (
            "1  pre-training: tasks told in words, in place of tags",
            "2  SFT: audio analysis and voice chat together      3  DPO on pairs of answers",
        ),
    ),
}


KINDS = ((TEXT, "data"), (FROZEN, "a room of the package"), (TRAINED, "what a system adds"))
WAYS = {
    "tokens": System(
        "A recording becomes audio tokens",
        (
            (Box("recording", ("file, pipe, bytes",), TEXT),),
            (Box("audio/", ("load, decode, mix:", "float32, 16 kHz,", "and an account")),),
            (Box("encoders/", ("frames (A, T, W)",)),),
            (Box("systems/*/model", ("connector:", "audio tokens (K, D)"), TRAINED),),
        ),
        (),
        (),
    ),
    "text": System(
        "Audio tokens and a question become text",
        (
            (
                Box("audio tokens", ("(K, D)",), TRAINED),
                Box("question", ("models/processing:", "template, ids, slots"), TEXT),
            ),
            (Box("models/modeling", ("tokens fill the slots", "of the embeddings")),),
            (Box("LLM", ("prompt, then token", "after token")),),
            (Box("text", ("inference/engine,", "to cli/, serve/,", "evaluate/, doctor/"), TEXT),),
        ),
        (),
        (),
    ),
    "loss": System(
        "A manifest becomes a loss",
        (
            (Box("manifest, recipe", ("any form of data",), TEXT),),
            (Box("data/", ("readers: Samples", "mixture, samplers")),),
            (Box("training/batches", ("tensors, labels on", "the answers alone")),),
            (Box("models/modeling", ("the same model", "as above")),),
        ),
        (),
        (),
    ),
    "checkpoint": System(
        "A loss becomes a checkpoint",
        (
            (Box("objectives/", ("cross-entropy,", "distil, dpo, grpo, ...")),),
            (Box("training/trainer", ("a step; validation",)),),
            (Box("checkpoint", ("config, tensors, recipe;", "models/load opens it"), TEXT),),
        ),
        (),
        KINDS,
    ),
}


def stacked(systems: dict[str, System]) -> str:
    """Several diagrams below one another as one SVG."""
    made = [svg(system) for system in systems.values()]
    sizes = [tuple(map(int, re.findall(r'viewBox="0 0 (\d+) (\d+)"', one)[0])) for one in made]
    width, height = max(size[0] for size in sizes), sum(size[1] for size in sizes)
    parts, top = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'], 0
    for one, size in zip(made, sizes, strict=True):
        parts.append(
            one.rstrip().replace("<svg ", f'<svg y="{top}" width="{size[0]}" height="{size[1]}" ', 1)
        )
        top += size[1]
    return "\n".join([*parts, "</svg>"]) + "\n"


def svg(system: System) -> str:
    """The diagram as SVG on white, which stands on light and on dark pages."""
    tall = max(sum(box.height + GAP // 2 for box in column) for column in system.columns) - GAP // 2
    width = GAP // 2 * 2 + len(system.columns) * (BOX_W + GAP) - GAP
    legend = TOP + tall + 40
    height = legend + 28 + LINE_H * len(system.stages) + PAD if system.legend else TOP + tall + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{INK}">',
        f"<title>{escape(system.title)}</title>",
        '<defs><marker id="a" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{LINE}"/></marker></defs>',
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
        f'<text x="{GAP // 2}" y="32" font-size="17" font-weight="600">{escape(system.title)}</text>',
    ]
    before: list[int] = []
    for number, column in enumerate(system.columns):
        x = GAP // 2 + number * (BOX_W + GAP)
        y = TOP + (tall - sum(box.height for box in column) - (len(column) - 1) * GAP // 2) // 2
        middles = []
        for box in column:
            middles.append(y + box.height // 2)
            parts += _box(box, x, y)
            y += box.height + GAP // 2
        made = [m for m, box in zip(middles, column, strict=True) if len(column) == 1 or box.fill != TEXT]
        pairs = [(a, b) for a in before for b in made]
        if len(before) == len(middles) > 1:
            pairs = list(zip(before, middles, strict=True))
        for a, b in pairs:
            parts.append(
                f'<line x1="{x - GAP + 2}" y1="{a}" x2="{x - 3}" y2="{b}" stroke="{LINE}" stroke-width="1.6" '
                'marker-end="url(#a)"/>'
            )
        before = middles
    x = GAP // 2
    for fill, label in system.legend:
        parts.append(
            f'<rect x="{x}" y="{legend - 12}" width="16" height="14" rx="3" fill="{fill}" stroke="{LINE}"/>'
            f'<text x="{x + 24}" y="{legend}" fill="{SOFT}">{label}</text>'
        )
        x += 50 + 7 * len(label)
    for row, stage in enumerate(system.stages):
        parts.append(
            f'<text x="{GAP // 2}" y="{legend + 28 + row * LINE_H}" xml:space="preserve">'
            f"{escape(stage)}</text>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _box(box: Box, x: int, y: int) -> list[str]:
    shape = f'x="{x}" y="{y}" width="{BOX_W}" height="{box.height}"'
    parts = [
        f'<rect {shape} rx="6" fill="{box.fill}" stroke="{LINE}"/>',
        f'<text x="{x + BOX_W // 2}" y="{y + PAD + 12}" text-anchor="middle" font-weight="600">'
        f"{escape(box.title)}</text>",
    ]
    for row, line in enumerate(box.lines, 1):
        parts.append(
            f'<text x="{x + BOX_W // 2}" y="{y + PAD + 12 + row * LINE_H}" text-anchor="middle" '
            f'fill="{SOFT}" font-size="12">{escape(line)}</text>'
        )
    return parts


if __name__ == "__main__":
    for name, system in SYSTEMS.items():
        (Path(__file__).parent / "pictures" / f"{name}.svg").write_text(svg(system), encoding="utf-8")
    (Path(__file__).parent / "pictures" / "data.svg").write_text(stacked(WAYS), encoding="utf-8")

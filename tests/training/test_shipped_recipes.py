"""Every shipped recipe trains for two steps on what docs/manifests.md writes, with tiny parts for big ones.

The page's own commands run, each when a recipe needs what it writes, on small copies of the corpora in their
published layouts. Only what needs a big LLM, a voice or Debian's packages is played here.
"""

import importlib.util
import json
import os
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import published_corpora as corpora
import pytest
import torch
from made_up_tunes import pretend
from safetensors.torch import save_file
from tiny_parts import beats_folder, bert_folder, llama_folder, noise, whisper_folder

from lalm.cli import build_preferences, opening
from lalm.cli.app import run
from lalm.corpus import lessons, music
from lalm.encoders import build_encoder
from lalm.encoders.aisfx import AISFXConfig
from lalm.encoders.audio_mae import AudioMAEConfig
from lalm.encoders.eat import EATConfig
from lalm.synthesis.completions import Completion
from lalm.systems.salmonn import activation
from lalm.tasks import spoken_questions
from lalm.training import recipe

REPO = Path(__file__).parents[2]
RECIPES = recipe.shipped()
USERS_OWN = ("train.csv", "held_out.csv")  # docs/guide.md: somebody's own clips and captions
PART_OF = {  # every part that a recipe names: the tiny one in its place
    "worstchan/EAT-base_epoch30_finetune_AS2M": "eat",
    "gaunernst/vit_base_patch16_1024_128.audiomae_as2m_ft_as20k": "audio_mae",
    "WeiChihChen/BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2": "beats",
    **dict.fromkeys(("openai/whisper-large-v2", "openai/whisper-large-v3", "whisper-base"), "whisper"),
    "aisfx": "aisfx",
    **dict.fromkeys(("google/bert_uncased_L-4_H-256_A-4", "minilm"), "bert"),
    **dict.fromkeys(("meta-llama/Meta-Llama-3-8B-Instruct", "Qwen/Qwen-7B"), "llm"),
    **dict.fromkeys(("lmsys/vicuna-7b-v1.5", "lmsys/vicuna-13b-v1.1"), "llm"),
    **dict.fromkeys(("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"), "llm"),
}
SMALLER = {  # the connectors' shapes; all else is the recipe's
    "acdc": ["init.options.connector_width=16"],
    "apt": [
        "init.options.aligner={vocab_size: 90, hidden_size: 16, num_hidden_layers: 2, "
        "num_attention_heads: 2, intermediate_size: 32}"
    ],
    "modular": ["init.options.connector_options.hidden=16"],
    "qwen2-audio": [],
    "salmonn": [
        "init.options.qformer_width=16",
        "init.options.qformer_heads=2",
        "init.options.qformer_inner=16",
    ],
}


class Command:
    """A line of the page: its words, what it reads, what it writes."""

    def __init__(self, line: str) -> None:
        self.words = shlex.split(line)
        made = r"(data|runs|tasks|apt|tts|corpus)/|AudioSet/.*_part\.tsv"
        places = [word for word in self.words[3:] if re.match(made, word)]
        places += self.words[2:3] if self.words[1] in ("respond", "activate") else []
        if self.words[:3] == ["lalm", "corpus", "lessons"]:
            self.out = self.words[4]
        elif self.words[:2] == ["lalm", "respond"] or "--out" not in self.words:
            self.out = self.words[3] if self.words[1] == "respond" else self.words[-1]
        else:
            self.out = self.words[self.words.index("--out") + 1]
        self.reads = [place for place in places if place != self.out]


def commands() -> list[Command]:
    blocks = re.findall(r"```\n(.*?)```", (REPO / "docs/manifests.md").read_text(), re.DOTALL)
    return [Command(line) for block in blocks for line in block.replace("\\\n", "").splitlines()]


def maker(path: str) -> Command | None:
    """The command that writes a file or the folder it is in; None for a run, which a recipe makes."""
    found = [c for c in COMMANDS if path == c.out or path.startswith(f"{c.out}/")]
    return max(found, key=lambda command: len(command.out)) if found else None


COMMANDS = commands()
RUNS = {recipe.load(name).out: name for name in RECIPES}


def reads(name: str) -> list[str]:
    """Every path that a recipe reads."""
    own = recipe.load(name)
    held_out = [entry if isinstance(entry, str) else entry.path for entry in own.data.valid]
    begun = [recipe.load("modular/small_3").out if own.init.from_ == "small" else own.init.from_]
    found = [*(source.path for source in own.data.train), *held_out, *(begun if own.init.from_ else [])]
    return [path for path in found if path not in USERS_OWN]


def test_every_path_of_a_recipe_is_made_by_a_command_of_the_page_or_by_another_recipe():
    wanted = {path: name for name in RECIPES for path in reads(name)}
    assert len(wanted) > 60
    wanted |= {"minilm": "apt/0_align_small"}
    for path, name in wanted.items():
        assert path in RUNS or maker(path), f"{name} reads '{path}', which no command of the page makes"
    places = [command.out for command in COMMANDS]
    for number, command in enumerate(COMMANDS):
        for path in command.reads:
            made = maker(path)
            later = made and command.words[0] == "lalm" and places.index(made.out) > number
            assert (path in RUNS or made) and not later, f"'{path}' is not there for {command.words[:4]}"


def part(folder: Path, config) -> Path:
    """An encoder of random weights as a folder of ours."""
    torch.manual_seed(0)
    folder.mkdir()
    save_file(build_encoder(config).state_dict(), folder / "model.safetensors")
    config.save_pretrained(folder)
    return folder


class Player:
    """In place of a big LLM: a question about each text, a rating, the caption again."""

    name = template = "player"

    def complete(self, chats, seeds, sampling):
        return [Completion(self.reply(chat[-1]["content"]), False) for chat in chats]

    def reply(self, text):
        if "The text: " in text:
            return json.dumps({"Question": "What is there to hear?", "Answer": text[-20:].strip()})
        if "How helpful" in text:
            return "9" if "Yes" in text.split("answer: ")[-1] else "2"
        if text.startswith("First recording"):
            sounds = set(re.findall(r"^- (.+?): \d", text, re.MULTILINE))
            answers = ("first", "second", "both", "neither")
            rows = [
                {"question": f"Where do you hear the {s}?", "sound": s, "kind": "where", "answer": a}
                for s in sounds
                for a in answers
            ]
            return "\n".join(map(json.dumps, rows))
        return text


def drawn(model, device, sampling):
    """Replies of a model that answers anything to anything."""
    texts = ["Yes.", "No.", "A dog barking.", "Yes, I hear it."]
    return (lambda samples, seed: [Completion(texts[seed % 4], False) for _ in samples]), str(model)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with all corpora and tiny parts, in which ``make`` makes a path by the page's command or the
    recipe whose it is, and all that is needed for it."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(opening, "open_writer", lambda llm, url: Player())
        patch.setattr(build_preferences, "_from_model", drawn)
        patch.setattr(activation, "good", lambda text: True)
        patch.setattr(activation, "STORY_TOKENS", 4)
        patch.setattr(spoken_questions, "speech", lambda *words: corpora_noise())
        pretend(patch)
        patch.setattr(lessons, "EMPTY_FILES", 4)
        patch.setattr(music, "HELD_OUT", {"single": 4, "together": 4, "sequence": 1, "twice": 1})
        for lay_out in (corpora.captioned, corpora.spoken, corpora.music, corpora.audioset, corpora.debian):
            lay_out(root)
        corpora.debian(root, "large")
        corpora.own_clips(root)
        parts = root / "parts"
        parts.mkdir()
        shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        folders = {
            "eat": part(parts / "eat", EATConfig(**shape)),
            "audio_mae": part(parts / "audio_mae", AudioMAEConfig(**shape)),
            "aisfx": part(parts / "aisfx", AISFXConfig(channels=(4, 6, 8, 10))),
            "whisper": whisper_folder(parts / "whisper", layers=6),
            "beats": beats_folder(parts / "beats"),
            "bert": bert_folder(parts / "bert"),
            "llm": llama_folder(parts / "llm"),
        }
        yield SimpleNamespace(root=root, make=cache(lambda path: make(path, folders)))


def corpora_noise():
    import numpy as np

    return np.full(8000, 0.05, np.float32)


def make(path: str, folders: dict[str, Path]) -> None:
    """Make what a recipe or a command reads."""
    if path in RUNS:
        train(RUNS[path], folders)
    elif not Path(path).exists():
        command = maker(path)
        assert command is not None, path
        for needed in command.reads:
            make(needed, folders)
        execute(command)
    assert Path(path).exists(), path


def execute(command: Command) -> None:
    """Run a line of the page in this process."""
    program, *words = command.words
    if program == "head":
        lines = Path(words[2]).read_text().splitlines()[: int(words[1])]
        Path(words[4]).write_text("\n".join(lines) + "\n")
    elif program == "python":
        benchmark(words)
    else:
        assert program == "lalm", command.words
        few = ["--steps", "2"] if words[0] == "activate" else []
        if words[:2] == ["corpus", "lessons"]:
            few = ["--count", "60"]
        if words[:2] == ["corpus", "music"]:
            few = ["--clips", "24"]
        if "--episodes" in words:
            few = ["--episodes", "30"]
        if "--shard" in words:  # the third of 56 parts of a small corpus has no row
            few = ["--shard", "1/1"]
        assert run([*words, *few]) == 0, command.words


def benchmark(words: list[str]) -> None:
    """A script of the repository with flite's part played and few episodes."""
    spec = importlib.util.spec_from_file_location(Path(words[0]).stem, REPO / words[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if "--texts" in words:
        Path("fortunes").write_text("".join(f"The {w} is here now.\n%\n" for w in ("dog", "bell", "rain")))
        words[words.index("--texts") + 1] = "fortunes"
        words += ["--test", "1"]
        module.phones = lambda text, voice, pace: tuple(
            ("ah", 0.1 * n, 0.1 * n + 0.1) for n in range(2 * len(text.split()))
        )
        say = lambda words, **_: noise(Path(words[-1]), 1.2)  # noqa: E731
        module.subprocess = SimpleNamespace(run=say)
    else:
        module.EPISODES = [(ways, shots, 4) for ways, shots, _ in module.EPISODES]
    before, sys.argv = sys.argv, words
    try:
        module.main()
    finally:
        sys.argv = before


def train(name: str, folders: dict[str, Path]) -> None:
    """Two steps of a recipe as a user starts it."""
    own = recipe.load(name)
    if (Path(own.out) / "config.json").is_file():
        return
    for path in reads(name):
        make(path, folders)
    parts = {key: getattr(own.init, key) for key in ("encoder", "encoder_2", "aligner", "llm")}
    changes = [f"init.{key}={folders[PART_OF[part]]}" for key, part in parts.items() if part]
    changes += SMALLER[own.system] if own.init.from_ is None else []
    if own.init.from_ == "small":  # the embedded model is the one that modular/small_3 makes
        changes.append(f"init.from={recipe.load('modular/small_3').out}")
    changes += ["optim.max_steps=2", "optim.epochs=null", "optim.warmup_steps=1", "optim.batch_size=2"]
    changes += [f"optim.accumulation={min(2, own.optim.accumulation)}", "every.log=1", "every.save=100"]
    if own.data.valid and own.every.valid:
        changes += ["every.valid=2", "valid.samples=2", "valid.generate=0"]
    if own.warm_start is not None:
        changes += ["warm_start.epochs=0.3"]
    if own.data.filters is not None and own.data.filters.contradictions:
        changes += [f"data.filters.contradictions={folders['llm']}"]
    assert run(["train", name, *(word for change in changes for word in ("--set", change))]) == 0, name


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_on_the_manifests_it_names(world, name):
    own = recipe.load(name)
    train_out(world, own.out)
    rows = [json.loads(line) for line in (Path(own.out) / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert set(losses) == {1, 2} and all(0 <= loss < 1000 for loss in losses.values())
    if own.data.valid and own.every.valid:
        assert any("valid_loss" in row for row in rows)
    assert own.cache is None or any(os.scandir(own.cache))


def train_out(world, out: str) -> None:
    world.make(out)

"""The command line: answers on a tiny model, every bad input one sentence, and a light --help."""

import importlib.metadata
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer

from lalm.cli import app as cli
from lalm.data.sample import ask
from lalm.models.assemble import build_model
from lalm.models.load import load_model
from lalm.models.save import save_model
from lalm.weights import pins

ROOT = Path(__file__).parents[2]
HORSE = str(ROOT / "samples" / "horse.ogg")
QUESTION = "What do you hear?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_folders) -> str:
    """A tiny acdc model folder."""
    folder = tmp_path_factory.mktemp("cli") / "tiny"
    encoder, llm = map(str, tiny_folders)
    options = {"group_size": 5, "connector_width": 24, "remainder": "pad"}
    save_model(*build_model("acdc", encoder=encoder, llm=llm, options=options), folder, slim=False)
    return str(folder)


@pytest.fixture
def lalm(capsys):
    """``lalm(words...) -> (exit code, stdout, stderr)``, in this process."""

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.run([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


def refused(result: tuple[int, str, str], *said: str, code: int = 2) -> None:
    assert result[0] == code
    assert result[1] == ""
    lines = result[2].splitlines()
    assert len(lines) == 1 and lines[0].startswith("lalm: "), result[2]
    for text in said:
        assert text in lines[0]


def test_help_names_every_command(lalm):
    code, out, _ = lalm("--help")
    assert code == 0
    for name in (
        "ask",
        "chat",
        "export",
        "import",
        "info",
        "respond",
        "serve",
        "train",
        "corpus",
        "recipes",
        "weights",
    ):
        assert f"\n  {name} " in out


COMMANDS = (
    "ask/chat/export/import/info/respond/serve/train/corpus build/recipes list/recipes show/recipes copy"
)
COMMANDS += "/weights list/weights fetch/weights where/weights kept"


@pytest.mark.parametrize("command", COMMANDS.split("/"))
def test_every_command_has_help(lalm, command):
    code, out, _ = lalm(*command.split(), "--help")
    assert code == 0 and out.startswith(f"Usage: lalm {command} ")


def test_ask_prints_the_answer(lalm, model):
    code, out, err = lalm("ask", HORSE, QUESTION, "--model", model, "--max-new-tokens", 5, "--device", "cpu")
    assert code == 0 and out.endswith("\n")
    assert err == "lalm: the answer was cut off at 5 tokens (--max-new-tokens)\n"
    assert out == lalm("ask", "--model", model, "--max-new-tokens", 5, HORSE, QUESTION)[1]


def test_a_stop_text_ends_an_answer_without_a_note(lalm, model):
    asked = ("ask", HORSE, QUESTION, "--model", model, "--max-new-tokens", 12)
    whole = lalm(*asked)[1].strip()
    stop = whole[4:6]
    code, out, err = lalm(*asked, "--stop", stop)
    assert (code, out.strip(), err) == (0, whole[: whole.index(stop)].rstrip(), "")
    refused(lalm(*asked, "--min-tokens", 99), "min_tokens must be from 0 to max_new_tokens (12), not 99")


def test_lora_scale_needs_lora(lalm, model):
    refused(lalm("ask", HORSE, QUESTION, "--model", model, "--lora-scale", 2.0), "this model has no LoRA")


def test_the_version_is_that_of_the_package(lalm):
    assert lalm("--version") == (0, f"lalm {importlib.metadata.version('lalm')}\n", "")


def test_help_lists_what_a_newcomer_needs_first_and_every_command_once(lalm):
    lines = lalm("--help")[1].splitlines()
    sections = lines[lines.index("Ask a model:") :]
    names = [line.split()[0] for line in sections if line.startswith("  ")]
    assert names[:2] == ["ask", "chat"]
    assert sorted(names) == sorted(typer.main.get_command(cli.app).commands)
    assert not [line for line in sections if line.endswith("...")]  # no summary is cut short


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("lalm cl", "classify"), ("lalm weights f", "fetch"), ("lalm ask --max", "--max-new-tokens")],
)
def test_a_shell_completes_commands_and_options(typed, offered):
    """The question that the script of ``lalm --install-completion`` asks at every Tab in bash."""
    asked = {"_LALM_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    command = [sys.executable, "-m", "lalm"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [offered], "")


QUIET = """
import logging, sys
from lalm.cli import app as cli
from lalm.data.sample import ask
code = cli.run(sys.argv[1:])
logging.getLogger("bitsandbytes.backends.cpu.ops").warning("as processors with AVX-512 and bfloat16 see it")
sys.exit(code)
"""


@pytest.mark.parametrize("words", [["--help"], ["ask", HORSE, QUESTION, "--max-new-tokens", "2", "--model"]])
def test_libraries_say_nothing_on_stderr(words, tiny_folders, tmp_path):
    """Help, and an answer of a model with LoRA, for which peft imports bitsandbytes."""
    if words[-1] == "--model":
        encoder, llm = map(str, tiny_folders)
        options = {"group_size": 5, "connector_width": 24, "remainder": "pad"}
        lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["q_proj"]}
        made = build_model("acdc", encoder=encoder, llm=llm, options=options, lora=lora)
        save_model(*made, tmp_path / "lora", slim=True)
        words = [*words, str(tmp_path / "lora")]
    done = subprocess.run([sys.executable, "-c", QUIET, *words], capture_output=True, text=True, cwd=ROOT)
    ours = "lalm: the answer was cut off at 2 tokens"
    others = [line for line in done.stderr.splitlines() if not line.startswith(ours)]
    assert (done.returncode, others) == (0, [])


def test_ask_json_tells_seconds_and_times(lalm, model, tmp_path):
    long = tmp_path / "long.wav"
    soundfile.write(long, np.full(40 * 8_000, 0.1), 8_000)
    code, out, _ = lalm("ask", HORSE, long, QUESTION, "--json", "--model", model, "--max-new-tokens", 4)
    assert code == 0
    answer = json.loads(out)
    assert set(answer) == {"answer", "finish_reason", "model", "audio", "timing"}
    assert answer["finish_reason"] == "length"
    assert answer["model"] == "tiny"
    assert [clip["name"] for clip in answer["audio"]] == ["horse.ogg", "long.wav"]
    heard = answer["audio"][1]
    assert (heard["name"], heard["seconds_given"], heard["seconds_heard"]) == ("long.wav", 40.0, 40.0)
    assert heard["account"]["decoded_s"] == heard["account"]["heard_s"] == 40.0
    assert set(answer["timing"]) == {"first_token_s", "total_s", "tokens_per_s"}
    assert all(value > 0 for value in answer["timing"].values())


def test_ask_reads_standard_input_once(lalm, model, monkeypatch):
    class Pipe:
        buffer = io.BytesIO(Path(HORSE).read_bytes())

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stdin", Pipe())
    code, out, err = lalm("ask", "-", QUESTION, "--json", "--model", model, "--max-new-tokens", 2)
    assert code == 0, err
    assert json.loads(out)["audio"][0]["name"] == "stdin"
    refused(lalm("ask", "-", "-", QUESTION, "--model", model), "standard input")


def test_seeded_draws_repeat_and_beams_work(lalm, model):
    words = ["ask", HORSE, QUESTION, "--model", model, "--max-new-tokens", 8]
    draws = [lalm(*words, "--temperature", 1.5, "--seed", seed)[1] for seed in (1, 1, 2, 3, 4)]
    assert draws[0] == draws[1] and len(set(draws)) > 1
    assert lalm(*words, "--beams", 3)[0] == 0


def test_a_terminal_sees_the_same_answer(lalm, model):
    words = ["ask", HORSE, QUESTION, "--model", model, "--max-new-tokens", "20"]
    plain = lalm(*words)[1]
    reader, writer = pty.openpty()
    with subprocess.Popen([sys.executable, "-m", "lalm", *words], stdout=writer, cwd=ROOT) as process:
        os.close(writer)
        seen = b""
        try:
            while piece := os.read(reader, 4096):
                seen += piece
        except OSError:  # Linux ends a terminal this way
            pass
    assert process.returncode == 0
    assert seen.replace(b"\r\n", b"\n").decode() == plain


def test_ask_wants_audio_and_a_question(lalm, tmp_path):
    refused(lalm("ask"), "ask")
    refused(lalm("ask", QUESTION), "audio", "question")
    refused(lalm("ask", HORSE), "question", "horse.ogg")
    refused(lalm("ask", HORSE, HORSE), "question", "horse.ogg")
    refused(lalm("ask", HORSE, QUESTION, "--beam", 3), "--beam")
    refused(lalm("ask", HORSE, QUESTION, "--beams", "many"), "--beams")


def turn(*words, **options):
    """What ``lalm ask WORDS`` puts to the model, file names short."""
    from lalm.audio.load import audio_name
    from lalm.cli.ask import _about, read_words

    sample = _about(read_words([str(w) for w in words]), options.get("system", ""), options.get("orders", 1))
    told = [m["content"] for m in sample.messages]
    parts = [p.get("text") or audio_name(p["audio"]) for p in told[-1]]
    return [*told[:-1], parts]


def test_texts_may_stand_between_recordings():
    bell = "samples/bell.flac"
    assert turn(bell, "This is a bell.", HORSE, "This is a") == [
        ["bell.flac", "This is a bell.", "horse.ogg", "This is a"]
    ]
    assert turn(HORSE, bell, "Which is louder?") == [["horse.ogg", "bell.flac", "Which is louder?"]]
    assert turn("What is it?", HORSE) == [["What is it?", "horse.ogg"]]
    assert turn(HORSE, "What", "is", "it?") == [["horse.ogg", "What is it?"]]
    assert turn(HORSE, "") == turn(HORSE, " \n") == [["horse.ogg"]]
    assert turn(HORSE, "", system="Describe it.") == ["Describe it.", ["horse.ogg"]]
    assert ask([bell, "This is a bell.", HORSE, "This is a"]).messages[0]["content"] == [
        {"type": "audio", "audio": bell},
        {"type": "text", "text": "This is a bell."},
        {"type": "audio", "audio": HORSE},
        {"type": "text", "text": "This is a"},
    ]
    assert ask(["gone"], "What?").audios and not ask(["gone"]).audios and ask([Path("gone")]).audios
    with pytest.raises(ValueError, match="beside one another"):
        turn(HORSE, "a horse", bell, "What?", orders=2)


@pytest.mark.parametrize(
    "missing", ["gone.wav", "GONE.OGG", "/data/gone", "./gone", "gone/x.flac", "gone.mp4"]
)
def test_a_missing_recording_is_never_taken_for_text(lalm, missing):
    refused(lalm("ask", HORSE, missing, QUESTION), Path(missing).name)
    refused(lalm("ask", missing, QUESTION), Path(missing).name)
    refused(lalm("ask", HORSE, QUESTION, missing), Path(missing).name)


def test_ask_shows_a_system_text_and_may_ask_nothing(lalm, model):
    words = ["ask", HORSE, "", "--model", model, "--max-new-tokens", 4]
    bare, told = lalm(*words), lalm(*words, "--system", "Answer in German.")
    assert bare[0] == told[0] == 0 and bare[1] != told[1]


def bad_audio(folder: Path) -> dict[str, tuple[Path, str]]:
    """Kinds of unusable files and what the sentence must say beside the name."""
    files = {name: folder / f"{name}.wav" for name in ("empty", "text", "hollow", "nan", "truncated")}
    files["empty"].write_bytes(b"")
    files["text"].write_text("these are words, not audio\n" * 50)
    soundfile.write(files["hollow"], np.zeros(0), 16_000)
    soundfile.write(files["nan"], np.array([0.1, np.nan] * 800, np.float32), 16_000, subtype="FLOAT")
    soundfile.write(files["truncated"], np.full(16_000, 0.1), 16_000)
    files["truncated"].write_bytes(files["truncated"].read_bytes()[:9_000])
    return {
        "missing": (folder / "missing.wav", "no file"),
        "folder": (folder, "folder"),
        "empty": (files["empty"], "empty"),
        "text": (files["text"], "text.wav"),
        "no samples": (files["hollow"], "0 samples"),
        "NaN": (files["nan"], "NaN"),
        "truncated": (files["truncated"], "truncated.wav"),
    }


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "no samples", "NaN", "truncated"])
def test_bad_audio_is_one_sentence_before_anything_is_loaded(lalm, tmp_path, kind):
    path, said = bad_audio(tmp_path)[kind]
    refused(lalm("ask", path, QUESTION, "--model", tmp_path / "not looked at"), said)


def test_audio_longer_than_the_window_is_refused(lalm, model, tmp_path):
    long = tmp_path / "long.wav"
    soundfile.write(long, np.full(400 * 8_000, 0.1), 8_000)
    refused(lalm("ask", long, QUESTION, "--model", model), "long.wav", "400 s", "2048")


def test_bad_options_and_models_are_one_sentence(lalm, model, tmp_path):
    words = ["ask", HORSE, QUESTION, "--model", model]
    refused(lalm(*words, "--beams", 0), "beams")
    refused(lalm(*words, "--temperature", -1), "temperature")
    refused(lalm(*words, "--max-new-tokens", 0), "max_new_tokens")
    refused(lalm(*words, "--device", "toaster"), "toaster")
    refused(lalm("ask", HORSE, QUESTION, "--model", tmp_path / "none"), "none")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    refused(lalm("ask", HORSE, QUESTION, "--model", tmp_path), "config.json")
    refused(lalm("info", tmp_path / "none"), "none")
    refused(lalm("frob"), "frob")


def test_what_is_not_the_users_fault_ends_with_1(lalm, model, monkeypatch):
    def fail(error: BaseException):
        def run(*arguments: object, **options: object) -> None:
            raise error

        monkeypatch.setattr("lalm.cli.ask.read_words", run)
        return lalm("ask", HORSE, QUESTION)

    refused(fail(RuntimeError("strange\nlines")), "strange", "--debug shows the traceback", code=1)
    refused(fail(OSError(28, "No space left on device", "/x")), "disk", "full", "/x", code=1)
    refused(fail(KeyboardInterrupt()), "stopped", code=1)
    refused(fail(FileNotFoundError(2, "No such file", "/y")), "/y", code=2)
    refused(fail(PermissionError(13, "Permission denied", "/z")), "/z", "ermission", code=2)
    refused(fail(pins.WeightsError("no such part")), "no such part", code=2)
    refused(fail(pins.FetchError("PyPI did not answer")), "PyPI", code=1)


def test_debug_shows_the_traceback(lalm, monkeypatch):
    code, _, err = lalm("--debug", "ask", "/nowhere.wav", QUESTION)
    assert code == 2 and "Traceback" in err and err.splitlines()[-1].startswith("lalm: ")
    assert lalm("ask", "/nowhere.wav", QUESTION, "--debug")[2].startswith("Traceback")


def test_a_reader_that_leaves_makes_no_noise():
    command = [sys.executable, "-m", "lalm", "tasks"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


def test_info_counts_the_paper_model_without_allocating_it(lalm):
    code, out, _ = lalm("info", "acdc", "--json")
    facts = json.loads(out)
    assert code == 0
    counts = {part["role"]: part["parameters"] for part in facts["parts"]}
    assert counts["connector"] == 16_259_072  # (3840 + 1) * 2048 + (2048 + 1) * 4096
    assert counts["llm"] == 8_030_261_248
    assert facts["trainable_parameters"] == counts["connector"]
    assert facts["parameters"] == sum(counts.values())
    assert all(part["licence"] and part["source"] for part in facts["parts"])
    assert "16,259,072" in lalm("info", "acdc")[1]


def test_info_of_a_folder_equals_its_weights(lalm, model):
    facts = json.loads(lalm("info", model, "--json")[1])
    loaded, _ = load_model(model)
    assert facts["parameters"] == sum(p.numel() for p in loaded.parameters())
    assert facts["name"] == "tiny" and facts["audio_tokens_per_second"] == 10


def test_recipes_list_show_and_copy(lalm, tmp_path):
    assert "acdc/small" in lalm("recipes", "list")[1]
    shown = lalm("recipes", "show", "acdc/small")[1]
    assert shown == (ROOT / "lalm/systems/acdc/small.yaml").read_text()
    file = tmp_path / "mine.yaml"
    assert lalm("recipes", "copy", "acdc/small", file)[0] == 0
    assert file.read_text() == shown
    file.write_text("mine")
    refused(lalm("recipes", "copy", "acdc/small", file), "mine.yaml", "already")
    assert file.read_text() == "mine"
    refused(lalm("recipes", "copy", "acdc/small", tmp_path / "no" / "mine.yaml"), "no")
    refused(lalm("recipes", "show", "acdc/nothing"), "acdc/nothing", "acdc/small")
    refused(lalm("train", "acdc/nothing"), "acdc/nothing", "acdc/small")
    refused(lalm("train", "acdc/small", "--set", "optim.speed=3"), "optim.speed")


def test_weights_are_listed_and_named_in_errors(lalm, tmp_path, monkeypatch):
    monkeypatch.setenv("LALM_CACHE", str(tmp_path))
    rows = json.loads(lalm("weights", "list", "--json")[1])
    assert {"whisper-base", "smollm2-135m-instruct"} <= {row["name"] for row in rows}
    assert all(row["licence"] and row["sources"] and row["folder"] == "" for row in rows)
    assert "whisper-base" in lalm("weights", "list")[1]
    refused(lalm("weights", "where", "whisper-base"), "lalm weights fetch whisper-base")
    refused(lalm("weights", "where", "nothing"), "nothing", "whisper-base")
    refused(lalm("weights", "fetch", "whisper-base", "nothing"), "nothing")


def test_what_was_made_of_weights_is_listed_and_deleted(lalm, tmp_path, monkeypatch):
    monkeypatch.setenv("LALM_CACHE", str(tmp_path))
    for name, size in (("int8/a-1.safetensors", 3_000_000), ("gguf/b.gguf", 5_000_000), ("weights/c.bin", 7)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "int8" / "a-1.safetensors.lock").touch()
    draft = tmp_path / "int8" / ".b-1.safetensors.7.safetensors"  # another process is making it
    draft.touch()
    lines = lalm("weights", "kept")[1].splitlines()
    assert lines[0].split()[:2] == ["5", "MB"] and lines[0].endswith("b.gguf")
    assert lines[1].endswith("a-1.safetensors") and lines[2].strip() == "8 MB in all"
    rows = json.loads(lalm("weights", "kept", "--json")[1])
    assert [row["bytes"] for row in rows] == [5_000_000, 3_000_000]
    assert lalm("weights", "kept", "--delete")[1].strip().endswith("8 MB in all, deleted")
    assert lalm("weights", "kept")[1].strip() == "0 MB in all" and draft.is_file()
    assert (tmp_path / "weights" / "c.bin").is_file()


def test_respond_in_caption_mode_and_its_refusals(lalm, tmp_path):
    captions, out = tmp_path / "captions.jsonl", tmp_path / "out.jsonl"
    audio = {"type": "audio", "audio": HORSE}
    turns = [{"role": "user", "content": [audio]}, {"role": "assistant", "content": "A horse neighs."}]
    captions.write_text(json.dumps({"id": "a", "messages": turns}) + "\n")
    code, _, err = lalm("respond", captions, out, "--mode", "caption")
    assert code == 0, err
    row = json.loads(out.read_text())
    assert row["messages"][-1] == {"role": "assistant", "content": "A horse neighs."}
    refused(lalm("respond", tmp_path / "none.jsonl", out, "--mode", "caption"), "none.jsonl")
    refused(lalm("respond", captions, out, "--mode", "frob"), "frob")

"""What is given as a recording: pipes, folders named like archives, addresses, files of the system."""

import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
from odd_files import sound

from lalm.audio.load import AudioError, is_recording, load_audio, read_recording
from lalm.cli.ask_many import is_files

READ = "import sys; from lalm.audio.load import load_audio; print(len(load_audio(sys.argv[1])))"
NUM_SAMPLES = 24_000  # 1.5 s


@pytest.mark.parametrize("name", ["/dev/stdin", "-"])
def test_standard_input_by_both_of_its_names(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", READ, name], input=bytes(sound("WAV")), capture_output=True)
    assert done.stdout.split() == [str(NUM_SAMPLES).encode()], done.stderr


def test_what_a_shell_substitutes_for_a_command(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(sound("WAV"))
    line = f"{sys.executable} -c '{READ}' <(cat {tmp_path}/a.wav)"
    done = subprocess.run(["bash", "-c", line], capture_output=True)
    assert done.stdout.split() == [str(NUM_SAMPLES).encode()], done.stderr


def test_a_named_pipe_that_is_written_later(tmp_path: Path) -> None:
    pipe = tmp_path / "later.wav"
    os.mkfifo(pipe)
    data = bytes(sound("FLAC"))

    def write() -> None:
        with pipe.open("wb") as file:
            for at in range(0, len(data), 4_000):
                file.write(data[at : at + 4_000])

    writer = threading.Thread(target=write)
    writer.start()
    assert is_recording(str(pipe)) and is_files(str(pipe))
    assert read_recording(pipe).account.decoded_s == pytest.approx(1.5)
    writer.join()


def test_a_pipe_that_says_nothing_is_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    writer = threading.Thread(target=(tmp_path / "p").write_bytes, args=(b"",))
    writer.start()
    with pytest.raises(AudioError, match="is empty"):
        load_audio(tmp_path / "p")
    writer.join()


def test_a_folder_called_like_an_archive_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "x.tar"
    folder.mkdir()
    (folder / "a.wav").write_bytes(sound("WAV"))
    assert len(load_audio(folder / "a.wav")) == NUM_SAMPLES
    with pytest.raises(AudioError, match=r"x\.tar is a folder"):
        load_audio(folder)
    with pytest.raises(AudioError, match=r"there is no file .*x\.tar/b\.wav"):
        load_audio(folder / "b.wav")
    with tarfile.open(tmp_path / "y.tar", "w") as tar:
        tar.add(folder / "a.wav", "inner/a.wav")
    assert len(load_audio(tmp_path / "y.tar" / "inner" / "a.wav")) == NUM_SAMPLES


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("file:///tmp/a.wav", "is a file: address: give the path itself"),
        ("FILE:/tmp/a.wav", "is a file: address"),
        ("https://example.org/a.wav", "is a web address, and those are not fetched"),
        ("/proc/version", "made up by the system"),
        ("/proc/self/mem", "cannot be opened|made up by the system|is empty"),
        ("/dev/null", "is a device"),
        ("/dev", "is a folder"),
    ],
)
def test_what_is_no_recording_gets_a_plain_sentence(given: str, said: str) -> None:
    with pytest.raises(AudioError, match=said) as caught:
        load_audio(given)
    assert "\n" not in str(caught.value)


def test_patterns_are_files_and_questions_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my calls").mkdir()
    Path("my calls/a").write_bytes(sound("WAV"))
    for word in ("calls/*", "calls/**/x", "my calls/*", "*/a", "c[ab].wav", "*.mp3"):
        assert is_files(word), word
    for word in ("What is it?", "Is it [a] or (b)?", "yes/no?", "* wow *", "and/or what?"):
        assert is_files(word) == (word == "yes/no?"), word  # one word with a slash and a mark: a pattern

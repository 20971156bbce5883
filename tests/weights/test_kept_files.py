"""Files of the cache: whole or not at all, made by one process at a time, and what goes wrong is said."""

import threading

import pytest
from tiny_parts import warnings_of

from lalm.weights.kept_files import made_alone, tell_damaged


def making(path):
    return made_alone(path, "the graph", "it is made")


def test_a_file_has_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "mine-1.xml"
    drafts = []

    def write(draft):
        drafts.append(draft)
        assert draft.parent == path.parent and draft.suffix == ".xml" and not path.exists()
        draft.write_text("graph")
        draft.with_suffix(".bin").write_text("weights")

    with making(path) as place:
        assert place.keep(write)
    assert path.read_text() == "graph" and path.with_suffix(".bin").read_text() == "weights"
    assert sorted(one.name for one in path.parent.iterdir()) == [
        "mine-1.bin",
        "mine-1.xml",
        "mine-1.xml.lock",
    ]
    folder = tmp_path / "run.v2"  # a folder with a dot in its name
    with making(folder) as place:
        assert place.keep(lambda draft: (draft.mkdir(), (draft / "a").write_text("")))
    assert (folder / "a").is_file()


def test_what_a_killed_process_left_is_deleted_and_nothing_else(tmp_path):
    path = tmp_path / "mine[1].gguf"
    mine = [tmp_path / f".{path.name}.77.{end}" for end in ("gguf", "bin")]
    others = [tmp_path / name for name in (".mine1.gguf.77.gguf", "mine[1].gguf.old", ".mine[1].txt")]
    for one in mine + others:
        one.write_text("half")
    with making(path):
        pass
    assert not any(one.exists() for one in mine) and all(one.exists() for one in others)


@pytest.mark.parametrize("fault", ["no folder", "no locks", "full"])
def test_what_cannot_be_kept_is_told_in_one_line(tmp_path, monkeypatch, caplog, fault):
    path, why = tmp_path / "cache" / "mine.gguf", "the disk is full"
    if fault == "no folder":
        (tmp_path / "cache").write_text("")
        why = "File exists"
    if fault == "no locks":
        monkeypatch.setattr(
            "lalm.weights.kept_files.FileLock.acquire",
            lambda lock: (_ for _ in ()).throw(NotImplementedError("no flock\nhere")),
        )
        why = "no flock\nhere"

    def write(draft):
        assert fault == "full"
        draft.write_text("half")
        raise OSError(28, "No space left on device")

    with making(path) as place:
        assert not place.keep(write)
    assert warnings_of(caplog) == [
        f"the graph cannot be kept in '{path.parent}' ({' '.join(why.split())}): it is made at every start"
    ]
    assert fault == "no folder" or not [one for one in path.parent.iterdir() if one.suffix != ".lock"]


def test_an_error_of_another_kind_leaves_no_draft(tmp_path):
    def write(draft):
        draft.write_text("half")
        raise ValueError("no such family")

    with pytest.raises(ValueError, match="no such family"), making(tmp_path / "mine.gguf") as place:
        place.keep(write)
    assert [one.name for one in tmp_path.iterdir()] == ["mine.gguf.lock"]


def test_a_second_maker_waits_for_the_first(tmp_path):
    path, order, inside = tmp_path / "mine.bin", [], threading.Event()

    def second():
        with making(path):
            order.append(path.read_text())

    with making(path) as place:
        thread = threading.Thread(target=second)
        thread.start()
        inside.wait(0.2)
        assert not order
        place.keep(lambda draft: draft.write_text("whole"))
    thread.join()
    assert order == ["whole"]


def test_what_cannot_be_read_is_named(tmp_path, caplog):
    tell_damaged(tmp_path / "mine.gguf", ValueError("bad\nmagic"))
    assert warnings_of(caplog) == [f"'{tmp_path / 'mine.gguf'}' cannot be read (bad magic): it is made anew"]

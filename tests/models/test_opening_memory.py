"""The garbage collector rests while modules and models are brought in, and is as before afterwards."""

import gc
import subprocess
import sys

import pytest
from tiny_parts import OPTIONS

from lalm.models import opening_memory
from lalm.models.assemble import build_model
from lalm.models.load import load_model
from lalm.models.opening_memory import exempt_from_collection, no_collection
from lalm.models.save import save_model

COUNTED = """
import gc
found = []
gc.callbacks.append(lambda phase, told: found.append(phase))
from lalm import AudioError
print(len(found), gc.isenabled())
"""


@pytest.fixture(autouse=True)
def nothing_exempted(monkeypatch):
    """As in a program that has just begun; the tests before this module have exempted what they left."""
    gc.unfreeze()
    monkeypatch.setattr(opening_memory, "_exempted", False)


@pytest.fixture
def collections():
    found = []

    def note(phase, told):
        found.append(phase)

    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)


def test_nothing_is_collected_inside(collections):
    kept = [[] for _ in range(5000)]
    assert collections
    with no_collection():
        collections.clear()
        kept += [[] for _ in range(5000)]
        assert not collections
    assert gc.isenabled() and gc.get_count()[0] < 1000  # what was made counts as old
    collections.clear()
    kept += [[] for _ in range(100)]
    assert not collections


@pytest.mark.parametrize("exempt", [exempt_from_collection, gc.freeze], ids=["ours", "somebody else's"])
def test_what_is_exempted_stays_so(exempt):
    exempt()
    with no_collection():
        pass
    assert gc.get_freeze_count() > 1000
    gc.unfreeze()


def test_who_had_turned_it_off_keeps_it_off():
    gc.disable()
    try:
        with no_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_error_turns_it_on_again():
    with pytest.raises(KeyError), no_collection():
        raise KeyError
    assert gc.isenabled()


def test_a_model_is_opened_without_collecting(tiny_folders, tmp_path, collections):
    encoder, llm = map(str, tiny_folders)
    model, processor = build_model("acdc", encoder=encoder, llm=llm, options=OPTIONS["acdc"])
    save_model(model, processor, tmp_path / "slim", slim=True)
    collections.clear()
    load_model(tmp_path / "slim")
    began = collections.count("start")
    assert began <= 1 and gc.isenabled()  # one when it is turned on again


def test_the_names_of_the_package_are_imported_without_collecting():
    told = subprocess.run([sys.executable, "-c", COUNTED], capture_output=True, text=True, check=True)
    number, enabled = told.stdout.split()
    assert int(number) < 20 and enabled == "True"  # lalm itself, and one when it is turned on again

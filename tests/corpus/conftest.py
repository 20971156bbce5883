"""Lessons drawn once for all tests of them."""

import pytest
from test_lessons import rows

from lalm.corpus.lessons import write_lessons
from lalm.data.readers import open_samples
from lalm.data.sample import Sample, write_manifest


@pytest.fixture(scope="session")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """4,000 lessons about made recordings of a dozen classes."""
    folder = tmp_path_factory.mktemp("lessons")
    write_manifest(folder / "train.jsonl", rows())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lalm.corpus.lessons.EMPTY_FILES", 20)
        assert write_lessons(folder / "train.jsonl", folder / "lessons.jsonl", 4000, seed=3) == 4000
    return list(open_samples(folder / "lessons.jsonl"))

"""Tasks on spoken commands and abstracts: SLURP's slots and Inspec's keywords."""

import json
from collections.abc import Iterator
from pathlib import Path

from lalm.data.sample import Sample, ask
from lalm.tasks.sources import Source, SourceError, heard, lines, opened, table


def slurp(source: Source) -> Iterator[Sample]:
    """SLURP: ``test.jsonl`` rows with "sentence", "tokens", "entities" ({"span", "type"}) and "recordings"
    ({"file"}): a question a slot, about the first recording that is there."""
    for place, line in lines(source.path):
        try:
            row = json.loads(line)
            tokens = [token["surface"] for token in row["tokens"]]
            slots = [(e["type"], " ".join(tokens[i] for i in e["span"])) for e in row["entities"]]
            files = [source.find(Path(r["file"]).stem) for r in row["recordings"]]
            name, sentence = str(row["slurp_id"]), str(row["sentence"])
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            raise SourceError(f"{place}: not a row of SLURP") from None
        path = next((file for file in files if file.is_file()), files[0] if files else None)
        for number, (kind, value) in enumerate(slots if path else ()):
            question = f"What is the {kind.replace('_', ' ')} that the speaker names?"
            yield Sample(
                ask([str(path)], question).messages,
                id=f"slots-{name}-{number}",
                task="slots",
                references=(value,),
                origin={"recording": name, "transcript": sentence, "category": kind},
            )


def inspec(source: Source) -> Iterator[Sample]:
    """Inspec: a folder of ``ID.abstr`` and ``ID.uncontr`` (keywords between semicolons), the abstracts spoken
    in ``ID.wav`` anywhere below."""
    for path in source.files("*.uncontr"):
        keywords = [" ".join(word.split()) for word in path.read_text("utf-8", "replace").split(";")]
        spoken = " ".join(opened(path.with_suffix(".abstr")).read_text("utf-8", "replace").split())
        found = source.find(path.stem)
        yield heard(
            "keywords",
            path.stem,
            [found],
            ", ".join(keywords[:3]),
            references=[word for word in keywords if word],
            transcript=spoken,
        )


def wikiqa(source: Source) -> Iterator[Sample]:
    """WikiQA: ``WikiQA-test.tsv`` (QuestionID, Question, Sentence, Label, ...); the references of a question
    are the sentences labelled 1, and questions without any are left out. Each is
    read aloud in ``QuestionID.wav`` (the paper had a synthesiser do it)."""
    questions: dict[str, str] = {}
    right: dict[str, list[str]] = {}
    for place, row in table(source.path, ["QuestionID", "Question", "Sentence", "Label"], "\t"):
        if row["Label"] not in ("0", "1"):
            raise SourceError(f"{place}: the label must be 0 or 1")
        questions[row["QuestionID"]] = row["Question"].strip()
        if row["Label"] == "1":
            right.setdefault(row["QuestionID"], []).append(row["Sentence"].strip())
    for name, texts in right.items():
        audio = [source.find(name)]
        yield heard("spoken_question", name, audio, texts[0], references=texts, transcript=questions[name])

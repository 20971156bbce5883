"""The model card of a run: ``README.md`` of its folder, with what it learned from and how that was heard."""

from pathlib import Path

from lalm.audio.account import Tally
from lalm.training.recipe import Recipe

NAME = "README.md"


def write_card(recipe: Recipe, out: Path, steps: int, tally: Tally, skipped: int) -> None:
    """Write the card beside the model.

    ``tally`` counts the training samples that were read since the run was last started, ``skipped`` those
    that could not be read.
    """
    init = recipe.init
    parts = [("checkpoint", init.from_), ("encoder", init.encoder), ("second encoder", init.encoder_2)]
    made_of = "".join(f"- {what}: {name}\n" for what, name in [*parts, ("LLM", init.llm)] if name)
    sources = "".join(f"- {source.path} (weight {source.weight:g})\n" for source in recipe.data.train)
    (out / NAME).write_text(
        f"---\nlibrary_name: lalm\ntags: [audio]\n---\n\n# {out.resolve().name}\n\n"
        f"A {recipe.system} model, trained for {steps} steps by `lalm train`; `recipe.yaml` holds every "
        f'setting.\n\n    lalm ask --model {out.name} recording.wav "What do you hear?"\n\n'
        f"Made of\n\n{made_of}\nTraining data\n\n{sources}\n{_heard(tally, skipped)}",
        encoding="utf-8",
    )


def _heard(tally: Tally, skipped: int) -> str:
    """What the recordings of the training data were like."""
    if not tally.recordings:
        return "Its recordings came from the frame cache and were not decoded in this run.\n"
    told = [
        f"{tally.recordings} samples were read since the run was last started, with "
        f"{tally.seconds / 3600:.2f} h of audio.",
        f"{skipped} could not be read and were left out." if skipped else "None was left out.",
    ]
    if tally.noted:
        told.append(
            f"{tally.noted} had a remark in the account of a recording: {tally.damaged} were damaged and "
            f"heard as far as they could be, {tally.silent} held nothing but digital silence; "
            "`lalm data validate` names them."
        )
    return "\n".join(told) + "\n"

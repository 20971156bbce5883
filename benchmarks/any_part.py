"""Makes the tables of docs/any-part.md: random LLMs of every family, and 27 combinations.

    PYTHONPATH=.:tests python benchmarks/any_part.py [FAMILY ...]
    LALM_TABLES=1 python -m pytest tests/models/test_llm_families.py -k made

With names only those rows of the first table are tried; the others stay. Takes three minutes on one core.
"""

import re
import sys
import tempfile
from pathlib import Path

import transformers
from tiny_encoders import audio_encoder_folder
from tiny_llms import LLMS, STEPS, llm_folder, try_llm, two_steps
from tiny_parts import whisper_folder

from lalm.models.assemble import build_model

ENCODERS = {"wav2vec 2.0": "wav2vec2", "Parakeet": "parakeet_ctc"}
CONNECTORS = {
    "mlp": {"hidden": 24},
    "qformer": {"width": 24, "heads": 2, "dropout": 0.0},
    "perceiver": {"width": 24, "heads": 2, "num_queries": 4},
}
PAGE = Path(__file__).parents[1] / "docs" / "any-part.md"


def row(kind: str, encoder: Path, work: Path) -> str:
    """The row of one family."""
    told = try_llm(llm_folder(kind, work / "llm"), encoder, work)
    cells = [text.replace(str(work), "").replace("|", "/") for text in told.values()]
    return f"| `{kind}` | {LLMS[kind].note} | {' | '.join(cells)} |"


def combinations(root: Path) -> str:
    """The table of 27 recipes that differ in one line each: the loss before and after two steps."""
    encoders = {"Whisper": whisper_folder(root / "w")}
    encoders |= {name: audio_encoder_folder(kind, root / kind) for name, kind in ENCODERS.items()}
    head = "| encoder | LLM |" + "".join(f" {name} |" for name in CONNECTORS)
    lines = [head, "|---|---|" + "---|" * len(CONNECTORS)]
    for name, encoder in encoders.items():
        for llm in ("llama", "gpt2", "mamba"):
            folder = root / "of" / llm
            if not folder.exists():
                llm_folder(llm, folder)
            cells = []
            for connector, options in CONNECTORS.items():
                chosen = {"connector": connector, "connector_options": options}
                model, processor = build_model(
                    "modular", encoder=str(encoder), llm=str(folder), options=chosen
                )
                before, after = two_steps(model, processor, ["connector"])
                rate = model.config.num_audio_tokens(160_000) / 10
                cells.append(f"{before:.3f} → {after:.3f} ({rate:.1f}/s)")
            lines.append(f"| {name} | `{llm}` | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def main(asked: list[str]) -> None:
    """Try the families and write the table."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    before, table, after = PAGE.read_text().split("<!-- llms -->")
    rows = dict(re.findall(r"^(\| `([\w-]+)` \|.*)$", table, re.MULTILINE))
    rows = {name: line for line, name in rows.items()}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        encoder = whisper_folder(root / "whisper")
        for kind in asked or LLMS:
            rows[kind] = row(kind, encoder, root / kind)
            print(rows[kind], flush=True)
        if not asked:
            page, _, rest = after.split("<!-- combinations -->")
            after = f"{page}<!-- combinations -->\n{combinations(root)}\n<!-- combinations -->{rest}"
    head = f"| family | what is special | {' | '.join(STEPS)} |\n|{'---|' * (2 + len(STEPS))}"
    lines = "\n".join([head, *(rows[kind] for kind in LLMS if kind in rows)])
    PAGE.write_text(f"{before}<!-- llms -->\n{lines}\n<!-- llms -->{after}")


if __name__ == "__main__":
    main(sys.argv[1:])

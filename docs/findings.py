"""Write the table of findings in README.md from the experiments and from what lies under results/.

    python docs/findings.py

The tests check that the page holds what this prints.
"""

from pathlib import Path

from lalm.reproduce.verdict_page import papers_table

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- findings: python docs/findings.py -->\n", "<!-- end of findings -->\n"


def page() -> str:
    """The README with its table made anew."""
    before, rest = (ROOT / "README.md").read_text().split(START, 1)
    after = rest.split(END, 1)[1]
    return before + START + papers_table(ROOT / "results") + END + after


if __name__ == "__main__":
    (ROOT / "README.md").write_text(page())

"""A log file hears of long work once a minute; a terminal has its spinner."""

import io

import pytest
from rich.console import Console

from lalm.training import underway


def lines(console: Console, monkeypatch: pytest.MonkeyPatch) -> str:
    now = [0.0]
    monkeypatch.setattr(underway.time, "monotonic", lambda: now[0])
    with underway.underway(console, "Encoding clips") as tell:
        for second in range(1, 151):
            now[0] = float(second)
            tell(f"Encoding clips: {second} encoded [1/2]")
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_log_file_gets_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    text = lines(Console(file=io.StringIO(), width=40), monkeypatch)
    assert text == "Encoding clips: 60 encoded [1/2]\nEncoding clips: 120 encoded [1/2]\n"


def test_a_terminal_gets_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    text = lines(Console(file=io.StringIO(), force_terminal=True, width=40), monkeypatch)
    assert "60 encoded [1/2]\n" not in text


def test_a_notebook_gets_lines_and_no_spinner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels set FORCE_COLOR, and rich shows each line of a notebook as a box of its own."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert Console().is_jupyter  # what a run would have printed on
    console = underway.run_console(quiet=False)
    assert not console.is_jupyter and not console.is_terminal
    monkeypatch.setattr("rich.console._is_jupyter", lambda: False)
    assert underway.run_console(quiet=False).is_terminal and underway.run_console(quiet=True).quiet

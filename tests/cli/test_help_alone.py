"""A command that stands alone on the line shows its help, laid out as help and not as an error."""

import pytest

from lalm.cli.app import run


@pytest.mark.parametrize(("words", "line"), [([], "Ask a model:"), (["data"], "Commands:")])
def test_alone_on_the_line_a_command_shows_its_help(words, line, capsys):
    assert run(words) == 0
    said = capsys.readouterr()
    assert line in said.out.splitlines() and said.err == ""

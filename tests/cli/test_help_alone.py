"""A command that stands alone on the line shows its help, laid out as help and not as an error."""

import pytest

from lalm.cli.app import run


@pytest.mark.parametrize(("words", "line"), [([], "Ask a model:"), (["data"], "Commands:")])
def test_alone_on_the_line_a_command_shows_its_help(words, line, capsys):
    assert run(words) == 0
    said = capsys.readouterr()
    assert line in said.out.splitlines() and said.err == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare"], "Missing argument 'a', as in: lalm compare before.wav after.wav"),
        (["train"], "Missing argument 'recipe', as in: lalm train mine.yaml"),
        (["data", "validate"], "Missing argument 'source'; lalm data validate --help tells what it takes"),
    ],
)
def test_a_command_that_lacks_an_argument_says_how_it_is_called(words, said, capsys):
    assert run(words) == 2
    assert capsys.readouterr().err == f"lalm: {said}\n"

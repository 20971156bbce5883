"""Files of one's own that are wrong: the message names the file, and the line where there is one."""

import pytest

from lalm import systems
from lalm.cli.error_messages import explain


@pytest.fixture(autouse=True)
def own(monkeypatch):
    monkeypatch.setenv(systems.VARIABLE, "")
    systems._run.cache_clear()
    yield
    systems._run.cache_clear()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "x = 1\n\ndef f():\n    return x / 0\n\nf()\n",
            r"ZeroDivisionError: division by zero \(own.py, line 4\)$",
        ),
        ("x = 1\nimport not_there_at_all\n", r"ModuleNotFoundError: .* \(own.py, line 2\)$"),
        ("x = 1\ny = x +\n", r"SyntaxError: .*\(own.py, line 2\)$"),
        ("x = 1\nraise SystemExit('no')\n", r"SystemExit: no \(own.py, line 2\)$"),
    ],
)
def test_the_line_is_named(tmp_path, code, said):
    (tmp_path / "own.py").write_text(code)
    with pytest.raises(systems.OwnCodeError, match=said):
        systems.use_code([tmp_path / "own.py"])


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("SYSTEMS = 5\n", "SYSTEMS", r"SYSTEMS in '.*own.py' must be a list of System, not 5"),
        ("SYSTEMS = ['mine']\n", "SYSTEMS", "must be a list of System"),
        ("CONNECTORS = [dict]\n", "CONNECTORS", r"CONNECTORS in '.*own.py' must be a dictionary of names"),
    ],
)
def test_what_a_file_brings_is_of_the_right_kind(tmp_path, code, kind, said):
    (tmp_path / "own.py").write_text(code)
    systems.use_code([tmp_path / "own.py"])
    with pytest.raises(systems.OwnCodeError, match=said):
        systems.brought(kind)


@pytest.mark.parametrize("kind", ["RuntimeError", "ValueError"])
def test_an_error_while_own_code_runs_names_its_line(tmp_path, capsys, kind):
    (tmp_path / "own.py").write_text(
        f"def forward():\n    raise {kind}('shapes differ')\n\nCONNECTORS = {{'f': forward}}\n"
    )
    systems.use_code([tmp_path / "own.py"])
    [found] = systems.brought("CONNECTORS")
    try:
        found["f"]()
    except Exception as error:
        explain(error)
    assert "shapes differ (own.py, line 2)" in capsys.readouterr().err

"""The documentation builds without a warning: links, anchors, pages that are made."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    recipe = (tmp_path / "reference" / "recipe" / "index.html").read_text(encoding="utf-8")
    assert "unheard_weight" in recipe and "whole number" in recipe
    commands = (tmp_path / "reference" / "cli" / "index.html").read_text(encoding="utf-8")
    assert "lalm data validate" in commands
    assert "load_audio" in (tmp_path / "reference" / "python" / "index.html").read_text(encoding="utf-8")

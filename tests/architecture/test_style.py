"""The tree is formatted and free of findings; the examples in docstrings of the pure layers run."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys

import pytest

from .layers import PURE, ROOT, module_name, modules


@pytest.mark.parametrize('command', [('check',), ('format', '--check')])
def test_ruff_finds_nothing(command):
    done = subprocess.run(
        [sys.executable, '-m', 'ruff', *command, '--quiet', '.'], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def documented() -> list[str]:
    return [module_name(path) for path in modules(*PURE) if '>>> ' in path.read_text(encoding='utf-8')]


@pytest.mark.parametrize('name', documented())
def test_examples_in_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted and not result.failed


def test_the_public_mathematics_has_examples():
    assert len(documented()) >= 4

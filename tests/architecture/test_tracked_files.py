"""Nothing in the repository points at one machine or at one place to download packages from."""

from __future__ import annotations

import re
import subprocess

import pytest

from .layers import ROOT

#: Split up, so that this file does not contain what it forbids.
MACHINE_PATHS = '|'.join(
    [
        '/ho' + r'me/\w+',
        '/ro' + 'ot/',
        '/Us' + r'ers/\w+',
        r'[A-Z]:\\Us' + 'ers',
        '/wo' + r'rk/\w+',
        '/t' + r'mp/\w+',
        '/m' + r'nt/\w+',
        '/op' + r't/\w+',
    ]
)
INDEX_HOSTS = '|'.join(
    [
        'py' + r'pi\.(?:org|python|tuna|douban)',
        'python' + r'hosted\.org',
        r'download\.py' + r'torch\.org/whl',
        r'conda\.ana' + r'conda\.org',
        r'repo\.ana' + r'conda\.com',
        r'mirrors?\.[\w.-]+/(?:py' + 'pi|simple)',
        r'download\.open' + r'mmlab\.com/mm' + 'cv',
        '--(?:extra-)?in' + 'dex-url',
        '--find-' + 'links',
    ]
)
TEXT = {
    '.py',
    '.sh',
    '.md',
    '.txt',
    '.yaml',
    '.yml',
    '.ini',
    '.cfg',
    '.toml',
    '.in',
    '.json',
    '.html',
    '.css',
    '.js',
    '',
}


def tracked_files():
    listed = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip('not a git checkout')
    return [ROOT / name for name in listed.stdout.split('\0') if name and (ROOT / name).suffix in TEXT]


@pytest.mark.parametrize('what, pattern', [('a path of one machine', MACHINE_PATHS), ('a package index', INDEX_HOSTS)])
def test_no_trace_of_one_machine(what, pattern):
    found = []
    for path in tracked_files():
        if path.is_file():
            for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
                match = re.search(rf'(?<![\w.<{{])(?:{pattern})', line)
                if match:
                    found.append(f'{path.relative_to(ROOT)}:{number} names {what}: {match.group()}')
    assert not found, '\n'.join(found)


def test_no_data_or_weights_are_tracked():
    listed = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip('not a git checkout')
    names = [name for name in listed.stdout.split('\0') if name]
    assert not [n for n in names if n.endswith(('.pth', '.pt', '.onnx', '.safetensors', '.ckpt', '.npz'))]
    assert not [n for n in names if n.startswith(('data/', 'work_dirs/')) and n != 'work_dirs/.gitkeep']
    assert not [n for n in names if (ROOT / n).is_file() and (ROOT / n).stat().st_size > 2_000_000]

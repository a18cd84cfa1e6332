import shutil
import subprocess

import pytest

from finetune.config.compose import ROOT


@pytest.fixture
def tree(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "constraints-v100.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to("/bin/true")
    return tmp_path


def to_do(tree, *words) -> str:
    command = ["make", "-n", "install", *words]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True).stdout


def test_what_is_installed_is_not_installed_again(tree):
    assert "--constraint constraints.txt" in to_do(tree)
    (tree / ".venv/.installed-constraints.txt").touch()
    assert "pip install" not in to_do(tree)


def test_other_constraints_are_installed_and_stay(tree):
    (tree / ".venv/.installed-constraints.txt").touch()
    shown = to_do(tree, "CONSTRAINTS=constraints-v100.txt")
    assert "--constraint constraints-v100.txt" in shown and "rm -f .venv/.installed" in shown
    (tree / ".venv/.installed-constraints.txt").rename(
        tree / ".venv/.installed-constraints-v100.txt"
    )
    assert "pip install" not in to_do(tree)

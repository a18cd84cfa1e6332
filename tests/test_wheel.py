"""The installed package works outside a clone: it carries its vocabulary."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_wheel_outside_a_clone(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from finetune import cli;"
        "from finetune.config import compose;"
        "print(compose.ROOT); print(cli.usage());"
        "print(compose.compose(['recipes=contrastive', 'domain=legal']).model.name);"
        "from finetune.data.card import read_card; print(read_card('legal').name)"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", code, str(site)],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert str(site) in result.stdout
    assert "contrastive" in result.stdout
    assert "starter" in result.stdout

"""The example packages, installed into an environment of their own beside the project."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCENARIO = """\
name: energetic
jobs: 2
seeds: [0, 1]
stream:
  {name: digits, domains: [printed, outline], images_per_domain: 20, test_images_per_domain: 20}
backbone: {name: glyphnet, weights: "random:0", width: 2}
tickets: {epochs: 1, sparsity: 0.5}
router: {name: energy, tickets: 2, temperature: 3}
methods: {rtl: }
"""


@pytest.mark.slow
def test_example_router_installs_runs_and_leaves(tmp_path: Path) -> None:
    """Installed, a scenario may name it; uninstalled, its bank says what is missing."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    target = next((tmp_path / "env").glob("lib/python*/site-packages"))
    # The project and what it needs are seen from here; the plugin's own folder comes first.
    (target / "host.pth").write_text("\n".join([str(ROOT), *site.getsitepackages()]), "utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1"}

    def run(*words: object, code: int = 0) -> str:
        command = [str(word) for word in words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    package = ROOT / "plugins" / "rtl-router-energy"
    pip = (python, "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(*pip, "install", "--no-deps", "--no-build-isolation", package)
    rtl = (python, "-m", "rtl_continual")
    (tmp_path / "s.yaml").write_text(SCENARIO, encoding="utf-8")
    listed = json.loads(run(*rtl, "plugins", "list", "--json"))["plugins"]
    assert {p["name"]: (p["distribution"], p["version"]) for p in listed}["energy"] == (
        "rtl-router-energy",
        "0.1.0",
    )
    run(*rtl, "plugins", "check", "energy")
    run(*rtl, "run", "s.yaml", "--out", "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["methods"]["rtl"]["router"]["name"] == "energy"
    config = ("-c", package / "pyproject.toml", "-p", "no:cacheprovider")
    run(python, "-m", "pytest", "-q", package / "tests", *config)
    run(*pip, "uninstall", "--yes", "rtl-router-energy")
    said = run(*rtl, "run", "s.yaml", "--out", "again", code=2)
    assert "s.yaml:8:10: router.name: unknown router 'energy'" in said
    code = "from rtl_continual import load_bank; load_bank('out/bank')"
    assert "pip install 'rtl-router-energy==0.1.0'" in run(python, "-c", code, code=1)

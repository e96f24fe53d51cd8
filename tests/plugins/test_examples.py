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
tickets:
  epochs: 1
  sparsity: 0.5
  schedule: {name: anneal, hold: 0.1}
  collapse: {policy: {name: anneal, heat: 2}}
router: {name: energy, tickets: 2, temperature: 3}
methods: {rtl: }
"""

COMMANDS = """\
import contextlib, io, json, sys
from rtl_continual import cli

def run(words):
    sys.argv, text = ["rtl", *words], io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code, text.getvalue()

if __name__ == "__main__":
    print(json.dumps([run(words) for words in json.loads(sys.argv[1])]))
"""

PACKAGES = {
    "rtl-router-energy": {"routers": ["energy"]},
    "rtl-policy-anneal": {
        "relaxation_policies": ["anneal"],
        "sparsity_schedules": ["anneal"],
    },
}


@pytest.mark.slow
def test_example_packages_install_run_and_leave(tmp_path: Path) -> None:
    """Installed, a scenario may name them; uninstalled, scenario and bank say what is missing."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    target = next((tmp_path / "env").glob("lib/python*/site-packages"))
    # The project and what it needs are seen from here; the plugins' own folder comes first.
    (target / "host.pth").write_text("\n".join([str(ROOT), *site.getsitepackages()]), "utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1"}

    def run(*words: object, code: int = 0) -> str:
        command = [str(word) for word in words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def rtl(*commands: list[object]) -> list[tuple[int, str]]:
        """Exit code and text of several commands, in one process: importing torch takes long."""
        words = json.dumps([[str(word) for word in command] for command in commands])
        return [(code, text) for code, text in json.loads(run(python, "commands.py", words))]

    (tmp_path / "commands.py").write_text(COMMANDS, encoding="utf-8")
    (tmp_path / "s.yaml").write_text(SCENARIO, encoding="utf-8")
    pip = (python, "-m", "pip", "--disable-pip-version-check", "--quiet")
    folders = [ROOT / "plugins" / package for package in PACKAGES]
    run(*pip, "install", "--no-deps", "--no-build-isolation", *folders)
    (listing, *checks, ran) = rtl(
        ["plugins", "list", "--json"],
        *(["plugins", "check", package] for package in PACKAGES),
        ["run", "s.yaml", "--out", "out"],
    )
    found = {plugin["distribution"]: plugin for plugin in json.loads(listing[1])["plugins"]}
    for package, registers in PACKAGES.items():
        assert (found[package]["version"], found[package]["registers"]) == ("0.1.0", registers)
    for code, text in checks:
        assert (code, "hold, 0 fail, 0 skipped" in text) == (0, True), text
    assert ran[0] == 0, ran[1]
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["methods"]["rtl"]["router"]["name"] == "energy"
    assert results["config"]["tickets"]["schedule"] == {"name": "anneal", "hold": 0.1}

    run(*pip, "uninstall", "--yes", *PACKAGES)
    picture = next(iter(sorted((ROOT / "docs").rglob("*.png"))))
    again, alone, otherwise = rtl(
        ["run", "s.yaml", "--out", "again"],
        ["predict", "out/bank", picture],
        ["predict", "out/bank", picture, "--router", "flat"],
    )
    assert again[0] == 2
    for place, kind, name in (
        ("s.yaml:10:3: tickets.schedule", "sparsity schedule", "anneal"),
        ("s.yaml:11:14: tickets.collapse.policy", "relaxation policy", "anneal"),
        ("s.yaml:12:10: router.name", "router", "energy"),
    ):
        lines = [line for line in again[1].splitlines() if line.startswith(place)]
        assert any(f"unknown {kind} '{name}'" in line for line in lines), again[1]
    assert (alone[0], "pip install 'rtl-router-energy==0.1.0'" in alone[1]) == (2, True), alone[1]
    assert (otherwise[0], "confidence" in otherwise[1]) == (0, True), otherwise[1]


@pytest.mark.slow
@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_the_tests_of_example_packages_pass(package: str) -> None:
    """In a process of their own, where nothing else is registered."""
    folder = ROOT / "plugins" / package
    module = package.replace("-", "_")
    command = [sys.executable, "-m", "pytest", "-q", "-c", "pyproject.toml", "--rootdir", "."]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "--doctest-modules", f"{module}.py", "tests"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

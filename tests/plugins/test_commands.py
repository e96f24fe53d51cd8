"""``rtl plugins`` and the options that concern plugins."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtl_continual import cli
from rtl_continual.errors import PluginError
from rtl_continual.plugins import Manager, write_skeleton
from rtl_continual.plugins._skeleton import KINDS

from .conftest import MeanRouter, values_of

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rtl(
    manager: Manager, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Runs a command and returns exit code, output and messages."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rtl", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


BAD = "raise RuntimeError('half installed')"


def test_list_shows_what_each_plugin_registers_and_which_are_broken(
    rtl: Run, manager: Manager, install: Callable[..., None]
) -> None:
    install("rtl-bad", "0.3", BAD)
    manager.load_entry_points()
    manager.register(values_of(register_routers={"mean": MeanRouter}), "mine")
    code, out, _ = rtl("plugins", "list", "--json")
    shown = json.loads(out)
    assert code == 0
    ours, mine = shown["plugins"]
    assert (ours["distribution"], ours["built_in"]) == ("rtl-continual", True)
    assert "flat" in ours["registers"]["routers"]
    assert mine["registers"] == {"routers": ["mean"]}
    assert mine["hooks"] == ["register_routers"]
    assert "plugin 'rtl-bad' (rtl-bad 0.3) cannot be loaded: RuntimeError" in shown["broken"][0]
    code, out, _ = rtl("plugins", "list")
    assert "mine  not installed\n  routers: mean\n" in out
    assert "left out: plugin 'rtl-bad'" in out


def test_strict_plugins_makes_a_broken_one_an_error(
    rtl: Run, manager: Manager, install: Callable[..., None]
) -> None:
    install("rtl-bad", "0.3", BAD)
    manager.load_entry_points()
    code, out, err = rtl("plugins", "list", "--strict-plugins")
    assert (code, out) == (2, "")
    assert "rtl-bad 0.3" in err
    assert "Traceback" not in err


def test_check_passes_what_conforms_and_fails_what_does_not(rtl: Run, manager: Manager) -> None:
    class Costless(MeanRouter):
        def flops(self) -> int:
            return 0

    manager.register(values_of(register_routers={"mean": MeanRouter}), "mine")
    code, out, _ = rtl("plugins", "check", "mine")
    assert code == 0
    assert "ok    router mean: saves_and_loads" in out
    assert "0 fail" in out
    manager.unregister("mine")
    manager.register(values_of(register_routers={"mean": Costless}), "mine")
    code, out, _ = rtl("plugins", "check", "mean", "--json")
    shown = json.loads(out)
    assert (code, shown["failed"]) == (3, 1)
    (failed,) = [row for row in shown["checked"] if row["problem"]]
    assert (failed["kind"], failed["property"]) == ("router", "counts_its_cost")


def test_check_of_a_broken_plugin_says_why(rtl: Run, manager: Manager) -> None:
    manager.problems.append("plugin 'bad' (rtl-bad 0.3) cannot be loaded: for a reason")
    for name in ("bad", "rtl-bad"):
        code, _, err = rtl("plugins", "check", name)
        assert (code, err) == (2, "plugin 'bad' (rtl-bad 0.3) cannot be loaded: for a reason\n")


def test_check_of_nothing_names_the_nearest(rtl: Run) -> None:
    code, _, err = rtl("plugins", "check", "built-inn")
    assert code == 2
    assert "unknown plugin 'built-inn'; did you mean 'built-in'?" in err


def test_a_file_may_be_given_on_the_command_line(rtl: Run, tmp_path: Path) -> None:
    folder, _ = write_skeleton("given", "sparsity-schedule", tmp_path / "given")
    code, out, _ = rtl("config", "schema", "--plugin", folder / "rtl_schedule_given.py")
    sys.modules.pop("rtl_plugin_rtl_schedule_given")
    schedule = json.loads(out)["properties"]["tickets"]["properties"]["schedule"]
    names = {part["properties"]["name"]["const"] for part in schedule["oneOf"]}
    assert (code, names) == (0, {"cubic", "given"})


def test_a_missing_file_is_the_users_mistake(rtl: Run) -> None:
    code, _, err = rtl("plugins", "list", "--plugin", "nowhere.py")
    assert code == 2
    assert err.endswith("nowhere.py: no such plugin file\n")


@pytest.mark.parametrize("kind", KINDS)
def test_new_writes_a_package_that_conforms(
    rtl: Run, manager: Manager, tmp_path: Path, kind: str
) -> None:
    code, out, _ = rtl("plugins", "new", "first-one", "--kind", kind, "--out", tmp_path / "p")
    short = kind.rpartition("-")[2]
    module = f"rtl_{short}_first_one"
    assert code == 0
    written = [path.relative_to(tmp_path / "p") for path in (tmp_path / "p").rglob("*.*")]
    assert sorted(path.as_posix() for path in written) == [
        "README.md",
        "pyproject.toml",
        f"{module}.py",
        f"tests/test_{module}.py",
    ]
    assert f"pip install --editable {tmp_path / 'p'}" in out
    for name in ("README.md", "pyproject.toml"):
        assert "@" not in (tmp_path / "p" / name).read_text(encoding="utf-8")
    manager.load(str(tmp_path / "p" / f"{module}.py"))
    sys.modules.pop(f"rtl_plugin_{module}")
    code, out, _ = rtl("plugins", "check", "first-one")
    assert (code, "0 fail" in out) == (0, True)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("Mine", "router", "'Mine' is no name for a plugin"),
        ("../up", "router", "is no name for a plugin"),
        ("mine", "rooter", "unknown kind of plugin 'rooter'; did you mean 'router'?"),
    ],
)
def test_new_refuses(tmp_path: Path, name: str, kind: str, message: str) -> None:
    with pytest.raises(PluginError, match=message.replace("?", r"\?")):
        write_skeleton(name, kind, tmp_path / "p")


def test_new_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(PluginError, match="is there already and not empty"):
        write_skeleton("mine", "router", tmp_path)


@pytest.mark.slow
def test_tests_of_new_packages_pass(tmp_path: Path) -> None:
    # One process for all: each would import torch anew.
    folders = [write_skeleton(f"my-{kind}", kind, tmp_path / kind)[0] for kind in KINDS]
    paths = " ".join(folder.name for folder in folders)
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    done: Any = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *KINDS, "-o", f"pythonpath={paths}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= 2 * len(KINDS)

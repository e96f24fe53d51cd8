"""Who may import whom. The table is docs/architecture.md's; a change there is a change here."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rtl_continual

PACKAGE = Path(rtl_continual.__file__).parent

BELOW_TRAINING = {"backbones", "tickets", "routing", "tasks", "streams"}
ALLOWED: dict[str, set[str]] = {
    "backbones": set(),
    "streams": set(),
    "tickets": {"backbones"},
    "routing": {"backbones"},
    "tasks": {"backbones"},
    "export": {"backbones", "tickets"},
    "training": BELOW_TRAINING,
    "discovery": BELOW_TRAINING,
    "plugins": BELOW_TRAINING | {"training", "discovery", "export"},
    "store": BELOW_TRAINING | {"training", "discovery", "plugins"},
    "testing": BELOW_TRAINING | {"training", "discovery", "export", "plugins"},
    "serving": {"backbones", "plugins", "store"},
    "runs": BELOW_TRAINING | {"training", "discovery", "store", "plugins"},
    "avalanche": BELOW_TRAINING | {"training", "discovery", "store", "plugins", "runs"},
}
TOP = {"__init__", "__main__", "cli", "plugins_cli"}
EVERYWHERE = {"documents", "errors", "lazy", "problems", "registry", "threads"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """The folder below the package, or the module's own name at the top."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_names(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every import, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def own_imports(path: Path) -> Iterator[tuple[int, list[str]]]:
    for line, name in imported_names(path):
        parts = name.split(".")
        if parts[0] == "rtl_continual" and len(parts) > 1 and parts[1] != "__version__":
            yield line, parts[1:]


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(path) for path in modules()}
    assert rooms <= set(ALLOWED) | TOP | EVERYWHERE


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_rooms_import_only_what_they_may(room: str) -> None:
    allowed = ALLOWED[room] | EVERYWHERE | {room}
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {'.'.join(parts)}"
        for path in modules()
        if room_of(path) == room
        for line, parts in own_imports(path)
        if parts[0] not in allowed
    ]
    assert not wrong, f"{room} may import {sorted(allowed)} only"


def test_errors_import_nothing_of_ours() -> None:
    assert not list(own_imports(PACKAGE / "errors.py"))


def test_no_room_reaches_into_another_rooms_internals() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {'.'.join(parts)}"
        for path in modules()
        for line, parts in own_imports(path)
        if parts[0] != room_of(path) and any(part.startswith("_") for part in parts)
    ]
    assert not wrong, "import from the room's __init__ instead"


def test_only_the_avalanche_room_imports_avalanche() -> None:
    rooms = {
        room_of(path)
        for path in modules()
        for _, name in imported_names(path)
        if name.split(".")[0] == "avalanche"
    }
    assert rooms <= {"avalanche"}


def test_the_table_has_no_cycle() -> None:
    order: list[str] = []
    left = dict(ALLOWED)
    while left:
        free = sorted(room for room, needs in left.items() if needs <= set(order))
        assert free, f"cycle among {sorted(left)}"
        order += free
        for room in free:
            del left[room]


def modules_after(code: str) -> set[str]:
    """Modules that a fresh interpreter has loaded after ``code``."""
    report = "import json, sys; print('LOADED', json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.split("LOADED", 1)[1]))


def loaded_after(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after ``code``."""
    return {name.split(".")[0] for name in modules_after(code)}


def test_import_loads_neither_torch_nor_avalanche() -> None:
    assert not loaded_after("import rtl_continual") & {"torch", "avalanche"}


def test_help_loads_neither_torch_nor_avalanche() -> None:
    code = """
import runpy, sys
sys.argv = ["rtl", "--help"]
try:
    runpy.run_module("rtl_continual", run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
else:
    raise AssertionError("--help did not exit")
"""
    assert not loaded_after(code) & {"torch", "avalanche"}


def test_opening_a_bank_loads_nothing_slow() -> None:
    # Most of these cost more than a tenth of a second, some of them several.
    slow = {"PIL", "avalanche", "matplotlib", "river", "scipy", "sklearn", "torchvision", "triton"}
    torch_alone = modules_after("import torch")
    ours = modules_after(
        "from rtl_continual import Prediction, RTLError, TicketBank, load_bank\n"
        "from rtl_continual.backbones import backbone_flops"
    )
    assert "torch" in ours
    added = ours - torch_alone
    assert not {name.split(".")[0] for name in added} & slow
    assert not {name for name in added if name.startswith("torch.")}
    rooms = {name.split(".")[1] for name in added if name.startswith("rtl_continual.")}
    assert rooms <= {"backbones", "routing", "store", "tasks", "tickets"} | EVERYWHERE


def test_exports_are_sorted_and_real() -> None:
    names = rtl_continual.__all__
    assert names == sorted(names)
    assert set(names) <= set(dir(rtl_continual))


def test_unknown_export_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'TicketBnak'"):
        _ = rtl_continual.TicketBnak

"""A run that is killed at any moment goes on to the results of one that was left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtl_continual.store import BankStore

SCENARIO = """\
name: killed
seeds: [0]
stream:
  name: digits
  domains: [printed, outline]
  images_per_domain: 40
  test_images_per_domain: 20
backbone: {name: glyphnet, weights: "random:0", width: 2}
tickets: {epochs: 2, sparsity: 0.5}
methods:
  rtl:
  single_ticket:
"""

# Imports are the slowest part of a short run, so one process has them and forks the runs. It never
# computes anything itself: threads do not survive a fork.
DRIVER = """\
import os, random, signal, sys
from pathlib import Path
import torch
import rtl_continual.cli, rtl_continual.runs.methods.rtl, rtl_continual.runs.methods.single_ticket
from rtl_continual.plugins import load_plugins
from rtl_continual.runs import ignore_known_warnings, load_scenario, run_scenario

folder, seed = Path(sys.argv[1]), int(sys.argv[2])
ignore_known_warnings()
load_plugins()
# The first optimizer of a process imports torch's compiler.
torch.optim.Adam([torch.zeros(1, requires_grad=True)])

def begin(out, resume, moment=0.0):
    pid = os.fork()
    if pid == 0:
        # Ends the process at once when it has computed so long: the clock on the wall depends on
        # who shares the machine. Nothing handles the signal.
        signal.setitimer(signal.ITIMER_PROF, moment)
        run_scenario(load_scenario(folder / "killed.yaml"), out, resume=resume)
        os._exit(0)
    return pid

def finish(pid):
    _, status, used = os.wait4(pid, 0)
    assert status == 0, "the run failed"
    return used.ru_utime + used.ru_stime

# The first run renders the images too.
finish(begin(folder / "first", False))
whole = finish(begin(folder / "whole", False))
moments = random.Random(seed)
for number in range(10):
    out = folder / f"run{number}"
    os.waitpid(begin(out, False, moments.uniform(0, whole)), 0)
    print("finished" if (out / "results.json").exists() else "cut off")
    finish(begin(out, True))
"""


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not k.startswith("seconds")}
    return [without_times(v) for v in value] if isinstance(value, list) else value


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_ten_kills_at_random_moments(write_scenario: Callable[..., Path], tmp_path: Path) -> None:
    write_scenario(SCENARIO, "killed.yaml")
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path), "8"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cut off") >= 5, "too few runs were killed before their end"
    expected = without_times(json.loads((tmp_path / "whole" / "results.json").read_text()))
    assert set(expected["methods"]) == {"rtl", "single_ticket"}
    for number in range(10):
        out = tmp_path / f"run{number}"
        assert without_times(json.loads((out / "results.json").read_text())) == expected
        lines = (out / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["event"] == "run_finished"
        store = BankStore.open(out / "bank")
        assert store.verify().ok
        assert [t.fingerprint for t in store.load()] == [
            t.fingerprint for t in BankStore.open(tmp_path / "whole" / "bank").load()
        ]

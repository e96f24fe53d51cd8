"""Scenario files: every mistake is told, where it stands, with what was meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtl_continual.errors import ConfigError, RTLError
from rtl_continual.runs import load_scenario, scenario_schema
from rtl_continual.runs._scenario import load_stream_config
from rtl_continual.runs.methods import METHODS

GOOD = """\
name: tiny
stream: {name: digits}
methods:
  fake:
"""


def problems_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_scenario(path, overrides)
    return [problem.replace(f"{path}:", "") for problem in caught.value.problems]


def test_defaults_are_filled_in(write_scenario: Callable[..., Path]) -> None:
    scenario = load_scenario(write_scenario(GOOD))
    assert scenario.seeds == (0,)
    assert scenario.backbone.name == "glyphnet"
    assert scenario.router.model_dump()["name"] == "flat"
    assert scenario.methods["fake"].method == "fake"


def test_the_resolved_file_is_a_scenario_that_resolves_to_itself(
    write_scenario: Callable[..., Path],
) -> None:
    text = (
        GOOD
        + "  other: {method: fake, wrong: 1e-3}\n"
        + "sweep: {key: tickets.sparsity, values: [0.5], methods: [other]}\n"
    )
    scenario = load_scenario(write_scenario(text), ["description='1e-3'"])
    again = load_scenario(write_scenario(scenario.to_yaml(), "again.yaml"))
    assert again == scenario
    assert again.to_yaml() == scenario.to_yaml()


def test_a_label_may_differ_from_its_method(write_scenario: Callable[..., Path]) -> None:
    scenario = load_scenario(write_scenario(GOOD + "  twice: {method: fake, wrong: 0.5}\n"))
    assert scenario.methods["twice"].method == "fake"
    assert scenario.methods["twice"].config.model_dump()["wrong"] == 0.5


def test_all_problems_at_once_in_the_order_of_the_file(write_scenario: Callable[..., Path]) -> None:
    path = write_scenario("""\
name: bad
seeds: [0, x]
device: tpu
stream:
  name: digits
  domains: [prnted]
backbone: {name: glyphnt}
tickets:
  sparsity: 1.9
  epcohs: 3
  epochs: true
  sparsity: 0.4
  start: neares
router: {name: flatt}
methods:
  fake: {epochs: no}
  faek:
threads: 0
""")
    found = problems_of(path, "tickets.head_lr=0", "foo=1", "tickets.norm_lr.x=1")
    expected = [
        '2:12: seeds[1]: must be a whole number, got "x"',
        '3:1: device: must be auto, cpu or cuda, got "tpu"',
        "6:3: stream.domains: unknown domain 'prnted'; did you mean 'printed'?",
        "7:12: backbone.name: unknown backbone 'glyphnt'; did you mean 'glyphnet'?",
        "9:3: tickets.sparsity: must be below 1, got 1.9",
        "10:3: tickets.epcohs: unknown key; did you mean 'epochs'?",
        "11:3: tickets.epochs: must be a whole number, got true",
        "12:3: tickets.sparsity: given twice",
        "13:3: tickets.start: must be cold, nearest or core (did you mean 'nearest'?), got ",
        "14:10: router.name: unknown router 'flatt'; did you mean 'flat'?",
        '16:10: methods.fake.epochs: must be a whole number, got "no"',
        "17:3: methods.faek: unknown method 'faek'; did you mean 'fake'?",
        "18:1: threads: must be at least 1, got 0",
        "--set tickets.norm_lr.x: ",
        "--set tickets.head_lr: must be above 0, got 0",
        "--set foo: unknown key. Available: backbone, description,",
    ]
    assert len(found) == len(expected)
    for line in expected:
        assert any(problem.startswith(line) for problem in found), line
    in_file = [tuple(map(int, p.split(":")[:2])) for p in found if not p.startswith("--set")]
    assert in_file == sorted(in_file)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("stream: {name: digits}\nmethods: {fake: }\n", "1:1: name: is missing"),
        ("name: a\nmethods: {fake: }\n", "1:1: stream: is missing; give its name: digits"),
        (
            "name: a\nstream: digits\nmethods: {fake: }\n",
            '2:1: stream: must be a section, got "digits"',
        ),
        (
            "name: a\nstream: {seed: 1}\nmethods: {fake: }\n",
            "2:1: stream.name: is missing; give one of: ",
        ),
        (
            "name: a\nstream: {name: 3}\nmethods: {fake: }\n",
            "2:10: stream.name: must be text, got 3",
        ),
        (
            "name: a\nstream: {name: digit}\nmethods: {fake: }\n",
            "2:10: stream.name: unknown stream 'digit'; did you mean 'digits'?",
        ),
        (
            "name: a\nstream: {name: digits, mix: 9}\nmethods: {fake: }\n",
            "2:1: stream: mix must be at most the number of domains (5), got 9",
        ),
        ("name: a\nstream: {name: digits}\n", "1:1: methods: is missing: name at least one method"),
        (
            "name: a\nstream: {name: digits}\nmethods: {}\n",
            "3:1: methods: got {}: name at least one",
        ),
        (GOOD + "  other: {method: fakes}\n", "5:11: methods.other.method: unknown method 'fakes'"),
        (
            GOOD + "  fake2: {method: fake, wrogn: 1}\n",
            "5:25: methods.fake2.wrogn: unknown key; did you mean 'wrong'?",
        ),
        (
            GOOD + "  a.b: {method: fake}\n",
            "5:3: methods.a.b: a label has letters, digits, - and _ only",
        ),
        (
            GOOD + "backbone: {name: resnet18, split: layer5}\n",
            "5:28: backbone.split: unknown split 'layer5'; did you mean 'layer4_0'? ",
        ),
        (
            GOOD + "backbone: {name: glyphnet, split: stem, taps: [block1]}\n",
            "5:41: backbone.taps: unknown tap 'block1'. Available: stem",
        ),
        (GOOD + "  other: 3\n", "5:3: methods.other: must be a section, got 3"),
        (GOOD + "tickets: 3\n", "5:1: tickets: must be a section (keys and values), got 3"),
        (GOOD + "seeds: []\n", "5:1: seeds: must have at least 1 items, got []"),
        (GOOD + "seeds: [1, 1]\n", "5:1: seeds: each seed once, got [1] again"),
        (GOOD + "seeds: 3\n", "5:1: seeds: must be a list, got 3"),
        (
            GOOD + "growth: always\n",
            '5:1: growth: must be per_experience or discover, got "always"',
        ),
        (GOOD + "backbone: {taps: stem}\n", '5:12: backbone.taps: must be a list, got "stem"'),
        (
            GOOD + "sweep: {key: seeds, values: [1], methods: [fake]}\n",
            "5:9: sweep.key: must match",
        ),
        (
            GOOD + "sweep: {key: tickets.sparsty, values: [0.1], methods: [fake]}\n",
            "5:40: sweep.values[0]: tickets.sparsty: unknown key; did you mean 'sparsity'?",
        ),
        (
            GOOD + "sweep: {key: tickets.sparsity, values: [0.1, 2], methods: [fake]}\n",
            "5:46: sweep.values[1]: tickets.sparsity: must be below 1, got 2",
        ),
        (
            GOOD + "sweep: {key: tickets.sparsity, values: [0.1], methods: [fak]}\n",
            "5:57: sweep.methods[0]: unknown method 'fak'; did you mean 'fake'?",
        ),
    ],
)
def test_one_problem(write_scenario: Callable[..., Path], text: str, problem: str) -> None:
    found = problems_of(write_scenario(text))
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_overrides_win_in_their_order(write_scenario: Callable[..., Path]) -> None:
    scenario = load_scenario(
        write_scenario(GOOD),
        ["tickets.sparsity=0.5", "tickets.sparsity=0.7", "methods.fake.epochs=2"],
    )
    assert scenario.tickets.sparsity == 0.7
    assert scenario.methods["fake"].config.epochs == 2


def test_a_missing_file_names_the_nearest(
    tmp_path: Path, write_scenario: Callable[..., Path]
) -> None:
    write_scenario(GOOD, "digits_full.yaml")
    with pytest.raises(
        ConfigError, match=r"digts_full.yaml: no such scenario file; did you mean .*digits_full"
    ):
        load_scenario(tmp_path / "digts_full.yaml")
    with pytest.raises(ConfigError, match=r"no such scenario file. Found: .*digits_full.yaml"):
        load_scenario(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_scenario(tmp_path)


def test_stream_options_from_the_command_line() -> None:
    assert load_stream_config("digits", ["mix=2"]).model_dump()["mix"] == 2
    with pytest.raises(ConfigError, match=r"--set mxi: unknown key; did you mean 'mix'\?"):
        load_stream_config("digits", ["mxi=2"])
    with pytest.raises(RTLError, match=r"unknown stream 'digit'; did you mean 'digits'\?"):
        load_stream_config("digit")


def test_the_schema_knows_every_section_and_method() -> None:
    schema: dict[str, Any] = json.loads(json.dumps(scenario_schema()))
    assert {"name", "stream", "backbone", "tickets", "router", "methods", "sweep"} <= set(
        schema["properties"]
    )
    assert set(schema["properties"]["methods"]["properties"]) == set(METHODS)
    assert "glyphnet" in schema["properties"]["backbone"]["properties"]["name"]["enum"]
    assert schema["required"] == ["methods", "name", "stream"]
    references = set()

    def collect(part: Any) -> None:
        if isinstance(part, dict):
            references.update([part["$ref"]] if isinstance(part.get("$ref"), str) else [])
            for inner in part.values():
                collect(inner)
        elif isinstance(part, list):
            for inner in part:
                collect(inner)

    collect(schema)
    assert references <= {f"#/$defs/{name}" for name in schema.get("$defs", {})}

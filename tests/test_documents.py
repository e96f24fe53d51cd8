"""Scenario files are YAML 1.2, and say where everything stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtl_continual.documents import Document, dump_yaml, parse_value, read_document
from rtl_continual.errors import ConfigError


def read(tmp_path: Path, text: str | bytes) -> Document:
    path = tmp_path / "a.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_document(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-2.", -2.0),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("1_000", "1_000"),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1e-3'", "1e-3"),
        ('"true"', "true"),
        ("2020-01-01", "2020-01-01"),
        ("12:30:45", "12:30:45"),
        ("[1, a]", [1, "a"]),
        ("{a: 1e1}", {"a": 10.0}),
    ],
)
def test_scalars_are_yaml_1_2(text: str, value: Any) -> None:
    found = parse_value(text, "--set x")
    assert found == value
    assert type(found) is type(value)


def test_every_key_has_its_place(tmp_path: Path) -> None:
    document = read(tmp_path, "a: 1\nb:\n  c: [x, {d: 2}]\n")
    file = tmp_path / "a.yaml"
    assert document.place(("b", "c", 1, "d")) == f"{file}:3:11"
    assert document.place(("b", "c", 0)) == f"{file}:3:7"
    assert document.place(("b", "unheard", "of")) == f"{file}:2:1"
    assert document.problem(("b", "c", 0), "no") == f"{file}:3:7: b.c[0]: no"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", "3:1: a: given twice"),
        ("a: {b: 1, b: 2}\n", "1:11: a.b: given twice"),
        ("a: .nan\n", "1:4: a: numbers must be finite, got .nan"),
        ("a: 1e999\n", "1:4: a: numbers must be finite"),
        ("a: !!python/name:os.system x\n", "1:4: a: tags"),
        ("a: !mine x\n", "1:4: a: tags (!mine) are not allowed"),
        ("? [1, 2]\n: 3\n", "1:3: a key must be text"),
        (f"a: {'9' * 5000}\n", "1:4: a: the number 999999999999... is too long"),
    ],
)
def test_problems_are_kept_to_be_told_with_others(tmp_path: Path, text: str, line: str) -> None:
    problems = read(tmp_path, text).problems
    assert len(problems) == 1
    assert problems[0].startswith(f"{tmp_path / 'a.yaml'}:{line}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\nb: *x\n", r"2:4: .*aliases \(\*x\) are not allowed"),
        ("a: [1\n", "2:1: not readable as YAML"),
        ("a: 'x\n", "not readable as YAML: .*quoted scalar"),
        ("\ta: 1\n", "1:1: not readable as YAML"),
        ("a: \x00\n", "1:4: .*character 0x0"),
        ("a: 1\n---\nb: 2\n", "2:1: .*another document"),
        ("a: " + "[" * 2000, "nested deeper than 40"),
        ("- 1\n", "1:1: a scenario is a mapping of keys to values, got a list"),
        ("", "got an empty file"),
        ("word", "got the single value 'word'"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        ("a: x\n" * 300_000, r"1500000 bytes, more than 1000000"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_an_alias_bomb_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError, match=r"2:10: .*aliases"):
        read(tmp_path, "\n".join(lines))


class TestSet:
    def document(self) -> Document:
        return Document(
            {"a": {"b": 1}, "list": [1, 2], "none": None}, {(): "f", ("a", "b"): "f:1:2"}
        )

    def test_values_are_yaml(self) -> None:
        document = self.document()
        document.set("a.b=1e-3")
        document.set("a.c=[no, 2]")
        document.set("list.1=x")
        document.set("none.deep.key=true")
        document.set("text=a=b")
        assert document.values == {
            "a": {"b": 0.001, "c": ["no", 2]},
            "list": [1, "x"],
            "none": {"deep": {"key": True}},
            "text": "a=b",
        }

    def test_problems_name_the_override(self) -> None:
        document = self.document()
        document.set("a.b=2")
        assert document.problem(("a", "b"), "too small") == "--set a.b: too small"
        document.set("a={b: 3}")
        assert document.problem(("a", "b"), "too small") == "--set a: a.b: too small"

    @pytest.mark.parametrize(
        ("assignment", "message"),
        [
            ("a.b", "--set a.b: must be key.path=value"),
            ("=3", "--set =3: must be key.path=value"),
            ("a..b=3", "--set a..b=3: must be key.path=value"),
            ("a.b.c=3", "--set a.b.c: 'a.b' is no section, it is 1"),
            ("list.7=3", "--set list.7: 'list' is a list of 2, '7' is no place in it"),
            ("list.x=3", "--set list.x: 'list' is a list of 2, 'x' is no place in it"),
            ("a.b=[1", "--set a.b: not readable as YAML"),
            ("a.b=*x", "--set a.b: not readable as YAML: aliases"),
            ("a.b={c: 1, c: 2}", "--set a.b: c: given twice; keep one"),
        ],
    )
    def test_mistakes(self, assignment: str, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            self.document().set(assignment)
        assert str(caught.value).startswith(message)


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["C"]), max_size=12)
    | st.sampled_from(
        ["no", "1e-3", "0o7", "null", "~", "true", "010", ".5", "12:30", "2020-01-01"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.from_regex("[a-z]+", fullmatch=True), inner)
    ),
    max_leaves=8,
)


@given(value=plain_values)
def test_what_is_written_reads_back_the_same(value: Any) -> None:
    assert parse_value(dump_yaml({"a": value}), "x") == {"a": value}

"""The report is one file that needs nothing else, and the same for the same results."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rtl_continual.errors import RTLError
from rtl_continual.runs import load_scenario, results_table, run_scenario, write_report
from rtl_continual.runs._charts import domain_bars, size_scatter, sweep_plot
from rtl_continual.runs._files import read_json, write_json
from rtl_continual.runs._report import render

TEXT = """\
name: told
description: <b>bold</b> & plain
seeds: [0, 1]
stream:
  name: digits
  domains: [printed, handwritten]
  images_per_domain: 20
  test_images_per_domain: 20
backbone: {name: glyphnet, weights: "random:0", width: 2}
methods:
  fake: {wrong: 0.25}
  worse: {method: fake, wrong: 0.75}
  all: {method: fake_offline}
sweep: {key: tickets.sparsity, values: [0.5, 0.9], methods: [fake, worse]}
"""


@pytest.fixture
def folder(write_scenario: Callable[..., Path], tmp_path: Path) -> Path:
    run_scenario(load_scenario(write_scenario(TEXT)), tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder / "results.json")
    return found


def test_it_needs_no_network_and_keeps_text_text(folder: Path) -> None:
    page = write_report(folder).read_text(encoding="utf-8")
    assert not re.findall(r"https?:|//[a-z]|<script|<link|@import|url\((?!#)", page)
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; plain" in page
    assert page.count("<svg") == 3
    for word in (
        "fake: router and tickets",
        "told the domain",
        "Sweep over tickets.sparsity",
        "ticket_added",
        "layer10",
    ):
        assert word in page


def test_the_same_results_give_the_same_page(folder: Path) -> None:
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_the_best_method_is_one_that_could_be_used(results: dict[str, Any]) -> None:
    page = render(results, [])
    best = re.findall(r'<tr class="best">\s*<td>.*?</span>(\w+)', page)
    assert best == ["fake"], "'all' is right more often, but is told the domain"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("results.json", "[]", r"results.json: is damaged \(no object\)"),
        ("results.json", '{"schema_version": 1}', "without methods, scenario, seeds, stream"),
        ("metrics.jsonl", '{"event": "run_started"}\n{"eve\n', "metrics.jsonl:2: is no event"),
        ("metrics.jsonl", "[]\n", "metrics.jsonl:1: is no event of a run; delete that line"),
    ],
)
def test_damaged_files_are_named(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(RTLError, match=message):
        write_report(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("final", None, "final"),
        ("final", {}, "balanced_accuracy"),
        ("parameters", 3, "AttributeError"),
        ("balanced_accuracy_matrix", [["x"]], "Error"),
    ],
)
def test_a_method_without_its_numbers_is_no_traceback(
    folder: Path, key: str, value: object, message: str
) -> None:
    results = read_json(folder / "results.json")
    method = results["methods"]["fake"]
    if value is None:
        del method[key]
    else:
        method[key] = value
    write_json(folder / "results.json", results)
    with pytest.raises(RTLError, match=rf"results.json: cannot be shown \(.*{message}"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_what_discovery_found_is_told(results: dict[str, Any]) -> None:
    assert "hidden domains" not in render(results, [])
    results["methods"]["fake"]["discovery"] = {
        "clusters_found": 5,
        "adjusted_rand_index": 0.98,
        "false_alarms": 1,
        "unassigned": 3,
        "beyond_cap": 2,
        "delay_in_mini_batches": [1, None],
        "detector_false_alarms": 0,
        "merge_proposals": [{"tickets": [1, 4], "similarity": 0.9, "valley": 1.0}],
    }
    page = render(results, [])
    for words in (
        "found 5 clusters (adjusted Rand index against the hidden domains 0.980)",
        "2 clusters got no ticket",
        "new domain: 1, never;",
        "tickets 1 and 4",
    ):
        assert words in page


def test_pictures_are_well_formed(results: dict[str, Any]) -> None:
    for picture in (domain_bars(results), size_scatter(results), sweep_plot(results)):
        root = ElementTree.fromstring(picture.replace("xlink:href", "href"))
        assert root.tag == "svg"
        assert root.get("viewBox")
        assert root.get("aria-label")


def test_what_is_missing_is_a_dash(results: dict[str, Any]) -> None:
    entry = results["methods"]["worse"]
    entry["final"]["balanced_accuracy_by_domain"]["printed"] = None
    entry["final"]["balanced_accuracy_domain_mean"] = None
    entry["balanced_forgetting"] = None
    entry["parameters"]["bytes_on_disk"] = None
    page = render(results, [])
    row = page[page.index(">worse") :]
    assert "<td>–</td>" in row[: row.index("</tr>")]


@pytest.mark.parametrize(("width", "columns"), [(120, 8), (80, 6)])
def test_the_table_fits_its_terminal(results: dict[str, Any], width: int, columns: int) -> None:
    table = results_table(results, width=width)
    assert len(table.columns) == columns
    papers = {**results, "published": {}}
    assert "accuracy, all" in [c.header for c in results_table(papers, width=width).columns]
    printed = io.StringIO()
    console = Console(width=width, file=printed)
    console.print(table)
    assert "±" in printed.getvalue()
    assert "…" not in printed.getvalue()


def test_a_run_that_is_not_finished_is_told(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(RTLError, match=r"results.json: not found; the run is not finished"):
        write_report(tmp_path)
    results = read_json(folder / "results.json")
    write_json(folder / "results.json", {**results, "schema_version": 2})
    with pytest.raises(RTLError, match="has schema version 2, this program reads 1"):
        write_report(folder)


def test_published_rows_stand_beside_with_a_warning(results: dict[str, Any]) -> None:
    assert "Beside what is published" not in render(results, [])
    row = {"method": "A-Prompt", "backbone": "ViT", "accuracy": 61.5, "order": None}
    results["published"] = {
        "rows": [{**row, "domain_mean": None}],
        "order": "real, sketch",
        "differences": ["few images"],
    }
    results["methods"]["worse"]["average_accuracy_sample_weighted"] = 0.1234
    page = render(results, [])
    assert "<li>few images</li>" in page
    assert "real, sketch" in page
    assert "<td>12.34</td>" in page
    assert "61.50" in page
    assert "not stated" in page


def test_cost_table_shows_what_there_is(results: dict[str, Any]) -> None:
    page = render(results, [])
    assert "Cost and routing" in page
    assert "1.00×" in page
    results["methods"]["worse"]["seconds"]["train_vs_naive"] = 2.5
    results["methods"]["worse"]["memory"] = {"images": 500, "bytes": 1_536_000}
    page = render(results, [])
    assert "2.50×" in page
    assert " + 1.54 M</td>" in page

"""Runs: a scenario file in, results, metrics and a report out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtl_continual.lazy import lazy_exports

if TYPE_CHECKING:
    from rtl_continual.runs._environment import ignore_known_warnings
    from rtl_continual.runs._files import read_events
    from rtl_continual.runs._method import Answers, Method, MethodConfig, RunContext
    from rtl_continual.runs._progress import RunProgress, make_progress
    from rtl_continual.runs._report import write_report
    from rtl_continual.runs._results import SCHEMA_VERSION
    from rtl_continual.runs._runner import run_scenario
    from rtl_continual.runs._scenario import (
        Scenario,
        load_scenario,
        load_stream_config,
    )
    from rtl_continual.runs._schema import scenario_schema
    from rtl_continual.runs._sections import ReportSection
    from rtl_continual.runs._summary import results_table
    from rtl_continual.runs.methods._dense import (
        DenseConfig,
        DenseModel,
        count_floats,
        dense_optimizer,
        predict_labels,
    )

__all__ = [
    "SCHEMA_VERSION",
    "Answers",
    "DenseConfig",
    "DenseModel",
    "Method",
    "MethodConfig",
    "ReportSection",
    "RunContext",
    "RunProgress",
    "Scenario",
    "count_floats",
    "dense_optimizer",
    "ignore_known_warnings",
    "load_scenario",
    "load_stream_config",
    "make_progress",
    "predict_labels",
    "read_events",
    "results_table",
    "run_scenario",
    "scenario_schema",
    "write_report",
]

# Loaded on first use: rendering a report and `rtl --help` need no torch.
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "SCHEMA_VERSION": "_results",
        "Answers": "_method",
        "DenseConfig": "methods._dense",
        "DenseModel": "methods._dense",
        "Method": "_method",
        "MethodConfig": "_method",
        "ReportSection": "_sections",
        "RunContext": "_method",
        "RunProgress": "_progress",
        "Scenario": "_scenario",
        "count_floats": "methods._dense",
        "dense_optimizer": "methods._dense",
        "ignore_known_warnings": "_environment",
        "load_scenario": "_scenario",
        "load_stream_config": "_scenario",
        "make_progress": "_progress",
        "predict_labels": "methods._dense",
        "read_events": "_files",
        "results_table": "_summary",
        "run_scenario": "_runner",
        "scenario_schema": "_schema",
        "write_report": "_report",
    },
)

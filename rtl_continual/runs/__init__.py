"""Runs: a scenario file in, results, metrics and a report out."""

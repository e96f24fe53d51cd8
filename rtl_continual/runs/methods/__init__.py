"""The methods that a run can compare, by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rtl_continual.errors import RTLError, unknown_name

if TYPE_CHECKING:
    from rtl_continual.runs._method import Method

__all__ = ["METHODS", "method_class"]

# Loaded on first use: Avalanche's methods import Avalanche, which takes seconds.
METHODS: dict[str, str] = {
    "rtl": "rtl_continual.runs.methods.rtl:RTLMethod",
    "rtl_joint": "rtl_continual.runs.methods.rtl_joint:RTLJointMethod",
    "single_ticket": "rtl_continual.runs.methods.single_ticket:SingleTicketMethod",
    "independent": "rtl_continual.runs.methods.independent:IndependentMethod",
    "joint": "rtl_continual.runs.methods.joint:JointMethod",
    "linear_probe": "rtl_continual.runs.methods.linear_probe:LinearProbeMethod",
    "naive": "rtl_continual.avalanche.baselines:NaiveMethod",
    "replay": "rtl_continual.avalanche.baselines:ReplayMethod",
    "ewc": "rtl_continual.avalanche.baselines:EWCMethod",
    "slda": "rtl_continual.avalanche.baselines:SLDAMethod",
}


def method_class(name: str) -> type[Method[Any]]:
    """The method called ``name``.

    Raises:
        RTLError: if there is no such method.

    Example:
        >>> method_class("joint").summary
        'one dense network, all data at once'
    """
    if name not in METHODS:
        raise RTLError(unknown_name("method", name, METHODS))
    module, _, attribute = METHODS[name].partition(":")
    found: type[Method[Any]] = getattr(import_module(module), attribute)
    return found

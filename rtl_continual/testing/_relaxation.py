"""What every relaxation policy must hold to."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from rtl_continual.testing._suite import Outcome, Suite, require
from rtl_continual.training import CollapseReport, Relaxation, RelaxationPolicy

__all__ = ["POLICY_SUITE", "check_relaxation_policy"]

POLICY_SUITE: Suite[RelaxationPolicy] = Suite("relaxation policy")

Build = Callable[[], RelaxationPolicy]


def check_relaxation_policy(build: Build) -> list[Outcome]:
    """Check a relaxation policy on reports of several kinds.

    Args:
        build: makes the policy.

    Returns:
        One outcome per property.

    Raises:
        ConformanceError: with every property that does not hold.

    Example:
        >>> from rtl_continual.training import RegrowPolicy
        >>> all(outcome.passed for outcome in check_relaxation_policy(RegrowPolicy))
        True
    """
    return POLICY_SUITE.check(build)


def _reports() -> dict[str, CollapseReport]:
    """Fresh ones each time, by what is special about them."""
    dying = {"conv.weight": 0.999, "linear.weight": 0.98}
    return {
        "a score that dropped": CollapseReport.example(),
        "a score that rose": CollapseReport.example(direction="rise", score=0.9, threshold=0.6),
        "a layer that dies, and no score": CollapseReport.example(
            score=math.nan,
            chance=math.nan,
            threshold=math.nan,
            direction=None,
            layers=("conv.weight",),
            dying_layers=("conv.weight",),
            layer_sparsity=dying,
        ),
        "no check before": CollapseReport.example(
            history=(), sparsity=0.6, healthy_sparsity=0.6, target=0.9
        ),
        "the target reached": CollapseReport.example(sparsity=0.99, target=0.99, step=500),
        "a dense mask": CollapseReport.example(sparsity=0.0, healthy_sparsity=0.0, target=0.0),
    }


def _answer(build: Build, report: CollapseReport) -> Relaxation | None:
    return build().relax(report)


@POLICY_SUITE.add
def answers_with_a_relaxation(build: Build) -> None:
    """Or with ``None``, to go on as planned."""
    for what, report in _reports().items():
        found: object = _answer(build, report)
        require(
            found is None or isinstance(found, Relaxation),
            f"{what}: the answer is a {type(found).__name__}, not a Relaxation or None",
        )


@POLICY_SUITE.add
def never_raises_the_target(build: Build) -> None:
    """A new target is between 0 and the present one."""
    for what, report in _reports().items():
        found = _answer(build, report)
        if found is not None:
            inside = 0 <= found.target <= report.target + 1e-9
            require(inside, f"{what}: the target is {found.target}, it was {report.target}")


@POLICY_SUITE.add
def names_layers_of_the_report(build: Build) -> None:
    """Limits are for layers that there are, and between 0 and 1."""
    for what, report in _reports().items():
        found = _answer(build, report)
        for layer, sparsity in ({} if found is None else found.layers).items():
            require(layer in report.layer_sparsity, f"{what}: there is no layer '{layer}'")
            require(0 <= sparsity <= 1, f"{what}: layer '{layer}' is limited to {sparsity}")


@POLICY_SUITE.add
def same_report_gives_the_same_answer(build: Build) -> None:
    """From another policy with the same options too."""
    for what, report in _reports().items():
        policy = build()
        require(policy.relax(report) == policy.relax(report), f"{what}: a second answer differs")
        require(policy.relax(report) == _answer(build, report), f"{what}: two policies differ")


@POLICY_SUITE.add
def keeps_no_state(build: Build) -> None:
    """What it was asked before does not matter: tickets and processes share nothing."""
    policy = build()
    for report in _reports().values():
        policy.relax(report)
    for what, report in _reports().items():
        require(
            policy.relax(report) == _answer(build, report),
            f"{what}: the answer depends on earlier reports",
        )


@POLICY_SUITE.add
def changes_nothing_it_is_given(build: Build) -> None:
    """The report stays as it was, torch's generator too."""
    state = torch.get_rng_state()
    for (what, report), before in zip(_reports().items(), _reports().values(), strict=True):
        _answer(build, report)
        require(repr(report) == repr(before), f"{what}: relax() changes the report")
    require(torch.equal(torch.get_rng_state(), state), "draws from torch's global generator")


@POLICY_SUITE.add
def says_how_it_was_built(build: Build) -> None:
    """Name and options are at hand, and survive JSON."""
    policy = build()
    config = getattr(policy, "config", None)
    config_class = type(policy).config_class
    require(
        type(config) is config_class,
        f"config must be a {config_class.__name__}, got {type(config).__name__}",
    )
    again = config_class.model_validate_json(config.model_dump_json())  # type: ignore[union-attr]
    require(again == config, "its options do not survive JSON")

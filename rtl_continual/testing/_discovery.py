"""What every clusterer and every shift detector must hold to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from rtl_continual.discovery import Clusterer, KnownTickets, ShiftDetector, Verdict
from rtl_continual.errors import RTLError
from rtl_continual.routing import FeatureMixture
from rtl_continual.testing._suite import Outcome, Suite, require

__all__ = ["CLUSTERER_SUITE", "DETECTOR_SUITE", "check_clusterer", "check_shift_detector"]

CLUSTERER_SUITE: Suite[Clusterer] = Suite("clusterer")
DETECTOR_SUITE: Suite[ShiftDetector] = Suite("shift detector")

_WIDTH = 6


def check_clusterer(build: Callable[[], Clusterer]) -> list[Outcome]:
    """Check a clusterer on two groups that lie far apart.

    Args:
        build: makes the clusterer.

    Returns:
        One outcome per property.

    Raises:
        ConformanceError: with every property that does not hold.
    """
    return CLUSTERER_SUITE.check(build)


def check_shift_detector(build: Callable[[], ShiftDetector]) -> list[Outcome]:
    """Check a shift detector on one ticket's data, and on data far from it.

    Args:
        build: makes the detector.

    Returns:
        One outcome per property.

    Raises:
        ConformanceError: with every property that does not hold.
    """
    return DETECTOR_SUITE.check(build)


def _normal(count: int, center: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return center + torch.randn(count, _WIDTH, generator=generator)


def _groups() -> tuple[torch.Tensor, np.ndarray]:
    """A larger and a smaller group, mixed."""
    features = torch.cat([_normal(200, 0.0, 0), _normal(300, 30.0, 1)])
    groups = np.repeat([0, 1], [200, 300])
    order = np.random.default_rng(0).permutation(500)
    return features[torch.from_numpy(order)], groups[order]


def _cluster(clusterer: Clusterer) -> np.ndarray:
    """Groups are classes for a clusterer that does not look at features."""
    features, groups = _groups()
    return clusterer.cluster(features, None if clusterer.by_features else groups)


@CLUSTERER_SUITE.add
def every_sample_gets_a_group(build: Callable[[], Clusterer]) -> None:
    """``int64 [samples]``, without gaps, larger groups first."""
    labels = _cluster(build())
    require(labels.shape == (500,), f"500 samples get labels {list(labels.shape)}")
    require(labels.dtype == np.int64, f"labels are {labels.dtype}, not int64")
    values, counts = np.unique(labels, return_counts=True)
    require(values.tolist() == list(range(len(values))), f"groups are {values.tolist()}")
    require((np.diff(counts) <= 0).all(), f"larger groups do not come first: {counts.tolist()}")


@CLUSTERER_SUITE.add
def groups_far_apart_are_found(build: Callable[[], Clusterer]) -> None:
    """Thirty deviations apart, none is split or mixed."""
    labels, (_, groups) = _cluster(build()), _groups()
    require(np.array_equal(labels, 1 - groups), "two groups that lie far apart are not found")


@CLUSTERER_SUITE.add
def same_samples_give_the_same_groups(build: Callable[[], Clusterer]) -> None:
    """Another clusterer with the same options agrees."""
    require(np.array_equal(_cluster(build()), _cluster(build())), "a second run differs")


@CLUSTERER_SUITE.add
def clustering_changes_nothing(build: Callable[[], Clusterer]) -> None:
    """Features keep their bits, torch's generator its state."""
    features, groups = _groups()
    given, state = features.clone(), torch.get_rng_state()
    clusterer = build()
    clusterer.cluster(features, None if clusterer.by_features else groups)
    require(torch.equal(features, given), "cluster() changes the features")
    require(torch.equal(torch.get_rng_state(), state), "draws from torch's global generator")


@CLUSTERER_SUITE.add
def no_samples_are_refused(build: Callable[[], Clusterer]) -> None:
    """With a message for the user."""
    try:
        build().cluster(torch.zeros(0, _WIDTH), np.zeros(0, dtype=np.int64))
    except RTLError:
        return
    raise AssertionError("cluster() without samples must raise a subclass of RTLError")


@CLUSTERER_SUITE.add
def a_sample_that_is_not_finite_is_refused(build: Callable[[], Clusterer]) -> None:
    """With a message that names it."""
    features, groups = _groups()
    features[7, 2] = torch.nan
    try:
        build().cluster(features, groups)
    except RTLError as error:
        require("7" in str(error), f"the message does not name sample 7: {error}")
        return
    raise AssertionError("cluster() must raise a subclass of RTLError for a sample with NaN")


@CLUSTERER_SUITE.add
def equal_samples_are_one_group_or_refused(build: Callable[[], Clusterer]) -> None:
    """Data without any spread is no crash: one group, or a message for the user."""
    clusterer = build()
    try:
        labels = clusterer.cluster(torch.ones(40, _WIDTH), np.zeros(40, dtype=np.int64))
    except RTLError:
        return
    require((labels == 0).all(), f"equal samples are in groups {np.unique(labels).tolist()}")


@CLUSTERER_SUITE.add
def takes_what_an_autograd_graph_made(build: Callable[[], Clusterer]) -> None:
    """Features that require gradients are data like others."""
    features, groups = _groups()
    clusterer = build()
    given = None if clusterer.by_features else groups
    found = clusterer.cluster(features.clone().requires_grad_() * 1.0, given)
    require(np.array_equal(found, _cluster(build())), "features with gradients are grouped apart")


@CLUSTERER_SUITE.add
def is_made_from_its_options(build: Callable[[], Clusterer]) -> None:
    """Name and options are at hand, and survive JSON."""
    _check_options(build())


@DETECTOR_SUITE.add
def is_built_from_its_options(build: Callable[[], ShiftDetector]) -> None:
    """Name and options are at hand, and survive JSON."""
    _check_options(build())


def _check_options(made: Clusterer | ShiftDetector) -> None:
    config, config_class = made.config, type(made).config_class
    require(
        type(config) is config_class,
        f"config must be a {config_class.__name__}, got {type(config).__name__}",
    )
    again = config_class.model_validate_json(config.model_dump_json())
    require(again == config, "its options do not survive JSON")


def _known() -> KnownTickets:
    return KnownTickets([FeatureMixture.fit(_normal(400, 0.0, 0))])


def _watch(detector: ShiftDetector, center: float, seed: int, batches: int = 40) -> list[Verdict]:
    known = _known()
    return [
        detector.update(_normal(32, center, 1000 * seed + batch), known) for batch in range(batches)
    ]


@DETECTOR_SUITE.add
def judges_the_number_it_is_given(build: Callable[[], ShiftDetector]) -> None:
    """What a detector does lies in ``_evidence`` and ``_restart``: streams call ``observe``."""
    for method in ("update", "observe"):
        require(
            getattr(type(build()), method) is getattr(ShiftDetector, method),
            f"{method}() is not to be overridden; implement _evidence() and _restart()",
        )


@DETECTOR_SUITE.add
def stays_quiet_on_known_data(build: Callable[[], ShiftDetector]) -> None:
    """Forty mini-batches of what the ticket knows raise no alarm."""
    alarms = sum(verdict.shift for verdict in _watch(build(), 0.0, seed=1))
    require(not alarms, f"{alarms} of 40 mini-batches of known data raise an alarm")


@DETECTOR_SUITE.add
def notices_a_shift(build: Callable[[], ShiftDetector]) -> None:
    """Data ten deviations away raises one within forty mini-batches."""
    detector = build()
    _watch(detector, 0.0, seed=1)
    require(_watch(detector, 10.0, seed=2)[-1].shift, "data ten deviations away is no shift")


@DETECTOR_SUITE.add
def keeps_its_alarm_until_reset(build: Callable[[], ShiftDetector]) -> None:
    """Known data does not take it back; ``reset`` does."""
    detector = build()
    _watch(detector, 0.0, seed=1)
    _watch(detector, 10.0, seed=2)
    require(_watch(detector, 0.0, seed=3, batches=1)[0].shift, "the alarm is taken back")
    detector.reset()
    require(not _watch(detector, 0.0, seed=3, batches=1)[0].shift, "reset() keeps the alarm")


@DETECTOR_SUITE.add
def same_batches_give_the_same_verdicts(build: Callable[[], ShiftDetector]) -> None:
    """Another detector with the same options agrees."""
    one, other = build(), build()
    first = _watch(one, 0.0, seed=1, batches=10) + _watch(one, 10.0, seed=2, batches=5)
    second = _watch(other, 0.0, seed=1, batches=10) + _watch(other, 10.0, seed=2, batches=5)
    require(first == second, "two detectors with the same options differ")


@DETECTOR_SUITE.add
def watching_changes_nothing(build: Callable[[], ShiftDetector]) -> None:
    """Features keep their bits, torch's generator its state."""
    features, known = _normal(32, 0.0, 5), _known()
    given, state = features.clone(), torch.get_rng_state()
    build().update(features, known)
    require(torch.equal(features, given), "update() changes the features")
    require(torch.equal(torch.get_rng_state(), state), "draws from torch's global generator")


@DETECTOR_SUITE.add
def an_empty_batch_is_refused(build: Callable[[], ShiftDetector]) -> None:
    """With a message for the user; the next one counts as if nothing had been."""
    detector, known = build(), _known()
    try:
        detector.update(torch.zeros(0, _WIDTH), known)
    except RTLError:
        require(
            detector.update(_normal(32, 0.0, 5), known)
            == build().update(_normal(32, 0.0, 5), known),
            "a refused batch leaves traces",
        )
        return
    raise AssertionError("update() with an empty batch must raise a subclass of RTLError")


@DETECTOR_SUITE.add
def single_samples_are_batches_too(build: Callable[[], ShiftDetector]) -> None:
    """The verdict on one sample has finite numbers."""
    detector, known = build(), _known()
    verdicts = [detector.update(_normal(1, 0.0, 10 + i), known) for i in range(20)]
    finite = all(np.isfinite([verdict.statistic, verdict.level]).all() for verdict in verdicts)
    require(finite, "a verdict on a single sample is not finite")


@DETECTOR_SUITE.add
def data_of_a_ticket_that_was_added_are_known(build: Callable[[], ShiftDetector]) -> None:
    """After the bank has grown and ``reset``, what raised the alarm is quiet."""
    detector = build()
    _watch(detector, 0.0, seed=1)
    _watch(detector, 10.0, seed=2)
    detector.reset()
    both = KnownTickets([FeatureMixture.fit(_normal(400, center, 0)) for center in (0.0, 10.0)])
    alarms = sum(detector.update(_normal(32, 10.0, 3000 + i), both).shift for i in range(20))
    require(not alarms, f"{alarms} of 20 mini-batches of the new ticket raise an alarm")

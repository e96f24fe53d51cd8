"""What ships conforms; what is wrong is caught by the property that is about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from rtl_continual.backbones import Backbone, InputSpec, build_backbone
from rtl_continual.discovery import (
    build_clusterer,
    build_detector,
    clusterer_config_class,
    clusterer_names,
    detector_config_class,
    detector_names,
)
from rtl_continual.discovery.kmeans import KMeansClusterer
from rtl_continual.discovery.page_hinkley import PageHinkley
from rtl_continual.errors import PluginError
from rtl_continual.plugins import Manager
from rtl_continual.routing import (
    FeatureMixture,
    Routing,
    build_router,
    router_config_class,
    router_names,
)
from rtl_continual.streams import ArraySet, DigitsConfig, Experience, Stream, build_stream
from rtl_continual.testing import (
    ConformanceError,
    check_backbone,
    check_clusterer,
    check_plugin,
    check_relaxation_policy,
    check_router,
    check_shift_detector,
    check_sparsity_schedule,
    check_stream,
    subjects_of,
)
from rtl_continual.tickets import (
    CubicSchedule,
    SparsitySchedule,
    build_schedule,
    schedule_config_class,
    schedule_names,
)
from rtl_continual.training import (
    RELAXATION_POLICIES,
    CollapseReport,
    RegrowPolicy,
    Relaxation,
    RelaxationPolicy,
)

from .conftest import MeanRouter, values_of


@pytest.mark.parametrize("name", router_names())
def test_routers_that_ship_conform(name: str) -> None:
    outcomes = check_router(lambda: build_router(router_config_class(name)()))
    assert len(outcomes) >= 19


@pytest.mark.parametrize("name", schedule_names())
def test_schedules_that_ship_conform(name: str) -> None:
    check_sparsity_schedule(lambda: build_schedule(schedule_config_class(name)()))


@pytest.mark.parametrize("name", sorted(RELAXATION_POLICIES))
def test_relaxation_policies_that_ship_conform(name: str) -> None:
    config = RELAXATION_POLICIES.config_class(name)()
    check_relaxation_policy(lambda: RELAXATION_POLICIES.build(config))


class Tightens(RegrowPolicy):
    def relax(self, report: CollapseReport) -> Relaxation:
        return Relaxation(target=min(1.0, report.target + 0.01))


class NamesNoLayer(RegrowPolicy):
    def relax(self, report: CollapseReport) -> Relaxation:
        return Relaxation(target=report.target, layers={"no.such": 0.5})


class AnswersANumber(RegrowPolicy):
    def relax(self, report: CollapseReport) -> Any:
        return 0.9


class Counts(RegrowPolicy):
    asked = 0

    def relax(self, report: CollapseReport) -> Relaxation:
        self.asked += 1
        return Relaxation(target=report.target * 0.5**self.asked)


class Throws(RegrowPolicy):
    def relax(self, report: CollapseReport) -> Relaxation:
        return Relaxation(target=report.target * float(torch.rand(())))


class Scribbles(RegrowPolicy):
    def relax(self, report: CollapseReport) -> Relaxation | None:
        report.layer_sparsity.clear()  # type: ignore[attr-defined]
        return super().relax(report)


class TrustsTheScore(RegrowPolicy):
    def relax(self, report: CollapseReport) -> Relaxation:
        return Relaxation(target=report.target * report.score)


@pytest.mark.parametrize(
    ("policy", "property_name"),
    [
        (Tightens, "never_raises_the_target"),
        (TrustsTheScore, "never_raises_the_target"),
        (NamesNoLayer, "names_layers_of_the_report"),
        (AnswersANumber, "answers_with_a_relaxation"),
        (Counts, "keeps_no_state"),
        (Throws, "same_report_gives_the_same_answer"),
        (Throws, "changes_nothing_it_is_given"),
        (Scribbles, "changes_nothing_it_is_given"),
    ],
)
def test_a_wrong_policy_is_caught(policy: type[RelaxationPolicy], property_name: str) -> None:
    assert property_name in caught(check_relaxation_policy, policy)


@pytest.mark.parametrize("name", clusterer_names())
def test_clusterers_that_ship_conform(name: str) -> None:
    check_clusterer(lambda: build_clusterer(clusterer_config_class(name)()))


@pytest.mark.parametrize("name", detector_names())
def test_detectors_that_ship_conform(name: str) -> None:
    if name == "adwin":
        pytest.importorskip("river", reason="adwin is river's")
    check_shift_detector(lambda: build_detector(detector_config_class(name)()))


class Unsorted(KMeansClusterer):
    def cluster(self, features: torch.Tensor, targets: Any = None) -> np.ndarray:
        return 1 - super().cluster(features, targets)


class Jumpy(PageHinkley):
    def _evidence(self, statistic: float) -> float:
        return 1.0


class Deaf(PageHinkley):
    def _evidence(self, statistic: float) -> float:
        return 0.0


class Trusting(KMeansClusterer):
    """Takes what it is given, without a look."""

    def cluster(self, features: torch.Tensor, targets: Any = None) -> np.ndarray:
        return super().cluster(features.nan_to_num())


class Stubborn(PageHinkley):
    def _restart(self) -> None:
        return None


class Lenient(PageHinkley):
    def update(self, features: torch.Tensor, known: Any) -> Any:
        return super().update(features, known) if len(features) else self.observe(0.5)


def test_wrong_clusterers_and_detectors_are_caught() -> None:
    assert "every_sample_gets_a_group" in caught(check_clusterer, Unsorted)
    assert "stays_quiet_on_known_data" in caught(check_shift_detector, Jumpy)
    assert "notices_a_shift" in caught(check_shift_detector, Deaf)
    assert "a_sample_that_is_not_finite_is_refused" in caught(check_clusterer, Trusting)
    assert "data_of_a_ticket_that_was_added_are_known" in caught(check_shift_detector, Stubborn)
    assert "an_empty_batch_is_refused" in caught(check_shift_detector, Lenient)


def test_the_built_in_backbone_conforms() -> None:
    check_backbone(lambda: build_backbone("glyphnet"))


def test_the_built_in_stream_conforms() -> None:
    config = DigitsConfig(
        domains=("printed", "outline"), images_per_domain=20, test_images_per_domain=20
    )
    check_stream(lambda: build_stream(config))


def caught(check: Callable[..., Any], build: Callable[[], Any]) -> set[str]:
    with pytest.raises(ConformanceError) as error:
        check(build)
    assert all(outcome.problem in str(error.value) for outcome in error.value.outcomes)
    return {outcome.name for outcome in error.value.outcomes}


def test_a_router_of_ones_own_conforms() -> None:
    check_router(MeanRouter)


class BatchDependent(MeanRouter):
    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        answer = super().route(features)
        return answer._replace(confidence=answer.confidence * len(features) / 100)


class Mutating(MeanRouter):
    def fit(self, statistics: Any, samples: Any = None) -> None:
        super().fit(statistics)
        statistics[0].means += 1


class MutatingFeatures(MeanRouter):
    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        answer = super().route(features)
        features.data.mul_(2)
        return answer


class WrongShape(MeanRouter):
    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        answer = super().route(features)
        return answer._replace(ticket_ids=answer.ticket_ids[:, 0])


class WrongType(MeanRouter):
    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        answer = super().route(features)
        return answer._replace(ticket_ids=answer.ticket_ids.int())


class NotDeterministic(MeanRouter):
    generator = torch.Generator().manual_seed(0)

    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        answer = super().route(features)
        noise = torch.rand(len(features), generator=self.generator)
        return answer._replace(confidence=answer.confidence * noise)


class FitsAtRandom(MeanRouter):
    def fit(self, statistics: Any, samples: Any = None) -> None:
        super().fit(statistics)
        self.means = [mean + torch.randn(mean.shape) for mean in self.means]


class Forgets(MeanRouter):
    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"means": torch.stack(self.means)[:2]}


class Renumbers(MeanRouter):
    def add(self, statistics: FeatureMixture, samples: torch.Tensor | None = None) -> None:
        self.means = [statistics.moments()[0].float(), *self.means]


class Leaks(MeanRouter):
    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        answer = super().route(features)
        return answer._replace(confidence=answer.confidence + 0 * features.sum(dim=1))


class Careless(MeanRouter):
    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        return super().route(features) if self.means else Routing(*[torch.zeros(1, 1)] * 3)


class Greedy(MeanRouter):
    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        ids, _, confidence = super().route(features)
        ids = torch.cat([ids, (ids + 1) % self.num_tickets], dim=1)
        return Routing(ids, torch.tensor([0.7, 0.3]).expand(len(ids), 2), confidence)


class Priceless(MeanRouter):
    def flops(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("router", "property_name"),
    [
        (BatchDependent, "does_not_depend_on_the_batch"),
        (Mutating, "changes_nothing_it_is_given"),
        (MutatingFeatures, "changes_nothing_it_is_given"),
        (WrongShape, "answers_have_the_right_shape"),
        (WrongType, "answers_have_the_right_values"),
        (NotDeterministic, "same_input_gives_the_same_answer"),
        (FitsAtRandom, "same_statistics_give_the_same_router"),
        (FitsAtRandom, "leaves_the_random_state_alone"),
        (Forgets, "saves_and_loads"),
        (Renumbers, "adding_a_ticket_keeps_the_others_ids"),
        (Leaks, "leaks_no_gradient"),
        (Careless, "refuses_to_route_without_tickets"),
        (Greedy, "keeps_to_the_budget"),
        (Priceless, "counts_its_cost"),
    ],
)
def test_a_wrong_router_is_caught(router: type[MeanRouter], property_name: str) -> None:
    assert property_name in caught(check_router, router)


def test_a_declared_skip_is_shown() -> None:
    class Declared(Priceless):
        conformance_skips: ClassVar[dict[str, str]] = {"counts_its_cost": "it is free"}

    outcomes = {outcome.name: outcome for outcome in check_router(Declared)}
    assert outcomes["counts_its_cost"].skipped == "it is free"
    assert not outcomes["counts_its_cost"].passed


def test_a_skip_of_nothing_is_a_failure() -> None:
    class Misspelt(MeanRouter):
        conformance_skips: ClassVar[dict[str, str]] = {"counts_its_costs": "typing error"}

    assert caught(check_router, Misspelt) == {"conformance_skips"}


def test_what_cannot_be_built_is_a_failure() -> None:
    assert caught(check_router, lambda: 1 / 0) == {"can_be_built"}


class Overshoots(CubicSchedule):
    def sparsity(self, step: int, total_steps: int, **way: float) -> float:
        return super().sparsity(step, total_steps, **way) * 1.1


class Remembers(CubicSchedule):
    asked = 0

    def sparsity(self, step: int, total_steps: int, **way: float) -> float:
        self.asked += 1
        return super().sparsity(min(self.asked, total_steps), total_steps, **way)


@pytest.mark.parametrize(
    ("schedule", "property_name"),
    [
        (Overshoots, "stays_between_start_and_target"),
        (Overshoots, "reaches_its_target"),
        (Remembers, "keeps_no_state"),
    ],
)
def test_a_wrong_schedule_is_caught(schedule: type[SparsitySchedule], property_name: str) -> None:
    assert property_name in caught(check_sparsity_schedule, schedule)


def backbone(seed: int | None = 0, body: torch.nn.Module | None = None) -> Backbone:
    with torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        else:
            torch.seed()
        trunk = torch.nn.Conv2d(3, 4, 3)
        body = body or torch.nn.Sequential(
            torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 5)
        )
        return Backbone("toy", trunk, body, feature_dim=5, input_spec=InputSpec(size=(8, 8)))


def test_a_backbone_of_ones_own_conforms() -> None:
    check_backbone(backbone)


class Normalising(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = torch.nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.mean(dim=(2, 3))
        return self.out(x - x.mean(dim=0))


def test_wrong_backbones_are_caught() -> None:
    assert "is_built_the_same_again" in caught(check_backbone, lambda: backbone(seed=None))
    wrong = caught(check_backbone, lambda: backbone(body=Normalising()))
    assert "does_not_depend_on_the_batch" in wrong
    flat = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    assert {"body_gives_features", "body_can_be_masked"} <= caught(
        check_backbone, lambda: backbone(body=flat)
    )


def stream(*, leak: bool = False, fingerprint: str = "abc", labels: int = 2) -> Stream:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)
    targets = np.arange(12) % labels
    train = ArraySet(images[:6], targets[:6], 0)
    validation = ArraySet(images[6:9], targets[6:9], 0)
    test = train if leak else ArraySet(images[9:], targets[9:], 0)
    return Stream(
        "toy", ("a", "b"), ("d",), (Experience("d", train, validation),), {"d": test}, fingerprint
    )


def test_streams_are_checked() -> None:
    check_stream(stream)
    assert caught(check_stream, lambda: stream(leak=True)) == {"tests_are_not_trained_on"}
    assert caught(check_stream, lambda: stream(fingerprint="")) == {"is_the_same_again"}
    assert caught(check_stream, lambda: stream(labels=3)) == {"labels_are_known"}


def test_subjects_are_found_by_plugin_and_by_name(manager: Manager) -> None:
    plugin = values_of(
        register_routers={"mean": MeanRouter}, register_sparsity_schedules={"line": CubicSchedule}
    )
    manager.register(plugin, "mine")
    assert [(s.kind, s.name) for s in subjects_of(manager, "mine")] == [
        ("router", "mean"),
        ("sparsity schedule", "line"),
    ]
    (subject,) = subjects_of(manager, "mean")
    assert all(outcome.passed for outcome in check_plugin(subject))
    with pytest.raises(PluginError, match="unknown plugin 'minn'; did you mean 'mine'"):
        subjects_of(manager, "minn")

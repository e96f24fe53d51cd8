"""Executors: whatever the order of the work, each sample gets its ticket's outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rtl_continual.errors import BankError, RTLError
from rtl_continual.routing import Routing
from rtl_continual.tickets import (
    Executor,
    GroupedExecutor,
    SeparateExecutor,
    TicketBank,
    build_executor,
    executor_config_class,
    executor_names,
)


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (9, 3, 32, 32), generator=generator, dtype=torch.uint8)


IDS = [2, 0, 1, 0, 0, 2, 1, 2, 0]


@pytest.mark.parametrize("name", executor_names())
def test_each_sample_gets_its_tickets_outputs(
    name: str, bank: TicketBank, images: torch.Tensor
) -> None:
    bank.executor = build_executor(executor_config_class(name)())
    found = bank.predict(images, ticket_ids=IDS).outputs
    for row, ticket in enumerate(IDS):
        alone = bank.run_ticket(ticket, bank.backbone.run_trunk(images[row : row + 1]).activation)
        assert torch.allclose(found[row], alone[0], atol=1e-5), row


def test_separate_has_the_same_bits_in_any_batch(bank: TicketBank, images: torch.Tensor) -> None:
    bank.executor = SeparateExecutor()
    activation = bank.backbone.run_trunk(images).activation
    whole = bank.executor.execute(bank, activation, torch.tensor(IDS))
    for row, ticket in enumerate(IDS):
        part = activation[row : row + 1]
        alone = bank.executor.execute(bank, part, torch.tensor([ticket]))
        assert torch.equal(alone[0], whole[row])


def test_grouped_runs_each_ticket_once(bank: TicketBank, images: torch.Tensor) -> None:
    runs: list[tuple[int, int]] = []

    class Counting:
        def run_ticket(self, ticket_id: int, activation: torch.Tensor) -> torch.Tensor:
            runs.append((ticket_id, len(activation)))
            return bank.run_ticket(ticket_id, activation)

    activation = bank.backbone.run_trunk(images).activation
    GroupedExecutor().execute(Counting(), activation, torch.tensor(IDS))
    assert runs == [(0, 4), (1, 2), (2, 3)]


class Fixed:
    """A router with a given answer."""

    num_tickets = 3

    def __init__(self, ids: list[list[int]], weights: list[list[float]]) -> None:
        self.answer = Routing(torch.tensor(ids), torch.tensor(weights), torch.ones(len(ids)))

    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Any:
        return self.answer


def test_samples_without_a_ticket_never_reach_an_executor(
    bank: TicketBank, images: torch.Tensor
) -> None:
    bank.router = Fixed([[0], [-1], [2], [0], [-1], [2], [1], [1], [0]], [[1.0]] * 9)
    answer = bank.predict(images)
    assert torch.isnan(answer.outputs).all(dim=1).tolist() == [i in (1, 4) for i in range(9)]
    assert answer.labels[[1, 4]].tolist() == [-1, -1]
    known = bank.predict(images[[0, 2]], ticket_ids=[0, 2]).outputs
    assert torch.allclose(answer.outputs[[0, 2]], known, atol=1e-5)


def test_mixtures_are_the_weighted_mean_of_probabilities(
    bank: TicketBank, images: torch.Tensor
) -> None:
    ids = [[0, 1], [-1, -1], [2, 0]]
    bank.router = Fixed(ids, [[0.75, 0.25], [1.0, 0.0], [0.5, 0.5]])
    mixed = bank.predict(images[:3]).outputs
    first, second, third = (
        bank.predict(images[:3], ticket_ids=i).outputs.softmax(dim=1) for i in range(3)
    )
    assert torch.allclose(mixed[0].exp(), 0.75 * first[0] + 0.25 * second[0], atol=1e-5)
    assert torch.isnan(mixed[1]).all()
    assert torch.allclose(mixed[2].exp(), 0.5 * third[2] + 0.5 * first[2], atol=1e-5)


def test_an_executor_that_gives_the_wrong_shape_is_named(
    bank: TicketBank, images: torch.Tensor
) -> None:
    class Short(GroupedExecutor):
        name = "short"

        def execute(self, bank: Any, activation: Any, ticket_ids: Any) -> torch.Tensor:
            return super().execute(bank, activation, ticket_ids)[:-1]

    bank.executor = Short()
    with pytest.raises(
        BankError, match=r"executor 'short' must give outputs \[9, \d+\], got \[8, "
    ):
        bank.predict(images, ticket_ids=0)


IDS_OF_NONE = torch.zeros(9, 1, dtype=torch.int64)
ONES = torch.ones(9, 1)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "must answer with a Routing of three tensors, got <class 'NoneType'>"),
        ((IDS_OF_NONE, ONES), "must answer with a Routing"),
        (Routing(IDS_OF_NONE[:, 0], ONES, ONES[:, 0]), r"got \[9\], \[9, 1\] and \[9\]"),
        (Routing(IDS_OF_NONE[:8], ONES[:8], ONES[:8, 0]), r"weights \[9, k\].*got \[8, 1\]"),
        (Routing(ONES, ONES, ONES[:, 0]), "ticket_ids as integers, got torch.float32"),
        (Routing(IDS_OF_NONE + 99, ONES, ONES[:, 0]), "gives ticket_ids 99 to 99; the bank has 0"),
        (Routing(IDS_OF_NONE - 7, ONES, ONES[:, 0]), "gives ticket_ids -7 to -7"),
        (Routing(IDS_OF_NONE, ONES * torch.nan, ONES[:, 0]), "not finite"),
        (Routing(IDS_OF_NONE, ONES, ONES[:, 0] * torch.inf), "not finite"),
    ],
)
def test_a_router_that_answers_badly_is_named(
    bank: TicketBank, images: torch.Tensor, answer: Any, message: str
) -> None:
    class Bad:
        name = "bad"

        def route(self, features: torch.Tensor) -> Any:
            return answer

    bank.router = Bad()  # type: ignore[assignment]
    with pytest.raises(BankError, match=f"router 'bad' .*{message}"):
        bank.predict(images)


def test_unknown_executors_are_refused() -> None:
    with pytest.raises(RTLError, match="unknown executor 'groupd'; did you mean 'grouped'"):
        executor_config_class("groupd")
    assert issubclass(GroupedExecutor, Executor)

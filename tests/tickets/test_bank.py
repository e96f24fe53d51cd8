from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from rtl_continual.errors import BankError, DataError
from rtl_continual.routing import FeatureMixture, FlatRouter, FlatRouterConfig, Routing
from rtl_continual.tasks import Classification
from rtl_continual.tickets import Mask, MaskLayout, Ticket, TicketBank, TicketInfo, union
from rtl_continual.tickets._executor import take_rows

MakeImages = Callable[[int, int], torch.Tensor]
MakeTicket = Callable[..., Ticket]
Mixed = tuple[torch.Tensor, torch.Tensor]


class FixedRouter:
    """Answers with what it was given, row by row."""

    def __init__(self, ids: torch.Tensor, weights: torch.Tensor) -> None:
        self.ids, self.weights = ids, weights

    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        return Routing(self.ids, self.weights, self.weights.max(dim=1).values)


def test_an_empty_bank(backbone: nn.Module) -> None:
    bank = TicketBank(backbone, Classification(3))
    assert len(bank) == 0
    assert bank.names == bank.tickets == ()
    assert bank.similarity().shape == (0, 0)
    assert bank.similarity_to(Mask.from_flat(bank.layout, torch.ones(bank.layout.total))) is None
    assert bank.parameter_counts()["union"] == 0
    with pytest.raises(BankError, match="the bank is empty"):
        bank.predict(torch.zeros(1, 3, 32, 32))
    with pytest.raises(BankError, match="no ticket 0; the bank has 0"):
        bank[0]


def test_tickets_are_kept_in_order(bank: TicketBank) -> None:
    assert bank.names == ("ticket-0", "ticket-1", "ticket-2")
    assert [ticket.id for ticket in bank] == [0, 1, 2]
    assert bank[2] is bank.tickets[2]
    with pytest.raises(BankError, match="no ticket -1"):
        bank[-1]


def test_only_the_next_id_is_taken(bank: TicketBank, make_ticket: MakeTicket) -> None:
    with pytest.raises(BankError, match="the next ticket's id is 3, got 5"):
        bank.append(make_ticket(bank, id=5))
    assert len(bank) == 3


def test_names_are_unique(bank: TicketBank, make_ticket: MakeTicket) -> None:
    with pytest.raises(BankError, match="'ticket-1' is already in the bank"):
        bank.append(make_ticket(bank, info=TicketInfo("ticket-1")))


def test_tickets_of_another_body_or_task_are_refused(
    bank: TicketBank, make_ticket: MakeTicket
) -> None:
    shapes = dict(bank.layout.shapes)
    first = next(iter(shapes))
    others = [
        {**shapes, first: (1, 1)},
        {name: shapes[name] for name in list(shapes)[1:]},
        dict(reversed(shapes.items())),  # the same weights, but other bits
    ]
    for other in others:
        layout = MaskLayout(other)
        mask = Mask.from_flat(layout, torch.ones(layout.total))
        with pytest.raises(BankError, match="'ticket-3' masks another body"):
            bank.append(make_ticket(bank, mask=mask))
    norm = dict(bank[0].norm)
    name = next(iter(norm))
    for foreign in ({**norm, name: torch.ones(99)}, {**norm, "x": torch.ones(1)}, {}):
        with pytest.raises(BankError, match="'ticket-3' has norm state of another body"):
            bank.append(make_ticket(bank, norm=foreign))
    for head in (nn.Linear(16, 7), nn.Linear(16, 5, bias=False)):
        with pytest.raises(BankError, match="'ticket-3' has a head of another task"):
            bank.append(make_ticket(bank, head=head.state_dict()))
    assert len(bank) == 3


def test_a_mixed_batch_is_answered_in_order(bank: TicketBank, mixed: Mixed) -> None:
    images, domains = mixed
    answer = bank.predict(images)
    assert torch.equal(answer.ticket_ids, domains)
    assert (answer.confidence > 0.5).all()
    assert torch.equal(answer.labels, answer.outputs.argmax(dim=1))
    for i, image in enumerate(images):
        alone = bank.predict(image[None])
        assert alone.ticket_ids.item() == answer.ticket_ids[i]
        # Convolutions may sum in another order in a batch of another size; nothing else differs.
        torch.testing.assert_close(alone.outputs[0], answer.outputs[i], rtol=1e-5, atol=1e-5)


@torch.inference_mode()  # as `predict` runs: gradients ask for weights of another order
def test_groups_do_not_see_each_other(bank: TicketBank, mixed: Mixed) -> None:
    images, domains = mixed
    answer = bank.predict(images)
    images = images.contiguous(memory_format=torch.channels_last)
    activation = bank.run_trunk(images).activation
    for ticket_id in range(3):
        rows = (domains == ticket_id).nonzero().flatten()
        alone = bank.run_ticket(ticket_id, take_rows(activation, rows))
        assert torch.equal(answer.outputs[rows], alone)


def test_the_trunk_runs_once_and_the_body_once_for_each_ticket(
    bank: TicketBank, mixed: Mixed
) -> None:
    images, domains = mixed
    bank.predict(images[:1])  # once in a backbone's life its body is asked for its sizes
    calls: list[tuple[str, int]] = []
    for name, module in (("trunk", bank.backbone.trunk), ("body", bank.backbone.body)):
        module.register_forward_pre_hook(
            lambda _, args, name=name: calls.append((name, len(args[0])))
        )
    bank.predict(images)
    counts = torch.bincount(domains).tolist()
    assert calls == [("trunk", 12), *(("body", count) for count in counts)]
    calls.clear()
    bank.predict(images, batch_size=5, ticket_ids=1)
    assert calls == [
        ("trunk", 5),
        ("body", 5),
        ("trunk", 5),
        ("body", 5),
        ("trunk", 2),
        ("body", 2),
    ]


def test_batches_are_put_together_in_order(bank: TicketBank, mixed: Mixed) -> None:
    images, domains = mixed
    whole, parts = bank.predict(images), bank.predict(images, batch_size=5)
    assert torch.equal(parts.ticket_ids, domains)
    torch.testing.assert_close(parts.outputs, whole.outputs, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_given_tickets_replace_the_router(bank: TicketBank, mixed: Mixed) -> None:
    images, _ = mixed
    wanted = [0, 1, 2, -1] * 3
    answer = bank.predict(images, ticket_ids=wanted)
    assert answer.ticket_ids.tolist() == wanted
    assert answer.confidence.tolist() == [1.0] * 12
    nobody = torch.tensor(wanted) < 0
    assert answer.outputs[nobody].isnan().all()
    assert (answer.labels[nobody] == -1).all()
    channels_last = images.contiguous(memory_format=torch.channels_last)
    activation = bank.run_trunk(channels_last).activation
    one = bank.predict(images, ticket_ids=1)
    assert torch.equal(one.outputs, bank.run_ticket(1, activation))
    torch.testing.assert_close(answer.outputs[1::4], one.outputs[1::4], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (3, "ticket_ids must be 0 to 2, or -1 for none, got 3 to 3"),
        (-2, "got -2 to -2"),
        ([0] * 11 + [9], "got 0 to 9"),
        ([0, 1], r"one number or one for each of 12 images, got \[2\]"),
        (torch.zeros(12, 1, dtype=torch.int64), r"got \[12, 1\]"),
    ],
)
def test_unknown_tickets_are_refused(
    bank: TicketBank, mixed: Mixed, wanted: object, message: str
) -> None:
    with pytest.raises(BankError, match=message):
        bank.predict(mixed[0], ticket_ids=wanted)  # type: ignore[arg-type]


def test_a_bank_without_router_answers_for_given_tickets_only(
    bank: TicketBank, mixed: Mixed
) -> None:
    bank.router = None
    with pytest.raises(BankError, match="the bank has no router"):
        bank.predict(mixed[0])
    assert bank.predict(mixed[0], ticket_ids=0).outputs.isfinite().all()


def test_no_images_give_no_answers(bank: TicketBank) -> None:
    for ticket_ids in (None, 1, []):
        answer = bank.predict(torch.zeros(0, 3, 32, 32), ticket_ids=ticket_ids)
        assert answer.outputs.shape == (0, 5)
        assert len(answer.ticket_ids) == len(answer.labels) == len(answer.confidence) == 0


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 32, 32), r"\[batch, 3, 32, 32\], got \[2, 1, 32, 32\]"),
        (torch.zeros(3, 32, 32), r"got \[3, 32, 32\]"),
        (torch.zeros(2, 3, 16, 16), r"got \[2, 3, 16, 16\]"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.int64), "got torch.int64"),
        (np.zeros((2, 3, 32, 32), np.uint8), "must be a tensor .*, got ndarray"),
        (torch.arange(3.0)[:, None, None, None].expand(3, 3, 32, 32), r"0 to 2 .* is image 2\)"),
        (torch.full((1, 3, 32, 32), -0.5), r"from -0.5 to -0.5 .*divide by 255 or give uint8"),
    ],
)
def test_wrong_images_are_refused(bank: TicketBank, images: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        bank.predict(images)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_image_that_is_not_finite_is_named(bank: TicketBank, value: float) -> None:
    images = torch.rand(12, 3, 32, 32)
    images[7, 1, 4, 4] = value
    with pytest.raises(DataError, match="image 7 of the batch"):
        bank.predict(images, batch_size=5)


def test_where_the_router_abstains_there_is_no_answer(bank: TicketBank, mixed: Mixed) -> None:
    images, _ = mixed
    ids = torch.tensor([0, -1, 1] * 4)[:, None]
    bank.router = FixedRouter(ids, torch.full((12, 1), 0.5))  # type: ignore[assignment]
    answer = bank.predict(images)
    away = ids[:, 0] < 0
    assert torch.equal(answer.ticket_ids, ids[:, 0])
    assert answer.outputs[away].isnan().all()
    assert answer.outputs[~away].isfinite().all()
    assert (answer.labels[away] == -1).all()
    assert (answer.labels[~away] >= 0).all()
    assert answer.confidence.tolist() == [0.5] * 12


def test_a_strict_flat_router_abstains(bank: TicketBank, make_images: MakeImages) -> None:
    router = FlatRouter(FlatRouterConfig(abstain_below=0.99))
    router.fit([FeatureMixture(ticket.statistics) for ticket in bank])
    bank.router = router
    between = (make_images(0, 20).int() + make_images(1, 20).int()) // 2
    images = torch.cat([make_images(0, 20), between.to(torch.uint8)])
    answer = bank.predict(images)
    assert torch.equal(answer.ticket_ids < 0, answer.confidence < 0.99)
    assert torch.equal(answer.outputs.isnan().all(dim=1), answer.ticket_ids < 0)
    assert (answer.ticket_ids[:20] == 0).all()
    assert (answer.ticket_ids[20:] < 0).any()


def test_several_tickets_for_one_input_are_averaged(bank: TicketBank, mixed: Mixed) -> None:
    images, _ = mixed
    ids = torch.tensor([[0, 1], [2, 0], [1, -1], [-1, -1]] * 3)
    weights = torch.tensor([[0.7, 0.3], [0.5, 0.5], [1.0, 0.0], [0.5, 0.5]] * 3)
    bank.router = FixedRouter(ids, weights)  # type: ignore[assignment]
    answer = bank.predict(images)
    activation = bank.backbone.run_trunk(images).activation
    each = torch.stack([bank.run_ticket(i, activation).softmax(dim=1) for i in range(3)])
    for row in range(12):
        if ids[row, 0] < 0:
            assert answer.outputs[row].isnan().all()
            assert answer.labels[row] == -1
            continue
        chosen = [(int(i), w) for i, w in zip(ids[row], weights[row], strict=True) if i >= 0]
        expected = sum(w * each[i, row] for i, w in chosen).log()
        torch.testing.assert_close(answer.outputs[row], expected, rtol=1e-4, atol=1e-5)
        assert answer.labels[row] == expected.argmax()


def test_later_tickets_do_not_change_a_bit_of_earlier_ones(
    bank: TicketBank, mixed: Mixed, make_ticket: MakeTicket
) -> None:
    images, domains = mixed
    bank._cache.budget = 0  # every ticket is made anew when it is used
    prints = [ticket.fingerprint for ticket in bank]
    before = bank.predict(images, ticket_ids=domains).outputs
    for _ in range(5):
        bank.append(make_ticket(bank))
        bank.predict(images, ticket_ids=len(bank) - 1)
    assert len(bank) == 8
    assert torch.equal(bank.predict(images, ticket_ids=domains).outputs, before)
    assert [ticket.fingerprint for ticket in bank][:3] == prints


def test_a_ticket_is_the_body_with_masked_weights(bank: TicketBank, mixed: Mixed) -> None:
    ticket = bank[1]
    body = copy.deepcopy(bank.backbone.body)
    with torch.no_grad():
        for name, weight in body.named_parameters():
            if name in bank.layout.shapes:
                weight.mul_(ticket.mask.layer(name))
    body.load_state_dict(dict(ticket.norm), strict=False)
    head = nn.Linear(16, 5)
    head.load_state_dict(dict(ticket.head))
    activation = bank.backbone.run_trunk(mixed[0]).activation
    physical = head(body.to(memory_format=torch.channels_last)(activation))
    assert torch.equal(bank.run_ticket(1, activation), physical)
    assert not torch.allclose(bank.run_ticket(0, activation), physical)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_groups_keep_the_memory_order(
    bank: TicketBank, mixed: Mixed, memory_format: torch.memory_format
) -> None:
    seen: list[bool] = []
    bank.predict(mixed[0])
    bank.backbone.body.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].is_contiguous(memory_format=memory_format))
    )
    activation = bank.backbone.run_trunk(mixed[0]).activation
    activation = activation.contiguous(memory_format=memory_format)
    outputs = bank.executor.execute(bank, activation, mixed[1])
    assert seen == [True] * 3
    torch.testing.assert_close(outputs, bank.predict(mixed[0]).outputs, rtol=1e-5, atol=1e-5)


def test_threads_predict_at_the_same_time(bank: TicketBank, mixed: Mixed) -> None:
    images, domains = mixed
    jobs = [
        (images, None),
        *((images[torch.randperm(12)], None) for _ in range(5)),
        *((images, torch.full((12,), i)) for i in range(3)),
        *((images[i : i + 1], None) for i in range(12)),
    ]
    alone = [bank.predict(x, ticket_ids=ids).outputs for x, ids in jobs]
    bank._cache.budget = 0  # and every ticket is made anew in between
    start = threading.Barrier(4)

    def work(seed: int) -> list[bool]:
        start.wait(60)
        order = torch.randperm(len(jobs), generator=torch.Generator().manual_seed(seed))
        return [
            torch.equal(bank.predict(jobs[i][0], ticket_ids=jobs[i][1]).outputs, alone[i])
            for i in order.tolist() * 3
        ]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(all(same) for same in pool.map(work, range(4)))
    finally:
        sys.setswitchinterval(interval)
    assert 1 <= len(bank._networks._free) <= 4
    assert len(bank.predict(images).outputs) == len(domains)


def test_predicting_leaves_the_backbone_as_it_is(bank: TicketBank, mixed: Mixed) -> None:
    before = bank.backbone.compute_identity()
    bank.predict(mixed[0])
    assert bank.backbone.compute_identity() == before


def test_cached_weights_are_of_use_to_autograd(bank: TicketBank, mixed: Mixed) -> None:
    bank.predict(mixed[0])
    activation = bank.backbone.run_trunk(mixed[0]).activation.requires_grad_()
    bank.run_ticket(0, activation).sum().backward()
    assert activation.grad.isfinite().all()


def test_the_cache_keeps_to_its_budget(bank: TicketBank, mixed: Mixed) -> None:
    images, _ = mixed
    expected = [bank.predict(images, ticket_ids=i).outputs for i in range(3)]
    one = bank._cache.used // 3
    assert one > 4 * bank.layout.total
    small = TicketBank(
        bank.backbone, bank.task, bank.router, tickets=bank.tickets, cache_bytes=2 * one
    )
    for wanted, kept in ((0, [0]), (1, [0, 1]), (0, [1, 0]), (2, [0, 2])):
        assert torch.equal(small.predict(images, ticket_ids=wanted).outputs, expected[wanted])
        assert small.prepared == tuple(kept)
        assert small._cache.used <= 2 * one


def test_parameter_counts(bank: TicketBank) -> None:
    counts = bank.parameter_counts()
    kept = torch.stack([ticket.mask.to_flat() for ticket in bank]).any(dim=0)
    assert bank.union_mask() == union([ticket.mask for ticket in bank])
    assert counts["union"] == int(kept.sum())
    body, trunk = bank.backbone.body, bank.backbone.trunk
    norms = [m for m in body.modules() if isinstance(m, nn.BatchNorm2d)]
    # Affine weight and bias, running mean and variance.
    norm = sum(4 * m.num_features for m in norms)
    assert counts["norm"] == 3 * norm
    assert counts["heads"] == 3 * (16 * 5 + 5)
    assert counts["body"] == bank.layout.total + norm
    assert counts["body_other"] == 0
    assert counts["trunk"] == sum(
        t.numel() for n, t in trunk.state_dict().items() if "num_batches" not in n
    )


def test_similarity_of_the_bank(bank: TicketBank) -> None:
    matrix = bank.similarity()
    assert matrix.shape == (3, 3)
    assert matrix[0, 1] == bank[0].mask.jaccard(bank[1].mask)
    # Random masks of density 0.3 overlap by 0.3 / 1.7 = 0.176, and not at all beyond chance.
    assert matrix[0, 1] == pytest.approx(0.176, abs=0.03)
    assert bank.similarity_to(bank[0].mask) == pytest.approx(matrix[0].mean())
    assert bank.similarity(corrected=True)[0, 1] == pytest.approx(0, abs=0.03)

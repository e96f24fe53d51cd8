from __future__ import annotations

import math

import pytest
import torch

from rtl_continual.routing import FeatureMixture, FlatRouter, FlatRouterConfig

WIDTH = 10


def cluster(index: int, count: int = 200) -> torch.Tensor:
    center = torch.randn(WIDTH, generator=torch.Generator().manual_seed(index)) * 3
    noise = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(100 + index))
    return (noise + center) * torch.logspace(-1, 1, WIDTH) + 20


def router_over(count: int) -> FlatRouter:
    router = FlatRouter(FlatRouterConfig(samples_per_ticket=128))
    router.fit([FeatureMixture.fit(cluster(index)) for index in range(count)])
    return router


def test_joint_training_teaches_the_gate_the_new_ticket() -> None:
    router, new = router_over(2), cluster(2)
    gate = router.gate_learner(new)
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.05)
    losses = []
    for step in range(60):
        optimizer.zero_grad()
        loss = gate.loss(new[(step * 16) % 192 :][:16])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    # All three tickets are equally likely before the first step.
    assert losses[0] == pytest.approx(math.log(3))
    assert losses[-1] < 0.3 * losses[0]
    weight, bias = gate.folded()
    found = (torch.cat([cluster(i) for i in range(3)]).double() @ weight.T + bias).argmax(dim=1)
    assert (found == torch.arange(3).repeat_interleave(200)).float().mean() > 0.95


def test_folding_takes_the_scaling_in() -> None:
    gate = router_over(1).gate_learner(cluster(1))
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    x = cluster(1, 5)
    logits = ((x.double() - gate.mean) / gate.scale) @ gate.weight.double().T + gate.bias
    weight, bias = gate.folded()
    torch.testing.assert_close(x.double() @ weight.T + bias, logits.detach())


def test_the_first_ticket_has_nothing_to_be_told_from() -> None:
    router, new = FlatRouter(), cluster(0)
    gate = router.gate_learner(new)
    loss = gate.loss(new[:16])
    loss.backward()
    assert loss == 0
    assert not gate.weight.grad.any()
    router.add_trained([FeatureMixture.fit(new)], gate)
    assert router.num_tickets == 1
    assert not router.route(new).ticket_ids.any()


def test_a_trained_gate_is_where_the_fit_starts_and_not_where_it_ends() -> None:
    new = FeatureMixture.fit(cluster(2))
    plain, started = router_over(2), router_over(2)
    gate = started.gate_learner(cluster(2))
    with torch.no_grad():
        gate.weight.normal_()
    plain.add(new)
    started.add_trained([new], gate)
    features = torch.cat([cluster(index) for index in range(3)])
    one, other = plain.route(features), started.route(features)
    assert torch.equal(one.ticket_ids, other.ticket_ids)
    torch.testing.assert_close(one.confidence, other.confidence, atol=0.02, rtol=0)


def test_old_tickets_count_as_much_as_the_new_one() -> None:
    gate = router_over(3).gate_learner(cluster(3))
    with torch.no_grad():
        gate.bias.copy_(torch.tensor([0.0, 0, 0, 2]))
    total = torch.tensor([0.0, 0, 0, 2]).logsumexp(dim=0)
    expected = (1 * (total - 2) + 3 * total) / 4
    torch.testing.assert_close(gate.loss(cluster(3)[:8]), expected)

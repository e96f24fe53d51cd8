from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rtl_continual.tickets._skeleton import Pool, Skeleton


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()


def other_values(module: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: torch.rand(t.shape) if t.is_floating_point() else t + 1
        for name, t in module.state_dict().items()
    }


def test_a_call_is_functional_call() -> None:
    module, x = network(), torch.rand(5, 4)
    values = other_values(module)
    twin = Skeleton(module)
    assert torch.equal(twin(values, x), torch.func.functional_call(module, values, (x,)))
    assert torch.equal(twin({}, x), module(x))
    some = {"0.weight": values["0.weight"]}
    assert torch.equal(twin(some, x), torch.func.functional_call(module, some, (x,)))


def test_nothing_is_copied_and_nothing_stays() -> None:
    module = network()
    twin = Skeleton(module)
    twin(other_values(module), torch.rand(2, 4))
    for (name, own), (twins_name, twins) in zip(
        module.state_dict(keep_vars=True).items(),
        twin.module.state_dict(keep_vars=True).items(),
        strict=True,
    ):
        assert (name, id(own)) == (twins_name, id(twins))


def test_a_failed_call_leaves_nothing_behind() -> None:
    module = network()
    twin = Skeleton(module)
    with pytest.raises(KeyError):
        twin(other_values(module) | {"9.weight": torch.zeros(1)}, torch.rand(2, 4))
    with pytest.raises(RuntimeError):
        twin(other_values(module), torch.rand(2, 7))
    x = torch.rand(2, 4)
    assert torch.equal(twin({}, x), module(x))


def test_the_mode_is_the_twins_own() -> None:
    module = network()
    twin = Skeleton(module)
    before = {name: t.clone() for name, t in module.state_dict().items()}
    values = {n: t.clone() for n, t in module.state_dict().items() if n.startswith("1.")}
    twin.module.train()
    twin(values, torch.rand(8, 4))
    assert not module.training
    assert values["1.num_batches_tracked"] == 1
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())


def test_gradients_reach_what_was_given() -> None:
    module = network().requires_grad_(False)
    weight = torch.rand(3, 4, requires_grad=True)
    Skeleton(module)({"0.weight": weight * 2}, torch.rand(5, 4)).sum().backward()
    assert weight.grad is not None


def test_a_tied_tensor_is_replaced_everywhere() -> None:
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    twin = Skeleton(module)
    for name in ("0.weight", "1.weight"):
        assert torch.equal(twin({name: 2 * torch.eye(3)}, torch.ones(3)), torch.full((3,), 4.0))


def test_hooks_are_shared_those_set_later_too() -> None:
    module = network()
    twin = Skeleton(module)
    seen: list[int] = []
    handle = module[0].register_forward_hook(lambda *_: seen.append(1))
    twin({}, torch.rand(2, 4))
    handle.remove()
    twin({}, torch.rand(2, 4))
    assert seen == [1]


def test_a_pool_makes_what_is_in_use_at_once() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return len(made)

    pool = Pool(make)
    with pool.borrow() as first, pool.borrow() as second:
        assert (first, second) == (1, 2)
    with pytest.raises(ZeroDivisionError), pool.borrow():
        _ = 1 / 0
    with pool.borrow() as third:
        assert third in (1, 2)
    assert len(made) == 2
    with copy.deepcopy(pool).borrow() as new:
        assert new == 3

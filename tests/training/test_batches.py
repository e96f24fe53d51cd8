from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rtl_continual.training import (
    JointConfig,
    TicketConfig,
    epoch_batches,
    steps_per_epoch,
)


@given(st.integers(1, 300), st.integers(2, 70), st.integers(0, 50), st.integers(0, 50))
def test_an_epoch_has_every_sample_once(count: int, size: int, seed: int, epoch: int) -> None:
    batches = list(epoch_batches(count, size, seed, epoch))
    assert sorted(torch.cat(batches).tolist()) == list(range(count))
    assert len(batches) == steps_per_epoch(count, size)
    lengths = [len(batch) for batch in batches]
    assert set(lengths[:-1]) <= {size}
    # Batch norm cannot learn from one sample, so it joins the batch before it.
    assert lengths[-1] <= size + 1
    assert lengths[-1] > 1 or count == 1


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat(list(epoch_batches(50, 8, seed, epoch))).tolist()

    assert order(0, 0) == order(0, 0)
    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(o) for o in orders}) == 9


@pytest.mark.parametrize("config_class", [TicketConfig, JointConfig])
@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 1.0},
        {"sparsity": -0.1},
        {"batch_size": 1},
        {"layer_floor": 1.0},
        {"cache_bytes": -1},
        {"sparsty": 0.5},
    ],
)
def test_options_out_of_range_are_refused(
    config_class: type[TicketConfig] | type[JointConfig], options: dict[str, float]
) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        config_class(**options)  # type: ignore[arg-type]

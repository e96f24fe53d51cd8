"""bfloat16 and torch.compile: optional, and equal to plain training within a tolerance."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from rtl_continual.errors import RTLError
from rtl_continual.streams import ArraySet
from rtl_continual.tickets import TicketBank, TicketInfo, _skeleton
from rtl_continual.training import TicketConfig, TicketLearner, TrunkCache, learn_ticket

pytestmark = pytest.mark.filterwarnings(
    # torch.compile looks at every tensor that goes in, masked weights too.
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)

MakeData = Callable[..., ArraySet]


def losses(bank: TicketBank, cache: TrunkCache, **options: object) -> tuple[list[float], object]:
    config = TicketConfig(batch_size=16, shift=0, **options)  # type: ignore[arg-type]
    learner = TicketLearner(bank, config, total_steps=12, seed=0)
    found = []
    for step in range(12):
        index = torch.arange(16) + 16 * step % 96
        activation, _, targets = cache.batch(index)
        found.append(float(learner.step(activation, targets)[0]))
    return found, learner.finish(cache.features, TicketInfo("a"), seed=0)


def test_bfloat16_learns_what_float32_learns(bank: TicketBank, make_data: MakeData) -> None:
    cache = TrunkCache(bank, make_data(), 10**8)
    (plain, _), (low, ticket) = (losses(bank, cache, precision=p) for p in ("float32", "bfloat16"))
    assert plain != low, "nothing was computed in bfloat16"
    # Eight bits of mantissa; small differences grow from step to step.
    assert low == pytest.approx(plain, rel=0.1, abs=0.05)
    assert {t.dtype for t in ticket.tensors().values() if t.is_floating_point()} <= {
        torch.float32,
        torch.float16,
    }


def test_a_ticket_learned_in_bfloat16_answers(bank: TicketBank, make_data: MakeData) -> None:
    config = TicketConfig(epochs=15, batch_size=16, precision="bfloat16")
    bank.append(learn_ticket(bank, make_data(0), config, info=TicketInfo("a"), seed=0)[0])
    test = make_data(0, 40, seed=1)
    images, targets = test.batch(range(40))
    assert (bank.predict(images, ticket_ids=0).labels == targets).float().mean() > 0.8


def test_compiled_steps_are_plain_steps(
    bank: TicketBank, make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is captured and differentiated as for a compiler; only code generation is not."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(_skeleton, "_check_compiler", lambda: None)
    cache = TrunkCache(bank, make_data(), 10**8)
    plain, _ = losses(bank, cache)
    compiled, _ = losses(bank, cache, compile=True)
    assert compiled == pytest.approx(plain, rel=1e-3, abs=1e-4)


def test_without_a_compiler_one_message_says_so(
    bank: TicketBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(RTLError, match=r"needs a C\+\+ compiler"):
        TicketLearner(bank, TicketConfig(compile=True), total_steps=1, seed=0)

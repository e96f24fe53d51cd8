from __future__ import annotations

from collections.abc import Callable

import torch

from rtl_continual.streams import ArraySet
from rtl_continual.tickets import TicketBank, TicketInfo
from rtl_continual.training import TicketConfig, commit_ticket, learn_ticket

MakeData = Callable[..., ArraySet]


def test_a_ticket_of_whole_units_is_learned_and_extracted(
    bank: TicketBank, make_data: MakeData
) -> None:
    config = TicketConfig(kind="units", sparsity=0.5, epochs=20, batch_size=16)
    ticket, learner = learn_ticket(bank, make_data(0), config, info=TicketInfo("a"), seed=0)
    commit_ticket(bank, ticket, learner)
    assert 0.5 <= ticket.mask.sparsity < 0.6
    small = bank.extract(0)
    assert small.body.block3.conv1.out_channels < bank.backbone.body.block3.conv1.out_channels
    test = make_data(0, 40, seed=1)
    images, targets = test.batch(range(40))
    with torch.no_grad():
        outputs = small(bank.backbone.run_trunk(images).activation)
    torch.testing.assert_close(outputs, bank.predict(images).outputs, rtol=1e-4, atol=1e-4)
    # Chance is 0.25. Whole units cost far more here than single weights: 0.73 against 1.0.
    assert (outputs.argmax(dim=1) == targets).float().mean() > 0.6

"""How much faster a ticket of whole units runs, once the units are taken out.

Baseline: the dense body with a head. ``slim``: ``bank.extract`` of a ticket whose units are chosen
at random so that the body costs half its FLOPs; batch norms are folded into its convolutions.
``folded``: the dense body with as much folded, to tell what that alone is worth. ``masked``: the
same ticket before it is extracted; its zeros save nothing on dense kernels. ``error`` is the
largest difference of their outputs, on a CUDA device in full float32.

Usage: python benchmarks/slim_tickets.py [--quick] [--threads N] [--device cuda] [--models A,B]
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from _banks import CLASSES, made_up_ticket, speed_backbone
from _timing import Report, parser
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rtl_continual.tasks import Classification
from rtl_continual.tickets import TicketBank, UnitScores, find_units
from rtl_continual.tickets._folding import fold_norms

PIXELS = {
    "resnet18": 128,
    "resnet50": 96,
    "mobilenet_v2": 96,
    "efficientnet_lite0": 128,
    "vit_b_16": 64,
}


def flops(module: nn.Module, activation: torch.Tensor) -> int:
    """Of one pass."""
    counter = FlopCounterMode(display=False)
    # It does not know fused attention.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        module(activation)
    torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops()


def half_cost_ticket(bank: TicketBank, activation: torch.Tensor) -> tuple[nn.Module, float]:
    """Appends the ticket with half the body's FLOPs; gives it extracted, and its cost."""
    layout = bank.layout
    weights = layout.flatten(dict(bank.backbone.body.named_parameters())).detach()
    random = torch.rand(layout.total, generator=torch.Generator().manual_seed(0)).to(weights.device)
    scores = UnitScores(layout, weights, random, find_units(bank.backbone.body))
    dense = flops(bank.backbone.body, activation)
    low, high = 0.0, 1.0
    for _ in range(6):
        middle = (low + high) / 2
        scores.binarise(middle)
        trial = TicketBank(bank.backbone, bank.task)
        trial.append(made_up_ticket(trial, mask=scores.mask()))
        share = flops(trial.extract(0).body, activation) / dense
        low, high = (middle, high) if share > 0.5 else (low, middle)
    # Fresh norms would let a random network's features vanish, and with them every difference.
    state = bank.backbone.body.state_dict()
    norm = {
        name: torch.rand_like(state[name]) + 0.5 if state[name].ndim else state[name]
        for name in bank.norm_names
    }
    bank.append(made_up_ticket(bank, mask=scores.mask(), norm=norm))
    slim = bank.extract(0)
    return slim.to(activation.device, memory_format=torch.channels_last), share


@torch.inference_mode()
def measure_model(report: Report, name: str) -> None:
    """Ratios of one network."""
    backbone = speed_backbone(name, PIXELS[name], report.options.device)
    bank = TicketBank(backbone, Classification(CLASSES))
    images = torch.rand(64, 3, PIXELS[name], PIXELS[name], device=report.options.device)
    images = images.contiguous(memory_format=torch.channels_last)
    activation = backbone.run_trunk(images).activation
    slim, share = half_cost_ticket(bank, activation[:1])
    report.add_value(f"{name}/flops_share", share, "of the dense body")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        masked = bank.run_ticket(0, activation)
        error = (slim(activation) - masked).abs().max() / masked.std()
    report.add_value(f"{name}/error", float(error), "of the outputs' deviation", at_most=1e-5)
    dense = nn.Sequential(backbone.body, copy.deepcopy(bank._head).to(activation.device))
    # Outside of inference mode, as its weights are replaced.
    with torch.inference_mode(False):
        folded = copy.deepcopy(dense)
        fold_norms(folded, activation[:1].clone())
    for batch in (1, 64):
        part = activation[:batch]
        cases = {
            "dense": partial(dense, part),
            "slim": partial(slim, part),
            "folded": partial(folded, part),
            "masked": partial(bank.run_ticket, 0, part),
        }
        # 1.6 times faster.
        report.compare(
            f"{name}/{PIXELS[name]}px/batch{batch}", cases, "dense", at_most={"slim": 0.625}
        )


def main() -> None:
    """Run it."""
    line = parser(__doc__)
    line.add_argument("--models", help="names, separated by commas")
    options = line.parse_args()
    report = Report("slim_tickets", options)
    for name in (options.models or ("resnet18" if options.quick else ",".join(PIXELS))).split(","):
        measure_model(report, name)
    report.finish()


if __name__ == "__main__":
    main()

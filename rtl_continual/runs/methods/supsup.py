"""Our tickets, chosen as SupSup chooses: by the gradient of the output's entropy."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch.func import functional_call, jvp

from rtl_continual.backbones import backbone_flops
from rtl_continual.errors import RTLError
from rtl_continual.runs._method import Answers, MethodConfig, RunContext
from rtl_continual.runs.methods.rtl import RTLMethod
from rtl_continual.streams import ImageSet
from rtl_continual.tickets import TicketBank

__all__ = ["SupSupConfig", "SupSupMethod", "entropy_gradient"]


class SupSupConfig(MethodConfig):
    """Options of entropy inference."""

    group: int = Field(
        1, ge=1, description="neighbouring images that are decided together; 1 decides each alone"
    )


class SupSupMethod(RTLMethod):
    """Tickets as in ``rtl``; at test time the one that lowers the output's entropy fastest.

    Wortsman et al. (2020), "Supermasks in Superposition", their one-shot inference: all tickets are
    superposed with equal weights, and the ticket answers along which the entropy falls most
    steeply. What a ticket has beside its mask (norm state and head) is superposed with it. The
    paper decides for batches of one task; ``group`` does, where test images come sorted by domain.
    """

    name: ClassVar[str] = "supsup"
    summary: ClassVar[str] = "our tickets, chosen by the gradient of the entropy (SupSup)"
    config_class: ClassVar[type[MethodConfig]] = SupSupConfig

    def __init__(self, context: RunContext, config: MethodConfig) -> None:
        super().__init__(context, config)
        assert isinstance(config, SupSupConfig)
        if context.sections["tickets"].features == "merged":
            raise RTLError("method 'supsup' needs tickets.features: own; it superposes bodies")
        self._group = config.group

    def predict(self, images: ImageSet, *, domain: int | None = None) -> Answers:
        gradients, parts = [], []
        for first in range(0, len(images), 256):
            batch, _ = images.batch(range(first, min(first + 256, len(images))))
            gradients.append(entropy_gradient(self.bank, batch))
            parts.append(batch)
        slopes = torch.cat(gradients)
        ids = torch.cat(
            [group.mean(dim=0).argmin().expand(len(group)) for group in slopes.split(self._group)]
        )
        places = ids.split([len(batch) for batch in parts])
        labels = [
            self.bank.predict(batch, ticket_ids=place).labels
            for batch, place in zip(parts, places, strict=True)
        ]
        return Answers(labels=torch.cat(labels).numpy(), ticket_ids=ids.numpy())

    def details(self) -> dict[str, Any]:
        found = super().details()
        flops = self.inference_ratio() - 1
        found["router"] |= {
            "name": "entropy gradient",
            "flops": round(flops * found["router"]["backbone_flops"]),
            "flops_share": flops,
        }
        return found

    def inference_ratio(self) -> float:
        """One more pass through the body, and two for the derivative along each ticket."""
        flops = backbone_flops(self.bank.backbone)
        return 1 + (1 + 2 * len(self.bank)) * flops["body"] / flops["total"]


@torch.no_grad()
def entropy_gradient(bank: TicketBank, images: torch.Tensor) -> torch.Tensor:
    """How the entropy of each output changes along each ticket's share ``[batch, tickets]``.

    Derivatives are taken forward, one ticket after the other, so that each image has its own.

    Args:
        bank: the tickets, superposed with equal shares.
        images: ``[batch, channels, height, width]``.
    """
    activation = bank.run_trunk(images.to(bank.backbone.mean.device)).activation
    body = bank.backbone.body
    with torch.random.fork_rng(devices=[]):  # its weights are replaced, its draws must not show
        head = bank.task.build_head(bank.backbone.feature_dim)
    own = [
        {k: v for k, v in bank.effective_parameters(i).items() if v.is_floating_point()}
        for i in range(len(bank))
    ]
    mean = {key: torch.stack([o[key] for o in own]).mean(dim=0) for key in own[0]}
    # Running statistics are superposed too, but nothing is differentiated along them.
    fixed = {f"body.{name}" for name, _ in body.named_buffers()} & mean.keys()
    statistics = {key: mean.pop(key) for key in sorted(fixed)}

    def entropy(values: dict[str, torch.Tensor]) -> torch.Tensor:
        values = values | statistics

        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}

        features = functional_call(body, part("body."), (activation,))
        logs = functional_call(head, part("head."), (features,)).log_softmax(dim=1)
        return -(logs.exp() * logs).sum(dim=1)

    with warnings.catch_warnings():
        # Forward derivatives load parts of torch that torch itself deprecates.
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
        slopes = [
            jvp(entropy, (mean,), ({key: tangent[key] for key in mean},))[1] for tangent in own
        ]
    return torch.stack(slopes, dim=1).cpu()

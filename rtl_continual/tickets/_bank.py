"""The bank: an append-only collection of tickets over one frozen backbone."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from rtl_continual.backbones import Backbone, TrunkOutput
from rtl_continual.errors import BankError
from rtl_continual.tickets._executor import Executor, GroupedExecutor
from rtl_continual.tickets._folding import agree, fold_norms
from rtl_continual.tickets._lazy import ByteCache, LazyTickets
from rtl_continual.tickets._mask import Mask, MaskLayout, norm_state_names, union
from rtl_continual.tickets._merged import MergedBody, MergedNetwork
from rtl_continual.tickets._packed import (
    KernelOrder,
    blank_image,
    noise_like,
    pack_trunk,
    run_trunk,
)
from rtl_continual.tickets._predict import Prediction, predict
from rtl_continual.tickets._similarity import similarity_matrix
from rtl_continual.tickets._skeleton import Pool, Skeleton
from rtl_continual.tickets._slim import slim_body
from rtl_continual.tickets._ticket import Ticket
from rtl_continual.tickets._units import units_of

__all__ = ["TicketBank"]


class RoutesFeatures(Protocol):
    """The part of a router that a bank and those who extend it need."""

    @property
    def num_tickets(self) -> int: ...

    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Any: ...

    def fit(self, statistics: Sequence[Any]) -> None: ...

    def add(self, statistics: Any) -> None: ...


class BuildsHeads(Protocol):
    """The part of a task that a bank and those who extend it need."""

    num_outputs: int

    def build_head(self, feature_dim: int) -> nn.Module: ...

    def check_targets(self, targets: torch.Tensor) -> None: ...

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor: ...

    def decide(self, outputs: torch.Tensor) -> torch.Tensor: ...


class TicketBank:
    """An ordered, append-only collection of tickets over one frozen backbone.

    Threads may predict at the same time; adding a ticket is for one of them.

    Args:
        backbone: shared by all tickets; never changed.
        task: builds heads and decides labels.
        router: chooses a ticket for each input; may be set later.
        tickets: those it begins with; :class:`LazyTickets` are read when they are used.
        cache_bytes: budget for tickets' materialised weights, least recently used out first.

    Attributes:
        executor: runs batches through the body; may be set to another one.
        version: of the stored bank that the first tickets come from; 0 if it was never stored.
        manifest: hash of that version's manifest, or empty.

    Example:
        >>> from rtl_continual.backbones import build_backbone
        >>> from rtl_continual.tasks import Classification
        >>> bank = TicketBank(build_backbone("glyphnet", weights="random:0"), Classification(10))
        >>> len(bank)
        0
    """

    def __init__(
        self,
        backbone: Backbone,
        task: BuildsHeads,
        router: RoutesFeatures | None = None,
        *,
        tickets: Sequence[Ticket] | LazyTickets = (),
        cache_bytes: int = 256 * 2**20,
    ) -> None:
        self.backbone = backbone
        self.task = task
        self.router = router
        self.executor: Executor = GroupedExecutor()
        self.layout = MaskLayout.of(backbone.body)
        self.norm_names = norm_state_names(backbone.body)
        self._head = task.build_head(backbone.feature_dim).requires_grad_(False)
        with torch.random.fork_rng(devices=[]):  # its weights are replaced, its draws must not show
            merged = task.build_head(2 * backbone.feature_dim)
        self._merged_head = merged.requires_grad_(False)
        self._weights = {
            n: p.detach() for n, p in backbone.body.named_parameters() if n in self.layout.shapes
        }
        self._lazy = tickets if isinstance(tickets, LazyTickets) else LazyTickets()
        self._names = dict.fromkeys(self._lazy.names)
        self._appended: list[Ticket] = []
        self._cache: ByteCache[dict[str, torch.Tensor]] = ByteCache(cache_bytes, _tensor_bytes)
        self._networks = Pool(self._make_network)
        self._merged_networks = Pool(self._make_merged_network)
        self._bodies = Pool(self._make_body)
        self._packed_body: ByteCache[dict[str, torch.Tensor]] = ByteCache(0, _tensor_bytes)
        self.version = 0
        self.manifest = ""
        if tickets is not self._lazy:
            for ticket in tickets:
                self.append(ticket)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, ticket_id: int) -> Ticket:
        if not 0 <= ticket_id < len(self):
            raise BankError(f"no ticket {ticket_id}; the bank has {len(self)}")
        lazy = len(self._lazy)
        return self._lazy.get(ticket_id) if ticket_id < lazy else self._appended[ticket_id - lazy]

    def __iter__(self) -> Iterator[Ticket]:
        return (self[ticket_id] for ticket_id in range(len(self)))

    @property
    def names(self) -> tuple[str, ...]:
        """The tickets' names, in the order of their ids; loads none of them."""
        return tuple(self._names)

    @property
    def tickets(self) -> tuple[Ticket, ...]:
        """All tickets, in the order of their ids."""
        return tuple(self)

    def append(self, ticket: Ticket) -> None:
        """Commit a ticket.

        Raises:
            BankError: if its id is not the next one, its name is taken, or it does not fit the
                backbone and task.
        """
        self.extend([ticket])

    def extend(self, tickets: Sequence[Ticket]) -> None:
        """Commit several tickets in their order: all, or none if one does not fit.

        Raises:
            BankError: as :meth:`append` does.
        """
        names: list[str] = []
        for ticket in tickets:
            if ticket.id != len(self) + len(names):
                raise BankError(
                    f"the next ticket's id is {len(self) + len(names)}, got {ticket.id}"
                )
            if ticket.name in self._names or ticket.name in names:
                raise BankError(f"a ticket named '{ticket.name}' is already in the bank")
            self.check(ticket)
            names.append(ticket.name)
        self._appended += tickets
        self._names |= dict.fromkeys(names)

    def check(self, ticket: Ticket) -> None:
        """Raise :class:`BankError` unless a ticket fits this backbone and task."""
        # The order matters too: it says which bit is whose.
        if list(ticket.mask.layout.shapes.items()) != list(self.layout.shapes.items()):
            raise BankError(f"ticket '{ticket.name}' masks another body than this backbone's")
        body = self.backbone.body.state_dict()
        if {k: v.shape for k, v in ticket.norm.items()} != {
            name: body[name].shape for name in self.norm_names
        }:
            raise BankError(f"ticket '{ticket.name}' has norm state of another body")
        given = _shapes(ticket.head)
        if given not in (_shapes(h.state_dict()) for h in (self._head, self._merged_head)):
            raise BankError(f"ticket '{ticket.name}' has a head of another task")

    def is_merged(self, ticket: Ticket) -> bool:
        """Whether a ticket's head reads the unmasked body's features beside the ticket's own."""
        return self._is_wide(ticket.head)

    def _is_wide(self, values: Mapping[str, torch.Tensor], prefix: str = "") -> bool:
        own = self._head.named_parameters()
        return any(values[prefix + name].shape != tensor.shape for name, tensor in own)

    def effective_parameters(self, ticket_id: int) -> dict[str, torch.Tensor]:
        """The body's weights and norm state, and the head's, as one ticket sees them.

        Keys are ``body.<name>`` and ``head.<name>``. Kept in the cache; do not write to them.
        """
        return self._cache.get(ticket_id, lambda: self._materialise(self[ticket_id]))

    def prepare(self, ticket_id: int) -> None:
        """Have a ticket's weights at hand as predicting wants them, so that no request waits.

        The trunk's, too, and the unmasked body's, if the ticket's head reads that.
        """
        order = KernelOrder.of(self.backbone)
        if order is None:
            self.effective_parameters(ticket_id)
        else:
            self._packed_parameters(ticket_id, order)
            if self.is_merged(self[ticket_id]):
                self._packed_plain_body(order)
        pack_trunk(self.backbone)

    @property
    def prepared(self) -> tuple[int, ...]:
        """The tickets whose weights are at hand, least recently used first."""
        return tuple(dict.fromkeys(max(key, ~key) for key in self._cache))

    def _packed_parameters(self, ticket_id: int, order: KernelOrder) -> dict[str, torch.Tensor]:
        """:meth:`effective_parameters` with packed weights; a cache entry of their own."""

        def make() -> dict[str, torch.Tensor]:
            with torch.inference_mode(False):
                return order.pack(self._materialise(self[ticket_id]), "body.")

        return self._cache.get(~ticket_id, make)

    # The cache outlives the call: tensors made in inference mode would be of no use to autograd.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _materialise(self, ticket: Ticket) -> dict[str, torch.Tensor]:
        device = self.backbone.mean.device
        values = {}
        for name, weight in self._weights.items():
            values[f"body.{name}"] = _masked(_kernel_order(weight), ticket.mask.layer(name))
        values |= {f"body.{name}": t.to(device) for name, t in ticket.norm.items()}
        return values | {f"head.{name}": t.to(device) for name, t in ticket.head.items()}

    def _make_network(self) -> Skeleton:
        parts = OrderedDict(body=self.backbone.body, head=self._head)
        return self._predicting(nn.Sequential(parts), "body")

    def _make_merged_network(self) -> Skeleton:
        return self._predicting(MergedNetwork(self.backbone.body, self._merged_head), "body")

    def _make_body(self) -> Skeleton:
        return self._predicting(self.backbone.body, "")

    def _predicting(self, module: nn.Module, body: str) -> Skeleton:
        """A twin for predicting of a module that holds the body under this name."""
        network = Skeleton(module)
        network.module.eval()
        order = KernelOrder.of(self.backbone)
        if order is not None:
            order.accept(network.module.get_submodule(body))
        return network

    def run_trunk(self, images: torch.Tensor) -> TrunkOutput:
        """:meth:`Backbone.run_trunk` as predicting does it: on packed weights where they fit.

        They fit a processor's float32 passes without gradients, and give the same up to rounding.
        """
        return run_trunk(self.backbone, images)

    def run_ticket(self, ticket_id: int, activation: torch.Tensor) -> torch.Tensor:
        """Outputs ``[batch, classes]`` of one ticket on trunk activations."""
        order = KernelOrder.of(self.backbone)
        if order is not None and not order.fits(activation):
            order = None
        if order is None:
            values = self.effective_parameters(ticket_id)
        else:
            values = self._packed_parameters(ticket_id, order)
        outputs: torch.Tensor
        if self._is_wide(values, "head."):
            # A body may begin with an operation in place.
            plain = self._plain_features(activation.clone(), order)
            with self._merged_networks.borrow() as network:
                outputs = network(values, activation, plain)
        else:
            with self._networks.borrow() as network:
                outputs = network(values, activation)
        return outputs

    def _plain_features(self, activation: torch.Tensor, order: KernelOrder | None) -> torch.Tensor:
        """The unmasked body's features; its weights, too, are packed once."""
        values: dict[str, torch.Tensor] = {}
        if order is not None:
            values = self._packed_plain_body(order)
        with self._bodies.borrow() as body:
            features: torch.Tensor = body(values, activation)
        return features

    def _packed_plain_body(self, order: KernelOrder) -> dict[str, torch.Tensor]:
        with torch.inference_mode(False):
            return self._packed_body.get(0, lambda: order.pack({}))

    def head_of(self, ticket: Ticket) -> nn.Module:
        """A ticket's head as a module of its own."""
        blank = self._merged_head if self.is_merged(ticket) else self._head
        head = copy.deepcopy(blank)
        head.load_state_dict(dict(ticket.head))
        return head.to(self.backbone.mean.device)

    def extract(self, ticket_id: int) -> nn.Module:
        """A ticket as a plain network of its own, on trunk activations.

        ``Sequential(body, head)``, equal to :meth:`run_ticket` up to rounding. Whole units that
        the mask drops are left out; where it drops single weights, zeros are all that shows.
        Batch norms are folded into the convolutions before them, if images have one size.

        Raises:
            BankError: if there is no such ticket, or its body cannot be traced.
        """
        values = self.effective_parameters(ticket_id)
        body = {name[5:]: t for name, t in values.items() if name.startswith("body.")}
        slim = slim_body(self.backbone.body, body, units_of(self.backbone.body))
        if self.is_merged(self[ticket_id]):
            slim = MergedBody(slim, copy.deepcopy(self.backbone.body))
        image = blank_image(self.backbone)
        if image is not None:
            with torch.no_grad():
                folded = copy.deepcopy(slim)
                fold_norms(folded, self.backbone.run_trunk(image).activation)
                noise = self.backbone.run_trunk(noise_like(image)).activation
                slim = folded if agree(folded, slim, noise) else slim
        head = self.head_of(self[ticket_id])
        return nn.Sequential(OrderedDict(body=slim, head=head))

    def predict(
        self,
        images: torch.Tensor,
        *,
        ticket_ids: torch.Tensor | Sequence[int] | int | None = None,
        batch_size: int = 256,
    ) -> Prediction:
        """Route each image and run it through its ticket: one trunk pass, grouped by ticket.

        Args:
            images: ``[batch, channels, height, width]``, ``uint8`` or floating point in 0..1.
            ticket_ids: use these tickets instead of the router's (one for all, or one each; -1
                for none).
            batch_size: images per trunk pass.

        Raises:
            BankError: on an empty bank, a bank without router, or an unknown ticket.
            DataError: if the images are not what the backbone takes, or give trunk statistics
                that are not finite.
        """
        return predict(self, images, ticket_ids=ticket_ids, batch_size=batch_size)

    def similarity(self, *, corrected: bool = False) -> np.ndarray:
        """Pairwise mask overlap ``[tickets, tickets]`` (Jaccard; optionally beyond chance)."""
        return similarity_matrix([t.mask for t in self], corrected=corrected)

    def similarity_to(self, mask: Mask, more: Iterable[Mask] = ()) -> float | None:
        """Mean Jaccard overlap of ``mask`` with every ticket's, and with ``more`` masks.

        ``None`` if there are none.
        """
        overlaps = [mask.jaccard(other) for other in (*(t.mask for t in self), *more)]
        return sum(overlaps) / len(overlaps) if overlaps else None

    def union_mask(self) -> Mask:
        """The body weights that at least one ticket keeps."""
        return union([t.mask for t in self])

    def parameter_counts(self) -> dict[str, int]:
        """Where the bank's parameters lie.

        ``trunk`` and ``body`` are dense; ``union`` is the body weights at least one ticket keeps;
        ``norm`` and ``heads`` are summed over tickets (running statistics count); ``body_other``
        is what is neither masked nor a norm (biases of convolutions and linear layers). Where a
        ticket's head reads the unmasked body's features too, ``union`` is the whole body and
        ``norm`` counts the backbone's own as well.
        """

        def count(tensors: Mapping[str, torch.Tensor]) -> int:
            return sum(t.numel() for t in tensors.values() if t.is_floating_point())

        body = self.backbone.body.state_dict()
        norm = {k: v for k, v in body.items() if k in self.norm_names}
        union, own_norm = self.union_mask().kept if len(self) else 0, 0
        if any(self.is_merged(ticket) for ticket in self):
            union, own_norm = self.layout.total, count(norm)
        return {
            "trunk": count(self.backbone.trunk.state_dict()),
            "body": count(body),
            "body_other": count(body) - self.layout.total - count(norm),
            "union": union,
            "norm": own_norm + sum(count(t.norm) for t in self),
            "heads": sum(count(t.head) for t in self),
        }


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _tensor_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _masked(weight: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """``weight * keep`` in the weight's memory order.

    NumPy multiplies different types in one pass and a third faster than torch.
    """
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64):
        return weight * keep.to(weight.device)
    last = weight.ndim == 4
    w, k = weight.detach().numpy(), keep.numpy()
    if last:
        # A kernel's places are taken as one axis: NumPy copies longer runs then.
        pairs = np.ascontiguousarray(k.reshape(*k.shape[:2], -1).transpose(0, 2, 1))
        w, k = w.transpose(0, 2, 3, 1), pairs.reshape(k.shape[0], *k.shape[2:], k.shape[1])
    product = torch.from_numpy(np.multiply(w, k.view(np.uint8)))
    return product.permute(0, 3, 1, 2) if last else product


def _kernel_order(weight: torch.Tensor) -> torch.Tensor:
    """A convolution's weights channels last, as its kernel wants them on such activations."""
    if weight.ndim != 4:
        return weight
    return weight.contiguous(memory_format=torch.channels_last)

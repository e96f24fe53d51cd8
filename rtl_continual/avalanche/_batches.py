"""What a batch must be, and in which order batches come."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from rtl_continual.errors import DataError, RTLError
from rtl_continual.streams import ImageSet
from rtl_continual.tickets import TicketBank
from rtl_continual.training import TrunkCache, epoch_batches, steps_per_epoch, take_turns

__all__ = [
    "CachedLoader",
    "EpochOrder",
    "ExperienceCache",
    "JointOrder",
    "channels_last",
    "check_batch",
    "check_sample",
    "loader_options",
]

_OURS = {"dataset", "batch_size", "shuffle", "sampler", "batch_sampler", "drop_last", "num_workers"}
_OURS |= {"pin_memory", "persistent_workers"}
_LOADER_OPTIONS = set(inspect.signature(DataLoader.__init__).parameters) - {"self"}
_REFUSED = {"dataset", "batch_size", "sampler", "batch_sampler", "ffcv_args"}
_SLACK = 0.01


def loader_options(
    dataset: Dataset[Any],
    seed: int,
    *,
    num_workers: int,
    pin_memory: bool,
    persistent_workers: bool,
    others: Mapping[str, Any],
) -> dict[str, Any]:
    """Arguments of a ``DataLoader``, those included that Avalanche's templates drop in silence.

    Args:
        dataset: what is loaded; its own ``collate_fn`` is used unless another is given.
        seed: of the workers, so that no loader draws from the global generator.
        num_workers: worker processes.
        pin_memory: see ``DataLoader``.
        persistent_workers: keep the workers between epochs.
        others: the keyword arguments of ``train`` or ``eval``; those that belong to plugins are
            left alone.

    Raises:
        RTLError: for a loader argument that the strategy cannot honour.
    """
    for name in sorted(_REFUSED & set(others)):
        raise RTLError(
            f"'{name}' cannot be given to train() or eval(): the strategy decides which images "
            "make a batch; set train_mb_size, eval_mb_size, shuffle or drop_last instead"
        )
    options: dict[str, Any] = {
        "num_workers": num_workers,
        "pin_memory": pin_memory,
        "persistent_workers": persistent_workers and num_workers > 0,
        "generator": torch.Generator().manual_seed(seed),
    }
    if hasattr(dataset, "collate_fn"):
        options["collate_fn"] = dataset.collate_fn
    passed = (_LOADER_OPTIONS - _OURS) & set(others)
    return options | {name: others[name] for name in sorted(passed)}


class EpochOrder(Sampler[list[int]]):
    """Batches of indices in the order in which a ticket learned without Avalanche sees them.

    Set :attr:`epoch` before each pass.

    Args:
        count: samples.
        batch_size: samples per batch; a last batch of one sample joins the one before it.
        seed: of the order.
        shuffle: keep the given order if false.
        drop_last: leave out a last batch that is not full.

    Raises:
        DataError: if ``drop_last`` would leave nothing.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        *,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        if drop_last and count < batch_size:
            raise DataError(
                f"drop_last leaves nothing of {count} samples at a batch size of {batch_size}"
            )
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.epoch = 0

    def __iter__(self) -> Iterator[list[int]]:
        start = 0
        for batch in epoch_batches(self.count, self.batch_size, self.seed, self.epoch):
            indices = batch.tolist() if self.shuffle else list(range(start, start + len(batch)))
            start += len(batch)
            if not self.drop_last:
                yield indices
            elif len(indices) >= self.batch_size:
                yield indices[: self.batch_size]

    def __len__(self) -> int:
        if self.drop_last:
            return self.count // self.batch_size
        return steps_per_epoch(self.count, self.batch_size)


class JointOrder(Sampler[list[int]]):
    """Batches of several groups of samples, which lie one after the other, taking turns.

    Args:
        sizes: samples of each group.
        batch_size: as for :class:`EpochOrder`, which each group has one of its own of.
        seed: of the order.
        shuffle: keep the given order if false.
        drop_last: leave out a group's last batch that is not full.

    Raises:
        DataError: if ``drop_last`` would leave nothing of a group.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        batch_size: int,
        seed: int,
        *,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        self._orders = [
            EpochOrder(size, batch_size, seed, shuffle=shuffle, drop_last=drop_last)
            for size in sizes
        ]
        self._starts = [sum(sizes[:group]) for group in range(len(sizes))]
        self.steps = [len(order) for order in self._orders]
        self.turns = take_turns(self.steps)

    def next_epoch(self) -> None:
        """Another pass, in another order."""
        for order in self._orders:
            order.epoch += 1

    def __iter__(self) -> Iterator[list[int]]:
        batches = [iter(order) for order in self._orders]
        for group in self.turns:
            yield [self._starts[group] + index for index in next(batches[group])]

    def __len__(self) -> int:
        return len(self.turns)


def check_batch(batch: Any, bank: TicketBank, where: str) -> None:
    """Raise unless a batch is images and labels as a bank's backbone and task take them.

    Args:
        batch: what the loader gave: images, labels, and further columns that are not read.
        bank: has the backbone and the task.
        where: names the data in messages.

    Raises:
        DataError: on another structure, shape, type or range.
    """
    if not isinstance(batch, (list, tuple)) or len(batch) < 2:
        raise DataError(
            f"{where}: a sample must be (image, label, ...), got {type(batch).__name__}"
        )
    images, labels = batch[0], batch[1]
    try:
        bank.backbone.check_images(images)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    if images.is_floating_point() and images.numel():
        bad = torch.nonzero(~torch.isfinite(images).flatten(1).all(dim=1)).flatten().tolist()
        if bad:
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            raise DataError(
                f"{where}: image {bad[0]}{more} of a mini-batch has values that are not finite"
            )
        low, high = (float(v) for v in torch.aminmax(images))
        if not (low >= -_SLACK and high <= 1 + _SLACK):
            raise DataError(
                f"{where}: floating-point images must lie in 0..1, got {low:.3g}..{high:.3g}; "
                "leave Normalize out of the transforms, the backbone normalises"
            )
    if not isinstance(labels, torch.Tensor) or labels.ndim != 1 or labels.is_floating_point():
        got = list(labels.shape) if isinstance(labels, torch.Tensor) else type(labels).__name__
        raise DataError(f"{where}: labels must be integers, one for each image, got {got}")
    try:
        bank.task.check_targets(labels)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def check_sample(dataset: Dataset[Any], where: str) -> None:
    """Raise :class:`DataError` if a data set is empty or its first image is no tensor.

    Collating anything else fails deep inside the loader, without a word about transforms.
    """
    if len(dataset) == 0:  # type: ignore[arg-type]
        raise DataError(f"{where} has no samples")
    sample = dataset[0]
    image = sample[0] if isinstance(sample, (list, tuple)) and sample else sample
    if not isinstance(image, torch.Tensor):
        raise DataError(
            f"{where}: the transforms must give a tensor image, got {type(image).__name__}; "
            "end them with torchvision's ToTensor or PILToTensor"
        )


class _Fetched(ImageSet):
    """A map-style data set of (image, label, ...) as an :class:`ImageSet`, fetched by batch."""

    def __init__(self, loader: DataLoader[Any], check: Any) -> None:
        self.loader = loader
        self._check = check

    def batch(self, indices: Any) -> tuple[torch.Tensor, torch.Tensor]:
        dataset, wanted = self.loader.dataset, [int(i) for i in indices]
        fetch = getattr(dataset, "__getitems__", None)
        samples = fetch(wanted) if fetch is not None else [dataset[i] for i in wanted]
        batch = self.loader.collate_fn(samples)
        self._check(batch)
        return batch[0], batch[1]


class ExperienceCache(TrunkCache):
    """Router features and targets of an experience, taken in one pass of the trunk.

    Args:
        bank: whose backbone to run.
        loader: the experience's samples in their own order.
        where: names the data in messages.
        keep: keep the trunk's activations too.
        budget: bytes of activations that may be kept.

    Raises:
        DataError: on samples that cannot be used.
        RTLError: if the activations would not fit the budget.
    """

    def __init__(
        self, bank: TicketBank, loader: DataLoader[Any], where: str, *, keep: bool, budget: int
    ) -> None:
        def check(batch: Any) -> None:
            check_batch(batch, bank, where)

        self.bank = bank
        self.data = _Fetched(loader, check)
        self.activations = None
        count = len(loader.dataset)  # type: ignore[arg-type]
        kept, features, targets = [], [], []
        with torch.no_grad():
            for batch in loader:
                check(batch)
                out = bank.run_trunk(batch[0].to(bank.backbone.mean.device))
                features.append(out.router_features)
                targets.append(batch[1])
                if keep:
                    needed = out.activation[0].numel() * out.activation.element_size() * count
                    if needed > budget:
                        raise RTLError(
                            f"{where}: its trunk activations need {needed} bytes, above "
                            f"cache_bytes={budget}; raise that, or set cache_trunk=False"
                        )
                    kept.append(out.activation)
        self.features = torch.cat(features)
        self.targets = torch.cat(targets).long()
        self._kept = torch.cat(kept) if keep else None

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if self._kept is None:
            return super().batch(index)
        targets = self.targets[index].to(self.features.device)
        return channels_last(self._kept[index]), self.features[index], targets


def channels_last(activation: torch.Tensor) -> torch.Tensor:
    """The memory order in which tickets are learned: the last bit of a sum depends on it."""
    if activation.ndim != 4:
        return activation
    return activation.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


class CachedLoader:
    """Batches of kept trunk activations, targets and router features.

    Args:
        cache: holds the activations.
        order: gives the batches' indices.
    """

    def __init__(self, cache: TrunkCache, order: JointOrder) -> None:
        self.cache = cache
        self.batch_sampler = order

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        for indices in self.batch_sampler:
            activation, features, targets = self.cache.batch(torch.tensor(indices))
            yield [activation, targets, features]

    def __len__(self) -> int:
        return len(self.batch_sampler)

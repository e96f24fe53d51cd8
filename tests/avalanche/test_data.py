"""What may be trained on and evaluated: builders, columns, transforms, loaders, bad input."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks import (
    CLScenario,
    DatasetExperience,
    EagerCLStream,
    benchmark_from_datasets,
    dataset_benchmark,
    ni_benchmark,
    split_online_stream,
    with_task_labels,
)
from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute
from avalanche.benchmarks.utils.data_attribute import TaskLabels
from avalanche.benchmarks.utils.flat_data import ConstantSequence
from avalanche.benchmarks.utils.transform_groups import TransformGroups
from torch.utils.data import Dataset

from rtl_continual.avalanche import RoutedTickets
from rtl_continual.errors import DataError, RTLError
from rtl_continual.streams import Stream
from rtl_continual.training import epoch_batches

Make = Callable[..., RoutedTickets]


class Plain(Dataset[Any]):
    """Samples that need not fit together, with targets as torchvision's data sets have them."""

    def __init__(self, images: Any, targets: Any, transform: Any = None) -> None:
        self.images, self.targets, self.transform = images, list(targets), transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image = self.images[index]
        return image if self.transform is None else self.transform(image), self.targets[index]


def avalanche_set(
    images: Any, targets: Any, *, task: int | None = None, **groups: Any
) -> AvalancheDataset:
    targets = [int(t) for t in targets]
    columns: list[DataAttribute] = [DataAttribute(targets, "targets")]
    if task is not None:
        columns.append(TaskLabels(ConstantSequence(task, len(targets))))
    transforms = {k: (v, None) for k, v in groups.items()}
    return AvalancheDataset(
        [Plain(images, targets)],
        data_attributes=columns,
        transform_groups=TransformGroups(transforms) if transforms else None,
    )


@pytest.fixture
def arrays(stream: Stream) -> list[tuple[torch.Tensor, list[int]]]:
    return [(e.train.images, e.train.targets.tolist()) for e in stream.experiences]  # type: ignore[attr-defined]


def fingerprints(strategy: RoutedTickets) -> list[str]:
    return [ticket.fingerprint for ticket in strategy.bank]


@pytest.fixture
def expected(make: Make, benchmark_: Any) -> list[str]:
    strategy = make()
    strategy.train(benchmark_.train_stream)
    return fingerprints(strategy)


@pytest.mark.parametrize("task_labels", [False, True])
def test_benchmark_from_datasets(
    make: Make, arrays: Any, expected: list[str], task_labels: bool
) -> None:
    # With task labels Avalanche balances tasks by showing images of small ones again.
    sets = [avalanche_set(x, y, task=i if task_labels else None) for i, (x, y) in enumerate(arrays)]
    benchmark = benchmark_from_datasets(train=sets, test=sets)
    if task_labels:
        benchmark = with_task_labels(benchmark)
        assert hasattr(benchmark.train_stream[0], "task_labels")
        assert len(sets[0][0]) == 3
    strategy = make(eval_every=0)
    strategy.train(benchmark.train_stream, eval_streams=[benchmark.test_stream])
    strategy.eval(benchmark.test_stream)
    assert fingerprints(strategy) == expected
    # Without a domain name an experience's number names the ticket.
    assert strategy.bank.names == ("experience-0", "experience-1")
    assert strategy.bank[0].info.domain_counts == {}


def test_a_set_whose_tasks_are_mixed(make: Make, arrays: Any) -> None:
    both = [avalanche_set(x, y, task=i) for i, (x, y) in enumerate(arrays)]
    benchmark = with_task_labels(
        benchmark_from_datasets(train=[both[0].concat(both[1])], test=both)
    )
    strategy = make()
    strategy.train(benchmark.train_stream)
    assert strategy.bank[0].info.samples == 74


@pytest.mark.parametrize("builder", ["ni", "dataset"])
def test_deprecated_builders(make: Make, arrays: Any, builder: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if builder == "ni":
            images = torch.cat([x for x, _ in arrays])
            whole = Plain(images, [t for _, y in arrays for t in y])
            benchmark = ni_benchmark(
                whole, whole, n_experiences=2, seed=1, balance_experiences=True
            )
        else:
            sets = [Plain(x, y) for x, y in arrays]
            benchmark = dataset_benchmark(sets, sets)
        strategy = make(eval_every=0)
        strategy.train(benchmark.train_stream, eval_streams=[benchmark.test_stream])
        strategy.eval(benchmark.test_stream)
    assert strategy.bank.names == ("experience-0", "experience-1")
    assert {t.info.samples for t in strategy.bank} == {37}


def test_a_stream_cut_into_pieces_gives_a_ticket_for_each(make: Make, benchmark_: Any) -> None:
    pieces = split_online_stream(benchmark_.train_stream, experience_size=20, drop_last=True)
    strategy = make()
    strategy.train(pieces)
    # Avalanche's pieces lose the domain's name.
    assert strategy.bank.names == ("experience-0", "experience-1")
    assert [ticket.info.samples for ticket in strategy.bank] == [20, 20]


def test_floating_point_images_in_0_to_1_are_the_same_images(
    make: Make, arrays: Any, expected: list[str]
) -> None:
    sets = [avalanche_set(x.float() / 255, y) for x, y in arrays]
    strategy = make()
    strategy.train(benchmark_from_datasets(train=sets, test=sets).train_stream)
    assert fingerprints(strategy) == expected


class Reveals:
    """An experience that fails the test when anything but its data is read."""

    READ = ("dataset", "logging", "origin_stream")

    def __init__(self, experience: Any) -> None:
        self.__dict__["inner"] = experience

    def __getattr__(self, name: str) -> Any:
        if name in Reveals.READ:
            value = getattr(self.__dict__["inner"], name)
            return (lambda: self) if name == "logging" else value
        raise AssertionError(f"evaluation has read the experience's '{name}'")


def test_evaluation_reads_nothing_but_the_data(make: Make, benchmark_: Any) -> None:
    outputs: list[list[torch.Tensor]] = []
    strategy = make()
    strategy.train(benchmark_.train_stream)
    forward = strategy.forward

    def record() -> torch.Tensor:
        outputs[-1].append(forward())
        return outputs[-1][-1]

    strategy.forward = record
    for experiences in (benchmark_.test_stream, [Reveals(e) for e in benchmark_.test_stream]):
        outputs.append([])
        strategy.eval(experiences)
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    with pytest.raises(AssertionError, match=r"'(cluster|domain)'"):
        strategy.train(Reveals(benchmark_.train_stream[0]))


def test_task_labels_domains_and_numbers_change_no_answer(make: Make, arrays: Any) -> None:
    def experiences(order: list[int], domains: list[str]) -> Iterator[Any]:
        built = []
        for (x, y), task, domain in zip(arrays, order, domains, strict=True):
            experience = DatasetExperience(dataset=avalanche_set(x, y, task=task))
            experience.domain = domain
            experience.task_labels = [task]
            built.append(experience)
        stream = EagerCLStream("test", built)
        for number, experience in enumerate(CLScenario([stream]).test_stream):
            experience.current_experience = order[number]
            yield experience

    strategy = make()
    strategy.train(list(experiences([0, 1], ["red", "green"])))
    answers = []
    for order, domains in (([0, 1], ["red", "green"]), ([1, 0], ["green", "red"])):
        for experience in experiences(order, domains):
            strategy.eval([experience])
            answers.append(strategy.mb_prediction)
    for straight, swapped in zip(answers[:2], answers[2:], strict=True):
        assert torch.equal(straight.outputs, swapped.outputs)
        assert torch.equal(straight.ticket_ids, swapped.ticket_ids)


def noise(image: torch.Tensor) -> torch.Tensor:
    """An augmentation that draws from torch's and numpy's global generators."""
    moved = image.float() / 255 + 0.1 * torch.rand(()) + 0.1 * np.random.rand()  # noqa: NPY002
    return moved.clamp(0, 1)


def scaled(image: torch.Tensor) -> torch.Tensor:
    return image.float() / 255


@pytest.fixture
def augmented(arrays: Any) -> Any:
    sets = [avalanche_set(x, y, train=noise, eval=scaled) for x, y in arrays]
    return benchmark_from_datasets(train=sets, test=sets)


def test_evaluations_in_between_do_not_change_what_is_learned(make: Make, augmented: Any) -> None:
    class Draws(Plain):
        """Evaluation data that draws too."""

        def __getitem__(self, index: int) -> tuple[Any, Any]:
            image, target = super().__getitem__(index)
            return noise(image), target

    first = augmented.train_stream[0].dataset
    drawing = Draws(torch.zeros(5, 3, 8, 8), [0] * 5)
    columns = [DataAttribute([0] * 5, "targets")]
    evaluation = benchmark_from_datasets(
        test=[AvalancheDataset([drawing], data_attributes=columns)], train=[first]
    )
    learned = []
    for every in (-1, 1):
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002
        strategy = make(eval_every=every)
        strategy.train(augmented.train_stream, eval_streams=[evaluation.test_stream])
        learned.append(fingerprints(strategy))
    assert learned[0] == learned[1]


def test_augmentation_is_used_to_train_and_not_to_route(
    make: Make, augmented: Any, expected: list[str]
) -> None:
    strategy = make()
    strategy.train(augmented.train_stream)
    plain = make()
    plain.train(list(augmented.test_stream))
    assert fingerprints(strategy) != expected
    for ticket, other in zip(strategy.bank, plain.bank, strict=True):
        assert torch.equal(ticket.statistics["center"], other.statistics["center"])


def order_of(strategy: RoutedTickets, experience: Any, **arguments: Any) -> list[list[int]]:
    """The batches of the first epoch, by the samples' own numbers."""
    seen: list[list[int]] = []
    strategy.train_epochs = 1
    forward = strategy.forward

    def record() -> torch.Tensor:
        if strategy.is_training:
            seen.append((strategy.mb_x[:, 2, 7, 7].cpu() * 255).round().int().tolist())
        return forward()

    strategy.forward = record
    strategy.train(experience, **arguments)
    return seen


@pytest.fixture
def numbered() -> Any:
    images = torch.rand(37, 3, 8, 8)
    images[:, 2, 7, 7] = torch.arange(37) / 255
    numbers = avalanche_set(images, [i % 4 for i in range(37)])
    return benchmark_from_datasets(train=[numbers], test=[numbers]).train_stream[0]


def test_order_of_batches(make: Make, numbered: Any) -> None:
    shuffled = [b.tolist() for b in epoch_batches(37, 12, 5, 0)]
    assert order_of(make(), numbered) == shuffled
    assert order_of(make(), numbered, num_workers=2) == shuffled
    given = order_of(make(), numbered, shuffle=False)
    assert given == [list(range(12)), list(range(12, 24)), list(range(24, 37))]
    dropped = order_of(make(), numbered, shuffle=False, drop_last=True)
    assert dropped == [list(range(12)), list(range(12, 24)), list(range(24, 36))]
    assert sorted(i for batch in shuffled for i in batch) == list(range(37))


def test_drop_last_of_less_than_a_batch(make: Make, numbered: Any) -> None:
    with pytest.raises(DataError, match="drop_last leaves nothing of 37 samples"):
        make(train_mb_size=38).train(numbered, drop_last=True)


def test_loader_arguments_arrive_or_are_refused(make: Make, numbered: Any) -> None:
    # Avalanche's templates drop these in silence.
    loaders: list[Any] = []
    strategy = make(train_epochs=1)
    unpack = strategy._unpack_minibatch

    def look() -> None:
        loaders.append(strategy.dataloader)
        unpack()

    strategy._unpack_minibatch = look
    for call in (strategy.train, strategy.eval):
        call(numbered, num_workers=1, prefetch_factor=3, timeout=200, in_order=True)
        assert (loaders[-1].prefetch_factor, loaders[-1].timeout) == (3, 200)
        for name in ("batch_size", "sampler", "batch_sampler", "ffcv_args"):
            with pytest.raises(RTLError, match=f"'{name}' cannot be given"):
                call(numbered, **{name: 3})
        with pytest.raises(ValueError, match="prefetch_factor"):
            call(numbered, prefetch_factor=3)


def test_arguments_of_plugins_are_left_alone(make: Make, numbered: Any) -> None:
    strategy = make()
    strategy.train(numbered, my_plugins_option=3)
    assert len(strategy.bank) == 1


GOOD = torch.zeros(6, 3, 8, 8)
LABELS = [0, 1, 2, 3, 0, 1]
BAD = {
    "no samples": (GOOD[:0], [], "has no samples"),
    "no tensor": (["a"] * 6, LABELS, "must give a tensor image, got str"),
    "array": ([np.zeros((3, 8, 8))] * 6, LABELS, "must give a tensor image, got ndarray"),
    "shape": (GOOD[:, :, :4], LABELS, r"images must be \[batch, 3, 8, 8\], got \[6, 3, 4, 8\]"),
    "channels": (GOOD[:, :1], LABELS, r"got \[6, 1, 8, 8\]"),
    "integers": (GOOD.long(), LABELS, "must be uint8 .* got torch.int64"),
    "normalised": (GOOD - 1.2, LABELS, r"must lie in 0..1, got -1.2..-1.2; leave Normalize out"),
    "0 to 255": (GOOD + 255, LABELS, r"must lie in 0..1, got 255..255"),
    "not a number": (
        GOOD * torch.nan,
        LABELS,
        r"image 0 \(and 5 more\) of a mini-batch",
    ),
    "fractions": (GOOD, [0.5] * 6, "labels must be integers"),
    "too large": (GOOD, [0, 1, 2, 3, 4, 0], "labels must be 0 to 3, got 4"),
    "negative": (GOOD, [0, 1, 2, 3, -1, 0], "labels must be 0 to 3, got -1"),
}


@pytest.mark.parametrize("phase", ["training", "evaluation"])
@pytest.mark.parametrize("case", BAD)
def test_data_that_cannot_be_used(make: Make, phase: str, case: str) -> None:
    images, labels, message = BAD[case]
    columns = [DataAttribute([0] * len(labels), "targets")]
    bad = AvalancheDataset([Plain(images, labels)], data_attributes=columns)
    benchmark = benchmark_from_datasets(train=[bad], test=[bad])
    strategy = make()
    call = strategy.train if phase == "training" else strategy.eval
    with pytest.raises(DataError, match=f"{phase} data.*{message}"):
        call(benchmark.train_stream[0])
    assert len(strategy.bank) == 0


def test_trunk_activations_that_do_not_fit_are_refused(make: Make, benchmark_: Any) -> None:
    strategy = make(cache_trunk=True)
    strategy.config = strategy.config.model_copy(update={"cache_bytes": 1000})
    with pytest.raises(RTLError, match=r"training data of 'red': .* above cache_bytes=1000"):
        strategy.train(benchmark_.train_stream[0])

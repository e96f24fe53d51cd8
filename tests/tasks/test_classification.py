from __future__ import annotations

import pytest
import torch

from rtl_continual.errors import DataError
from rtl_continual.tasks import Classification


def test_a_head_gives_one_output_for_each_class() -> None:
    head = Classification(7).build_head(5)
    assert head(torch.zeros(3, 5)).shape == (3, 7)
    assert {n: tuple(t.shape) for n, t in head.state_dict().items()} == {
        "weight": (7, 5),
        "bias": (7,),
    }


def test_loss_is_mean_cross_entropy_and_the_largest_output_decides() -> None:
    task = Classification(3)
    outputs = torch.tensor([[2.0, 0, 1], [0, 0, 5]])
    targets = torch.tensor([2, 2])
    expected = -outputs.softmax(dim=1)[torch.arange(2), targets].log().mean()
    torch.testing.assert_close(task.loss(outputs, targets), expected)
    assert task.decide(outputs).tolist() == [0, 2]


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_are_named(label: int) -> None:
    task = Classification(3)
    task.check_targets(torch.tensor([0, 1, 2]))
    task.check_targets(torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DataError, match=f"labels must be 0 to 2, got {label} for sample 1"):
        task.check_targets(torch.tensor([0, label, 2]))


def test_classes_may_have_names() -> None:
    assert Classification(2).classes is None
    assert Classification(2, ["cat", "dog"]).classes == ("cat", "dog")


@pytest.mark.parametrize("names", [["cat"], ["cat", "cat"], ["cat", ""], ["cat", 3]])
def test_names_must_be_as_many_and_different(names: list[str]) -> None:
    with pytest.raises(DataError, match="a task of 2 classes needs as many different names"):
        Classification(2, names)

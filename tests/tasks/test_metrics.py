from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from rtl_continual.tasks import (
    accuracy,
    balanced_accuracy,
    confusion_matrix,
    recall_by_class,
)

CLASSES = 6


@given(st.integers(1, 200), st.integers(0, 1000))
def test_metrics_agree_with_sklearn(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, CLASSES, count)
    right = generator.random(count) < 0.6
    predictions = np.where(right, targets, generator.integers(0, CLASSES, count))
    confusion = confusion_matrix(targets, predictions, CLASSES)
    labels = list(range(CLASSES))
    expected = metrics.confusion_matrix(targets, predictions, labels=labels)
    np.testing.assert_array_equal(confusion[:, :CLASSES], expected)
    assert not confusion[:, CLASSES].any()
    assert accuracy(confusion) == pytest.approx(metrics.accuracy_score(targets, predictions))
    recall = metrics.recall_score(
        targets, predictions, labels=labels, average=None, zero_division=np.nan
    )
    np.testing.assert_allclose(recall_by_class(confusion), recall)
    # Classes without samples do not count, as in sklearn's balanced_accuracy_score.
    present = np.unique(targets)
    assert balanced_accuracy(confusion) == pytest.approx(np.mean(recall[present]))
    if len(present) > 1 and set(predictions) <= set(present.tolist()):  # else sklearn warns
        assert balanced_accuracy(confusion) == pytest.approx(
            metrics.balanced_accuracy_score(targets, predictions)
        )


def test_abstentions_and_unknown_labels_are_wrong() -> None:
    targets = np.array([0, 0, 0, 1, 1, 2])
    predictions = np.array([0, -1, 7, 1, 1, 0])
    confusion = confusion_matrix(targets, predictions, 3)
    assert confusion.tolist() == [[1, 0, 0, 2], [0, 2, 0, 0], [1, 0, 0, 0]]
    assert accuracy(confusion) == 0.5
    assert recall_by_class(confusion).tolist() == [pytest.approx(1 / 3), 1, 0]
    assert balanced_accuracy(confusion) == pytest.approx(4 / 9)


def test_rare_classes_weigh_as_much_as_common_ones() -> None:
    targets = np.array([0] * 99 + [1])
    confusion = confusion_matrix(targets, np.zeros(100, dtype=np.int64), 2)
    assert accuracy(confusion) == 0.99
    assert balanced_accuracy(confusion) == 0.5


def test_without_samples_there_is_no_number() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    confusion = confusion_matrix(nothing, nothing, 3)
    assert confusion.shape == (3, 4)
    assert np.isnan(accuracy(confusion))
    assert np.isnan(balanced_accuracy(confusion))
    assert np.isnan(recall_by_class(confusion)).all()
    partly = confusion_matrix(np.array([2]), np.array([2]), 3)
    np.testing.assert_array_equal(recall_by_class(partly), [np.nan, np.nan, 1])
    assert balanced_accuracy(partly) == 1

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rheos.core.errors import ConditionError, ShapeError
from rheos.metrics import class_iou, mean_iou


def test_equal_masks_have_one_and_disjoint_ones_nothing() -> None:
    mask = torch.arange(12).reshape(3, 4) % 3
    assert mean_iou(mask, mask, 3) == 1.0
    assert mean_iou(mask, (mask + 1) % 3, 3) == 0.0


@given(seed=st.integers(0, 10**6), classes=st.integers(2, 5))
def test_it_is_intersection_over_union_of_sets_of_pixels(seed: int, classes: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    a, b = (torch.randint(classes, (2, 3, 4), generator=draw) for _ in range(2))
    for k, value in enumerate(class_iou(a, b, classes).tolist()):
        union = int(((a == k) | (b == k)).sum())
        assert (value != value) if union == 0 else value == int(((a == k) & (b == k)).sum()) / union


def test_absent_classes_do_not_count_and_ignored_pixels_do_not_either() -> None:
    found, truth = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 255, 255])
    assert mean_iou(found, truth, 7, ignore=255) == 1.0
    assert int(class_iou(found, truth, 7, ignore=255).isnan().sum()) == 5


def test_bad_masks_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"one shape, got \(2,\) and \(3,\)"):
        class_iou(torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 2)
    with pytest.raises(ConditionError, match=r"classes 0 \.\. 1"):
        class_iou(torch.tensor([0, 2]), torch.tensor([0, 1]), 2)

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from thingstuff.errors import InputError
from thingstuff.evaluation.miou import MeanIou, confusion_matrix, mean_iou


def label_map(rows):
    return np.array(rows, dtype=np.uint8)


def test_confusion_counts_pixels_by_truth_and_prediction():
    truth = label_map([[0, 0, 1, 1], [2, 2, 255, 255]])
    prediction = label_map([[0, 1, 1, 255], [2, 0, 0, 255]])
    expected = [[1, 1, 0, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    confusion = confusion_matrix(truth, prediction, 3)
    assert confusion.dtype == np.int64
    assert confusion.tolist() == expected


def test_mean_iou_by_hand():
    confusion = np.array([[6, 2, 0, 0], [0, 3, 0, 1], [0, 0, 0, 0]])
    assert mean_iou(confusion) == MeanIou((6 / 8 + 3 / 6) / 2, (6 / 8, 3 / 6, None))


def test_class_that_was_only_predicted_is_left_out_but_costs_the_true_class():
    confusion = confusion_matrix(label_map([[0, 0, 0, 0]]), label_map([[0, 0, 0, 1]]), 2)
    assert mean_iou(confusion) == MeanIou(3 / 4, (3 / 4, None))


def test_predicted_void_is_wrong_and_true_void_is_not_counted():
    confusion = confusion_matrix(label_map([[0, 0, 255]]), label_map([[0, 255, 0]]), 1)
    assert mean_iou(confusion) == MeanIou(1 / 2, (1 / 2,))


def test_class_never_found_counts_zero():
    confusion = confusion_matrix(label_map([[0, 1]]), label_map([[0, 0]]), 2)
    assert mean_iou(confusion) == MeanIou(1 / 4, (1 / 2, 0.0))


def test_nothing_labelled():
    confusion = confusion_matrix(label_map([[255, 255]]), label_map([[0, 255]]), 2)
    assert mean_iou(confusion) == MeanIou(None, (None, None))
    assert confusion_matrix(np.zeros((0, 3), np.uint8), np.zeros((0, 3), np.uint8), 2).sum() == 0


def test_most_classes_a_label_map_can_hold():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    confusion = confusion_matrix(ramp, ramp, 255)
    assert confusion.shape == (255, 256)
    assert mean_iou(confusion) == MeanIou(1.0, (1.0,) * 255)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        ([[0, 3]], [[0, 0]], "street.jpg: the true label map holds 3; write class indices 0 to 2, or 255 for void"),
        ([[255, 0]], [[254, 0]], "street.jpg: the predicted label map holds 254; write"),
        (
            [[0, 0]],
            [[0], [0]],
            r"street.jpg: the predicted label map is 2 x 1 pixels \(height x width\), the true one 1 x",
        ),
    ],
)
def test_wrong_maps_are_refused(truth, prediction, message):
    with pytest.raises(InputError, match=message):
        confusion_matrix(label_map(truth), label_map(prediction), 3, picture="street.jpg")


SIZE = st.shared(st.tuples(st.integers(1, 5), st.integers(1, 5)))
MAPS = SIZE.flatmap(lambda size: arrays(np.uint8, size, elements=st.sampled_from([0, 1, 2, 255])))


@settings(deadline=None)
@given(MAPS, MAPS)
def test_equals_sets_of_pixels(truth, prediction):
    result = mean_iou(confusion_matrix(truth, prediction, 3))
    counted = truth != 255
    expected = []
    for label in range(3):
        true, predicted = truth == label, (prediction == label) & counted
        expected.append((true & predicted).sum() / (true | predicted).sum() if true.any() else None)
    assert result.per_class == tuple(expected)


@settings(deadline=None)
@given(MAPS, MAPS, MAPS, MAPS)
def test_pictures_are_merged_by_adding(truth, prediction, other_truth, other_prediction):
    apart = confusion_matrix(truth, prediction, 3) + confusion_matrix(other_truth, other_prediction, 3)
    joined = confusion_matrix(np.hstack([truth, other_truth]), np.hstack([prediction, other_prediction]), 3)
    assert apart.tolist() == joined.tolist()


@settings(deadline=None)
@given(MAPS)
def test_truth_against_itself_is_one(truth):
    result = mean_iou(confusion_matrix(truth, truth, 3))
    assert result.miou == (1 if (truth != 255).any() else None)

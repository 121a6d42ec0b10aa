"""The records: they cannot be changed, they move between devices whole, and ids survive the PNG."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from thingstuff import structures
from thingstuff.structures import Batch, Semantic, Targets, decode_ids, encode_ids


def targets(count: int = 2) -> Targets:
    return Targets(
        boxes=torch.arange(4.0 * count).view(count, 4),
        labels=torch.arange(count),
        crowd=torch.zeros(count, dtype=torch.bool),
        masks=tuple(torch.ones(2 + i, 3, dtype=torch.bool) for i in range(count)),
        label_map=torch.full((4, 6), 255, dtype=torch.uint8),
    )


def batch(with_targets: bool = True) -> Batch:
    images, sizes = torch.zeros(2, 3, 4, 6, dtype=torch.uint8), torch.tensor([[4, 6], [3, 5]])
    return Batch(images, sizes, (targets(), targets(0)) if with_targets else None, (11, 12))


def records() -> list[type]:
    return [value for value in vars(structures).values() if dataclasses.is_dataclass(value) and isinstance(value, type)]


@pytest.mark.parametrize("record", records(), ids=lambda record: record.__name__)
def test_records_cannot_be_changed_and_have_no_other_attributes(record: type) -> None:
    assert record.__dataclass_params__.frozen
    assert "__slots__" in vars(record)


def test_fields_cannot_be_set() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch().seeds = (1, 2)  # pyright: ignore[reportAttributeAccessIssue]


# --- devices ---


def tensors(record: Batch) -> list[torch.Tensor]:
    found = [record.images, record.sizes]
    for target in record.targets or ():
        found += [target.boxes, target.labels, target.crowd, target.label_map, *target.masks]
    return found


def test_batch_goes_to_a_device_with_everything_in_it() -> None:
    moved = batch().to("meta")
    assert len(tensors(moved)) == 2 + 2 * 4 + 2
    assert all(tensor.device.type == "meta" for tensor in tensors(moved))
    assert moved.seeds == (11, 12)
    assert moved.targets is not None
    assert [tuple(mask.shape) for mask in moved.targets[0].masks] == [(2, 3), (3, 3)]
    assert (moved.targets[1].boxes.shape, moved.targets[1].masks) == ((0, 4), ())


def test_batch_stays_equal_on_the_way() -> None:
    original = batch()
    for mine, theirs in zip(tensors(original.to("cpu")), tensors(original), strict=True):
        assert torch.equal(mine, theirs)


def test_batch_without_targets() -> None:
    moved = batch(with_targets=False).to("meta")
    assert moved.targets is None
    assert moved.images.device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a CUDA device")
@pytest.mark.parametrize("with_targets", [True, False])
def test_pinned_batch(with_targets: bool) -> None:
    pinned = batch(with_targets).pin_memory()
    assert all(tensor.is_pinned() for tensor in tensors(pinned))
    assert pinned.seeds == (11, 12)


# --- shapes ---


@pytest.mark.parametrize("logits", [torch.zeros(2, 3, 4), torch.zeros(2, 3, 4, 4, dtype=torch.int64)])
def test_wrong_shapes_and_kinds_are_noticed_in_tests(logits: torch.Tensor) -> None:
    with pytest.raises(TypeCheckError):
        Semantic(logits)


# --- id maps ---


def test_ids_by_hand() -> None:
    ids = np.array([[0, 1, 255], [256, 65536, 66051]], dtype=np.int32)
    expected = [[[0, 0, 0], [1, 0, 0], [255, 0, 0]], [[0, 1, 0], [0, 0, 1], [3, 2, 1]]]
    assert encode_ids(ids).tolist() == expected
    assert encode_ids(ids).dtype == np.uint8
    assert decode_ids(np.array(expected, dtype=np.uint8)).tolist() == ids.tolist()


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_ids_survive_the_picture(height: int, width: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2**24 - 1), min_size=height * width, max_size=height * width))
    ids = np.array(values, dtype=np.int32).reshape(height, width)
    decoded = decode_ids(encode_ids(ids))
    assert decoded.dtype == np.int32
    assert np.array_equal(decoded, ids)


def test_ids_of_a_view_into_a_larger_map() -> None:
    ids = np.arange(48, dtype=np.int32).reshape(6, 8)[::2, 1::3].T
    rgb = encode_ids(ids)
    assert rgb.flags.c_contiguous
    assert np.array_equal(decode_ids(rgb[::-1])[::-1], ids)


def test_the_vocabulary_loads_without_torch() -> None:
    code = "import sys, thingstuff.structures, thingstuff.labels, thingstuff.errors; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

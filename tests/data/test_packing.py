import torch

from thingstuff.data.packing import pack
from thingstuff.structures import Batch, Targets


def make_batch() -> Batch:
    def targets(boxes: list[list[int]], height: int, width: int) -> Targets:
        sides = [(bottom - top, right - left) for left, top, right, bottom in boxes]
        return Targets(
            boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            labels=torch.arange(len(boxes)),
            crowd=torch.arange(len(boxes)) == 1,
            masks=tuple(torch.rand(side) > 0.5 for side in sides),
            label_map=torch.randint(0, 256, (height, width), dtype=torch.uint8),
        )

    torch.manual_seed(0)
    per_picture = targets([[0, 0, 3, 1], [2, 1, 5, 7]], 8, 6), targets([], 1, 1), targets([[4, 0, 5, 2]], 2, 7)
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    return Batch(images, torch.tensor([[8, 6], [1, 1], [2, 7]]), per_picture, (5, 6, 7))


def assert_same(first: Batch, second: Batch) -> None:
    assert first.seeds == second.seeds
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.sizes, second.sizes)
    assert first.targets is not None
    assert second.targets is not None
    for one, other in zip(first.targets, second.targets, strict=True):
        for name in ("boxes", "labels", "crowd", "label_map"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        for mask, other_mask in zip(one.masks, other.masks, strict=True):
            assert torch.equal(mask, other_mask)


def test_what_is_packed_comes_out_again():
    assert_same(pack(make_batch()).unpack(), make_batch())


def test_a_batch_without_objects():
    batch = make_batch()
    assert batch.targets is not None
    empty = Batch(batch.images[1:2], batch.sizes[1:2], batch.targets[1:2], (6,))
    assert_same(pack(empty).unpack(), empty)


def test_pinning_pins_every_tensor(monkeypatch):
    pinned = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)  # pages can be locked only where there is a GPU
    assert_same(pack(make_batch()).pin_memory().unpack(), make_batch())
    assert len(pinned) == 7

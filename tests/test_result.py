"""From tensors to the record that people use; what models give is in ``test_predict.py``."""

import torch

from thingstuff.data.scenes import SCENES
from thingstuff.result import to_panoptic
from thingstuff.structures import Panoptic, PanopticMaps


def test_segments_are_renumbered_without_gaps() -> None:
    ids = torch.tensor([[0, 2, 2], [4, 4, 2]], dtype=torch.int32)
    maps = PanopticMaps(
        ids=ids,
        labels=torch.tensor([3, 6, 1, 0]),
        scores=torch.tensor([0.9, 0.75, 0.5, 1.0]),
        areas=torch.tensor([0, 3, 0, 2]),
        valid=torch.tensor([False, True, False, True]),
    )
    found = to_panoptic(maps, SCENES)
    assert isinstance(found, Panoptic)
    assert found.ids.tolist() == [[0, 1, 1], [2, 2, 1]]
    car, sky = found.segments
    assert (car.id, car.name, car.category_id, car.isthing, car.score) == (1, "car", 7, True, 0.75)
    assert (car.area, car.bbox) == (3, (1, 0, 2, 2))
    assert (sky.id, sky.name, sky.isthing, sky.score, sky.area, sky.bbox) == (2, "sky", False, None, 2, (0, 1, 2, 1))


def test_a_map_without_segments() -> None:
    empty = torch.zeros(0)
    maps = PanopticMaps(torch.zeros(2, 3, dtype=torch.int32), empty.long(), empty, empty.long(), empty.bool())
    found = to_panoptic(maps, SCENES)
    assert found.segments == ()
    assert not found.ids.any()

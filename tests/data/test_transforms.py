from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from thingstuff.data.transforms import (
    Augmentation,
    ColorJitter,
    augment,
    collate,
    make_targets,
    nearest_indices,
    paste,
    resize_image,
    target_size,
)
from thingstuff.errors import InputError
from thingstuff.labels import Category, LabelSet
from thingstuff.structures import OverlappingInstances, Sample, Truth, TruthSegment, decode_ids, encode_ids

LABELS = LabelSet(
    (
        Category(3, "road", False, (0, 0, 0)),
        Category(5, "sky", False, (0, 0, 1)),
        Category(4, "person", True, (0, 1, 0)),
        Category(10, "car", True, (1, 0, 0)),
    )
)
ROAD, SKY, PERSON, CAR = range(4)
UNCHANGED = Augmentation(short_sides=(0,), max_side=0)
SEGMENTS = (TruthSegment(300, CAR), TruthSegment(7, ROAD), TruthSegment(70000, PERSON, crowd=True))
IDS = np.array([[0, 300, 300, 7], [7, 7, 70000, 70000], [7, 7, 7, 0]], dtype=np.int32)


def make_sample(ids: np.ndarray, segments: tuple[TruthSegment, ...] = SEGMENTS, seed: int = 0) -> Sample:
    """A sample whose picture shows its id map, so that at scale 1 both can be compared."""
    return Sample(encode_ids(ids), Truth(ids, segments), 1, "a.png", (ids.shape[0], ids.shape[1]), seed)


def truth_of(sample: Sample) -> Truth:
    assert sample.truth is not None
    return sample.truth


def numbered(height: int, width: int) -> np.ndarray:
    return np.arange(height * width, dtype=np.int32).reshape(height, width)


# --- sizes ---


@pytest.mark.parametrize(
    ("size", "short_side", "max_side", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),  # 640 * 800 / 480 = 1066.67
        ((640, 480), 800, 1333, (1067, 800)),
        ((427, 640), 800, 1333, (800, 1199)),  # 1199.06
        ((300, 640), 800, 1333, (625, 1333)),  # 1706.67 is over 1333: 800 * 1333 / 1706.67 = 624.84
        ((300, 20000), 800, 1333, (20, 1333)),  # 19.995
        ((1, 20000), 800, 1333, (1, 1333)),  # 0.07 is less than a pixel
        ((1, 1), 800, 1333, (800, 800)),
        ((2, 3), 1, 100, (1, 2)),  # 1.5 is rounded up
        ((123, 45), 0, 10, (123, 45)),
    ],
)
def test_target_size(size, short_side, max_side, expected):
    assert target_size(size, short_side, max_side) == expected


@pytest.mark.parametrize(
    ("size", "short_side", "max_side", "expected"),
    [
        ((480, 640), 1200, 1400, (1050, 1400)),
        ((480, 640), 1000, 1400, (1000, 1333)),
        ((480, 640), 800, 1400, (800, 1067)),
        ((480, 640), 600, 1400, (600, 800)),
        ((480, 640), 400, 1400, (400, 533)),
        ((427, 640), 1200, 1400, (934, 1400)),
        ((427, 640), 1000, 1400, (934, 1400)),
        ((480, 640), 800, 1000, (750, 1000)),
        ((1024, 2048), 800, 2048, (800, 1600)),
    ],
)
def test_sizes_of_panet(size, short_side, max_side, expected):
    assert target_size(size, short_side, max_side) == expected


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1200), st.integers(1, 1600))
def test_target_size_keeps_both_limits(height, width, short_side, max_side):
    target = target_size((height, width), short_side, max_side)
    assert 1 <= min(target) <= short_side
    assert max(target) <= max(max_side, 1)
    assert min(target) == short_side or max(target) == max_side


@pytest.mark.parametrize("size", [(20, 34), (97, 31), (60, 60), (61, 40)])
def test_resize_stays_within_a_level_of_pillow(size):
    image = np.random.default_rng(0).integers(0, 256, (61, 40, 3), dtype=np.uint8)
    expected = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    resized = resize_image(image, size)
    assert resized.dtype == np.uint8
    assert np.abs(resized.astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_resize_to_the_same_size_is_the_same_array():
    image = np.zeros((3, 4, 3), dtype=np.uint8)
    assert resize_image(image, (3, 4)) is image


def test_resize_of_sixteen_bits_and_many_channels():
    image = np.tile(np.array([[[0], [65535]]], dtype=np.uint16), (2, 1, 5))
    half = resize_image(image, (1, 1))
    assert half.dtype == np.uint16
    np.testing.assert_array_equal(half, np.full((1, 1, 5), 32768))  # 32767.5, half to even


def test_resize_takes_read_only_and_mirrored_pictures():
    image = np.asarray(Image.new("RGB", (4, 3), (9, 9, 9)))
    assert not image.flags.writeable
    for one in (image, image[:, ::-1], image[1:, 1:]):
        np.testing.assert_array_equal(resize_image(one, (2, 2)), np.full((2, 2, 3), 9))


@pytest.mark.parametrize("size", [(1, 1), (300, 20000)])
def test_resize_of_odd_sizes(size):
    image = np.full((*size, 3), 77, dtype=np.uint8)
    assert resize_image(image, target_size(size, 800, 1333)).mean() == 77


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (4, 2, [1, 3]),  # centres at 1.0 and 3.0
        (2, 4, [0, 0, 1, 1]),
        (3, 5, [0, 0, 1, 2, 2]),  # 0.3 0.9 1.5 2.1 2.7
        (5, 3, [0, 2, 4]),  # 0.83 2.5 4.17
        (1, 3, [0, 0, 0]),
        (7, 7, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_nearest_indices(source, target, expected):
    assert nearest_indices(source, target).tolist() == expected


@given(st.integers(1, 300), st.integers(1, 300))
def test_nearest_indices_agree_with_pillow(source, target):
    row = Image.fromarray(np.arange(source, dtype=np.int32)[None])
    expected = np.asarray(row.resize((target, 1), Image.Resampling.NEAREST))[0]
    # Pillow adds up floats, so where a centre falls on the edge between two pixels it takes either.
    on_edge = (2 * np.arange(target) + 1) * source % (2 * target) == 0
    difference = nearest_indices(source, target) - expected
    assert not difference[~on_edge].any()
    assert set(difference[on_edge].tolist()) <= {0, 1}


# --- augmentation ---


def test_nothing_changes_nothing():
    sample = make_sample(IDS)
    changed = augment(sample, UNCHANGED)
    np.testing.assert_array_equal(changed.image, sample.image)
    assert np.shares_memory(changed.image, sample.image)
    np.testing.assert_array_equal(truth_of(changed).ids, IDS)
    assert truth_of(changed).segments == SEGMENTS


@pytest.mark.parametrize(
    ("flip", "vertical_flip", "expected"),
    [(1.0, 0.0, IDS[:, ::-1]), (0.0, 1.0, IDS[::-1]), (1.0, 1.0, IDS[::-1, ::-1])],
)
def test_flips(flip, vertical_flip, expected):
    changed = augment(make_sample(IDS), replace(UNCHANGED, flip=flip, vertical_flip=vertical_flip))
    np.testing.assert_array_equal(truth_of(changed).ids, expected)
    np.testing.assert_array_equal(decode_ids(changed.image), expected)


def test_flips_come_at_their_rate():
    sample = make_sample(numbered(1, 2))
    flipped = [truth_of(augment(replace(sample, seed=n), replace(UNCHANGED, flip=0.25))).ids[0, 0] for n in range(400)]
    assert 60 <= np.sum(flipped) <= 140  # 100 expected, deviation 8.7


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.tuples(st.integers(1, 14), st.integers(1, 14)),
    st.integers(0, 2**63 - 1),
)
def test_a_crop_at_scale_1_shows_the_same_window_of_picture_and_map(height, width, crop, seed):
    ids = numbered(height, width)
    augmentation = replace(UNCHANGED, crop=crop, flip=0.5, vertical_flip=0.5)
    changed = augment(make_sample(ids, segments=(), seed=seed), augmentation)
    cut = truth_of(changed).ids
    assert cut.shape == (min(crop[0], height), min(crop[1], width))
    np.testing.assert_array_equal(decode_ids(changed.image), cut)
    top, left = np.divmod(cut.min(), width)
    window = ids[top : top + cut.shape[0], left : left + cut.shape[1]]
    assert any(np.array_equal(cut, window[::down, ::right]) for down in (1, -1) for right in (1, -1))


def test_all_windows_occur():
    sample = make_sample(numbered(1, 5), segments=())
    augmentation = replace(UNCHANGED, crop=(1, 3))
    starts = {truth_of(augment(replace(sample, seed=n), augmentation)).ids[0, 0] for n in range(60)}
    assert starts == {0, 1, 2}


@given(st.integers(0, 2**63 - 1), st.sampled_from([0.5, 1.0, 2.0, 3.0]))
def test_picture_and_map_stay_aligned_under_scaling(seed, factor):
    # Left half dark with id 1, right half bright with id 2; wherever the map changes, the picture is in between.
    ids = np.repeat(np.array([[1, 2]], dtype=np.int32), 20, axis=1).repeat(30, axis=0)
    image = np.where(ids == 1, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    augmentation = Augmentation((30,), 1000, flip=0.5, scale_jitter=(factor, factor), crop=(25, 25))
    changed = augment(replace(make_sample(ids), image=image, seed=seed), augmentation)
    bright = changed.image[..., 0].astype(int)
    shown = truth_of(changed).ids
    assert bright[shown == 2].min(initial=255) >= 255 * 0.45
    assert bright[shown == 1].max(initial=0) <= 255 * 0.55
    expected = int(30 * factor + 0.5), int(40 * factor + 0.5)
    assert shown.shape == (min(25, expected[0]), min(25, expected[1]))


def test_a_crop_shows_as_much_of_the_picture_as_cropping_after_scaling():
    # 100 columns become 200, of which 50 are kept: 25 of the original ones.
    sample = make_sample(numbered(100, 100), segments=())
    columns = np.unique(truth_of(augment(sample, Augmentation((200,), 200, crop=(50, 50)))).ids % 100)
    assert len(columns) == 25
    assert columns[-1] - columns[0] == 24


def test_large_pictures_are_cut_before_they_are_scaled():
    # Scaled as a whole this would be 20000 x 20000.
    sample = make_sample(numbered(200, 200), segments=())
    changed = augment(sample, Augmentation((20000,), 20000, crop=(64, 64)))
    assert changed.image.shape == (64, 64, 3)


def test_short_sides_are_drawn_evenly():
    sample = make_sample(numbered(4, 4), segments=())
    augmentation = Augmentation((4, 8, 12), 100)
    sides = [augment(replace(sample, seed=n), augmentation).image.shape[0] for n in range(300)]
    assert set(sides) == {4, 8, 12}
    assert min(sides.count(side) for side in (4, 8, 12)) > 70


def test_scale_jitter_stays_between_its_factors():
    sample = make_sample(numbered(10, 20), segments=())
    augmentation = Augmentation((100,), 1000, scale_jitter=(0.1, 2.0))
    sides = [augment(replace(sample, seed=n), augmentation).image.shape[0] for n in range(100)]
    assert 10 <= min(sides) < 40
    assert 160 < max(sides) <= 200


def test_overlapping_masks_go_along():
    masks = np.stack([IDS == 7, IDS != 0])
    instances = OverlappingInstances(masks, np.array([0, 1]), np.array([False, True]))
    sample = make_sample(IDS)
    sample = replace(sample, truth=replace(truth_of(sample), instances=instances))
    for seed in range(8):
        augmentation = Augmentation((6,), 20, flip=0.5, vertical_flip=0.5, crop=(5, 6))
        truth = truth_of(augment(replace(sample, seed=seed), augmentation))
        assert truth.instances is not None
        np.testing.assert_array_equal(truth.instances.masks[0], truth.ids == 7)
        np.testing.assert_array_equal(truth.instances.masks[1], truth.ids != 0)


def test_a_picture_without_annotation():
    sample = replace(make_sample(IDS), truth=None)
    changed = augment(sample, replace(UNCHANGED, flip=1.0))
    assert changed.truth is None
    np.testing.assert_array_equal(decode_ids(changed.image), IDS[:, ::-1])


ALL_AT_ONCE = Augmentation(
    (5, 6, 7), 20, flip=0.5, scale_jitter=(0.5, 2.0), crop=(5, 5), color=ColorJitter(0.4, 0.4, 0.4, 0.2)
)


def test_the_seed_decides_everything():
    sample = make_sample(IDS, seed=11)
    np.random.seed(0)  # noqa: NPY002 - global states must not matter
    torch.manual_seed(0)
    first = augment(sample, ALL_AT_ONCE)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    again = augment(sample, ALL_AT_ONCE)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(truth_of(first).ids, truth_of(again).ids)
    others = [augment(replace(sample, seed=seed), ALL_AT_ONCE).image for seed in range(20)]
    assert len({image.tobytes() for image in others}) > 15


def test_the_sample_given_is_left_alone():
    sample = make_sample(IDS.copy())
    before = sample.image.copy()
    for seed in range(10):
        changed = augment(replace(sample, seed=seed), ALL_AT_ONCE)
        make_targets(changed, LABELS)
    np.testing.assert_array_equal(sample.image, before)
    np.testing.assert_array_equal(truth_of(sample).ids, IDS)


# --- colour ---


def test_brightness_is_a_factor_within_its_strength():
    sample = replace(make_sample(IDS), image=np.full((3, 4, 3), 100, dtype=np.uint8))
    augmentation = replace(UNCHANGED, color=ColorJitter(brightness=0.5))
    values = [int(augment(replace(sample, seed=n), augmentation).image[0, 0, 0]) for n in range(200)]
    assert 49 <= min(values) < 60
    assert 140 < max(values) <= 150


def test_grey_has_neither_saturation_nor_hue():
    sample = replace(make_sample(IDS), image=np.full((3, 4, 3), 100, dtype=np.uint8))
    changed = augment(sample, replace(UNCHANGED, color=ColorJitter(saturation=1.0, hue=1.0)))
    np.testing.assert_array_equal(changed.image, sample.image)


def test_hue_turns_the_colour_circle_by_up_to_half():
    image = np.zeros((1, 1, 3), dtype=np.uint8)
    image[..., 0] = 255
    sample = replace(make_sample(IDS[:1, :1]), image=image)
    augmentation = replace(UNCHANGED, color=ColorJitter(hue=1.0))
    colors = [augment(replace(sample, seed=n), augmentation).image[0, 0] for n in range(100)]
    assert {int(color.argmax()) for color in colors} == {0, 1, 2}
    slight = replace(UNCHANGED, color=ColorJitter(hue=0.1))
    assert {int(augment(replace(sample, seed=n), slight).image[0, 0].argmax()) for n in range(100)} == {0}


@pytest.mark.parametrize("image", [np.zeros((3, 4, 5), dtype=np.uint8), np.zeros((3, 4, 3), dtype=np.uint16)])
def test_colours_of_other_pictures_are_left_to_the_user(image):
    sample = replace(make_sample(IDS), image=image)
    with pytest.raises(InputError, match=r"a\.png: colours can be changed in 8-bit RGB pictures only, not in"):
        augment(sample, replace(UNCHANGED, color=ColorJitter(0.1)))


# --- pasting ---

BELOW = np.full((3, 4), 7, dtype=np.int32)
STREET = make_sample(BELOW, (TruthSegment(7, ROAD),))


def test_pasted_objects_keep_their_place_and_their_pixels():
    changed = paste(STREET, make_sample(IDS), LABELS, CAR - LABELS.num_stuff)
    # The next free id is 8.
    wanted = np.array([[7, 8, 8, 7], [7, 7, 7, 7], [7, 7, 7, 7]])
    np.testing.assert_array_equal(truth_of(changed).ids, wanted)
    assert truth_of(changed).segments == (TruthSegment(7, ROAD), TruthSegment(8, CAR))
    np.testing.assert_array_equal(decode_ids(changed.image), np.where(wanted == 8, 300, 7))
    np.testing.assert_array_equal(truth_of(STREET).ids, BELOW)  # what was given is left alone
    np.testing.assert_array_equal(decode_ids(STREET.image), BELOW)


def test_crowds_and_other_classes_are_not_pasted():
    changed = paste(STREET, make_sample(IDS), LABELS, PERSON - LABELS.num_stuff)
    np.testing.assert_array_equal(truth_of(changed).ids, BELOW)
    np.testing.assert_array_equal(decode_ids(changed.image), BELOW)


def test_pasting_goes_as_far_as_both_pictures_go():
    small = make_sample(BELOW[:1, :2], (TruthSegment(7, ROAD),))
    changed = paste(small, make_sample(IDS), LABELS, CAR - LABELS.num_stuff)
    np.testing.assert_array_equal(truth_of(changed).ids, [[7, 8]])
    changed = paste(make_sample(IDS), make_sample(IDS[:1, 1:2], SEGMENTS), LABELS, CAR - LABELS.num_stuff)
    assert truth_of(changed).ids[0].tolist() == [70001, 300, 300, 7]
    assert len(make_targets(changed, LABELS).boxes) == 3


def test_pasted_objects_hide_overlapping_masks():
    masks = np.stack([np.ones((3, 4), dtype=bool), IDS == 70000])
    instances = OverlappingInstances(masks, np.array([PERSON, CAR]) - LABELS.num_stuff, np.array([False, False]))
    with_masks = replace(STREET, truth=replace(truth_of(STREET), instances=instances))
    found = truth_of(paste(with_masks, make_sample(IDS), LABELS, CAR - LABELS.num_stuff)).instances
    assert found is not None
    assert found.labels.tolist() == [0, 1, 1]
    assert found.masks.sum(axis=(1, 2)).tolist() == [10, 2, 2]
    np.testing.assert_array_equal(found.masks[2], IDS == 300)
    # The other way round, masks of the data set's own are what is pasted: here one for each of two cars.
    theirs = replace(make_sample(IDS), truth=replace(truth_of(make_sample(IDS)), instances=found))
    laid = truth_of(paste(STREET, theirs, LABELS, CAR - LABELS.num_stuff))
    np.testing.assert_array_equal(laid.ids, [[7, 9, 9, 7], [7, 7, 8, 8], [7, 7, 7, 7]])
    assert laid.instances is None


def test_pictures_of_other_kinds_are_not_pasted():
    with pytest.raises(InputError, match="3 channels of uint16"):
        paste(STREET, replace(STREET, image=STREET.image.astype(np.uint16)), LABELS, 0)


# --- targets ---


def test_targets():
    targets = make_targets(make_sample(IDS), LABELS)
    assert targets.label_map.tolist() == [
        [255, CAR, CAR, ROAD],
        [ROAD, ROAD, PERSON, PERSON],
        [ROAD, ROAD, ROAD, 255],
    ]
    assert targets.labels.tolist() == [1, 0]  # car and person among the things
    assert targets.crowd.tolist() == [False, True]
    assert targets.boxes.tolist() == [[1, 0, 3, 1], [2, 1, 4, 2]]
    assert [mask.tolist() for mask in targets.masks] == [[[True, True]], [[True, True]]]


def test_masks_have_holes_and_hold_no_neighbours():
    ids = np.array([[4, 4, 4], [4, 9, 4], [4, 4, 0]], dtype=np.int32)
    targets = make_targets(make_sample(ids, (TruthSegment(4, CAR), TruthSegment(9, CAR))), LABELS)
    assert targets.boxes.tolist() == [[0, 0, 3, 3], [1, 1, 2, 2]]
    assert targets.masks[0].tolist() == [[True, True, True], [True, False, True], [True, True, False]]
    assert targets.masks[1].tolist() == [[True]]


def test_boxes_are_tight_after_a_cut_and_lost_segments_are_dropped():
    sample = make_sample(IDS)
    cut = replace(sample, image=sample.image[1:, :3], truth=Truth(np.ascontiguousarray(IDS[1:, :3]), SEGMENTS))
    targets = make_targets(cut, LABELS)
    assert targets.labels.tolist() == [0]
    assert targets.boxes.tolist() == [[2, 0, 3, 1]]
    assert targets.masks[0].tolist() == [[True]]


@given(st.integers(0, 2**63 - 1))
def test_targets_agree_with_the_map_after_any_augmentation(seed):
    changed = augment(make_sample(IDS, seed=seed), ALL_AT_ONCE)
    targets = make_targets(changed, LABELS)
    ids = truth_of(changed).ids
    present = [segment for segment in SEGMENTS if segment.label >= 2 and (ids == segment.id).any()]
    assert targets.labels.tolist() == [segment.label - 2 for segment in present]
    for segment, box, mask in zip(present, targets.boxes.int().tolist(), targets.masks, strict=True):
        y, x = np.nonzero(ids == segment.id)
        assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        np.testing.assert_array_equal(mask, (ids == segment.id)[box[1] : box[3], box[0] : box[2]])
    np.testing.assert_array_equal(targets.label_map == 255, ids == 0)


@pytest.mark.parametrize("ids", [np.zeros((2, 3), dtype=np.int32), np.full((2, 3), 7, dtype=np.int32)])
def test_pictures_without_objects(ids):
    targets = make_targets(make_sample(ids, (TruthSegment(7, ROAD),)), LABELS)
    assert targets.boxes.shape == (0, 4)
    assert targets.labels.shape == targets.crowd.shape == (0,)
    assert targets.masks == ()
    assert targets.label_map.unique().tolist() == [ROAD if ids.any() else 255]


def test_overlapping_instances_replace_the_things_of_the_map():
    masks = np.zeros((3, 3, 4), dtype=bool)
    masks[0, 1:, 1:3] = True
    masks[2, 0, :] = True
    instances = OverlappingInstances(masks, np.array([1, 0, 0]), np.array([False, False, True]))
    sample = make_sample(IDS)
    targets = make_targets(replace(sample, truth=replace(truth_of(sample), instances=instances)), LABELS)
    assert targets.boxes.tolist() == [[1, 1, 3, 3], [0, 0, 4, 1]]  # the empty one is dropped
    assert targets.labels.tolist() == [1, 0]
    assert targets.crowd.tolist() == [False, True]
    assert [mask.shape for mask in targets.masks] == [(2, 2), (1, 4)]
    assert targets.label_map[0].tolist() == [255, CAR, CAR, ROAD]  # still from the id map


def test_no_overlapping_instances():
    instances = OverlappingInstances(np.zeros((0, 3, 4), dtype=bool), np.zeros(0, np.int64), np.zeros(0, dtype=bool))
    sample = make_sample(IDS)
    targets = make_targets(replace(sample, truth=replace(truth_of(sample), instances=instances)), LABELS)
    assert targets.boxes.shape == (0, 4)
    assert targets.masks == ()


# --- batches ---


def test_collate_pads_right_and_bottom():
    samples = [make_sample(IDS, seed=5), make_sample(np.full((5, 2), 7, dtype=np.int32), seed=6)]
    batch = collate(samples, LABELS, 4)
    assert batch.images.shape == (2, 3, 8, 4)
    assert batch.images.dtype == torch.uint8
    assert batch.sizes.tolist() == [[3, 4], [5, 2]]
    assert batch.seeds == (5, 6)
    np.testing.assert_array_equal(batch.images[0, :, :3].permute(1, 2, 0), samples[0].image)
    np.testing.assert_array_equal(batch.images[1, :, :5, :2].permute(1, 2, 0), samples[1].image)
    assert not batch.images[0, :, 3:].any()
    assert not batch.images[1, :, 5:].any()
    assert not batch.images[1, :, :, 2:].any()
    assert batch.targets is not None
    assert [tuple(target.label_map.shape) for target in batch.targets] == [(3, 4), (5, 2)]


def test_collate_of_sizes_that_fit_adds_nothing():
    assert collate([make_sample(numbered(32, 64), ())], LABELS, 32).images.shape == (1, 3, 32, 64)
    assert collate([make_sample(numbered(1, 1), ())], LABELS, 32).images.shape == (1, 3, 32, 32)


def test_collate_without_annotation():
    assert collate([replace(make_sample(IDS), truth=None)], LABELS, 32).targets is None


def test_collate_of_sixteen_bits():
    image = np.full((3, 4, 5), 60000, dtype=np.uint16)
    batch = collate([replace(make_sample(IDS), image=image)], LABELS, 1)
    assert batch.images.dtype == torch.uint16
    np.testing.assert_array_equal(batch.images[0].permute(1, 2, 0).numpy(), image)


def test_collate_of_different_kinds():
    other = replace(make_sample(IDS), image=np.zeros((3, 4, 4), dtype=np.uint8), file_name="b.png")
    with pytest.raises(InputError, match=r"b\.png has 4 channels of uint8, a\.png has 3 channels of uint8; convert"):
        collate([make_sample(IDS), other], LABELS, 32)

"""Foreign weights: what is read, what is refused, and where each tensor goes."""

import builtins
import collections
import json
import os
import pickle
import re
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from thingstuff.checkpoint import load_checkpoint
from thingstuff.convert import convert, detectron2, panet
from thingstuff.convert.classes import cityscapes_labels, coco_labels, labels_for, read_labels, things_only
from thingstuff.convert.detectron2 import RELEASED, all_modules, convert_detectron2, find_released
from thingstuff.convert.foreign import ForeignWeights, read_weights
from thingstuff.convert.mapping import PROJECTS, check_project, foreign_names, network_shapes
from thingstuff.convert.panet import convert_panet, panet_modules
from thingstuff.errors import InputError
from thingstuff.labels import Category, LabelSet
from thingstuff.model.build import build_network
from thingstuff.recipe import derive
from thingstuff.recipes import (
    panet_r50_coco,
    panet_r50_coco_detection,
    panoptic_fpn_r50_coco,
    panoptic_fpn_r101_3x_coco,
)

PANET = Path(__file__).parents[1] / ".." / "shared" / "golden" / "panet"
needs_panet = pytest.mark.skipif(not PANET.exists(), reason="needs PANet's names in ../shared/golden/panet")

OWN = LabelSet(
    (
        Category(4, "grass", False, (0, 200, 0)),
        Category(9, "sky", False, (0, 0, 200)),
        Category(2, "cat", True, (200, 0, 0)),
        Category(3, "dog", True, (200, 200, 0)),
        Category(7, "cow", True, (200, 0, 200)),
    )
)


def write_own_labels(folder: Path) -> Path:
    path = folder / "panoptic.json"
    path.write_text(json.dumps({"categories": OWN.to_coco(), "images": []}))
    return path


def detectron2_tensors(recipe, labels: LabelSet) -> dict[str, torch.Tensor]:
    """Weights under Detectron2's names; a constant stands for each tensor, but outputs are numbered."""
    shapes = network_shapes(recipe, labels)
    names = foreign_names(shapes, all_modules(recipe.model.backbone.name))
    tensors = {name: torch.zeros(()).expand(shapes[ours]) for name, ours in names.items()}
    for name in ("sem_seg_head.predictor.weight", "roi_heads.box_predictor.cls_score.bias"):
        shape = tensors[name].shape
        tensors[name] = torch.arange(shape[0]).float().view(-1, *[1] * (len(shape) - 1)).expand(shape)
    tensors["sem_seg_head.predictor.bias"] = torch.arange(labels.num_stuff + 1).float()
    return tensors


@pytest.fixture
def own_weights(monkeypatch, tmp_path):
    """What a Detectron2 file with the classes of ``OWN`` holds; tests change it and convert it."""
    tensors = detectron2_tensors(panoptic_fpn_r50_coco(), OWN)
    monkeypatch.setattr(detectron2, "read_weights", lambda _: ForeignWeights(tensors))
    (tmp_path / "own.pth").write_bytes(b"")
    return tensors


# --- reading ---


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pickles_of_every_protocol(tmp_path, protocol):
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = {"model": collections.OrderedDict(w=weight), "__author__": "somebody", "matching_heuristics": True}
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    read = read_weights(tmp_path / "file.pkl")
    assert read.author == "somebody"
    assert list(read.tensors) == ["w"]
    np.testing.assert_array_equal(read.tensors["w"], weight)


# What Python 2 with numpy 1 wrote for {"w": np.array([1, 2], dtype=np.float32)} in protocol 2.
PYTHON_2 = (
    b"\x80\x02}q\x01U\x01wq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq"
    b"\x05(K\x01K\x02\x85cnumpy\ndtype\nq\x06U\x02f4K\x00K\x01\x87Rq\x07(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff"
    b"\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00@tbs."
)


def test_pickles_of_python_2(tmp_path):
    (tmp_path / "old.pkl").write_bytes(PYTHON_2)
    tensors = read_weights(tmp_path / "old.pkl").tensors
    assert tensors["w"].tolist() == [1.0, 2.0]
    assert tensors["w"].dtype == torch.float32


@given(
    arrays.arrays(
        st.sampled_from(["<f4", ">f4", "<f8", "<f2", "<i8", ">i4", "u1"]),
        arrays.array_shapes(min_dims=0, min_side=0),
        elements=st.integers(0, 100),
    )
)
def test_arrays_survive(tmp_path_factory, array):
    path = tmp_path_factory.mktemp("arrays") / "file.pkl"
    path.write_bytes(pickle.dumps({"w": array}))
    tensor = read_weights(path).tensors["w"]
    np.testing.assert_array_equal(tensor.numpy(), array)
    assert tensor.dtype == torch.float32 if array.dtype.kind == "f" else not tensor.is_floating_point()


class Calls:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (lambda mark: Calls(os.system, f"touch {mark}"), r"\.system"),
        (lambda mark: Calls(subprocess.call, ["touch", mark]), r"\.call"),
        (lambda mark: Calls(builtins.eval, f"open({mark!r}, 'w')"), r"builtins?(__)?\.eval"),
        (lambda mark: Calls(builtins.open, mark, "w"), "io.open"),
        (lambda mark: Calls(getattr, np.zeros(1), "tofile"), "getattr"),
        (lambda mark: Calls(np.load, mark), r"numpy\S*\.load"),
        (lambda mark: Calls(np.ndarray.tofile, np.zeros(1), mark), "getattr"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_that_want_to_run_something_are_refused(tmp_path, attack, named, protocol):
    mark = tmp_path / "was_here"
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": {"w": np.zeros(2)}, "x": attack(str(mark))}, protocol=protocol))
    with pytest.raises(
        InputError, match=rf"evil\.pkl: refused, it asks for \S*{named}, .*nothing of it was run"
    ) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_names_with_dots_do_not_reach_methods(tmp_path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.")
    with pytest.raises(InputError, match=r"it asks for numpy\.ndarray\.tofile"):
        read_weights(path)


def test_torch_files(tmp_path):
    training = {
        "model": {"w": torch.ones(2, 3, dtype=torch.float16)},
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "scheduler": {"last_epoch": 3, "milestones": collections.Counter([5])},
        "iteration": 3,
    }
    torch.save(training, tmp_path / "training.pth")
    torch.save({"w": torch.ones(2, 3)}, tmp_path / "bare.pth")
    torch.save({"meta": {"epoch": 1}, "state_dict": {"w": torch.ones(2, 3)}}, tmp_path / "mmdet.pth")
    for name in ("training", "bare", "mmdet"):
        tensors = read_weights(tmp_path / f"{name}.pth").tensors
        assert list(tensors) == ["w"]
        assert tensors["w"].dtype == torch.float32
        assert tensors["w"].shape == (2, 3)


def test_files_of_networks_that_were_wrapped_for_several_gpus(tmp_path):
    torch.save({"module.a.w": torch.ones(2), "module.b": torch.ones(1)}, tmp_path / "wrapped.pth")
    assert list(read_weights(tmp_path / "wrapped.pth").tensors) == ["a.w", "b"]
    torch.save({"module.w": torch.ones(2), "b": torch.ones(1)}, tmp_path / "other.pth")
    assert list(read_weights(tmp_path / "other.pth").tensors) == ["module.w", "b"]


def test_torch_files_that_want_to_run_something_are_refused(tmp_path):
    mark = tmp_path / "was_here"
    torch.save({"model": {"w": torch.ones(1)}, "x": Calls(os.system, f"touch {mark}")}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match=r"evil\.pth: refused, it holds more than weights") as caught:
        read_weights(tmp_path / "evil.pth")
    assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pkl", b"", "not a pickle of weights, or damaged"),
        ("a.pkl", pickle.dumps({"w": np.zeros(100)})[:-40], "not a pickle of weights, or damaged"),
        ("a.pkl", pickle.dumps([1, 2]), "holds list, not weights by name"),
        ("a.pkl", pickle.dumps({"model": {}}), "holds no weights"),
        ("a.pkl", pickle.dumps({"w": "text"}), "'w' is str, not an array"),
        ("a.pkl", pickle.dumps({"w": np.array([None])}), "'w' is ndarray, not an array"),
        ("a.pth", b"", "not a file of torch.save, or damaged"),
        ("a.pth", b"PK\x03\x04" + bytes(100), "not a file of torch.save, or damaged"),
        ("a.pth", b"<html>", "not a file of torch.save, or damaged"),
        ("a.pth", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not a file of torch.save, or damaged"),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not a file of torch.save, or damaged"),
        ("a.pth", b"c0ffee", "not a file of torch.save, or damaged"),
    ],
)
def test_files_that_hold_no_weights(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        read_weights(tmp_path / "none.pkl")


# --- classes ---


def test_coco_labels():
    labels = coco_labels()
    assert (labels.num_stuff, labels.num_things) == (53, 80)
    names = {category.id: category.name for category in labels.categories}
    assert (names[92], names[200], names[1], names[90]) == ("banner", "rug-merged", "person", "toothbrush")
    assert [c.id for c in labels.categories[:2]] == [92, 93]
    assert [c.id for c in labels.categories[53:55]] == [1, 2]
    assert len({c.color for c in labels.categories}) == 133


def test_cityscapes_labels():
    labels = cityscapes_labels()
    assert (labels.num_stuff, labels.num_things) == (11, 8)
    # The data set's training ids 0 to 18 are in the order of its label ids.
    assert [c.id for c in labels.categories] == [
        7,
        8,
        11,
        12,
        13,
        17,
        19,
        20,
        21,
        22,
        23,
        24,
        25,
        26,
        27,
        28,
        31,
        32,
        33,
    ]
    assert [c.name for c in labels.categories[10:13]] == ["sky", "person", "rider"]
    assert labels.categories[0] == Category(7, "road", False, (128, 64, 128))
    assert len({c.color for c in labels.categories}) == 19


def test_labels_of_a_toml_file(tmp_path):
    path = tmp_path / "labels.toml"
    path.write_text(
        '[[category]]\nid = 7\nname = "Kuh"\nisthing = true\ncolor = [1, 2, 3]\n\n'
        '[[category]]\nid = 3\nname = "Gras"\nisthing = false\n'
    )
    first, second = read_labels(path).categories
    assert (first.id, first.name, first.isthing) == (3, "Gras", False)
    assert second == Category(7, "Kuh", True, (1, 2, 3))


def test_labels_of_a_panoptic_json_file(tmp_path):
    assert read_labels(write_own_labels(tmp_path)) == OWN


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.toml", "category = 3", "has no list 'category'"),
        ("l.toml", "[[category]\n", "not TOML"),
        ("l.toml", '[[category]]\nid = 1\nname = "a"\n', "lacks 'isthing'"),
        ("l.json", "[]", "has no list 'categories'"),
        ("l.json", "{", "not JSON"),
        ("l.json", b"\xff\xfe", "not JSON"),
    ],
)
def test_wrong_label_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        read_labels(tmp_path / name)


def test_missing_label_file(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read.*--labels"):
        read_labels(tmp_path / "none.json")


def test_coco_is_assumed_only_for_its_numbers(tmp_path):
    assert labels_for(53, 80, None, "file") == coco_labels()
    assert labels_for(0, 80, None, "file") == things_only(coco_labels())
    assert labels_for(11, 8, None, "file") == cityscapes_labels()
    with pytest.raises(InputError, match="file has 8 thing and 0 stuff classes, which are not COCO's or Cityscapes'"):
        labels_for(0, 8, None, "file")
    with pytest.raises(InputError, match=r"file has 3 thing and 2 stuff classes, which are not COCO's.*--labels"):
        labels_for(2, 3, None, "file")
    with pytest.raises(InputError, match=r"has 80 thing and 53 stuff classes, but .*panoptic\.json lists 3 and 2"):
        labels_for(53, 80, write_own_labels(tmp_path), "file")


# --- Detectron2 ---


def test_own_classes_and_class_order(tmp_path):
    """The whole way, from a file of torch.save to a checkpoint that works."""
    torch.save({"model": detectron2_tensors(panoptic_fpn_r50_coco(), OWN), "iteration": 9}, tmp_path / "own.pth")
    convert("detectron2", tmp_path / "own.pth", tmp_path / "own.safetensors", write_own_labels(tmp_path))
    checkpoint = load_checkpoint(tmp_path / "own.safetensors")
    assert checkpoint.labels == OWN
    assert checkpoint.recipe == panoptic_fpn_r50_coco()
    assert "own.pth" in checkpoint.credit
    # Detectron2 has all things as output 0, then stuff; here stuff comes first.
    assert checkpoint.weights["semantic.predictor.bias"].tolist() == [1.0, 2.0, 0.0]
    assert checkpoint.weights["semantic.predictor.weight"][:, 0, 0, 0].tolist() == [1.0, 2.0, 0.0]
    # Things in order of their ids and background last, in both.
    assert checkpoint.weights["region.box_head.outputs.classes.bias"].tolist() == [0.0, 1.0, 2.0, 3.0]
    checkpoint.network()


def test_what_the_metadata_says(own_weights, tmp_path):
    recipe = convert_detectron2(tmp_path / "own.pth", write_own_labels(tmp_path)).recipe
    assert recipe.picture.channel_order == "bgr"
    assert recipe.picture.mean == (103.53, 116.28, 123.675)
    assert recipe.picture.std == (1.0, 1.0, 1.0)
    assert (recipe.picture.short_side, recipe.picture.max_side) == (800, 1333)
    assert recipe.model.fusion is not None
    assert recipe.model.region is not None
    assert recipe.model.fusion.stuff_area == 4096
    assert recipe.model.region.score_threshold == 0.05


def test_resnet101(monkeypatch, tmp_path):
    tensors = detectron2_tensors(panoptic_fpn_r101_3x_coco(), coco_labels())
    assert len(tensors) == 330 + 17 * 15
    assert "backbone.bottom_up.res4.22.conv3.norm.running_var" in tensors
    monkeypatch.setattr(detectron2, "read_weights", lambda _: ForeignWeights(tensors, "Detectron2 Model Zoo"))
    (tmp_path / "r101.pkl").write_bytes(b"")
    checkpoint = convert_detectron2(tmp_path / "r101.pkl")
    assert checkpoint.recipe.name == "panoptic_fpn_r101_3x_coco"
    assert "by Detectron2 Model Zoo" in checkpoint.credit


def test_model_zoo_files_are_known_by_their_content(monkeypatch, own_weights, tmp_path):
    (tmp_path / "renamed.pkl").write_bytes(b"x")
    assert find_released(tmp_path / "renamed.pkl") is None

    class Digest:
        def hexdigest(self):
            return RELEASED[1].md5_prefix + "0" * 26

    monkeypatch.setattr(detectron2.hashlib, "file_digest", lambda *_: Digest())
    checkpoint = convert_detectron2(tmp_path / "renamed.pkl", write_own_labels(tmp_path))
    assert checkpoint.recipe.name == "panoptic_fpn_r50_3x_coco"
    assert "panoptic_fpn_R_50_3x" in checkpoint.credit
    assert "CC BY-SA 3.0" in checkpoint.credit


def test_known_extra_keys_are_ignored(own_weights, tmp_path):
    plain = convert_detectron2(tmp_path / "own.pth", write_own_labels(tmp_path))
    own_weights["pixel_mean"] = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)
    own_weights["pixel_std"] = torch.ones(3, 1, 1)
    for level, size in enumerate((32, 64, 128, 256, 512)):
        half = torch.tensor([[size / r**0.5 / 2, size * r**0.5 / 2] for r in (0.5, 1, 2)])
        own_weights[f"proposal_generator.anchor_generator.cell_anchors.{level}"] = torch.cat([-half, half], dim=1)
    extra = convert_detectron2(tmp_path / "own.pth", write_own_labels(tmp_path))
    assert extra.weights.keys() == plain.weights.keys()
    assert extra.recipe == plain.recipe


def test_statistics_in_the_file_count(own_weights, tmp_path):
    own_weights["pixel_mean"] = torch.tensor([10.5, 20.25, 30.1]).view(3, 1, 1)
    picture = convert_detectron2(tmp_path / "own.pth", write_own_labels(tmp_path)).recipe.picture
    assert picture.mean == (10.5, 20.25, 30.1)


def test_other_anchors_are_refused(own_weights, tmp_path):
    own_weights["proposal_generator.anchor_generator.cell_anchors.0"] = torch.ones(3, 4)
    with pytest.raises(InputError, match="its anchors of level 0"):
        convert_detectron2(tmp_path / "own.pth", write_own_labels(tmp_path))


def test_everything_else_is_listed_and_refused(own_weights, tmp_path):
    del own_weights["backbone.fpn_output3.bias"]
    own_weights["pixel_median"] = torch.zeros(3)
    own_weights["proposal_generator.anchor_generator.cell_anchors.5"] = torch.zeros(3, 4)
    own_weights["roi_heads.box_predictor.bbox_pred.bias"] = torch.zeros(4)
    with pytest.raises(InputError) as caught:
        convert_detectron2(tmp_path / "own.pth", write_own_labels(tmp_path))
    message = str(caught.value)
    assert "lacks 1 (backbone.fpn_output3.bias)" in message
    assert "has unexpected 2 (pixel_median, proposal_generator.anchor_generator.cell_anchors.5)" in message
    assert "has another shape of 1 (roi_heads.box_predictor.bbox_pred.bias (4,), not (12,))" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("sem_seg_head.predictor", "has no 'sem_seg_head.predictor.weight', so it is not a Panoptic FPN"),
        ("backbone.bottom_up.res4.5", "stage 'backbone.bottom_up.res4' has 5 blocks; ResNet-50 has 6"),
    ],
)
def test_other_networks_are_refused(own_weights, tmp_path, drop, message):
    for name in [name for name in own_weights if name.startswith(drop)]:
        del own_weights[name]
    with pytest.raises(InputError, match=message):
        convert_detectron2(tmp_path / "own.pth", write_own_labels(tmp_path))


# --- Caffe2's ResNets ---


def caffe2_resnet() -> dict[str, torch.Tensor]:
    """A ResNet-50 under Caffe2's names, every tensor another constant."""
    body = build_network(panoptic_fpn_r50_coco(), coco_labels()).backbone.state_dict()
    layers = {"conv1": "2a", "bn1": "2a_bn", "conv2": "2b", "bn2": "2b_bn", "conv3": "2c", "bn3": "2c_bn"}
    layers |= {"downsample.0": "1", "downsample.1": "1_bn"}
    tensors = {}
    for name, tensor in body.items():
        module, _, leaf = name.removeprefix("body.").rpartition(".")
        if leaf.startswith("running"):
            continue
        letter = "b" if leaf == "bias" else "s" if tensor.ndim == 1 else "w"
        if module in ("conv1", "bn1"):
            theirs = {"conv1": "conv1", "bn1": "res_conv1_bn"}[module]
        else:
            stage, block, layer = module.split(".", 2)
            theirs = f"res{int(stage[-1]) + 1}_{block}_branch{layers[layer]}"
        tensors[f"{theirs}_{letter}"] = torch.full_like(tensor, len(tensors) + 1.0)
    return tensors


def test_a_resnet_to_begin_with(monkeypatch, tmp_path):
    tensors = caffe2_resnet()
    assert {"conv1_w", "res_conv1_bn_s", "res2_0_branch1_w", "res5_2_branch2c_bn_b"} <= tensors.keys()
    values = {name: tensor.flatten()[0].item() for name, tensor in tensors.items()}
    extra = {"conv1_b": torch.full((64,), 1e-9), "fc1000_w": torch.ones(2, 2), "fc1000_b": torch.ones(2)}
    monkeypatch.setattr(detectron2, "read_weights", lambda _: ForeignWeights(tensors | extra))
    checkpoint = convert_detectron2(tmp_path / "R-50.pkl")
    assert checkpoint.recipe.picture == panoptic_fpn_r50_coco().picture
    weights = {name: tensor.flatten()[0].item() for name, tensor in checkpoint.weights.items()}
    assert all(name.startswith("backbone.body.") for name in weights)
    assert weights["backbone.body.bn1.bias"] == values["res_conv1_bn_b"]
    assert weights["backbone.body.layer1.0.downsample.0.weight"] == values["res2_0_branch1_w"]
    assert weights["backbone.body.layer4.2.bn3.weight"] == values["res5_2_branch2c_bn_s"]
    assert weights["backbone.body.layer2.3.conv1.weight"] == values["res3_3_branch2a_w"]
    assert len(checkpoint.weights) == 53 * 5
    network = build_network(checkpoint.recipe, coco_labels())
    network.load_state_dict(network.state_dict() | dict(checkpoint.weights))
    # Scale and shift are all there is to a norm: mean 0, and variance and epsilon together 1.
    norm = network.get_submodule("backbone.body.layer1.0.downsample.1")
    scale, shift = values["res2_0_branch1_bn_s"], values["res2_0_branch1_bn_b"]
    torch.testing.assert_close(norm(torch.full((1, 256, 1, 1), 2.0)), torch.full((1, 256, 1, 1), 2 * scale + shift))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("res2_0_branch2a_b", "'res2_0_branch2a_b' is a bias of up to 1"),
        ("res2_0_branch2a_bn_rm", r"has unexpected 1 \(res2_0_branch2a_bn_rm\)"),
    ],
)
def test_other_resnets_are_refused(monkeypatch, tmp_path, name, message):
    tensors = caffe2_resnet() | {name: torch.ones(64)}
    monkeypatch.setattr(detectron2, "read_weights", lambda _: ForeignWeights(tensors))
    with pytest.raises(InputError, match=message):
        convert_detectron2(tmp_path / "R-50.pkl")


# --- PANet ---


def fill(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Weights by the rule of the golden files."""
    values = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode()))).standard_normal(shape)
    if len(shape) > 1:
        values = values * np.sqrt(2 / np.prod(shape[1:]))
    else:
        values = 0.1 * values + (1 if name.endswith(".weight") else 0)
    return torch.from_numpy(values.astype(np.float32))


def panet_shapes(kind: str) -> dict[str, tuple[int, ...]]:
    names = json.loads((PANET / f"keys_{kind}.json").read_text())
    return {name: tuple(shape) for name, shape in names.items()}


PANET_RECIPES = {
    "mask": panet_r50_coco(),
    "det": panet_r50_coco_detection(),
    "det2fc": derive(
        panet_r50_coco_detection(), name="panet_r50_coco_detection_light", model__region__box_head__kind="light"
    ),
}
PANET_SAMPLES = {
    "backbone.body.conv1.weight": "Conv_Body.conv_body.res1.conv1.weight",
    "backbone.body.bn1.bias": "Conv_Body.conv_body.res1.bn1.bias",
    "backbone.body.layer3.5.bn3.weight": "Conv_Body.conv_body.res4.5.bn3.weight",
    "backbone.body.layer4.0.downsample.1.bias": "Conv_Body.conv_body.res5.0.downsample.1.bias",
    "neck.lateral.3.0.weight": "Conv_Body.conv_top.0.weight",
    "neck.lateral.2.1.bias": "Conv_Body.topdown_lateral_modules.0.conv_lateral.1.bias",
    "neck.lateral.0.0.weight": "Conv_Body.topdown_lateral_modules.2.conv_lateral.0.weight",
    "neck.output.3.1.weight": "Conv_Body.posthoc_modules.0.1.weight",
    "neck.output.0.0.weight": "Conv_Body.posthoc_modules.3.0.weight",
    "neck.bottom_up.down.0.0.bias": "Conv_Body.panet_buttomup_conv1_modules.0.0.bias",
    "neck.bottom_up.output.2.1.weight": "Conv_Body.panet_buttomup_conv2_modules.2.1.weight",
    "rpn.conv.weight": "RPN.FPN_RPN_conv.weight",
    "rpn.objectness.bias": "RPN.FPN_RPN_cls_score.bias",
    "rpn.deltas.weight": "RPN.FPN_RPN_bbox_pred.weight",
}
PANET_HEAVY_SAMPLES = {
    "region.box_pool.entries.0.0.weight": "Box_Head.conv1_head.0.0.weight",
    "region.box_pool.entries.3.1.bias": "Box_Head.conv1_head.3.1.bias",
    "region.box_head.convs.1.0.weight": "Box_Head.convs.3.weight",
    "region.box_head.convs.2.1.bias": "Box_Head.convs.7.bias",
    "region.box_head.hidden.1.weight": "Box_Head.fc.weight",
}
PANET_LIGHT_SAMPLES = {
    "region.box_pool.entries.0.1.bias": "Box_Head.fc1.0.0.bias",
    "region.box_pool.entries.3.2.bias": "Box_Head.fc1.3.1.bias",
    "region.box_head.hidden.0.bias": "Box_Head.fc2.0.bias",
    "region.box_head.hidden.1.weight": "Box_Head.fc2.1.weight",
}
PANET_MASK_SAMPLES = {
    "region.mask_pool.entries.2.0.weight": "Mask_Head.mask_conv1.2.0.weight",
    "region.mask_head.convs.0.0.weight": "Mask_Head.conv_fcn.0.weight",
    "region.mask_head.convs.1.1.bias": "Mask_Head.conv_fcn.4.bias",
    "region.mask_head.conv_fcn.0.weight": "Mask_Head.mask_conv4.0.weight",
    "region.mask_head.conv_fc.0.0.weight": "Mask_Head.mask_conv4_fc.0.weight",
    "region.mask_head.conv_fc.1.1.bias": "Mask_Head.mask_conv5_fc.1.bias",
    "region.mask_head.fc.bias": "Mask_Head.mask_fc.0.bias",
    "region.mask_head.upsample.weight": "Mask_Head.upconv.weight",
}
"""PANet's names by ours, written down by hand."""


@needs_panet
@pytest.mark.parametrize(
    ("kind", "count", "parameters", "samples"),
    [
        ("mask", 273, 73_356_357, PANET_HEAVY_SAMPLES | PANET_MASK_SAMPLES),
        ("det", 240, 48_385_508, PANET_HEAVY_SAMPLES),
        ("det2fc", 237, 83_851_236, PANET_LIGHT_SAMPLES),
    ],
)
def test_panet(monkeypatch, kind, count, parameters, samples):
    """A constant of its own stands for every tensor; in the outputs for classes, row ``i`` is ``i``."""
    shapes = panet_shapes(kind)
    assert len(shapes) == count
    tensors = {name: torch.tensor(number + 1.0).expand(shape) for number, (name, shape) in enumerate(shapes.items())}
    outputs = [name for name in shapes if name.startswith(("Box_Outs.", "Mask_Outs."))]
    for name in outputs:
        rows = torch.arange(shapes[name][0]).float()
        tensors[name] = rows.view(-1, *[1] * (len(shapes[name]) - 1)).expand(shapes[name])
    monkeypatch.setattr(panet, "read_weights", lambda _: ForeignWeights(tensors))
    checkpoint = convert_panet("snapshot.pth")
    assert checkpoint.recipe == PANET_RECIPES[kind]
    assert checkpoint.labels == things_only(coco_labels())
    weights = checkpoint.weights
    assert {name: tensor.shape for name, tensor in weights.items()} == network_shapes(
        checkpoint.recipe, checkpoint.labels
    )
    # With weight and bias of the frozen norms, and the outputs for background that have no meaning.
    background = 4 * (1024 + 1) + (256 + 1 if kind == "mask" else 0)
    assert sum(t.numel() for name, t in weights.items() if ".running_" not in name) + background == parameters
    # What is not in the file are the statistics of the backbone's norms, which have scale and shift alone.
    statistics = {name for name in weights if ".running_" in name}
    assert statistics == {
        name.replace(".weight", leaf)
        for name in weights
        if re.search(r"backbone.*(bn\d|downsample\.1)\.weight", name)
        for leaf in (".running_mean", ".running_var")
    }
    predicted = re.compile(r"region\.(box_head\.outputs|mask_head\.predictor)\.")
    landed = {t.flatten()[0].item() for name, t in weights.items() if not predicted.match(name)} - {0.0}
    assert landed == {tensors[name].flatten()[0].item() for name in tensors if name not in outputs} | {
        weights["backbone.body.bn1.running_var"][0].item()
    }
    for ours, theirs in (PANET_SAMPLES | samples).items():
        assert torch.equal(weights[ours], tensors[theirs]), ours
    for leaf in ("weight", "bias"):
        classes = weights[f"region.box_head.outputs.classes.{leaf}"]
        assert [row.flatten()[0] for row in classes] == [*range(1, 81), 0]
        assert [row.flatten()[0] for row in weights[f"region.box_head.outputs.deltas.{leaf}"]] == list(range(4, 324))
        if kind == "mask":
            masks = weights[f"region.mask_head.predictor.{leaf}"]
            assert [row.flatten()[0] for row in masks] == list(range(1, 81))


@needs_panet
def test_panet_snapshot(tmp_path):
    """A saved state in the container of older versions of torch, with the weights of the golden files."""
    shapes = panet_shapes("mask")
    probes = json.loads((PANET / "weight_probes.json").read_text())
    model = {
        name: fill(name, shape) if name in probes else torch.zeros(()).expand(shape) for name, shape in shapes.items()
    }
    model["Box_Outs.cls_score.weight"] = fill("Box_Outs.cls_score.weight", (81, 1024))
    scale, shift = fill("scale.weight", (64,)), fill("shift.bias", (64,))
    model |= {"Conv_Body.conv_body.res1.bn1.weight": scale, "Conv_Body.conv_body.res1.bn1.bias": shift}
    snapshot = {"step": 179999, "train_size": 234532, "batch_size": 16, "model": collections.OrderedDict(model)}
    snapshot["optimizer"] = {"state": {}, "param_groups": [{"lr": 0.0002, "params": [0]}]}
    path = tmp_path / "panet_mask_step179999.pth"
    torch.save(snapshot, path, _use_new_zipfile_serialization=False)
    checkpoint = convert_panet(path)
    assert checkpoint.credit == (
        "converted from panet_mask_step179999.pth of PANet's official code (MIT); the licence is that of this file"
    )
    checked = 0
    for ours, theirs in PANET_SAMPLES.items():
        if theirs in probes:
            first, total = probes[theirs]
            tensor = checkpoint.weights[ours]
            assert tensor.flatten()[0].item() == pytest.approx(first, rel=1e-6), ours
            assert tensor.double().sum().item() == pytest.approx(total, rel=1e-4), ours
            checked += 1
    assert checked == 7
    classes = checkpoint.weights["region.box_head.outputs.classes.weight"]
    assert torch.equal(classes[80], model["Box_Outs.cls_score.weight"][0])
    assert torch.equal(classes[3], model["Box_Outs.cls_score.weight"][4])
    # Scale and shift are all there is to a norm of the backbone: mean 0, and variance and epsilon together 1.
    norm = checkpoint.network().get_submodule("backbone.body.bn1")
    norm.act = torch.nn.Identity()
    values = torch.linspace(-3, 3, 64).view(1, 64, 1, 1)
    torch.testing.assert_close(norm(values)[0, :, 0, 0], scale * values[0, :, 0, 0] + shift, rtol=1e-6, atol=1e-6)


def test_panet_with_own_classes_and_other_files(monkeypatch, tmp_path):
    recipe = PANET_RECIPES["det"]
    labels = things_only(OWN)
    shapes = network_shapes(recipe, labels)
    names = foreign_names(shapes, panet_modules(recipe))
    tensors = {name: torch.zeros(()).expand(shapes[ours]) for name, ours in names.items() if ".running_" not in ours}
    tensors["Box_Outs.bbox_pred.weight"] = torch.zeros(16, 1024)
    tensors["Box_Outs.bbox_pred.bias"] = torch.arange(16.0)

    def converted(changes=None, drop="-", labels=None):
        held = {name: tensor for name, tensor in (tensors | (changes or {})).items() if not name.startswith(drop)}
        monkeypatch.setattr(panet, "read_weights", lambda _: ForeignWeights(held))
        return convert_panet("own.pth", labels)

    (tmp_path / "things.json").write_text(json.dumps({"categories": labels.to_coco()}))
    checkpoint = converted(labels=tmp_path / "things.json")
    assert checkpoint.labels == labels
    assert checkpoint.weights["region.box_head.outputs.deltas.bias"].tolist() == list(range(4, 16))
    for changes, drop, named, message in (
        ({}, "-", None, "has 3 thing and 0 stuff classes, which are not COCO's"),
        ({}, "-", write_own_labels(tmp_path), "has 3 thing and 0 stuff classes, but .* lists 3 and 2"),
        ({}, "Box_Outs", None, "has no 'Box_Outs.cls_score.weight', so it is not a PANet of the official code"),
        ({}, "Conv_Body.conv_body.res4.5", tmp_path / "things.json", r"res4' has 5 blocks"),
        ({}, "Conv_Body.conv_top.1.bias", tmp_path / "things.json", r"lacks 1 \(Conv_Body.conv_top.1.bias\)"),
        ({"Keypoint_Outs.bias": torch.zeros(1)}, "-", tmp_path / "things.json", "has unexpected 1"),
        ({"rpn.conv_proposal.0.weight": torch.zeros(1)}, "-", None, "use: thingstuff convert upsnet"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            converted(changes, drop, named)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", PROJECTS)
def test_weights_of_another_project_are_sent_where_they_belong(kind):
    for other, name in PROJECTS.items():
        if other == kind:
            check_project([name], kind, "file.pth")
            continue
        with pytest.raises(
            InputError, match=rf"^file\.pth: has '.*'.* not of the kind {kind}; use: .* convert {other}$"
        ):
            check_project([name], kind, "file.pth")


def test_out_must_be_a_checkpoint(tmp_path):
    with pytest.raises(InputError, match=r"out\.pth: a checkpoint ends in \.safetensors"):
        convert("detectron2", tmp_path / "a.pkl", tmp_path / "out.pth")

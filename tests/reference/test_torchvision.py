"""The installed torchvision's Mask R-CNN with random weights against its conversion: the same boxes and masks."""

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import resnet50, resnet101
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import FrozenBatchNorm2d, clip_boxes_to_image

from thingstuff.convert.classes import coco_labels, things_only
from thingstuff.convert.torchvision import OLD_MODULES, convert_torchvision
from thingstuff.errors import InputError
from thingstuff.labels import Category, LabelSet
from thingstuff.model.build import build_network
from thingstuff.model.pasting import paste_in_whole_pixels
from thingstuff.model.rpn import AnchorPredictions, RegionProposalNetwork
from thingstuff.predict import Model
from thingstuff.recipe import derive

pytestmark = pytest.mark.reference

SIZE = (212, 310)
"""Padded to 224 x 320: stride 32 has 7 rows and stride 64 has 4, which are 56 pixels apart in torchvision, not 64."""


def randomize(network: torch.nn.Module, seed: int) -> None:
    """Weights that give features of a moderate size, proposals that differ, and classes that are sure now and then."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(1 + 0.1 * noise.abs())
        elif tensor.ndim == 1 and name.endswith("weight"):
            tensor.copy_((1 + 0.1 * noise) * (0.3 if "bn3" in name else 1))
        elif tensor.ndim > 1:
            tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
        elif tensor.ndim == 1:
            tensor.copy_(0.1 * noise)
    state = network.state_dict()
    for name, factor in (("rpn.head.bbox_pred", 0.2), ("rpn.head.cls_logits", 0.5)):
        if f"{name}.weight" in state:
            state[f"{name}.weight"].mul_(factor)


def see(network: Any, picture: np.ndarray) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return network([torch.from_numpy(picture).permute(2, 0, 1) / 255])[0]


def balance_classes(network: Any, picture: np.ndarray, factor: float, favour: float) -> None:
    """Give all classes the same mean logit on the picture, and background some more; scores should not come near 1."""
    seen = []
    predictor = network.roi_heads.box_predictor
    predictor.cls_score.weight.data.mul_(factor)
    hook = predictor.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
    see(network, picture)
    hook.remove()
    predictor.cls_score.bias.data -= seen[0].mean(dim=0)
    predictor.cls_score.bias.data[0] += favour


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    rng = np.random.default_rng(7)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    waves = np.stack([np.sin(x / 17 + c) + np.cos(y / (11 + c)) for c in range(3)], axis=2)
    return np.clip(128 + 50 * waves + rng.normal(0, 25, (*SIZE, 3)), 0, 255).astype(np.uint8)


def labels_file(folder, count: int):
    path = folder / "labels.toml"
    path.write_text(
        "".join(f'[[category]]\nid = {n}\nname = "thing {n}"\nisthing = true\n' for n in range(1, count + 1))
    )
    return path


def compare(reference: Any, model: Model, picture: np.ndarray, number_of_label: dict[int, int]) -> int:
    """Compare all detections of one picture; how many there are."""
    theirs = see(reference, picture)
    ours = model(picture).instances
    assert ours is not None
    assert len(ours) == len(theirs["scores"])
    np.testing.assert_allclose(ours.scores, theirs["scores"], atol=1e-4)
    # Random weights enlarge what rounding does: boxes by some hundredths of a pixel, and near ties may change places.
    same = np.abs(ours.boxes - theirs["boxes"].numpy()).max(axis=1) < 0.05
    assert same.mean() > 0.96
    labels = np.array([number_of_label[i] for i in ours.category_ids.tolist()])
    np.testing.assert_array_equal(labels[same], theirs["labels"].numpy()[same])
    masks = ours.masks()
    assert masks is not None
    differing = (masks != (theirs["masks"][:, 0] >= 0.5).numpy()).mean(axis=(1, 2))
    assert differing[same].max() < 1e-3
    assert 0.02 < masks.mean() < 0.98
    assert len(set(ours.category_ids.tolist())) > 1
    return len(ours)


@pytest.fixture(scope="module")
def reference(picture):
    network = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=4, min_size=SIZE[0], max_size=1333
    ).eval()
    randomize(network, 3)
    balance_classes(network, picture, 0.3, 1.0)
    return network


def test_mask_rcnn_with_own_classes(reference, picture, tmp_path):
    torch.save(reference.state_dict(), tmp_path / "own.pth")
    checkpoint = convert_torchvision(tmp_path / "own.pth", labels_file(tmp_path, 3))
    assert compare(reference, Model(checkpoint, short_side=0), picture, {1: 1, 2: 2, 3: 3}) > 20


def test_files_of_2019_have_other_names(reference, tmp_path):
    old_of = {new: old for old, new in OLD_MODULES.items()}
    renamed = {}
    for name, tensor in reference.state_dict().items():
        module, _, leaf = name.rpartition(".")
        renamed[f"{old_of.get(module, module)}.{leaf}"] = tensor
    assert "roi_heads.mask_head.mask_fcn4.bias" in renamed
    assert "backbone.fpn.inner_blocks.0.weight" in renamed
    torch.save(renamed, tmp_path / "old.pth")
    torch.save(reference.state_dict(), tmp_path / "new.pth")
    old, new = (convert_torchvision(tmp_path / f"{age}.pth", labels_file(tmp_path, 3)) for age in ("old", "new"))
    assert old.weights.keys() == new.weights.keys()
    assert all(torch.equal(old.weights[name], new.weights[name]) for name in new.weights)


def test_coco_with_unused_outputs_and_frozen_norms_without_epsilon(picture, tmp_path):
    """As in the published weights: 91 outputs of which 80 are used, and norms that add nothing to the variance."""
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    network: Any = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=91, min_size=SIZE[0], max_size=1333
    ).eval()
    network.backbone = backbone.eval()
    randomize(network, 4)
    for module in network.modules():
        if isinstance(module, FrozenBatchNorm2d):
            state = module.state_dict()
            state["running_var"].mul_(1e-4)  # so small that 1e-5 would count
            state["running_mean"].mul_(1e-2)
            state["weight"].mul_(1e-2)
    overwrite_eps(network, 0.0)
    balance_classes(network, picture, 1.0, 6.0)
    unused = sorted(set(range(1, 91)) - {c.id for c in coco_things()})
    assert len(unused) == 10
    network.roi_heads.box_predictor.cls_score.bias.data[unused] = -1e4  # a trained network never says these
    torch.save(network.state_dict(), tmp_path / "coco.pth")
    checkpoint = convert_torchvision(tmp_path / "coco.pth")
    assert checkpoint.labels.num_things == 80
    assert compare(network, Model(checkpoint, short_side=0), picture, {n: n for n in range(91)}) > 20


def coco_things() -> tuple[Category, ...]:
    return things_only(coco_labels()).categories


def test_paste_of_random_masks():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(40, 2, generator=generator) * 120 - 20
    boxes = torch.cat([corners, corners + torch.rand(40, 2, generator=generator) ** 3 * 150], dim=1)
    boxes = clip_boxes_to_image(boxes, (90, 110))
    probabilities = torch.rand(40, 28, 28, generator=generator)
    theirs = paste_masks_in_image(probabilities[:, None], boxes, (90, 110))[:, 0] >= 0.5
    for mask, box, expected in zip(probabilities, boxes, theirs, strict=True):
        window, (top, left) = paste_in_whole_pixels(mask, box, (90, 110))
        ours = torch.zeros(90, 110, dtype=torch.bool)
        ours[top : top + window.shape[0], left : left + window.shape[1]] = window
        assert torch.equal(ours, expected)


def test_thin_proposals_are_dropped():
    """A side of 0.0005 pixels is enough for Detectron2, not for torchvision."""
    whole, thin = [0.0, 0.0, 20.0, 20.0], [5.0, 5.0, 20.0, 5.0005]
    anchors = AnchorPredictions(torch.tensor([whole, thin]), torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2, 4), (2,))
    for min_size, expected in ((0.0, 2), (0.001, 1)):
        rpn = RegionProposalNetwork(8, [[32.0]], [1.0], min_size=min_size).eval()
        assert rpn.select(anchors, torch.tensor([[40, 40]])).valid.sum() == expected


@pytest.mark.parametrize(("maker", "name"), [(resnet50, "resnet50"), (resnet101, "resnet101")])
def test_imagenet_resnets(maker, name, tmp_path):
    network = maker(weights=None)
    randomize(network, 5)
    torch.save(network.state_dict(), tmp_path / "resnet.pth")
    checkpoint = convert_torchvision(tmp_path / "resnet.pth")
    assert checkpoint.recipe.model.backbone.name == name
    body = {k.removeprefix("backbone."): v for k, v in checkpoint.weights.items()}
    assert set(checkpoint.weights) == {f"backbone.{key}" for key in body}
    recipe = derive(checkpoint.recipe, model__region=None, model__fusion=None)
    backbone = build_network(recipe, LabelSet((*coco_things(), Category(200, "rug", False, (0, 0, 0))))).backbone
    backbone.load_state_dict(body)
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features = backbone.eval()(pixels).features
        hidden = network.eval().maxpool(network.relu(network.bn1(network.conv1(pixels))))
        for stride, stage in zip((4, 8, 16, 32), ("layer1", "layer2", "layer3", "layer4"), strict=True):
            hidden = getattr(network, stage)(hidden)
            torch.testing.assert_close(features[stride], hidden, rtol=1e-4, atol=1e-4 * float(hidden.abs().max()))


def test_other_networks_are_refused(reference, tmp_path):
    state = dict(reference.state_dict())
    state["roi_heads.keypoint_head.0.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "keypoints.pth")
    with pytest.raises(InputError, match=r"has unexpected 1 \(roi_heads\.keypoint_head\.0\.weight\)"):
        convert_torchvision(tmp_path / "keypoints.pth", labels_file(tmp_path, 3))
    with pytest.raises(InputError, match="has 3 thing and 0 stuff classes, which are not COCO's"):
        convert_torchvision(tmp_path / "keypoints.pth")
    torch.save({"classifier.weight": torch.zeros(2)}, tmp_path / "vgg.pth")
    with pytest.raises(InputError, match="not a Mask R-CNN of torchvision"):
        convert_torchvision(tmp_path / "vgg.pth")
    torch.save({"conv1.weight": torch.zeros(2), "layer3.1.conv1.weight": torch.zeros(2)}, tmp_path / "r18.pth")
    with pytest.raises(InputError, match="stage 'layer3' has 1 blocks"):
        convert_torchvision(tmp_path / "r18.pth")

"""What networks that come from Detectron have in common: UPSNet and PANet."""

from thingstuff.recipe_model import MaskHeadConfig, RegionConfig, RPNConfig


def detectron_region() -> RegionConfig:
    """The region branch of Detectron: boxes that include their last pixel, RoIAlign without the half-pixel shift."""
    return RegionConfig(
        rpn=RPNConfig(anchor_kind="legacy", anchors_inside=True, num_proposals=(2000, 1000)),
        mask_head=MaskHeadConfig(mask_paste="inclusive_pixels"),
        sampling_ratio=2,
        aligned=False,
        inclusive_boxes=True,
    )

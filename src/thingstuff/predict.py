"""From a picture in any form to a result: what `thingstuff.load` returns."""

from collections.abc import Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import overload

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image

from thingstuff.checkpoint import Checkpoint, load_checkpoint
from thingstuff.data.images import read_image, upright_rgb
from thingstuff.data.transforms import resize_image, target_size
from thingstuff.errors import InputError
from thingstuff.model.panoptic import SIZE_DIVISOR, PanopticSegmenter
from thingstuff.model.tta import Look, combine_looks
from thingstuff.published import PUBLISHED, published_checkpoint
from thingstuff.recipe_model import TTAConfig
from thingstuff.result import Result, to_instances, to_panoptic
from thingstuff.structures import Outputs, Size

MAX_PIXELS = 100_000
"""Longest side that can be asked for."""
Picture = str | Path | Image.Image | np.ndarray
"""A path, a PIL image, or an (H, W, C) array, RGB where C = 3."""


class Model:
    """A trained network, ready for pictures.

    Args:
        checkpoint: The network, its recipe and its classes.
        device: Where it runs.
        short_side: Bring the shorter side of pictures to this many pixels; None: as the checkpoint says; 0: leave them.
        max_side: The longer side is at most this long; None: as the checkpoint says.
        tta: Look at every picture several times, as the recipe's `tta` says: better and slower.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str | torch.device = "cpu",
        short_side: int | None = None,
        max_side: int | None = None,
        tta: bool = False,
    ) -> None:
        network = checkpoint.network().to(_usable_device(device))
        self._prepare(network, checkpoint, short_side, max_side, tta)

    @classmethod
    def of_network(cls, network: PanopticSegmenter, checkpoint: Checkpoint) -> "Model":
        """Wrap a network as it stands, for example in the middle of its training; no weights are loaded."""
        model = cls.__new__(cls)
        model._prepare(network, checkpoint, None, None, tta=False)
        return model

    def _prepare(
        self,
        network: PanopticSegmenter,
        checkpoint: Checkpoint,
        short_side: int | None,
        max_side: int | None,
        tta: bool,
    ) -> None:
        picture = checkpoint.recipe.picture
        self.network = network
        self.recipe = checkpoint.recipe
        self.labels = checkpoint.labels
        self.credit = checkpoint.credit
        self.metrics = checkpoint.metrics
        self.tta = checkpoint.recipe.tta if tta else None
        self.short_side = _limit("short_side", picture.short_side if short_side is None else short_side, 0)
        if max_side is not None and self.short_side == 0:
            raise InputError(f"max_side is {max_side}, but pictures keep their size here; give short_side as well")
        self.max_side = _limit("max_side", picture.max_side if max_side is None else max_side, 1)

    @overload
    def __call__(self, pictures: Picture, *, output_size: Size | None = None) -> Result: ...

    @overload
    def __call__(self, pictures: Sequence[Picture], *, output_size: Size | None = None) -> list[Result]: ...

    def __call__(
        self, pictures: Picture | Sequence[Picture], *, output_size: Size | None = None
    ) -> Result | list[Result]:
        """See what is in a picture, or in each of several.

        Args:
            pictures: A path, a PIL image or an (H, W, C) array, RGB where C = 3; or a list of them.
            output_size: Height and width of the results; None: the picture's own.

        Raises:
            InputError: A picture cannot be read or does not fit the network.
        """
        if isinstance(pictures, Picture):
            return self._predict(as_array(pictures, self.recipe.picture.channels), output_size)
        return [self._predict(as_array(one, self.recipe.picture.channels), output_size) for one in pictures]

    @torch.inference_mode()
    def _predict(self, image: Shaped[np.ndarray, "H W C"], output_size: Size | None) -> Result:
        original = image.shape[0], image.shape[1]
        size = target_size(original, self.short_side, self.max_side)
        output_size = _checked_size(output_size) if output_size is not None else original
        outputs = self._see(image, size)
        panoptic = None
        if self.network.fusion is not None:
            panoptic = to_panoptic(self.network.fusion(outputs, 0, size, output_size), self.labels)
        region = self.recipe.model.region
        paste = region.mask_head.mask_paste if region and region.mask_head else "pixel_centers"
        instances = to_instances(outputs, size, output_size, self.labels, paste)
        semantic = self.recipe.model.semantic
        merged = semantic is not None and semantic.things == "merged" and self.labels.num_things > 0
        return Result(image, panoptic, instances, self.labels, outputs, (size, output_size), merged)

    def _see(self, image: Shaped[np.ndarray, "H W C"], size: Size) -> Outputs:
        """What the network says of a picture in the frame of ``size``, at one look or at several."""
        if self.tta is None:
            sizes = torch.tensor([size], device=self.network.pixel_mean.device)
            return self.network(self._padded(resize_image(image, size)), sizes)
        looks = self._looks(image, self.tta)
        voting = {"box_voting": self.tta.box_voting, "mask_voting": self.tta.mask_voting}
        return combine_looks(self.network, looks, size, **voting)

    def _looks(self, image: Shaped[np.ndarray, "H W C"], tta: TTAConfig) -> Iterator[Look]:
        for size in look_sizes((image.shape[0], image.shape[1]), self.short_side, self.max_side, tta):
            resized = resize_image(image, size)
            yield Look(self._padded(resized), size)
            if tta.flip:
                yield Look(self._padded(resized[:, ::-1]), size, mirrored=True)

    def _padded(self, image: Shaped[np.ndarray, "h w C"]) -> torch.Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
        bottom, right = (-side % SIZE_DIVISOR for side in image.shape[:2])
        return torch.nn.functional.pad(pixels.to(self.network.pixel_mean.device), (0, right, 0, bottom))


def load(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    short_side: int | None = None,
    max_side: int | None = None,
    tta: bool = False,
) -> Model:
    """Load a trained network.

    Args:
        name: The path of a checkpoint, the name of a network that comes with the package (``"tiny-scenes"``), or a
            published one (``"coco/panoptic-fpn-r50-3x"``), which is fetched, converted and kept at its first use.
        device: Where it runs.
        short_side: Bring the shorter side of pictures to this many pixels; None: as the checkpoint says; 0: leave them.
        max_side: The longer side is at most this long; None: as the checkpoint says.
        tta: Test-time augmentation: look at every picture at several sizes and mirrored, as the recipe's `tta` says,
            and unite what is seen. Better and several times slower.

    Raises:
        InputError: There is no such checkpoint, it is damaged, or it cannot be fetched.

    Example:
        >>> import thingstuff as ts
        >>> model = ts.load("tiny-scenes")
        >>> result = model("street.jpg")  # doctest: +SKIP
        >>> result.overlay().save("street_panoptic.png")  # doctest: +SKIP
    """
    file = published_checkpoint(str(name)) if str(name) in PUBLISHED else name
    return Model(load_checkpoint(file), device=device, short_side=short_side, max_side=max_side, tta=tta)


def look_sizes(original: Size, short_side: int, max_side: int, tta: TTAConfig) -> list[Size]:
    """Sizes at which test-time augmentation looks at a picture; where a limit makes two scales equal, one stays.

    Args:
        original: Size of the picture.
        short_side: Usual length of the shorter side; 0: the picture's own.
        max_side: Usual limit of the longer side; it does not count where pictures keep their size.
        tta: Says how far from there to go.
    """
    if short_side == 0:
        short_side, max_side = min(original), max(original)
    sizes = (
        target_size(original, max(1, round(scale * short_side)), tta.max_side or max(1, round(scale * max_side)))
        for scale in tta.scales
    )
    return list(dict.fromkeys(sizes))


def as_array(picture: Picture, channels: int) -> Shaped[np.ndarray, "H W C"]:
    """Bring a picture to the form that networks take.

    Args:
        picture: A path, a PIL image or an array.
        channels: How many the network expects.

    Raises:
        InputError: The picture cannot be read, or an array has another shape or dtype.
    """
    if isinstance(picture, str | Path):
        image = read_image(picture)
    elif isinstance(picture, Image.Image):
        image = upright_rgb(picture, "picture")
    else:
        image = picture
    if image.ndim != 3 or image.shape[2] != channels or 0 in image.shape or image.dtype not in (np.uint8, np.uint16):
        shape = " x ".join(str(side) for side in image.shape)
        raise InputError(
            f"picture: an array of {shape} {image.dtype}; give (height, width, {channels}) of uint8 or uint16"
        )
    # Colour pictures of 16 bits are seen as files of them are: scaled to the 8 bits that networks know.
    if channels == 3 and image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return image


def _limit(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value <= MAX_PIXELS:
        raise InputError(f"{name} is {value!r}; give a whole number of pixels from {least} to {MAX_PIXELS}")
    return int(value)


def _checked_size(size: Size) -> Size:
    if not isinstance(size, Sequence) or len(size) != 2:
        raise InputError(f"output_size is {size!r}; give (height, width)")
    return _limit("height of output_size", size[0], 1), _limit("width of output_size", size[1], 1)


def _usable_device(device: str | torch.device) -> torch.device:
    try:
        wanted = torch.device(device)
        torch.zeros(1, device=wanted).item()
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:80]
        raise InputError(f"device is {device!r}, which cannot be used here ({reason}); use 'cpu'") from error
    return wanted

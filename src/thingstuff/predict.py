"""From a picture in any form to a result: what `thingstuff.load` returns."""

import difflib
import warnings
from collections.abc import Sequence
from itertools import groupby, islice
from numbers import Integral
from pathlib import Path
from typing import overload

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image

from thingstuff.checkpoint import BUNDLED, Checkpoint, load_checkpoint
from thingstuff.conversions import converted
from thingstuff.data.images import read_picture, to_eight_bits, upright_rgb
from thingstuff.data.transforms import target_size
from thingstuff.errors import InputError
from thingstuff.model.panoptic import PanopticSegmenter
from thingstuff.published import PUBLISHED, published_checkpoint
from thingstuff.recipe_model import TTAConfig
from thingstuff.result import Result, SemanticSource, to_instances, to_panoptic
from thingstuff.runtimes import FileRuntime, Runtime, Sight, is_exported, open_exported, pick_runtime
from thingstuff.structures import PixelKind, Precision, Size
from thingstuff.torch_runtime import Looks, TorchRuntime, made_fast

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
        runtime: What computes: see ``load``.
        precision: Of the arithmetic: see ``load``.

    Raises:
        InputError: Something does not exist here, or does not go with something else.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str | torch.device = "cpu",
        short_side: int | None = None,
        max_side: int | None = None,
        tta: bool = False,
        runtime: Runtime = "torch",
        precision: Precision = "float32",
    ) -> None:
        where = _usable_device(device)
        chosen = pick_runtime(runtime, precision, on_processor=where.type == "cpu", tta=tta)
        self._describe(checkpoint, short_side, max_side)
        if chosen in ("onnx", "openvino"):
            try:
                self._runtime = converted(checkpoint, chosen, precision)
                return
            except InputError as error:
                if runtime != "auto":
                    raise
                warnings.warn(f"runtime 'auto' takes torch: {error}", stacklevel=2)
        self._runtime = TorchRuntime(
            made_fast(checkpoint.network()).to(where),
            compiled=chosen == "compile",
            precision=precision,
            looks=Looks(checkpoint.recipe.tta, self.short_side, self.max_side) if tta else None,
        )

    @classmethod
    def of_network(cls, network: PanopticSegmenter, checkpoint: Checkpoint) -> "Model":
        """Wrap a network as it stands, for example in the middle of its training; no weights are loaded."""
        model = cls.__new__(cls)
        model._describe(checkpoint, None, None)
        model._runtime = TorchRuntime(network)
        return model

    @classmethod
    def of_file(cls, file: FileRuntime, *, short_side: int | None = None, max_side: int | None = None) -> "Model":
        """Wrap an exported file, which has everything that a checkpoint has but the network."""
        model = cls.__new__(cls)
        model._describe(file.checkpoint, short_side, max_side)
        model._runtime = file
        return model

    _runtime: TorchRuntime | FileRuntime

    def __repr__(self) -> str:
        things, stuff = self.labels.num_things, self.labels.num_stuff
        size = f"{self.short_side} px" if self.short_side else "as they are"
        return f"Model({self.recipe.name}: {things} thing classes, {stuff} stuff classes, pictures {size})"

    @property
    def network(self) -> PanopticSegmenter:
        """The network itself, where torch runs it; the backbone's batch norms are part of its convolutions.

        Raises:
            InputError: An exported file holds a graph instead.
        """
        if isinstance(self._runtime, FileRuntime):
            raise InputError("network: this model runs an exported graph; load the checkpoint with runtime='torch'")
        return self._runtime.network

    @property
    def tta(self) -> TTAConfig | None:
        """How every picture is looked at several times; None: once."""
        looks = None if isinstance(self._runtime, FileRuntime) else self._runtime.looks
        return None if looks is None else looks.tta

    def _describe(self, checkpoint: Checkpoint, short_side: int | None, max_side: int | None) -> None:
        picture = checkpoint.recipe.picture
        self.recipe = checkpoint.recipe
        self.labels = checkpoint.labels
        self.credit = checkpoint.credit
        self.metrics = checkpoint.metrics
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
        if output_size is not None:
            output_size = _checked_size(output_size)
        if not isinstance(pictures, Picture | Sequence):
            kind = type(pictures).__name__
            raise InputError(f"picture: a {kind}; give a path, a PIL image, a numpy array, or a list of them")
        if isinstance(pictures, Picture):
            image = self._as_array(pictures)
            return self._see([image], *self._sizes(image, output_size))[0]
        results: list[Result] = []
        # A graph for several pictures takes neighbours of one size together; no more are held than it takes.
        images = (self._as_array(picture) for picture in pictures)
        for (size, given), alike in groupby(images, key=lambda image: self._sizes(image, output_size)):
            while together := list(islice(alike, self._runtime.batch)):
                results += self._see(together, size, given)
        return results

    def _as_array(self, picture: Picture) -> Shaped[np.ndarray, "H W C"]:
        return as_array(picture, self.recipe.picture.channels, self.recipe.picture.pixels)

    def _sizes(self, image: Shaped[np.ndarray, "H W C"], output_size: Size | None) -> tuple[Size, Size]:
        """The size at which the network sees a picture, and that of its result."""
        original = image.shape[0], image.shape[1]
        return target_size(original, self.short_side, self.max_side), output_size or original

    @torch.inference_mode()
    def _see(self, images: Sequence[Shaped[np.ndarray, "H W C"]], size: Size, output_size: Size) -> list[Result]:
        sights = self._runtime.see(images, size, output_size)
        return [self._result(image, sight, output_size) for image, sight in zip(images, sights, strict=True)]

    def _result(self, image: Shaped[np.ndarray, "H W C"], sight: Sight, output_size: Size) -> Result:
        region, semantic = self.recipe.model.region, self.recipe.model.semantic
        paste = region.mask_head.mask_paste if region and region.mask_head else "pixel_centers"
        source = None
        if sight.semantic is not None and semantic is not None:
            merged = semantic.things == "merged" and self.labels.num_things > 0
            source = SemanticSource(sight.semantic, self.labels.num_stuff + 1 if merged else len(self.labels), merged)
        return Result(
            image,
            None if sight.maps is None else to_panoptic(sight.maps, self.labels),
            to_instances(sight.instances, sight.frame, output_size, self.labels, paste),
            self.labels,
            output_size,
            source,
        )


def load(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    short_side: int | None = None,
    max_side: int | None = None,
    tta: bool = False,
    runtime: Runtime | None = None,
    precision: Precision = "float32",
) -> Model:
    """Load a trained network.

    Args:
        name: The path of a checkpoint or of an exported file (`.onnx`, `.xml`, `.pt2`), the name of a network that
            comes with the package (``"tiny-scenes"``), or a published one (``"coco/panoptic-fpn-r50-3x"``), which is
            fetched, converted and kept at its first use.
        device: Where it runs.
        short_side: Bring the shorter side of pictures to this many pixels; None: as the checkpoint says; 0: leave them.
        max_side: The longer side is at most this long; None: as the checkpoint says.
        tta: Test-time augmentation: look at every picture at several sizes and mirrored, as the recipe's `tta` says,
            and unite what is seen. Better and several times slower.
        runtime: What computes. ``torch``; ``compile``: torch's compiler, whose first picture takes long; ``onnx`` and
            ``openvino``: the checkpoint is converted at its first use, and kept; ``auto``: OpenVINO where the extra
            ``[openvino]`` is installed, else torch; torch also on other devices than the processor, with `tta`, and
            with a warning where the conversion fails.
            None: torch for a checkpoint; what an exported file is for.
        precision: Of the arithmetic: ``bfloat16`` is faster where the machine has it, and changes results; elsewhere it
            means float32; not for ``onnx``.

    Raises:
        InputError: There is no such checkpoint, it is damaged, or it cannot be fetched; or the runtime is not installed
            or does not go with another argument.

    Example:
        >>> import thingstuff as ts
        >>> model = ts.load("tiny-scenes")
        >>> result = model("street.jpg")  # doctest: +SKIP
        >>> result.overlay().save("street_panoptic.png")  # doctest: +SKIP
    """
    if is_exported(name):
        where = _usable_device(device)
        opened = open_exported(Path(name), runtime, precision, on_processor=where.type == "cpu", tta=tta)
        if isinstance(opened, Checkpoint):
            return Model(opened, device=device, short_side=short_side, max_side=max_side, tta=tta, precision=precision)
        return Model.of_file(opened, short_side=short_side, max_side=max_side)
    return Model(
        find_and_load_checkpoint(name),
        device=device,
        short_side=short_side,
        max_side=max_side,
        tta=tta,
        runtime=runtime or "torch",
        precision=precision,
    )


def find_and_load_checkpoint(name: str | Path) -> Checkpoint:
    """Read a checkpoint by its path, or by the name of a bundled or published network.

    Raises:
        InputError: There is no such checkpoint, it is damaged, or it cannot be fetched.
    """
    if str(name) in PUBLISHED:
        return load_checkpoint(published_checkpoint(str(name)))
    names = [*BUNDLED, *PUBLISHED]
    if str(name) not in names and not Path(name).exists():
        near = difflib.get_close_matches(str(name).replace("_", "-"), names, n=1)
        hint = f"did you mean {near[0]}? Give" if near else "give"
        raise InputError(
            f"{name}: there is no such checkpoint; {hint} the path of a .safetensors file, or the name of a "
            f"network: {', '.join(names)}"
        )
    return load_checkpoint(name)


def as_array(picture: Picture, channels: int, pixels: PixelKind = "rgb") -> Shaped[np.ndarray, "H W C"]:
    """Bring a picture to the form that networks take.

    Args:
        picture: A path, a PIL image or an array; (H, W) for one channel.
        channels: How many the network expects.
        pixels: What they are, see ``read_picture``.

    Raises:
        InputError: The picture cannot be read, or an array has another shape or dtype.
    """
    if isinstance(picture, str | Path):
        return read_picture(picture, channels, pixels)
    image = upright_rgb(picture, "picture") if isinstance(picture, Image.Image) else picture
    if channels == 1 and image.ndim == 2:
        image = image[:, :, None]
    allowed = ("uint8", "uint16") if pixels == "rgb" else (pixels,)
    if image.ndim != 3 or image.shape[2] != channels or 0 in image.shape or image.dtype.name not in allowed:
        shape = " x ".join(str(side) for side in image.shape)
        raise InputError(
            f"picture: an array of {shape} {image.dtype}; give (height, width, {channels}) of {' or '.join(allowed)}"
        )
    # Colour pictures of 16 bits are seen as files of them are: scaled to the 8 bits that networks know.
    return to_eight_bits(image) if channels == 3 and pixels == "rgb" else image


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

"""What runs a network in torch: as it stands or through torch's compiler, with one look at a picture or several."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from thingstuff.arithmetic import usable_precision
from thingstuff.data.transforms import resize_image, target_size
from thingstuff.errors import InputError
from thingstuff.model.backbone import Backbone
from thingstuff.model.folding import fold_norms
from thingstuff.model.fusion import semantic_labels
from thingstuff.model.nms import ignore_deprecation
from thingstuff.model.panoptic import SIZE_DIVISOR, PanopticSegmenter
from thingstuff.model.tta import Look, combine_looks
from thingstuff.recipe_model import TTAConfig
from thingstuff.runtimes import Sight
from thingstuff.structures import Outputs, Precision, Size

Forward = Callable[[Tensor, Tensor], Outputs]
"""From raw pictures (B, C, H, W), padded to multiples of 32, and their sizes before that (B, 2)."""


class Looks(NamedTuple):
    """How a picture is looked at several times.

    Attributes:
        tta: At which sizes, mirrored or not, and how the looks become one.
        short_side: Usual length of the shorter side; 0: the picture's own.
        max_side: Usual limit of the longer side; it does not count where pictures keep their size.
    """

    tta: TTAConfig
    short_side: int
    max_side: int

    def sizes(self, original: Size) -> list[Size]:
        """Sizes of the looks at a picture; where a limit makes two scales equal, one stays.

        Args:
            original: Size of the picture.
        """
        short_side, max_side = self.short_side, self.max_side
        if short_side == 0:
            short_side, max_side = min(original), max(original)
        sizes = (
            target_size(
                original, max(1, round(scale * short_side)), self.tta.max_side or max(1, round(scale * max_side))
            )
            for scale in self.tta.scales
        )
        return list(dict.fromkeys(sizes))


class TorchRuntime:
    """A network, ready for pictures.

    Args:
        network: It is not changed.
        compiled: It runs through torch's compiler.
        precision: Of the arithmetic; ``bfloat16`` means float32 where the machine would only emulate it.
        looks: How a picture is looked at several times; None: once.
    """

    batch = 1
    """Pictures that are computed at once."""

    def __init__(
        self,
        network: PanopticSegmenter,
        *,
        compiled: bool = False,
        precision: Precision = "float32",
        looks: Looks | None = None,
    ) -> None:
        self.network = network
        self.looks = looks
        self._forward: Forward = _compile(network) if compiled else network
        self._bfloat16 = usable_precision(precision, network.pixel_mean.device) == "bfloat16"

    def see(self, images: Sequence[Shaped[np.ndarray, "H W C"]], size: Size, output_size: Size) -> list[Sight]:
        """See what is in each of some pictures.

        Args:
            images: Raw pixel values, as people have them.
            size: At which the network sees them.
            output_size: Of the results.
        """
        return [self._see(image, size, output_size) for image in images]

    def _see(self, image: Shaped[np.ndarray, "H W C"], size: Size, output_size: Size) -> Sight:
        outputs = self.outputs(image, size)
        fusion, semantic = self.network.fusion, outputs.semantic
        maps = None if fusion is None else fusion(outputs, 0, size, output_size)
        if semantic is None:
            return Sight(maps, outputs.instances, size, None)

        def strongest() -> UInt8[np.ndarray, "h w"]:
            return semantic_labels(semantic.logits[0], size, output_size).cpu().numpy()

        return Sight(maps, outputs.instances, size, strongest)

    def outputs(self, image: Shaped[np.ndarray, "H W C"], size: Size) -> Outputs:
        """What the network says of a picture in the frame of ``size``, at one look or at several."""
        with torch.autocast(self.network.pixel_mean.device.type, torch.bfloat16, enabled=self._bfloat16):
            if self.looks is None:
                sizes = torch.tensor([size], device=self.network.pixel_mean.device)
                return self._forward(self._padded(resize_image(image, size)), sizes)
            tta = self.looks.tta
            looks = self._look(image, self.looks)
            return combine_looks(self.network, looks, size, box_voting=tta.box_voting, mask_voting=tta.mask_voting)

    def _look(self, image: Shaped[np.ndarray, "H W C"], looks: Looks) -> Iterator[Look]:
        for size in looks.sizes((image.shape[0], image.shape[1])):
            resized = resize_image(image, size)
            yield Look(self._padded(resized), size)
            if looks.tta.flip:
                yield Look(self._padded(resized[:, ::-1]), size, mirrored=True)

    def _padded(self, image: Shaped[np.ndarray, "h w C"]) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
        bottom, right = (-side % SIZE_DIVISOR for side in image.shape[:2])
        return torch.nn.functional.pad(pixels.to(self.network.pixel_mean.device), (0, right, 0, bottom))


def made_fast(network: PanopticSegmenter) -> PanopticSegmenter:
    """The same network for prediction: fewer layers, and features laid out as convolutions like them."""
    backbone = network.backbone
    assert isinstance(backbone, Backbone)
    channels, generator = network.pixel_mean.shape[0], torch.Generator().manual_seed(0)
    noise = torch.randn(1, channels, 2 * SIZE_DIVISOR, 2 * SIZE_DIVISOR, generator=generator)
    backbone.body = fold_norms(backbone.body, noise)
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _compile(network: PanopticSegmenter) -> Forward:
    """The network's forward through torch's compiler, as one graph. Fusion stays as it is: it works inside of boxes.

    Pictures of a new kind of size are compiled for, up to the compiler's own limit; then they run as they are.
    """
    import torch._dynamo
    from torch._dynamo.exc import FailOnRecompileLimitHit
    from torch._inductor.exc import InductorError

    ignore_deprecation()
    forward = torch.compile(network, fullgraph=True)

    def run(images: Tensor, sizes: Tensor) -> Outputs:
        try:
            with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
                return forward(images, sizes)
        except FailOnRecompileLimitHit:
            return network(images, sizes)
        except InductorError as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"runtime 'compile' needs a C++ compiler that works ({reason}); use 'torch'") from error

    return run

"""Which arithmetic a device has."""

import torch

from thingstuff.structures import Precision


def usable_precision(wanted: Precision, device: torch.device) -> Precision:
    """What is wanted, or float32 where the device has no bfloat16 of its own.

    Processors without it (AVX2 alone, for example) compute it in software, seven times slower than float32 in training
    and less exactly, which nobody can want.
    """
    return wanted if wanted == "float32" or _has_bfloat16(device) else "float32"


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # What oneDNN, which computes convolutions on processors, says of itself; there is no public name for it.
        return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return True

import pytest
import torch

from thingstuff import arithmetic
from thingstuff.arithmetic import usable_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("there", [True, False])
def test_float32_is_always_there(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "_has_bfloat16", lambda _: there)
    assert usable_precision("float32", CPU) == "float32"


@pytest.mark.parametrize(("there", "usable"), [(True, "bfloat16"), (False, "float32")])
def test_bfloat16_only_where_the_machine_has_it(there: bool, usable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "_has_bfloat16", lambda _: there)
    assert usable_precision("bfloat16", CPU) == usable


def test_what_a_processor_says_of_itself() -> None:
    """AVX2 has none; the wider instructions have, or combine others fast enough."""
    widest = torch.backends.cpu.get_cpu_capability()
    if widest in ("DEFAULT", "AVX2"):
        assert usable_precision("bfloat16", CPU) == "float32"
    if torch.cpu._is_avx512_bf16_supported():
        assert usable_precision("bfloat16", CPU) == "bfloat16"


@pytest.mark.parametrize(("emulated", "usable"), [(False, "bfloat16"), (True, "float32")])
def test_old_graphics_cards_only_emulate_it(emulated: bool, usable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not emulated)
    assert usable_precision("bfloat16", torch.device("cuda")) == usable

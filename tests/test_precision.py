import platform
from pathlib import Path

import pytest
import torch

from tacit.engine.plan import precision
from tacit.errors import Unknown
from tacit.precision import autocast, bf16_is_fast, resolved


@pytest.mark.skipif(platform.machine() != "x86_64" or not Path("/proc/cpuinfo").is_file(), reason="flags are Linux's")
def test_a_processor_is_asked_what_it_can():
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert bf16_is_fast("cpu") == bool(flags & {"amx_tile", "avx512_bf16"})


def test_what_is_asked_for_and_what_it_comes_to():
    assert not bf16_is_fast("mps")
    assert resolved("auto", "mps") == resolved("32", "cuda") == "32"
    assert resolved("bf16", "cpu") == "bf16"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert precision("auto") == {"32": "32-true", "bf16": "bf16-mixed"}[resolved("auto", device)]
    assert [precision(p) for p in ("32", "bf16", "16")] == ["32-true", "bf16-mixed", "16-mixed"]
    with pytest.raises(Unknown, match=r"no precision 'fp16'.*auto, 32, bf16"):
        resolved("fp16", "cpu")


def test_products_are_in_bf16_and_losses_are_not():
    x = torch.randn(4, 4)
    with autocast("cpu", "bf16"):
        assert (x @ x).dtype == torch.bfloat16
        assert torch.nn.functional.cross_entropy(x @ x, torch.zeros(4, dtype=torch.long)).dtype == torch.float32
    with autocast("cpu", "32"):
        assert (x @ x).dtype == torch.float32

import platform
from pathlib import Path

import pytest
import torch

from tacit import encoders
from tacit.engine.plan import precision
from tacit.errors import Unknown
from tacit.precision import attend, autocast, bf16_is_fast, resolved, unfuse_attention


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


def test_attention_is_the_same_whoever_multiplies():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 16, dtype=torch.float64) for n in (5, 7, 7))
    wanted = (q @ k.mT / 4).softmax(-1) @ v
    for dtype, off in ((torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 0.03)):
        found = attend(*(x.to(dtype) for x in (q, k, v)))
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), wanted, atol=off, rtol=0)
    scaled = attend(q, k, v, 0.5)
    torch.testing.assert_close(scaled, (q @ k.mT / 2).softmax(-1) @ v)
    torch.testing.assert_close(attend(*(x.bfloat16() for x in (q, k, v)), 0.5).double(), scaled, atol=0.03, rtol=0)


@pytest.mark.parametrize("name", ["vit_mini", "swin_mini"])
def test_unfused_attention_gives_the_same_values_and_gradients(name: str):
    torch.manual_seed(0)
    encoder = encoders.build(name, size=32)
    x = torch.randn(4, 3, 32, 32)

    def told(precision: str) -> tuple[torch.Tensor, torch.Tensor]:
        encoder.zero_grad()
        with autocast("cpu", precision):
            y = encoder(x)
        y.float().square().mean().backward()
        return y.detach().float(), torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])

    attention = [part for part in encoder.modules() if hasattr(part, "fused_attn")]
    for part in attention:
        part.fused_attn = True  # timm's Swin has it only where somebody asks
    plain, fused = told("32"), told("bf16")
    unfuse_attention(encoder, "cpu", "32")
    unfuse_attention(encoder, "cuda", "bf16")
    assert attention
    assert all(part.fused_attn for part in attention)
    unfuse_attention(encoder, "cpu", "bf16")
    assert not any(part.fused_attn for part in attention)
    for a, b in zip(plain, told("32"), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    for exact, before, after in zip(plain, fused, told("bf16"), strict=True):
        scale = exact.abs().max()
        assert (after - exact).abs().max() / scale < max(2 * float((before - exact).abs().max() / scale), 0.02)

import pytest
import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from finetune.attention import attend
from finetune.machine.estimate import WIDEST


def states(width, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = (torch.randn(3, 2, width, 8, generator=generator, dtype=dtype) for _ in range(3))
    return [each.requires_grad_() for each in made]


def learned(function, tokens, mask, **more):
    """What attention gives, and the gradient of a sum of its squares by each of its inputs."""
    output, _ = function(nn.Module(), *tokens, mask, is_causal=False, **more)
    gradients = torch.autograd.grad(output.float().square().sum(), tokens)
    return [output, *gradients]


@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize("padded", [False, True])
def test_it_gives_and_learns_what_the_fused_kernel_does(padded, scaling):
    tokens, mask = states(12), None
    if padded:
        mask = torch.ones(3, 1, 12, 12, dtype=torch.bool)
        mask[0, :, :, 9:] = False
    found = learned(attend, tokens, mask, scaling=scaling)
    expected = learned(sdpa_attention_forward, tokens, mask, scaling=scaling)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_numbers_keep_their_format_under_autocast():
    tokens = states(12, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = attend(nn.Module(), *tokens, None)
    assert output.dtype is torch.bfloat16


@pytest.mark.parametrize(("width", "learning"), [(WIDEST + 1, True), (12, False)])
def test_long_texts_and_what_learns_nothing_go_through_the_fused_kernel(
    width, learning, monkeypatch
):
    monkeypatch.setattr(
        "finetune.attention.sdpa_attention_forward", lambda *a, **k: ("fused", None)
    )
    tokens = [each.detach().requires_grad_(learning) for each in states(width)]
    assert attend(nn.Module(), *tokens, None)[0] == "fused"


def test_dropped_weights_are_scaled_up():
    torch.manual_seed(0)
    query, key, _ = states(100)
    value = torch.ones_like(query)
    output, _ = attend(nn.Module(), query, key, value, None, dropout=0.5)
    assert output.std() > 0.01
    assert output.mean().item() == pytest.approx(1, abs=0.05)

from __future__ import annotations

import pytest
import torch

from rtl_continual.backbones import Backbone, activation_statistics, build_backbone

SHAPES = [(64, 24, 16, 16), (64, 5, 7, 9), (64, 20, 30, 30), (64, 17, 40), (64, 33, 300)]


@pytest.mark.parametrize("shape", SHAPES)
def test_means_and_deviations(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape) * 3 + 10
    dims = (2, 3) if len(shape) == 4 else (1,)
    std, mean = torch.std_mean(x.double(), dim=dims, correction=0)
    expected = torch.cat([mean, std], dim=1).float()
    torch.testing.assert_close(activation_statistics(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_has_the_same_bits_in_any_batch_layout_and_thread_count(
    shape: tuple[int, ...],
) -> None:
    x = torch.randn(shape).relu()
    whole = activation_statistics(x)
    for size in (1, 3, 17):
        parts = [activation_statistics(part) for part in x.split(size)]
        assert torch.equal(torch.cat(parts), whole)
    if x.ndim == 4:
        assert torch.equal(
            activation_statistics(x.contiguous(memory_format=torch.channels_last)), whole
        )
    torch.set_num_threads(2)
    assert torch.equal(activation_statistics(x), whole)
    assert torch.equal(activation_statistics(x[:1]), whole[:1])


def test_the_input_is_left_as_it_was() -> None:
    for shape in ((2, 3, 1, 1), (2, 3, 5, 5)):
        x = torch.randn(shape)
        kept = x.clone()
        activation_statistics(x)
        assert torch.equal(x, kept)


def test_features_pass_and_half_precision_is_widened() -> None:
    features = torch.randn(4, 7)
    assert torch.equal(activation_statistics(features), features)
    assert (
        activation_statistics(torch.ones(2, 3, 4, 4, dtype=torch.bfloat16)).dtype == torch.float32
    )


def test_a_constant_channel_deviates_by_nothing() -> None:
    x = torch.full((2, 3, 7, 7), 0.1)
    mean, deviation = activation_statistics(x).split(3, dim=1)
    torch.testing.assert_close(mean, torch.full((2, 3), 0.1))
    assert (deviation < 1e-7).all()


def test_router_features_do_not_depend_on_the_batch(images: torch.Tensor) -> None:
    backbone = build_backbone("glyphnet", weights="random:0", taps=["stem", "block1"])
    whole = backbone.run_trunk(images.repeat(8, 1, 1, 1)).router_features
    for i in range(8):
        alone = backbone.run_trunk(images[i : i + 1]).router_features
        # torch picks other convolution kernels at other batch sizes; the sums add nothing to that.
        torch.testing.assert_close(alone[0], whole[i], rtol=1e-5, atol=1e-6)


def test_every_familys_trunk_tells_the_images_apart(family: Backbone, images: torch.Tensor) -> None:
    features = family.run_trunk(images).router_features
    assert features.shape == (8, family.router_feature_dim)
    assert torch.isfinite(features).all()
    assert features.std(dim=0).max() > 1e-4

from dataclasses import replace

import pytest
import torch

from sonido_bench.foundation.codec.config import QuantizerConfig
from sonido_bench.foundation.codec.independence import IndependenceLoss
from sonido_bench.foundation.codec.quantizer import ResidualQuantizer
from sonido_bench.foundation.codec.streams import (
    ProjectedCodebook,
    dac_streams,
    encodec_streams,
    hqvae_streams,
    residual_streams,
)
from sonido_bench.foundation.sonido.config import LevelConfig
from sonido_bench.foundation.sonido.hqvae import HQVAE
from tests.foundation.sonido.tiny_model import HOP, RATE, stage_one_config

VARIANTS = ("pre", "post", "straight_through")


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_hand(latents, codebooks):
    """What enters each codebook, and its code, for one frame after another: ``(batch, codebooks, dim, frames)``."""
    entering, codes = (torch.zeros(latents.shape[0], len(codebooks), *latents.shape[1:]).to(latents) for _ in "12")
    for item in range(latents.shape[0]):
        for frame in range(latents.shape[2]):
            residual = latents[item, :, frame].clone()
            for k, codebook in enumerate(codebooks):
                code = min(codebook, key=lambda c, r=residual: float((c - r).square().sum()))
                entering[item, k, :, frame], codes[item, k, :, frame] = residual, code
                residual = residual - code
    return entering, codes


def expected_of(variant, entering, codes):
    return {"pre": entering, "post": entering - codes, "straight_through": codes}[variant]


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_unchanged(module, state):
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_streams_are_those_of_a_loop_and_only_the_latents_have_a_gradient(variant):
    latents = draw(2, 3, 5).requires_grad_()
    codebooks = [draw(6, 3, seed=k + 1).requires_grad_() for k in range(3)]
    streams = residual_streams(latents, codebooks, variant)
    expected = expected_of(variant, *by_hand(latents.detach(), [book.detach() for book in codebooks]))
    torch.testing.assert_close(streams, expected)
    weights = draw(2, 3, 3, 5, seed=9)
    gradients = torch.autograd.grad((weights * streams).sum(), [latents, *codebooks], allow_unused=True)
    torch.testing.assert_close(gradients[0], weights.sum(dim=1))  # every stream moves with the latents, by as much
    assert gradients[1:] == (None, None, None)


@pytest.mark.parametrize("variant", VARIANTS)
def test_projected_codebooks_are_followed_in_their_own_space(variant):
    latents = draw(2, 5, 4).requires_grad_()
    books = [
        ProjectedCodebook(
            draw(6, 2, seed=k), draw(2, 5, seed=k + 10), draw(2, seed=k + 20), draw(5, 2, seed=k + 30), draw(5, seed=k)
        )
        for k in range(2)
    ]
    residual, parts = latents.detach().transpose(1, 2), []
    for book in books:
        inside = residual @ book.in_weight.T + book.in_bias
        angle = torch.nn.functional.cosine_similarity(inside.unsqueeze(2), book.codes, dim=-1)
        code = book.codes[angle.argmax(dim=-1)]
        parts.append(expected_of(variant, inside, code).transpose(1, 2))
        residual = residual - (code @ book.out_weight.T + book.out_bias)
    streams = residual_streams(latents, books, variant)
    torch.testing.assert_close(streams, torch.stack(parts, dim=1))
    (gradient,) = torch.autograd.grad(streams.sum(), latents)
    slope = sum(book.in_weight.sum(dim=0) for book in books)
    torch.testing.assert_close(gradient, slope.view(1, 5, 1).expand_as(gradient))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_projects_own_quantiser(variant):
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(QuantizerConfig(codebooks=2, codebook_size=4, kmeans_iterations=2), 3)
    latents = draw(2, 3, 20, dtype=torch.float32)
    quantizer.initialise(latents)
    quantizer.train()
    state = state_of(quantizer)
    streams = residual_streams(latents.requires_grad_(), list(quantizer.codes), variant)
    assert_unchanged(quantizer, state)
    torch.testing.assert_close(streams, expected_of(variant, *by_hand(latents.detach(), list(quantizer.codes))))


@pytest.mark.parametrize("variant", VARIANTS)
def test_encodec(variant):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.EncodecConfig(
        hidden_size=8, num_filters=2, num_residual_layers=1, upsampling_ratios=[4, 2], codebook_size=16, codebook_dim=8,
        num_lstm_layers=1, sampling_rate=800, target_bandwidths=[1.6], norm_type="weight_norm", normalize=True,
        use_causal_conv=False,
    )  # fmt: skip
    model = transformers.EncodecModel(config).train()
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_(std=0.1)
    audio, state = 0.1 * draw(2, 1, 160, dtype=torch.float32), state_of(model)
    streams = encodec_streams(model, audio, variant)
    assert streams.shape == (2, len(model.quantizer.layers), 8, 20)
    IndependenceLoss()(streams).backward()
    assert_unchanged(model, state)
    assert all(p.grad is not None and p.grad.any() for p in model.encoder.parameters())
    assert all(p.grad is None for p in model.decoder.parameters())
    if variant == "straight_through":
        codes = model.encode(audio, bandwidth=1.6).audio_codes[0]  # (batch, codebooks, frames)
        embedded = [layer.codebook.embed[codes[:, k]] for k, layer in enumerate(model.quantizer.layers)]
        torch.testing.assert_close(streams, torch.stack(embedded, dim=1).transpose(2, 3))
        assert torch.equal(encodec_streams(model, audio, variant, 2), streams[:, :2])
    with pytest.raises(ValueError, match=r"audio \(batch, 1, samples\)"):
        encodec_streams(model, audio[:, 0], variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_dac(variant):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.DacConfig(
        encoder_hidden_size=4, downsampling_ratios=[2, 4], decoder_hidden_size=8, n_codebooks=3, codebook_size=16,
        codebook_dim=4, quantizer_dropout=0.5, sampling_rate=800,
    )  # fmt: skip
    model = transformers.DacModel(config).eval()
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Conv1d):  # as initialised the latents hardly move
            torch.nn.init.normal_(module.weight, std=(module.in_channels * module.kernel_size[0]) ** -0.5)
    for layer in model.quantizer.quantizers:
        torch.nn.init.normal_(layer.in_proj.weight)
    audio, state = draw(2, 1, 256, dtype=torch.float32), state_of(model)
    told = model.encode(audio)
    streams = dac_streams(model.train(), audio, variant)  # dropout of codebooks plays no part
    assert streams.shape[:3] == (2, 3, 4)
    IndependenceLoss()(streams).backward()
    assert_unchanged(model, state)
    assert all(p.grad is not None for p in model.encoder.parameters())
    assert sum(bool(p.grad.any()) for p in model.encoder.parameters()) > 10
    assert all(p.grad is None for p in (*model.decoder.parameters(), *model.quantizer.parameters()))
    entering = told.projected_latents.unflatten(1, (3, 4))
    embedded = [layer.codebook(told.audio_codes[:, k]) for k, layer in enumerate(model.quantizer.quantizers)]
    expected = expected_of(variant, entering, torch.stack(embedded, dim=1).transpose(2, 3))
    torch.testing.assert_close(streams, expected, rtol=1e-4, atol=1e-5)


def hqvae():
    config = stage_one_config()
    sizes = {"width": 8, "depth": 1, "codebook_size": 8}
    levels = (
        LevelConfig("top", stride=4, code_dim=4, **sizes),
        LevelConfig("mid", stride=2, code_dim=3, layers=2, **sizes),
        LevelConfig("bottom", stride=1, code_dim=4, **sizes),
    )
    torch.manual_seed(0)
    model = HQVAE(replace(config, levels=levels)).train()
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return model, 0.3 * draw(2, HOP * 8, dtype=torch.float32) * RATE / 8000


@pytest.mark.parametrize("variant", VARIANTS)
def test_hqvae_levels_are_repeated_to_the_finest_frames(variant):
    model, audio = hqvae()
    state = state_of(model)
    streams = hqvae_streams(model, audio, variant)
    targets, tokens = model.latents(audio), model.encode(audio)
    expected = []
    for name in model.levels:
        width = model.config.level(name).code_dim
        entering = targets[name].unflatten(2, (-1, width))
        codes = model.embed(name, tokens[name]).unflatten(2, (-1, width))
        stream = expected_of(variant, entering, codes).permute(0, 2, 3, 1)
        stream = stream.repeat_interleave(model.hop(name) // model.hop("bottom"), dim=3)
        expected.append(torch.nn.functional.pad(stream, (0, 0, 0, 4 - width)))
    assert [part.shape[1] for part in expected] == [2, 4, 2]
    torch.testing.assert_close(streams, torch.cat(expected, dim=1), rtol=1e-4, atol=1e-5)
    assert_unchanged(model, state)
    IndependenceLoss(delays=(0,) * 8)(streams).backward()
    assert all(layer.codes.grad is None for name in model.levels for layer in model.stages[name].quantizer.layers)
    for name in model.levels:
        assert model.stages[name].to_latent.weight.grad.any()
    assert model.stem.weight.grad.any()
    assert all(p.grad is None for p in model.out.parameters())


def test_half_precision_latents_are_read_as_float32():
    latents, codes = draw(2, 3, 5).bfloat16(), [draw(6, 3)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(residual_streams(latents, codes, "post"), residual_streams(latents.float(), codes, "post"))


def test_bad_input_is_refused():
    latents = draw(2, 3, 5)
    with pytest.raises(ValueError, match="pre or straight_through, got 'after'"):
        residual_streams(latents, [draw(4, 3)], "after")
    with pytest.raises(ValueError, match=r"latents \(batch, dim, frames\)"):
        residual_streams(latents[0], [draw(4, 3)], "pre")
    with pytest.raises(ValueError, match="0 codebooks"):
        residual_streams(latents, [], "pre")
    with pytest.raises(ValueError, match=r"codes \(size, 3\), got \(4, 2\)"):
        residual_streams(latents, [draw(4, 2)], "pre")
    with pytest.raises(ValueError, match="projection from 3 dimensions, got 4"):
        residual_streams(latents, [ProjectedCodebook(draw(4, 2), draw(2, 4), draw(2), draw(4, 2), draw(4))], "pre")
    model, audio = hqvae()
    with pytest.raises(ValueError, match=f"multiple of {model.common_hop}"):
        hqvae_streams(model, audio[:, :-1], "pre")

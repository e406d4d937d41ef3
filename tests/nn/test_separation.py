import random
import weakref

import demucs.htdemucs
import pytest
import torch
from demucs.apply import apply_model
from torch import nn

from sonido_bench.errors import DataError
from sonido_bench.nn.htdemucs import HTDemucs
from sonido_bench.nn.separation import Chunking, separate, separate_stream, wiener_estimates
from sonido_bench.nn.umx import UMX

CHUNKS = Chunking(samples=100)


def recording(samples, channels=2, seed=0):
    return torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed))


def halves(mixture):
    return torch.stack([0.25 * mixture, 0.75 * mixture], dim=1)


def positional(mixture):
    """An estimate that depends on the place in the chunk, as that of a real network does."""
    return halves(mixture * torch.linspace(0, 1, mixture.shape[-1]))


def blocks_of(audio, *lengths):
    return audio.split([*lengths, audio.shape[1] - sum(lengths)], dim=1)


class Stock(demucs.htdemucs.HTDemucs):
    """demucs' class, which ``apply_model`` asks for, around a function of a chunk."""

    def __init__(self, segment):
        super().__init__(["a", "b"], channels=8, t_layers=1, t_heads=1, samplerate=100, segment=segment)

    def forward(self, mix):
        return positional(mix)


@pytest.mark.parametrize("shifts", [0, 3])
@pytest.mark.parametrize("overlap", [0.25, 0.6])
@pytest.mark.parametrize("segment", [1, 1.01])
@pytest.mark.parametrize("samples", [1, 74, 75, 76, 100, 101, 437])
def test_agrees_with_demucs(samples, segment, overlap, shifts):
    audio = recording(samples)
    chunking = Chunking(round(100 * segment), overlap, shifts, max_shift=50, seed=5)
    random.seed(5)
    expected = apply_model(Stock(segment), audio[None], shifts=shifts, overlap=overlap)[0]
    assert torch.allclose(separate(positional, audio, chunking), expected, atol=1e-5)


def test_agrees_with_demucs_on_its_network():
    torch.manual_seed(0)
    network = HTDemucs(("a", "b"), channels=8, n_fft=2048, t_layers=1, t_heads=2, sample_rate=8000, segment_seconds=1.0)
    chunking = Chunking(network.eval().segment_samples, shifts=1, max_shift=4000)
    audio = recording(17001)
    random.seed(0)
    expected = apply_model(network, audio[None], shifts=1)[0]
    assert torch.allclose(separate(network, audio, chunking), expected, atol=1e-5)


@pytest.mark.parametrize("chunking", [CHUNKS, Chunking(100, 0.9), Chunking(7, 0.0), Chunking(100, 0.5, 2, 300)])
@pytest.mark.parametrize("samples", [1, 99, 100, 250, 1003])
def test_a_separator_that_knows_no_place_leaves_no_seam(samples, chunking):
    audio = recording(samples)
    assert torch.allclose(separate(halves, audio, chunking), halves(audio[None])[0], atol=1e-6)


@pytest.mark.parametrize("chunking", [CHUNKS, Chunking(100, 0.5, 2, 70)])
def test_the_blocks_in_which_a_recording_arrives_do_not_matter(chunking):
    audio = recording(903)
    expected = separate(positional, audio, chunking)
    for lengths in [(1, 0, 2), (100, 100), (450,), (75,) * 12]:
        parts = list(separate_stream(positional, blocks_of(audio, *lengths), chunking))
        assert torch.equal(torch.cat(parts, dim=-1), expected)


@pytest.mark.parametrize("shifts", [0, 3])
def test_memory_does_not_grow_with_length(shifts):
    """Blocks are let go, and estimates leave, while the recording is still being read."""
    blocks, alive, waiting, done = [], [], [], 0

    def watched():
        for _ in range(60):
            block = recording(40).numpy().copy()  # its life is that of the memory, which a view would keep
            blocks.append(weakref.ref(block))
            yield torch.from_numpy(block)

    for estimate in separate_stream(positional, watched(), Chunking(100, 0.25, shifts, 50)):
        done += estimate.shape[-1]
        alive.append(sum(block() is not None for block in blocks))
        waiting.append(40 * len(blocks) - done)
    assert done == 2400
    assert max(alive) <= 2
    assert max(waiting) <= 100 + 40 + 75 + 50


def test_one_block_of_a_whole_recording_leaves_in_parts():
    parts = list(separate_stream(positional, [recording(1000)], CHUNKS))
    assert max(part.shape[-1] for part in parts) <= 75


def test_progress_rises_to_the_length():
    calls = []
    separate(positional, recording(437), Chunking(100, 0.25, 2, 50), progress=calls.append)
    assert calls == sorted(set(calls))
    assert calls[-1] == 437
    assert len(calls) >= 5


def test_shifts_follow_their_seed():
    audio = recording(437)
    one, again, other = (separate(positional, audio, Chunking(100, 0.25, 1, 50, seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("blocks", [[], [torch.zeros(2, 0)], [torch.zeros(2, 0), torch.zeros(2, 0)]])
def test_an_empty_recording_is_refused(blocks):
    with pytest.raises(DataError, match="found an empty one"):
        list(separate_stream(positional, blocks, CHUNKS))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_refused(value):
    audio = recording(300)
    audio[1, 250] = value
    with pytest.raises(DataError, match="found NaN or infinity after sample 200"):
        list(separate_stream(positional, audio.split(100, dim=1), CHUNKS))


@pytest.mark.parametrize("other", [torch.zeros(1, 10), torch.zeros(10), torch.zeros(1, 2, 10)])
def test_blocks_of_other_shapes_are_refused(other):
    with pytest.raises(DataError, match="expected blocks of 2 channels"):
        list(separate_stream(positional, [recording(10), other], CHUNKS))


def test_a_network_in_training_is_refused():
    with pytest.raises(ValueError, match="eval"):
        separate(nn.Identity(), recording(10), CHUNKS)


@pytest.mark.parametrize("wrong", [lambda mixture: mixture, lambda mixture: halves(mixture)[..., 1:]])
def test_a_separator_that_gives_another_shape_is_refused(wrong):
    with pytest.raises(ValueError, match=r"expected estimates of shape \(1, sources, 2, 100\)"):
        separate(wrong, recording(10), CHUNKS)


@pytest.mark.parametrize(
    "options", [{"samples": 0}, {"overlap": 1.0}, {"overlap": -0.1}, {"samples": 2, "overlap": 0.9}, {"shifts": -1}]
)
def test_chunks_that_do_not_advance_are_refused(options):
    with pytest.raises(ValueError, match="expected positive samples"):
        Chunking(**{"samples": 100, **options})


def tiny_umx(targets=("vocals", "rest"), channels=2, feature_dims=None):
    torch.manual_seed(0)
    network = UMX(targets, channels, 64, 16, 8000, 3000.0, width=8, layers=1, feature_dims=feature_dims)
    return network.eval()


def filtered(sources, mixture, eps=1e-10):
    """One step of expectation-maximisation, written out with complex matrices (tasks.md section 1).

    Args:
        sources: First estimates, ``(sources, channels, bins, frames)`` complex.
        mixture: ``(channels, bins, frames)`` complex.
    """
    scale = max(1.0, mixture.abs().max().item() / 10)
    sources, mixture = sources / scale, mixture / scale
    power = sources.abs().square().mean(1)  # (sources, bins, frames)
    covariance = torch.einsum("scft,sdft->sfcd", sources, sources.conj()) / (eps + power.sum(-1))[..., None, None]
    model = power[..., None, None] * covariance[:, :, None]  # (sources, bins, frames, channels, channels)
    total = model.sum(0) + eps**0.5 * torch.eye(len(mixture))
    gain = model @ torch.linalg.inv(total)
    return scale * torch.einsum("sftcd,dft->scft", gain, mixture)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("loudness", [0.1, 30.0])
def test_wiener_filter_agrees_with_its_equations(channels, loudness):
    network = tiny_umx(channels=channels)
    mixture = loudness * recording(16 * 350, channels)[None]  # 351 frames: two windows
    stft = network.stft(centred=True)
    with torch.no_grad():
        estimates = wiener_estimates(network, mixture)
        spectrum = stft(mixture)
        magnitudes = network(spectrum.abs())
    first = magnitudes[0] * torch.polar(torch.ones(()), spectrum[0].angle())
    first, mix = first.to(torch.complex128), spectrum[0].to(torch.complex128)
    parts = [filtered(first[..., part], mix[..., part]) for part in (slice(0, 300), slice(300, None))]
    expected = stft.inverse(torch.cat(parts, dim=-1), mixture.shape[-1]).float()
    assert torch.allclose(estimates[0], expected, atol=1e-4 * loudness)


def test_without_iterations_magnitudes_get_the_phase_of_the_mixture():
    network = tiny_umx()
    mixture = recording(1000)[None].repeat(3, 1, 1)
    mixture[1] *= 0.5
    stft = network.stft(centred=True)
    with torch.no_grad():
        estimates = wiener_estimates(network, mixture, iterations=0)
        spectrum = stft(mixture)
        masks = network(spectrum.abs()) / spectrum.abs()[:, None]
    assert estimates.shape == (3, 2, 2, 1000)
    assert torch.allclose(estimates, stft.inverse(masks * spectrum[:, None], 1000), atol=1e-4)


@pytest.mark.parametrize("iterations", [0, 1])
def test_with_a_residual_all_sources_sum_to_the_mixture(iterations):
    mixture = recording(1000)[None]
    with torch.no_grad():
        estimates = wiener_estimates(tiny_umx(("vocals",)), mixture, iterations=iterations, residual=True)
    assert estimates.shape == (1, 2, 2, 1000)
    assert torch.allclose(estimates.sum(1), mixture, atol=1e-3)


def test_silence_stays_silence():
    with torch.no_grad():
        assert torch.equal(wiener_estimates(tiny_umx(), torch.zeros(1, 2, 1000)), torch.zeros(1, 2, 2, 1000))


def test_a_filter_without_rivals_is_refused():
    with pytest.raises(ValueError, match="got 1 and 2; take residual=True"):
        wiener_estimates(tiny_umx(("vocals",)), recording(1000)[None])
    with pytest.raises(ValueError, match="got 2 and 3"):
        wiener_estimates(tiny_umx(channels=3), recording(1000, 3)[None])


def test_umx_separates_a_recording_by_chunks_with_features():
    network = tiny_umx(feature_dims={"top": 3})
    stft = network.stft(centred=True)

    def separator(mixture):
        frames = stft.frames(mixture.shape[-1])
        return wiener_estimates(network, mixture, {"top": torch.ones(1, frames, 3)})

    estimates = separate(separator, recording(3001), Chunking(1000))
    assert estimates.shape == (2, 2, 3001)
    assert torch.isfinite(estimates).all()

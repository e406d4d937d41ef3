import numpy as np
import pytest
import torch
from scipy import signal

from sonido_bench.nn.mixing_loss import StereoLoss, weighting_filter

SIZES = {"n_fft": 512, "hop_length": 128}
distances = pytest.mark.parametrize("distance", ["convergence", "squared"])


def mixes(samples=4000, batch=2):
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(batch, 2, samples, generator=generator) for _ in range(2)]


def magnitudes(audio, n_fft, hop):
    """Sum and difference, filtered and transformed in float64: ``(2, batch, frames, bins)``."""
    audio = audio.double().numpy()
    pair = np.stack([audio[:, 0] + audio[:, 1], audio[:, 0] - audio[:, 1]])
    taps = weighting_filter(44_100)
    filtered = np.apply_along_axis(lambda row: np.correlate(row, taps, mode="same"), -1, pair)
    frames = np.lib.stride_tricks.sliding_window_view(filtered, n_fft, axis=-1)[..., ::hop, :]
    return np.abs(np.fft.rfft(frames * np.sqrt(np.hanning(n_fft + 1)[:-1])))


@distances
@pytest.mark.parametrize("guard", [0, 3])
def test_equals_the_published_formula(distance, guard):
    reference, estimate = mixes()
    wanted, found = (magnitudes(audio, 512, 128)[:, :, guard : 28 - guard] for audio in (reference, estimate))
    expected = 0.0
    for y, z in zip(wanted, found, strict=True):
        logarithmic = np.abs(np.log(y) - np.log(z)).mean()
        first = np.linalg.norm(y - z) / np.linalg.norm(y) if distance == "convergence" else np.square(y - z).mean()
        expected += first + logarithmic
    loss = StereoLoss(distance, guard_frames=guard, **SIZES)
    assert loss(reference, estimate).item() == pytest.approx(expected, rel=1e-4)


@distances
def test_swapped_channels_are_as_good(distance):
    reference, estimate = mixes()
    loss = StereoLoss(distance, **SIZES)
    assert loss(reference, estimate.flip(1)).item() == pytest.approx(loss(reference, estimate).item(), rel=1e-6)
    assert loss(reference, reference.flip(1)).item() == pytest.approx(0, abs=1e-6)
    assert loss(reference, reference).item() == 0


@distances
def test_another_width_is_not(distance):
    reference, _ = mixes()
    narrow = 0.5 * (reference + reference.flip(1))
    assert StereoLoss(distance, **SIZES)(reference, narrow) > 0.5


@distances
def test_autocast_and_half_floats_do_not_matter(distance):
    reference, estimate = (audio.bfloat16() for audio in mixes())
    loss = StereoLoss(distance, **SIZES)
    expected = loss(reference.float(), estimate.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(reference, estimate), expected)
    assert loss(reference, estimate).dtype == torch.float32


@distances
@pytest.mark.parametrize("silent", ["reference", "estimate", "both", "mono"])
def test_silence_gives_finite_values_and_gradients(distance, silent):
    reference, estimate = mixes()
    if silent in ("reference", "both"):
        reference = torch.zeros_like(reference)
    if silent in ("estimate", "both"):
        estimate = torch.zeros_like(estimate)
    if silent == "mono":
        reference = reference[:, :1].repeat(1, 2, 1)
    estimate.requires_grad_()
    value = StereoLoss(distance, **SIZES)(reference, estimate)
    value.backward()
    assert value.isfinite()
    assert estimate.grad.isfinite().all()


@distances
def test_inputs_stay_as_they_are_and_learning_lowers_the_loss(distance):
    reference, estimate = mixes()
    copies = reference.clone(), estimate.clone()
    loss = StereoLoss(distance, **SIZES)
    estimate.requires_grad_()
    optimiser = torch.optim.Adam([estimate], 0.01)
    first = loss(reference, estimate)
    assert torch.equal(reference, copies[0])
    assert torch.equal(estimate, copies[1])
    for _ in range(30):
        optimiser.zero_grad()
        loss(reference, estimate).backward()
        optimiser.step()
    assert loss(reference, estimate) < 0.7 * first


def test_guards_hide_both_ends():
    reference, estimate = mixes()
    loss = StereoLoss(guard_frames=6, **SIZES)
    expected = loss(reference, estimate)
    estimate[..., :600] = 0
    estimate[..., -600:] = 0
    assert torch.allclose(loss(reference, estimate), expected)


def test_published_guard_of_crafx2_leaves_most_of_ten_seconds():
    assert StereoLoss(guard_frames=30).least_samples < 0.2 * 440_960


def test_filter_follows_the_a_weighting_where_it_can():
    """IEC 61672-1's table, in dB, after the low-pass is taken out; the bilinear transform bends it above 8 kHz."""
    table = {500: -3.2, 630: -1.9, 800: -0.8, 1000: 0.0, 1250: 0.6, 2000: 1.2, 3150: 1.2, 4000: 1.0, 6300: -0.1}
    frequencies = np.array(list(table))
    _, response = signal.freqz(weighting_filter(44_100), worN=frequencies, fs=44_100)
    _, low_pass = signal.freqz([1, 0.85], worN=frequencies, fs=44_100)
    decibels = 20 * np.log10(np.abs(response / low_pass))
    assert np.allclose(decibels, list(table.values()), atol=0.4)


def test_filter_keeps_the_number_of_samples():
    taps = weighting_filter(44_100)
    assert len(taps) == 103
    assert taps[-1] == 0


def test_weights_of_a_checkpoint_do_not_hold_it():
    assert not StereoLoss(**SIZES).state_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distance": "l1"}, "convergence or squared"),
        ({"n_fft": 0}, "positive n_fft"),
        ({"guard_frames": -1}, "guard_frames"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        StereoLoss(**arguments)


def test_an_even_filter_is_refused():
    with pytest.raises(ValueError, match="odd number of taps"):
        weighting_filter(44_100, taps=100)


@pytest.mark.parametrize("shapes", [((2, 2, 900), (2, 2, 901)), ((2, 900), (2, 900)), ((2, 1, 900), (2, 1, 900))])
def test_other_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="of shape"):
        StereoLoss(**SIZES)(*(torch.zeros(shape) for shape in shapes))


def test_a_short_segment_is_refused():
    with pytest.raises(ValueError, match="expected at least 1280 samples, got 1279"):
        StereoLoss(guard_frames=3, **SIZES)(torch.zeros(1, 2, 1279), torch.zeros(1, 2, 1279))

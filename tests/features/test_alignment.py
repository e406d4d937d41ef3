import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sonido_bench.features.alignment import align
from sonido_bench.features.spec import FrameGrid

rates = st.floats(0.5, 200.0)
offsets = st.floats(-0.5, 0.5)
lengths = st.integers(1, 60)


def reference(stream, source, target, frames):
    """Numerical: the piecewise linear signal, sampled at the centres or averaged over a fine raster of the extent."""
    source_centres = source.first_centre + np.arange(len(stream)) / source.frame_rate
    centres = target.first_centre + np.arange(frames) / target.frame_rate
    if source.frame_rate / target.frame_rate <= 1 + 1e-9:  # equal up to rounding counts as equal
        return np.interp(centres, source_centres, stream)
    raster = (np.arange(20000) + 0.5) / 20000 - 0.5
    return np.array([np.interp(c + raster / target.frame_rate, source_centres, stream).mean() for c in centres])


@settings(max_examples=60, deadline=None)
@given(rates, rates, offsets, offsets, lengths, lengths, st.integers(0, 2**31))
def test_agrees_with_numerical_integration(source_rate, target_rate, first, second, length, frames, seed):
    stream = np.random.default_rng(seed).normal(size=length)
    source, target = FrameGrid(source_rate, first), FrameGrid(target_rate, second)
    found = align(torch.from_numpy(stream)[None, :, None], source, target, min(frames, 8))[0, :, 0]
    assert np.allclose(found, reference(stream, source, target, min(frames, 8)), atol=2e-3)


@settings(deadline=None)
@given(rates, rates, offsets, offsets, lengths, lengths, st.floats(-100, 100))
def test_constants_stay(source_rate, target_rate, first, second, length, frames, value):
    stream = torch.full((2, length, 3), value)
    aligned = align(stream, FrameGrid(source_rate, first), FrameGrid(target_rate, second), frames)
    assert aligned.shape == (2, frames, 3)
    assert torch.allclose(aligned, torch.tensor(value, dtype=torch.float32), rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(rates, rates, offsets, offsets, lengths, lengths, st.integers(0, 2**31))
def test_output_stays_within_the_input(source_rate, target_rate, first, second, length, frames, seed):
    stream = torch.randn(1, length, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    aligned = align(stream, FrameGrid(source_rate, first), FrameGrid(target_rate, second), frames)
    assert aligned.min() >= stream.min() - 1e-12
    assert aligned.max() <= stream.max() + 1e-12


@settings(deadline=None)
@given(rates, rates, offsets, offsets, st.integers(2, 60), lengths)
def test_ramps_stay_in_the_interior(source_rate, target_rate, first, second, length, frames):
    source, target = FrameGrid(source_rate, first), FrameGrid(target_rate, second)
    times = source.centres(length)
    centres = target.centres(frames)
    reach = 0.5 / target_rate if target_rate < source_rate else 0.0
    interior = (centres - reach >= times[0]) & (centres + reach <= times[-1])
    assume(interior.any())
    aligned = align(times[None, :, None], source, target, frames)[0, :, 0]
    assert torch.allclose(aligned[interior], centres[interior], atol=1e-9)


@settings(deadline=None)
@given(rates, rates, offsets, offsets, st.floats(-3, 3), lengths, lengths)
def test_a_common_shift_changes_nothing(source_rate, target_rate, first, second, shift, length, frames):
    stream = torch.randn(1, length, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    here = align(stream, FrameGrid(source_rate, first), FrameGrid(target_rate, second), frames)
    there = align(stream, FrameGrid(source_rate, first + shift), FrameGrid(target_rate, second + shift), frames)
    assert torch.allclose(here, there, atol=1e-9)


def test_identical_grids_return_the_input():
    stream = torch.randn(2, 10, 3)
    assert align(stream, FrameGrid(10.0, 0.0), FrameGrid(10.0, 0.0), 10) is stream


def test_longer_target_repeats_the_last_frame():
    stream = torch.randn(2, 10, 3)
    aligned = align(stream, FrameGrid(10.0, 0.0), FrameGrid(10.0, 0.0), 14)
    assert torch.equal(aligned[:, :10], stream)
    assert torch.equal(aligned[:, 10:], stream[:, 9:].expand(-1, 4, -1))


def test_first_centre_shifts_the_stream():
    stream = torch.arange(10.0)[None, :, None]
    aligned = align(stream, FrameGrid(10.0, 0.05), FrameGrid(10.0, 0.1), 5)
    assert torch.allclose(aligned[0, :, 0], torch.arange(5) + 0.5)


def test_slow_target_does_not_alias():
    alternating = torch.tensor([1.0, -1.0]).repeat(50)[None, :, None]
    aligned = align(alternating, FrameGrid(100.0, 0.0), FrameGrid(10.0, 0.05), 10)
    assert aligned[:, 1:-1].abs().max() < 0.03


def test_gradients_pass_and_types_stay():
    stream = torch.randn(1, 10, 2, dtype=torch.bfloat16, requires_grad=True)
    aligned = align(stream, FrameGrid(10.0, 0.0), FrameGrid(17.0, 0.0), 9)
    assert aligned.dtype == torch.bfloat16
    aligned.sum().backward()
    assert stream.grad is not None


@pytest.mark.parametrize("rate", [3.1, 17.0])
def test_gradients_are_those_of_a_linear_map(rate):
    stream = torch.randn(2, 10, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda each: align(each, FrameGrid(10.0, 0.0), FrameGrid(rate, 0.1), 7), stream)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("rate", [3.1, 17.0])
def test_types_differ_by_their_rounding(dtype, tolerance, rate):
    exact = torch.rand(2, 40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    rounded = exact.detach().to(dtype).requires_grad_()
    found = [align(each, FrameGrid(10.0, 0.0), FrameGrid(rate, 0.1), 12) for each in (exact, rounded)]
    assert torch.allclose(found[0], found[1].double(), atol=tolerance)
    for each in found:
        each.sum().backward()
    assert torch.allclose(exact.grad, rounded.grad.double(), atol=4 * tolerance)


@pytest.mark.parametrize("rate", [3.1, 17.0])
def test_items_of_a_batch_do_not_meet(rate):
    batch = torch.randn(3, 5, 30).transpose(1, 2)  # in memory, its frames are not one after the other
    batch[1, 20] = torch.nan
    grids = FrameGrid(10.0, 0.0), FrameGrid(rate, 0.0)
    aligned = align(batch, *grids, 9)
    assert torch.equal(aligned[::2], align(batch[::2], *grids, 9))
    assert torch.equal(aligned[2:], align(batch[2:], *grids, 9))
    assert torch.isfinite(aligned[1, : int(18 / 10 * rate) - 1]).all()  # and what is broken stays where it is
    assert align(batch, *grids, 0).shape == (3, 0, 5)
    assert align(batch[:0], *grids, 9).shape == (0, 9, 5)


def test_training_may_follow_validation():
    stream, grids = torch.randn(1, 10, 2, requires_grad=True), (FrameGrid(12.25, 0.0), FrameGrid(7.125, 0.0))
    with torch.inference_mode():
        first = align(stream, *grids, 6)
    aligned = align(stream, *grids, 6)
    assert torch.equal(first, aligned)
    aligned.sum().backward()
    assert stream.grad is not None


@pytest.mark.parametrize("shape", [(1, 0, 3), (10, 3)])
def test_empty_or_flat_streams_are_refused(shape):
    with pytest.raises(ValueError, match="expected a stream"):
        align(torch.zeros(shape), FrameGrid(10.0, 0.0), FrameGrid(5.0, 0.0), 3)


def test_rates_must_be_positive():
    with pytest.raises(ValueError, match="positive"):
        FrameGrid(0.0, 0.0)

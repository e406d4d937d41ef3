import pytest
import torch

from sonido_bench.foundation.codec import evaluation
from sonido_bench.foundation.codec.language_model import LanguageModel, LanguageModelConfig
from sonido_bench.foundation.codec.loss import MultiScaleMelLoss
from sonido_bench.foundation.logmel import LogMel
from sonido_bench.foundation.transformer.sampling import SamplingConfig
from sonido_bench.metrics.independence import code_use, total_correlation
from tests.foundation.codec.tiny_codec import HOP, RATE, tiny_codec, tones


def random_codes(items=8, frames=200, codebooks=3, size=4, seed=0):
    return torch.randint(size, (items, frames, codebooks), generator=torch.Generator().manual_seed(seed))


def language_model(pattern="delay", **changes):
    torch.manual_seed(0)
    options = {"codebooks": 3, "codebook_size": 16, "width": 16, "depth": 1, "heads": 2, "context": 20} | changes
    return LanguageModel(LanguageModelConfig(pattern=pattern, **options)).eval()


def test_independent_codes_have_no_dependence_and_equal_ones_all_of_it():
    codes = random_codes(frames=500)
    free = evaluation.dependence(codes, 4)
    assert abs(free.total_correlation) < 0.05
    assert abs(free.pairwise) < 0.01
    assert free.active == [1.0] * 3
    same = evaluation.dependence(codes[:, :, :1].expand(-1, -1, 3), 4)
    assert same.total_correlation == pytest.approx(4, abs=0.05)  # 3 entropies of 2 bits, less one
    assert same.pairwise == pytest.approx(2, abs=0.02)


def test_dependence_sees_the_delays():
    codes = random_codes(codebooks=2)
    codes[:, 1:, 0] = codes[:, :-1, 1]  # what the second codebook has, the first has one frame later
    assert abs(evaluation.dependence(codes, 4).total_correlation) < 0.05
    delayed = evaluation.dependence(codes, 4, delays=[0, 1])
    assert delayed.total_correlation == pytest.approx(2, abs=0.05)
    assert delayed.total_correlation == total_correlation(codes, 4, [0, 1]).bits


def test_dependence_tells_a_collapsed_codebook():
    codes = random_codes()
    codes[:, :, 1] = 2
    found = evaluation.dependence(codes, 4)
    assert found.perplexities[1] == pytest.approx(1)
    assert found.active[1] == 0.25
    assert found.perplexities == code_use(codes, 4).perplexity.tolist()


def test_dependence_of_one_codebook_is_refused():
    with pytest.raises(ValueError, match="2 codebooks or more, got 1"):
        evaluation.dependence(random_codes(codebooks=1), 4)


def test_reconstruction_is_the_mean_over_all_items_whatever_the_batches():
    codec, audio = tiny_codec(), tones(5)
    found = evaluation.reconstruction(codec, audio, batch_size=2)
    estimate = codec(audio).audio.detach()
    assert found.l1 == pytest.approx(float((estimate - audio).abs().mean()), rel=1e-4)
    assert found.mel == pytest.approx(float(MultiScaleMelLoss(RATE)(audio, estimate)), rel=1e-4)
    assert found == pytest.approx(evaluation.reconstruction(codec, audio, batch_size=5), rel=1e-4)


def test_codes_are_the_same_in_any_batches():
    codec, audio = tiny_codec(), tones(5)
    assert torch.equal(evaluation.encode(codec, audio, batch_size=2), codec.encode(audio))


def test_embeddings_are_means_of_features_at_the_extractors_rate():
    extractor, audio = LogMel(num_mels=16), tones(3, seconds=1.0)
    found = evaluation.embeddings(extractor, audio, 22050, batch_size=2)
    assert found.shape == (3, 16)
    torch.testing.assert_close(found, extractor.extract(audio)["logmel"].double().mean(dim=1))
    assert not torch.allclose(found, evaluation.embeddings(extractor, audio, 2 * 22050))


def test_a_set_is_not_far_from_itself():
    points = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    same, far = evaluation.distances(points, points), evaluation.distances(points, points + 9)
    assert same.frechet == pytest.approx(0, abs=1e-9)
    assert same.wasserstein == pytest.approx(0, abs=1e-9)
    assert same.precision == 1
    assert far.frechet == pytest.approx(3 * 81, rel=1e-6)
    assert far.precision == 0


@pytest.mark.parametrize("delays", [None, [0, 1, 2]])
def test_the_gap_is_that_of_shuffled_codes_over_plain_ones(delays):
    codec, audio = tiny_codec(), tones(12)
    codes = codec.encode(audio)
    found = evaluation.marginals_gap(codec, codes, audio, LogMel(num_mels=8), delays)
    assert found.gap.wasserstein == found.product.wasserstein - found.plain.wasserstein
    assert found.dependence.frechet == found.product.frechet - found.joint.frechet
    again = evaluation.marginals_gap(codec, codes, audio, LogMel(num_mels=8), delays, batch_size=5)
    assert again.product.wasserstein == pytest.approx(found.product.wasserstein, rel=1e-3)


def test_without_anything_to_shuffle_there_is_no_gap():
    codec, audio = tiny_codec(), tones(6)
    codes = codec.encode(audio)[:, :1].expand(-1, 20, -1)[:1].expand(6, -1, -1)
    found = evaluation.marginals_gap(codec, codes, audio, LogMel(num_mels=8))
    assert found.gap == pytest.approx((0, 0, 0), abs=1e-9)
    assert found.dependence == pytest.approx((0, 0, 0), abs=1e-9)


def test_what_each_variant_keeps(monkeypatch):
    codec, audio = tiny_codec(), tones(12)
    codes, decoded, decode = codec.encode(audio), [], codec.decode
    monkeypatch.setattr(codec, "decode", lambda part: decoded.append(part) or decode(part))
    evaluation.marginals_gap(codec, codes, audio, LogMel(num_mels=8))
    product, joint, plain = (sorted(map(tuple, part.flatten(0, 1).tolist())) for part in decoded)
    assert plain == joint == sorted(map(tuple, codes.flatten(0, 1).tolist()))
    assert not torch.equal(decoded[1], codes)
    assert product != plain
    for codebook in range(codec.codebooks):
        assert torch.equal(decoded[0][..., codebook].flatten().sort()[0], codes[..., codebook].flatten().sort()[0])


@pytest.mark.parametrize("pattern", ["parallel", "delay", "flatten"])
def test_bits_per_frame_are_the_mean_over_windows(pattern):
    model, codes = language_model(pattern), random_codes(items=5, frames=25, size=16)
    found = evaluation.bits_per_frame(model, codes, frames=10, batch_size=3)
    windows = torch.cat([codes[:, :10], codes[:, 10:20]])
    assert found == pytest.approx(model.cross_entropy(windows).bits_per_frame.item(), rel=1e-5)


@pytest.mark.parametrize("frames", [0, 26])
def test_windows_must_fit_the_codes(frames):
    with pytest.raises(ValueError, match="windows of 1 to 25 frames"):
        evaluation.bits_per_frame(language_model(), random_codes(frames=25, size=16), frames)


@pytest.mark.parametrize(("pattern", "steps"), [("parallel", 10), ("delay", 12), ("flatten", 30)])
def test_music_takes_the_steps_of_its_pattern(pattern, steps):
    codec, model = tiny_codec(), language_model(pattern)
    drawn = evaluation.sampled_music(model, codec, 2, 10, SamplingConfig(), seed=3)
    assert drawn.audio.shape == (2, 10 * HOP)
    assert drawn.steps == steps
    assert drawn.seconds_per_second > 0
    assert torch.equal(drawn.audio, evaluation.sampled_music(model, codec, 2, 10, SamplingConfig(), seed=3).audio)

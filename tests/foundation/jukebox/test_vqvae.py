from dataclasses import replace

import pytest
import torch
from torch import multiprocessing
from torch.nn import functional as F

from sonido_bench.errors import ConfigError, DataError
from sonido_bench.foundation.codebook import nearest
from sonido_bench.foundation.jukebox.keys import to_theirs, vqvae_weights
from sonido_bench.foundation.jukebox.loss import largest_squares, spectral_loss
from sonido_bench.foundation.jukebox.vqvae import PUBLISHED, TINY, VQVAE, VQVAEConfig
from tests.foundation.jukebox.tiny_vqvae import CONFIG, SAMPLES, audio, latents, learn, started, vqvae


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_published_model_has_the_published_sizes():
    with torch.device("meta"):
        model = VQVAE(PUBLISHED)
    assert count(model) == 1_485_763
    assert [count(encoder) for encoder in model.encoders] == [441_856, 116_384, 168_224]
    assert [count(decoder) for decoder in model.decoders] == [458_177, 124_641, 176_481]
    codes = [tensor for name, tensor in model.state_dict().items() if name.endswith(".codes")]
    assert [tuple(tensor.shape) for tensor in codes] == [(1, 2048, 64)] * 3
    assert count(model) + sum(map(torch.numel, codes)) == 1_878_979
    assert len(list(model.parameters())) + len(codes) == 669
    assert [model.hop(level) for level in range(3)] == [8, 32, 128]


def test_the_small_preset_fits_rendered_music():
    model = VQVAE(TINY)
    assert [model.hop(level) for level in range(3)] == [8, 32, 128]
    assert count(model) < 300_000


@pytest.mark.parametrize("cycle", [None, 2])
def test_codes_and_audio_are_those_of_hugging_face(cycle):
    jukebox = pytest.importorskip("transformers.models.deprecated.jukebox")
    ours = vqvae(strides=(2, 2, 2), depth=3, multipliers=(2, 1, 1), dilation_cycle=cycle).eval()
    config = jukebox.JukeboxVQVAEConfig(
        nb_discrete_codes=16, embed_dim=8, res_conv_width=6, res_conv_depth=3, multipliers=[2, 1, 1],
        res_downs_t=[2, 1, 1], res_strides_t=[2, 2, 2], res_dilation_cycle=cycle, sample_length=SAMPLES,
    )  # fmt: skip
    theirs = jukebox.JukeboxVQVAE(config).eval()
    waveform = audio(3)
    torch.manual_seed(0)
    ours.initialise([waveform])
    theirs.load_state_dict(to_theirs(vqvae_weights(ours.config, "hugging_face"), ours.state_dict()))
    tokens = ours.encode(waveform)
    with torch.no_grad():
        expected = theirs.encode(waveform.unsqueeze(-1))
        assert [list(found.shape) for found in tokens] == [[3, 256], [3, 128], [3, 64]]
        for level in range(3):
            assert torch.equal(tokens[level], expected[level])
            assert len(tokens[level].unique()) > 4
            decoded = theirs.decode(expected[level:], start_level=level).squeeze(-1)
            torch.testing.assert_close(ours.decode(tokens[level], level), decoded, atol=1e-6, rtol=0)


def test_a_level_alone_is_what_it_is_among_all():
    for hierarchical in (False, True):
        model, waveform = started(hierarchical=hierarchical).eval(), audio(2)
        together = model.encode(waveform)
        for level in range(3):
            assert torch.equal(model.encode_level(waveform, level), together[level])


def test_tokens_are_the_nearest_codes_in_training_mode_too_and_nothing_moves():
    model, waveform = started().train(), audio(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tokens = model.encode(waveform)
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
    wanted = model.encoders[1](waveform.unsqueeze(1))[-1].transpose(1, 2)
    assert torch.equal(tokens[1], torch.cdist(wanted, model.codes(1)).argmin(dim=-1))
    assert torch.equal(model.embed(tokens[1], 1)[1, 3], model.codes(1)[tokens[1][1, 3]])


@pytest.mark.parametrize("hierarchical", [False, True])
def test_a_token_depends_on_the_samples_within_reach(hierarchical):
    config = replace(CONFIG, hierarchical=hierarchical, dilation_growth=2)
    torch.manual_seed(0)
    model = VQVAE(config).double()
    for level in range(3):
        waveform = audio(1, samples=2048).double().requires_grad_()
        encoder = model.encoders[0] if hierarchical else model.encoders[level]
        frame = 2048 // model.hop(level) // 2
        # linear, so that no ReLU hides what is in reach
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(F, "relu", lambda hidden: hidden)
            encoder(waveform.unsqueeze(1))[level][0, :, frame].sum().backward()
        seen = waveform.grad[0].nonzero().flatten()
        start = frame * model.hop(level)
        assert int(seen[0]) == start - model.reach(level)
        assert int(seen[-1]) == start + model.hop(level) - 1 + model.reach(level)


def test_the_loss_is_the_sum_over_levels_of_its_terms():
    model, waveform = started(l2_weight=0.7, linf_weight=0.3, spectral_weight=0.5, commit=0.1).eval(), audio(2)
    model.requires_grad_(False)
    output = model(waveform)
    reconstruction = spectral = commitment = 0.0
    for level, estimate in enumerate(model.reconstruct(waveform)):
        residual = estimate - waveform
        squares = 0.7 * residual.square().mean() + 0.3 * largest_squares(residual, 64)
        reconstruction += squares / model.bandwidth_l2
        spectral += spectral_loss(waveform, estimate, CONFIG.stfts) / model.bandwidth_spectral
        wanted = model.encoders[level](waveform.unsqueeze(1))[-1].transpose(1, 2)
        commitment += (wanted - model.embed(model.encode(waveform)[level], level)).square().mean()
    for found, expected in zip(output[1:4], (reconstruction, spectral, commitment), strict=True):
        assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert float(output.loss) == pytest.approx(float(reconstruction + 0.5 * spectral + 0.1 * commitment), rel=1e-5)
    assert {"level_0/l2", "level_2/spectral_convergence", "level_1/perplexity", "level_1/used"} <= output.metrics.keys()


def test_bandwidths_make_the_loss_independent_of_loudness():
    waveform = audio(3)
    quiet, loud = started(), started()
    for model, gain in ((quiet, 0.1), (loud, 1.0)):
        model.initialise([gain * waveform])
        for parameter in model.decoders.parameters():
            torch.nn.init.zeros_(parameter)  # silence
    expected, found = (model.eval()(gain * waveform) for model, gain in ((quiet, 0.1), (loud, 1.0)))
    assert float(found.reconstruction) == pytest.approx(float(expected.reconstruction), rel=1e-4)
    assert float(found.spectral) == pytest.approx(float(expected.spectral), rel=1e-4)
    assert float(found.metrics["level_0/l2"]) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("changes", [{}, {"hierarchical": True}, {"codebook_size": None}])
def test_every_weight_learns(changes, monkeypatch):
    monkeypatch.setattr(F, "relu", F.leaky_relu)  # so that none of the few channels is dead by chance
    model = started(**changes).train()
    model(audio(2)).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_separate_levels_do_not_help_each_other_and_hierarchical_ones_do():
    separate, together = started().eval(), started(hierarchical=True).eval()
    waveform = audio(2)
    for model in (separate, together):
        tokens = dict(enumerate(model.encode(waveform)))
        assert torch.equal(model.decode_levels({2: tokens[2]}), model.decode(tokens[2], 2))
        found = [model.decode_levels({0: tokens[0]}), model.decode_levels(tokens)]
        assert torch.equal(*found) == (model is separate)
        assert torch.equal(model.reconstruct(waveform)[0], found[1])


def test_missing_levels_of_a_hierarchical_model_take_their_mean_code():
    model = started(hierarchical=True).eval()
    tokens = model.encode(audio(2))
    for level in (0, 1):
        book = model.codebooks[level]
        mean = (book.sums[0].sum(dim=0) / book.counts.sum()).clone()
        book.codes[0, 0] = mean
    expected = model.decode_levels({level: torch.zeros_like(tokens[level]) for level in (0, 1)} | {2: tokens[2]})
    torch.testing.assert_close(model.decode(tokens[2], 2), expected)


def test_without_codebooks_audio_passes_but_has_no_tokens():
    model = started(codebook_size=None).eval()
    output = model(audio(2))
    assert float(output.commitment) == 0
    assert not any("perplexity" in name for name in output.metrics)
    assert [tuple(estimate.shape) for estimate in model.reconstruct(audio(2))] == [(2, SAMPLES)] * 3
    with pytest.raises(ValueError, match="does not quantise"):
        model.encode(audio(2))


def test_the_codes_of_training_are_those_of_full_precision_under_autocast():
    model, waveform = started().eval(), audio(2)
    book = model.codebooks[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = model.encode(waveform)[0]
        wanted = model.encoders[0](waveform.unsqueeze(1))[-1].float().transpose(1, 2)
        assert model(waveform).loss.dtype == torch.float32
    assert torch.equal(tokens.flatten(), nearest(wanted.flatten(0, 1).unsqueeze(0), book.codes)[0])


def alive_after_training(per_code, relative):
    """Return the share of codes in use after 300 batches with so many latents per code."""
    config = {"restart_below": 0.03, "restart_relative": True, "restart_keeps_sums": False} if relative else {}
    book = vqvae(codebook_size=64, **config).codebooks[0].train()
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(64, 8, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(300):
            which = torch.randint(64, (round(64 * per_code),), generator=generator)
            points = centres[which] + 0.1 * torch.randn(len(which), 8, generator=generator)
            book(points.unsqueeze(1))
    return float(book.alive.float().mean())


def test_the_published_threshold_needs_many_latents_per_code_and_a_relative_one_does_not():
    absolute = [alive_after_training(per_code, relative=False) for per_code in (0.25, 1, 16)]
    assert absolute[0] < 0.2
    assert absolute[0] < absolute[1] < 0.7
    assert absolute[2] > 0.95
    assert min(alive_after_training(per_code, relative=True) for per_code in (0.25, 1, 16)) > 0.9


def test_restarts_bring_more_codes_into_use():
    used = {}
    for restart in (True, False):
        options = {"restart_below": 0.03, "restart_relative": True, "restart_keeps_sums": False, "decay": 0.8}
        model = started(restart=restart, codebook_size=32, **options).train()
        for book in model.codebooks:
            book.codes[0, 1:] += 100  # collapsed onto the first code
            book.sums.copy_(book.codes)
        for step in range(40):
            metrics = model(audio(2, seed=step)).metrics
        used[restart] = float(metrics["level_0/perplexity"])
        assert ("level_0/alive" in metrics) == restart
    assert used[False] == 1
    assert used[True] > 8


@pytest.fixture(scope="module")
def in_processes(tmp_path_factory):
    """What two processes and one have learned, from the same batches."""
    folder = tmp_path_factory.mktemp("processes")
    learn(0, 1, folder)
    multiprocessing.start_processes(learn, (2, str(folder)), nprocs=2, start_method="spawn")
    names = {"alone": "1-0.pt", "first": "2-0.pt", "second": "2-1.pt"}
    return {name: torch.load(folder / file, weights_only=False) for name, file in names.items()}


def test_processes_share_codes_counts_and_restarts(in_processes):
    first, second = in_processes["first"], in_processes["second"]
    for restart in (False, True):
        for step in (1, 2, 3):
            one, other = first[restart, step], second[restart, step]
            shared = [name for name in one if not name.endswith("/l2")]
            assert all(torch.equal(one[name], other[name]) for name in shared)


def test_two_processes_learn_what_one_does_from_the_whole_batch(in_processes):
    alone, first = in_processes["alone"], in_processes["first"]
    for step in (1, 2, 3):
        expected, found = alone["book", False, step], first["book", False, step]
        assert torch.equal(found["counts"], expected["counts"])
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_two_processes_restart_the_codes_that_one_does(in_processes):
    alone, first, second = (in_processes[name]["book", True, 1] for name in ("alone", "first", "second"))
    assert torch.equal(first["codes"], second["codes"])
    assert torch.equal(first["counts"], alone["counts"])
    kept = first["counts"] >= 1.5
    assert 0 < int(kept.sum()) < 16
    torch.testing.assert_close(first["codes"][kept], alone["codes"][kept], atol=1e-6, rtol=1e-5)
    # the first process draws for both, so that fresh codes are other ones than from the whole batch
    drawn = first["codes"][~kept].unsqueeze(1) == latents(1)[:400, 0]
    assert drawn.all(dim=-1).any(dim=1).all()


def test_bandwidths_are_measured_over_all_processes(in_processes):
    alone, first, second = (in_processes[name]["bandwidth"] for name in ("alone", "first", "second"))
    assert first == second
    torch.testing.assert_close(torch.stack(first), torch.stack(alone))


@pytest.mark.parametrize(
    ("waveform", "error", "message"),
    [
        (torch.zeros(2, SAMPLES - 1), ValueError, "samples a multiple of 32, got"),
        (torch.zeros(2, 0), ValueError, "samples a multiple of 32, got"),
        (torch.zeros(SAMPLES), ValueError, r"expected audio \(batch, samples\)"),
        (torch.zeros(2, 1, SAMPLES), ValueError, r"expected audio \(batch, samples\)"),
        (torch.full((2, SAMPLES), torch.nan), DataError, "expected finite audio"),
        (torch.full((2, SAMPLES), torch.inf), DataError, "expected finite audio"),
    ],
)
def test_wrong_audio(waveform, error, message):
    model = started()
    for use in (model, model.encode, model.reconstruct, lambda given: model.initialise([given])):
        with pytest.raises(error, match=message):
            use(waveform)


def test_wrong_tokens():
    model = started(hierarchical=True)
    good = torch.zeros(2, 32, dtype=torch.int64)
    for tokens, level, message in (
        (good + 16, 2, "expected tokens of 0 to 15, got 16 to 16"),
        (good - 1, 2, "expected tokens of 0 to 15, got -1 to -1"),
        (good[0], 2, r"int64 tokens \(batch, frames\)"),
        (good.float(), 2, "int64 tokens"),
        (good, 3, "expected a level of 0 to 2, got 3"),
        (good, -1, "expected a level of 0 to 2, got -1"),
        (good[:, :1], 0, "tokens of a multiple of 32 samples, got 4"),
    ):
        with pytest.raises(ValueError, match=message):
            model.decode(tokens, level)
    with pytest.raises(ValueError, match="as long as each other"):
        model.decode_levels({1: good, 2: good})
    with pytest.raises(ValueError, match="one or more levels"):
        model.decode_levels({})
    with pytest.raises(ValueError, match="expected a level of 0 to 2, got 3"):
        model.encode_level(audio(1), 3)


def test_items_too_short_for_the_loss_are_refused():
    with pytest.raises(ValueError, match="at least linf_k = 64 samples"):
        started()(audio(2)[:, :32])
    with pytest.raises(ValueError, match="more than 128 samples for an STFT of 256 points"):
        started()(audio(2)[:, :128])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"downs": (3, 2)}, "one value per level"),
        ({"downs": (), "strides": (), "multipliers": ()}, "one value per level"),
        ({"strides": (2, 3, 2)}, "strides even"),
        ({"downs": (3, 0, 2)}, "downs and multipliers must be at least 1"),
        ({"width": 0}, "width must be a number above 0, got 0"),
        ({"commit": -0.1}, "commit must be a number above 0, got -0.1"),
        ({"spectral_weight": float("nan")}, "spectral_weight must be a number above 0, got nan"),
        ({"decay": 1.0}, "decay must be below 1, got 1.0"),
        ({"restart_relative": True}, "relative restart_below must be below 1"),
        ({"hierarchical": True, "codebook_size": None}, "give a codebook_size"),
        ({"stfts": ((512, 50, 600),)}, "window of at most n_fft"),
        ({"stfts": ()}, "spectral_weight needs stfts"),
    ],
)
def test_wrong_configuration(options, message):
    with pytest.raises(ConfigError, match=message):
        VQVAEConfig(**options)

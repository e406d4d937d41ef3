import json
from dataclasses import replace

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from sonido_bench.foundation.codec.config import QuantizerConfig
from sonido_bench.foundation.codec.quantizer import ResidualCodebook, ResidualQuantizer

CONFIG = QuantizerConfig(codebooks=3, codebook_size=8, kmeans_iterations=5)


def quantizer(seed=0, **changes):
    torch.manual_seed(seed)
    module = ResidualQuantizer(replace(CONFIG, **changes), dim=4)
    module.initialise(latents())
    return module


def latents(batch=4, frames=25, seed=0):
    return torch.randn(batch, 4, frames, generator=torch.Generator().manual_seed(seed))


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def unchanged(module, before):
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_stages_code_what_is_left_over():
    module, given = quantizer().eval(), latents(seed=1)
    output = module(given)
    points, total = given.transpose(1, 2), 0
    for stage in range(3):
        distances = torch.cdist(points, module.codes[stage].expand(4, -1, -1))
        expected = distances.argmin(dim=2)
        assert torch.equal(output.codes[..., stage], expected)
        code = module.codes[stage][expected]
        torch.testing.assert_close(output.pre[:, stage], points.transpose(1, 2))
        torch.testing.assert_close(output.straight_through[:, stage], code.transpose(1, 2))
        torch.testing.assert_close(output.commitment[stage], (points - code).square().mean())
        points, total = points - code, total + code
        torch.testing.assert_close(output.post[:, stage], points.transpose(1, 2))
    torch.testing.assert_close(output.values, total.transpose(1, 2))
    torch.testing.assert_close(module.values(output.codes), output.values)
    side_by_side = module.embed(output.codes)
    assert side_by_side.shape == (4, 25, 12)
    torch.testing.assert_close(side_by_side.view(4, 25, 3, 4).permute(0, 2, 3, 1), output.straight_through)


def test_the_commitment_of_every_stage_pulls_at_the_latents():
    module, given = quantizer().eval(), latents(seed=1).requires_grad_()
    output = module(given)
    for stage in range(3):
        (gradient,) = torch.autograd.grad(output.commitment[stage], given, retain_graph=True)
        torch.testing.assert_close(gradient, 2 * output.post[:, stage].detach() / given.numel())
        assert gradient.norm() > 0


@pytest.mark.parametrize("stream", ["values", "pre", "post", "straight_through"])
def test_gradients_pass_to_the_latents_as_they_are(stream):
    given = latents(seed=1).requires_grad_()
    found = getattr(quantizer().eval()(given), stream)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    expected = weights if stream == "values" else weights.sum(dim=1)
    torch.testing.assert_close(given.grad, expected)


def test_only_learning_changes_the_codes():
    module = quantizer().train()
    before = state(module)
    module.quantize(latents(seed=1))
    module.eval()(latents(seed=1))
    assert unchanged(module, before)
    module.quantize(latents(seed=1), learn=True)
    assert not unchanged(module, before)


def test_codes_start_from_the_first_training_batch_and_the_checkpoint_says_so():
    torch.manual_seed(0)
    module = ResidualQuantizer(CONFIG, dim=4)
    assert not module.initialised
    module.train()(latents())
    restored = ResidualQuantizer(CONFIG, dim=4)
    restored.load_state_dict(module.state_dict())
    assert restored.initialised
    assert torch.equal(restored.codes, module.codes)


def test_each_stage_makes_the_error_smaller_and_more_latents_than_codes_are_not_needed():
    commitment = quantizer().eval()(latents()).commitment
    assert commitment[0] > commitment[1] > commitment[2]
    few = ResidualQuantizer(CONFIG, dim=4)
    few.initialise(latents(1, 3))
    assert few.eval()(latents(1, 3)).commitment[0] < 0.01


def test_codes_follow_the_moving_average():
    book = ResidualCodebook(replace(CONFIG, codebook_size=2, decay=0.9, restart_below=0.0), 1)
    book.initialise(torch.zeros(1, 1, 1), torch.tensor([[[0.0], [10.0]]]))
    book._learn(torch.tensor([[[1.0]], [[3.0]], [[12.0]]]), torch.tensor([[0], [0], [1]]))
    torch.testing.assert_close(book.counts, torch.tensor([[1.1, 1.0]]))
    torch.testing.assert_close(book.codes, torch.tensor([[[0.4 / 1.1], [9.0 + 1.2]]]))


def test_a_dead_code_revives_with_count_sum_and_code_that_agree():
    module = quantizer(codebooks=1, decay=0.5, restart_below=0.3).train()
    book = module.layers[0]
    with torch.no_grad():
        book.codes[0, 3] = 1000.0
        book.sums[0, 3] = 1000.0 * book.counts[0, 3]
    given, revived = latents(seed=1), 0
    for _ in range(6):
        tokens = module(given).codes
        revived += int((tokens == 3).sum())
    assert revived > 0
    assert book.codes.abs().max() < 10
    torch.testing.assert_close(book.codes, book.sums / book.counts.unsqueeze(-1))


def test_a_restarted_code_lies_on_a_latent_and_has_the_count_of_uniform_use():
    book = ResidualCodebook(replace(CONFIG, codebook_size=2, decay=0.5, restart_below=0.5), 1)
    book.initialise(torch.zeros(1, 1, 1), torch.tensor([[[0.0], [99.0]]]))
    points = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1)
    book._learn(points, torch.zeros(4, 1, dtype=torch.long))
    # counts (0.5 + 2, 0.5), their mean 1.5, half of it 0.75
    torch.testing.assert_close(book.counts, torch.tensor([[2.5, 1.5]]))
    assert float(book.codes[0, 1]) in {1.0, 2.0, 3.0, 4.0}
    torch.testing.assert_close(book.sums[0, 1], 1.5 * book.codes[0, 1])


def test_metrics_count_the_codes_in_use():
    codes = torch.stack([torch.arange(8), torch.zeros(8).long(), torch.arange(8) % 2], dim=1).unsqueeze(0)
    figures = quantizer().metrics(codes)
    assert float(figures["perplexity"]) == pytest.approx((8 + 1 + 2) / 3)
    assert float(figures["perplexity_min"]) == pytest.approx(1)
    assert float(figures["used"]) == pytest.approx(11 / 24)


def test_wrong_shapes_and_codes_are_refused():
    with pytest.raises(ValueError, match=r"expected latents \(batch, 4, frames\)"):
        quantizer()(torch.randn(2, 5, 3))
    with pytest.raises(ValueError, match=r"expected codes \(batch, frames, 3\)"):
        quantizer().embed(torch.zeros(1, 2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="expected codes below 8, got 0 to 8"):
        quantizer().embed(torch.tensor([[[0, 8, 0]]]))


DECAY, STEPS = 0.7, 6  # so that codes die within the test


def learn(rank, processes):
    """Let a quantiser learn from its share of joint batches; return its state and how often codes restarted."""
    torch.set_num_threads(1)
    torch.manual_seed(rank)  # so that only the first process draws what a single one does
    module = ResidualQuantizer(replace(CONFIG, decay=DECAY, restart_below=0.4), dim=4).train()
    restarts = 0
    for step in range(STEPS):
        joint = latents(seed=step) + step  # codes are left behind
        before = [layer.counts.clone() for layer in module.layers]
        module(joint.chunk(processes)[rank])
        for layer, counts in zip(module.layers, before, strict=True):
            without = DECAY * counts.sum() + (1 - DECAY) * 100
            restarts += int(step > 0 and layer.counts.sum() > without + 0.1)
    return {name: value.tolist() for name, value in module.state_dict().items()}, restarts


def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found, _ = learn(rank, 2)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_learn_what_one_does_from_the_joint_batch(tmp_path):
    # forked: importing torch anew would take longer than all of these tests
    multiprocessing.start_processes(work, (tmp_path,), nprocs=2, start_method="fork")
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    alone, restarts = learn(0, 1)
    assert restarts > 0
    for name, value in alone.items():
        torch.testing.assert_close(torch.tensor(first[name]), torch.tensor(value), atol=1e-4, rtol=1e-4)

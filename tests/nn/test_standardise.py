import torch

from sonido_bench.nn.standardise import Standardise


def test_statistics_do_not_depend_on_batches():
    torch.manual_seed(0)
    data = torch.randn(50, 7, 3) * torch.tensor([1.0, 10.0, 0.1]) + 5
    whole, parts = Standardise(3), Standardise(3)
    whole.update(data)
    for part in data.split([1, 20, 29]):
        parts.update(part)
    rows = data.reshape(-1, 3).double()
    assert torch.allclose(parts.mean, rows.mean(0))
    assert torch.allclose(parts.deviation, rows.std(0, correction=0))
    assert torch.allclose(whole.deviation, parts.deviation)
    standard = parts(data).reshape(-1, 3)
    assert torch.allclose(standard.mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(standard.std(0, correction=0), torch.ones(3), atol=1e-4)
    assert torch.allclose(parts.inverse(parts(data)), data, atol=1e-5)


def test_identity_before_data():
    values = torch.randn(4, 3)
    assert torch.equal(Standardise(3)(values), values)


def test_constant_channel_stays_finite():
    data = torch.randn(100, 2)
    data[:, 1] = 3.0
    layer = Standardise(2)
    layer.update(data)
    assert torch.isfinite(layer(data)).all()
    assert layer(data)[:, 1].abs().max() < 1e-3


def test_statistics_are_saved():
    layer, copy = Standardise(2), Standardise(2)
    layer.update(torch.randn(10, 2))
    copy.load_state_dict(layer.state_dict())
    assert torch.equal(copy.deviation, layer.deviation)

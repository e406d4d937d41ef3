import pytest
import torch

from sonido_bench.foundation.transformer.token_embedding import TokenEmbedding


def test_codes_of_a_position_are_summed_each_from_its_own_table():
    embedding = TokenEmbedding(codebooks=3, codebook_size=5, width=4)
    tokens = torch.randint(5, (2, 7, 3))
    tables = embedding.tables.view(3, 5, 4)
    expected = sum(tables[book][tokens[..., book]] for book in range(3))
    assert torch.allclose(embedding(tokens), expected, atol=1e-6)
    assert embedding(tokens[:, :0]).shape == (2, 0, 4)


def test_start_from_codes_keeps_their_distances():
    embedding = TokenEmbedding(codebooks=2, codebook_size=40, width=512)
    codes = 3 * torch.randn(2, 40, 6) + 5
    embedding.initialise(codes)
    tables = embedding.tables.detach().view(2, 40, 512)
    assert tables.std().item() == pytest.approx(0.02, rel=0.1)
    for book in range(2):
        pair = torch.stack([torch.pdist(codes[book]), torch.pdist(tables[book])])
        assert torch.corrcoef(pair)[0, 1] > 0.98
    first = tables.clone()
    embedding.initialise(codes)
    assert torch.equal(first, embedding.tables.view(2, 40, 512))


def test_wrong_shapes_are_refused():
    embedding = TokenEmbedding(codebooks=3, codebook_size=5, width=4)
    with pytest.raises(ValueError, match=r"expected tokens \(batch, frames, 3\)"):
        embedding(torch.zeros(2, 7, 2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"expected codes \(3, 5, code_dim\)"):
        embedding.initialise(torch.zeros(3, 6, 8))

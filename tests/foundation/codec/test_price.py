import pytest
import torch

from sonido_bench.foundation.codec.language_model import LanguageModel, LanguageModelConfig
from sonido_bench.foundation.codec.price import price_of_factorisation

SIZE, FRAMES = 4, 12


def model(pattern, codebooks=2):
    torch.manual_seed(0)
    config = LanguageModelConfig(codebooks, SIZE, pattern, width=16, depth=1, heads=2, context=FRAMES)
    return LanguageModel(config).eval()


def codes(relation, items=250, seed=0):
    """Codes without order in time; the second codebook knows one of two bits of a code of the first, or nothing."""
    generator = torch.Generator().manual_seed(seed)
    first, noise = torch.randint(SIZE, (2, items, FRAMES), generator=generator)
    known = {"nothing": noise, "same frame": first, "next frame": first.roll(-1, dims=1)}[relation]
    return torch.stack([first, 2 * (known // 2) + noise % 2], dim=2)


@pytest.mark.parametrize(
    ("pattern", "relation", "bits"),
    [
        ("parallel", "nothing", 0.0),
        ("parallel", "same frame", 1.0),
        ("parallel", "next frame", 0.0),
        ("delay", "same frame", 0.0),  # by then the first codebook's code has been read
        ("delay", "next frame", (FRAMES - 1) / FRAMES),  # the last step has one codebook only
        ("flatten", "same frame", 0.0),
    ],
)
def test_known_dependence(pattern, relation, bits):
    price = price_of_factorisation(model(pattern), codes(relation), codes(relation, 100, seed=1), FRAMES)
    assert price.bits_per_frame == pytest.approx(bits, abs=0.05)
    assert price.per_codebook[0] == 0
    assert sum(price.per_codebook) == price.bits_per_frame


def test_the_same_twice_and_the_model_stays():
    network = model("parallel")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = [
        price_of_factorisation(network, codes("same frame", 40), codes("same frame", 20, 1), FRAMES) for _ in range(2)
    ]
    assert found[0] == found[1]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_three_codebooks_are_counted_once():
    """The third knows the same bit as the second: one bit for each, not two for the third."""
    pair = codes("same frame", 350)
    third = 2 * (pair[..., 1:] // 2) + torch.randint(2, pair[..., 1:].shape, generator=torch.Generator().manual_seed(2))
    three = torch.cat([pair, third], dim=2)
    price = price_of_factorisation(model("parallel", 3), three[:250], three[250:], FRAMES)
    assert price.per_codebook == pytest.approx([0, 1, 1], abs=0.05)


def test_windows_that_cannot_be_cut():
    with pytest.raises(ValueError, match="expected windows of 1 to 12 frames, got 17"):
        price_of_factorisation(model("parallel"), codes("nothing"), codes("nothing"), 17)
    with pytest.raises(ValueError, match="expected 8 windows of 12 frames or more, got 7"):
        price_of_factorisation(model("parallel"), codes("nothing", 7), codes("nothing"), FRAMES)

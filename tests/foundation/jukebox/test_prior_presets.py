import pytest
import torch

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.jukebox.presets import PRIORS, prior_preset
from sonido_bench.foundation.jukebox.prior import Prior

PUBLISHED = {
    "1b_lyrics": 942_643_200, "5b": 5_060_452_800, "5b_lyrics": 5_640_506_800, "upsampler_0": 981_298_176,
    "upsampler_1": 981_298_176,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    with torch.device("meta"):
        prior = Prior(prior_preset(name))
    assert sum(parameter.numel() for parameter in prior.parameters()) == PUBLISHED[name]


def test_windows_and_rows_of_the_published_models():
    assert prior_preset("1b_lyrics").transformer().block_length == 102
    assert prior_preset("1b_lyrics").transformer().prime_length == 448
    assert prior_preset("1b_lyrics").shift + 2048 == 2127
    assert prior_preset("5b_lyrics").lyric_transformer().block_length == 16
    seconds = {name: config.sample_length / config.sample_rate for name, config in PRIORS.items()}
    assert [round(seconds[name], 2) for name in ("upsampler_0", "upsampler_1", "5b", "1b_lyrics")] == [
        1.49, 5.94, 23.78, 17.83
    ]  # fmt: skip


def test_shapes_of_a_published_layer():
    with torch.device("meta"):
        state = Prior(prior_preset("5b_lyrics")).state_dict()
    block = "music.transformer.blocks.18.attention."
    assert state[block + "project_in.weight"].shape == (1200, 4800)
    assert state[block + "project_context.weight"].shape == (2400, 4800)
    assert state["lyrics.project.weight"].shape == (4800, 1280)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="unknown Jukebox prior '5B'; use one of: 5b, 5b_lyrics, 1b_lyrics"):
        prior_preset("5B")

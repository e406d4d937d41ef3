import json
from dataclasses import replace

import pytest

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.codec.config import (
    PUBLISHED,
    TINY,
    CodecConfig,
    QuantizerConfig,
    SEANetConfig,
    parse_config,
)


def test_the_published_codec_has_50_frames_of_640_samples_a_second_and_2200_bits():
    assert (PUBLISHED.hop_length, PUBLISHED.frame_rate) == (640, 50)
    assert PUBLISHED.bits_per_second == 2200
    assert (TINY.hop_length, TINY.sample_rate, TINY.frame_rate) == (320, 16_000, 50)


@pytest.mark.parametrize("config", [PUBLISHED, TINY])
def test_a_configuration_survives_json(config):
    assert parse_config(json.loads(json.dumps(config.as_dict()))) == config


def test_an_unknown_name_is_refused():
    values = TINY.as_dict()
    values["seanet"]["filter"] = 3
    with pytest.raises(ConfigError, match=r"model\.json: .*filter"):
        parse_config(values, "model.json")


def test_strides_that_do_not_make_the_frame_rate_are_refused():
    with pytest.raises(ConfigError, match="make frames of 320 samples, 100 a second at 32000 Hz, but frame_rate is 50"):
        replace(PUBLISHED, seanet=SEANetConfig(ratios=(8, 5, 4, 2)))
    with pytest.raises(ConfigError, match="frame_rate"):
        CodecConfig("x", 24_000, 50)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SEANetConfig(ratios=()), "ratios must be positive"),
        (lambda: SEANetConfig(filters=0), "filters must be positive"),
        (lambda: SEANetConfig(kernel_size=8), "must be odd"),
        (lambda: SEANetConfig(filters=9), "compress must divide filters"),
        (lambda: QuantizerConfig(codebooks=0), "must be positive"),
        (lambda: QuantizerConfig(decay=1.0), "expected decay"),
        (lambda: QuantizerConfig(restart_below=2.0), "restart_below"),
    ],
)
def test_sizes_that_make_no_codec_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()

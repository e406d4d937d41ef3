import pytest

from sonido_bench.benchmark.config import ArmConfig, ClassConfig
from sonido_bench.benchmark.instantiate import arm_extractor
from sonido_bench.errors import ConfigError
from sonido_bench.foundation.chroma import Chroma
from sonido_bench.foundation.controls import randomised
from sonido_bench.foundation.convnet import ConvNet

NET = "sonido_bench.foundation.convnet.ConvNet"


def arm(name: str, class_path: str = NET, **init_args: object) -> ArmConfig:
    return ArmConfig(name, ClassConfig(class_path, init_args))


def test_the_baseline_has_no_extractor():
    assert arm_extractor(ArmConfig("none")) is None


def test_an_arm_is_built_by_name_or_with_its_arguments():
    assert arm_extractor(ArmConfig("chroma")).fingerprint() == Chroma().fingerprint()
    narrow = arm_extractor(arm("narrow", channels=[4, 4, 4, 8]))
    assert narrow.fingerprint() == ConvNet(channels=(4, 4, 4, 8)).fingerprint()
    assert arm_extractor(arm("narrow", channels=[4, 4, 4, 4])).fingerprint() != narrow.fingerprint()


def test_a_defined_arm_has_a_random_control():
    control = arm_extractor(arm("narrow@random", channels=[4, 4, 4, 8]))
    assert control.fingerprint() == randomised(ConvNet(channels=(4, 4, 4, 8))).fingerprint()


def test_an_arm_is_built_once():
    assert arm_extractor(arm("net", weights_seed=3)) is arm_extractor(arm("net", weights_seed=3))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (arm("net", weight_seed=3), "no option 'weight_seed'"),
        (arm("net", weights_seed="many"), "many"),
        (arm("net", "sonido_bench.foundation.convnet.ConfNet"), "no class"),
        (arm("net", "sonido_bench.features.spec.FrameGrid", frame_rate=1.0, first_centre=0.0), "expected an extractor"),
        (ArmConfig("wide@random"), "unknown extractor 'wide'"),
    ],
)
def test_mistakes_are_named(wrong, message):
    with pytest.raises(ConfigError, match=message):
        arm_extractor(wrong)

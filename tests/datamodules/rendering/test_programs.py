import pytest

from sonido_bench.datamodules.rendering.programs import FAMILIES, ROLE_FAMILIES, SPLITS, TAGS, programs


def test_enough_programs_in_twelve_tags():
    pitched = [program for name, family in FAMILIES.items() if name != "drums" for program in programs(name, "test")]
    assert len(TAGS) == 12
    assert len(pitched) == len(set(pitched)) >= 60
    assert all(0 <= program < 128 for program in pitched)
    assert {family for families in ROLE_FAMILIES.values() for family in families} == set(TAGS)


@pytest.mark.parametrize("family", TAGS)
def test_some_programs_are_kept_for_the_test_split(family):
    train = set(programs(family, "train"))
    assert train < set(programs(family, "test"))
    assert set(programs(family, "validation")) == train <= set(programs(family, "pretrain"))


def test_pre_training_never_hears_what_the_test_split_alone_has_and_has_some_of_its_own():
    heard = {split: {(tag, program) for tag in TAGS for program in programs(tag, split)} for split in SPLITS}
    assert heard["pretrain"] & heard["test"] == heard["train"]
    assert len(heard["pretrain"] - heard["train"]) == 12

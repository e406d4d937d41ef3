from dataclasses import fields

from sonido_bench.benchmark.results import Items
from sonido_bench.metrics.items import TestItems


def test_items_of_a_task_fit_a_result():
    assert [field.name for field in fields(TestItems)] == [field.name for field in fields(Items)]
    assert Items(**vars(TestItems(["a"], scores={"key_score": [1.0]}))).names == ["a"]

from dataclasses import fields

from sonido_bench.benchmark.results import Items
from sonido_bench.metrics.items import TestItems


def test_items_of_a_task_fit_a_result():
    """All but what is to be heard, which goes into files."""
    names = [field.name for field in fields(TestItems)]
    assert names == [*(field.name for field in fields(Items)), "recordings"]

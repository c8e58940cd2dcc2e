"""Bodies and records of the same fields: nothing is lost between them, and nothing is assumed."""

from typing import Any

import msgspec
import pytest

from weft.api.alike import alike
from weft.api.bodies import placing, pools, storage
from weft.model.node import Gpu
from weft.model.scheduling import Weights, Workload
from weft.model.stats import NodeStats

PAIRS = [
    (storage.StatsBody, NodeStats),
    (pools.GpuBody, Gpu),
    (placing.WorkloadBody, Workload),
    (placing.WeightsBody, Weights),
]


@pytest.mark.parametrize(("body", "record"), PAIRS)
def test_a_body_and_its_record_have_the_same_fields(body: type[msgspec.Struct], record: type[msgspec.Struct]) -> None:
    assert set(body.__struct_fields__) == set(record.__struct_fields__)
    values: dict[str, Any] = {name: number for number, name in enumerate(body.__struct_fields__)}
    there = alike(body(**values), record)
    assert msgspec.structs.asdict(there) == values
    assert alike(there, body) == body(**values)


def test_a_field_nobody_gives_is_a_mistake_also_where_it_has_a_default() -> None:
    class Less(msgspec.Struct, frozen=True, kw_only=True):
        cpu_req: float = 1.0

    with pytest.raises(AttributeError):
        alike(Less(), Workload)

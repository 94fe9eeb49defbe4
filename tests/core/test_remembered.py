"""A result is made again when one of its kinds is another mapping, and only then."""

from dataclasses import replace

from core.model import Instance, Kind, Model
from core.remembered import Remembered


def test_it_is_made_again_for_what_has_changed_alone() -> None:
    asked: list[Model] = []

    def make(model: Model) -> int:
        asked.append(model)
        return len(model.instances)

    count = Remembered(make, Kind.INSTANCES, Kind.NODES)
    model = Model(instances={"i": Instance("i")})
    assert [count(model), count(replace(model, rules={})), count(model)] == [1, 1, 1]
    assert asked == [model]
    assert count(replace(model, instances={})) == 0
    assert count(model) == 1, "the last one is remembered, not all"
    assert len(asked) == 3

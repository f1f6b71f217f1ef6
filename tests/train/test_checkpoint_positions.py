"""What a run writes about its position in a checkpoint is read again, whatever a position has learnt to hold."""

from dataclasses import asdict, fields

import pytest

from allometry.train.checkpoint import Position, position_problem


@pytest.mark.parametrize("field", fields(Position), ids=lambda field: field.name)
def test_every_field_of_a_position_can_be_read_again(field) -> None:
    values = {"str | None": "words", "float | None": 1.5, "float": 1.5, "int": 3, "int | None": 3}
    position = Position(**({field.name: values[field.type]} if field.type in values else {}))
    assert position_problem(asdict(position)) is None


def test_a_word_where_a_number_belongs_is_named() -> None:
    assert position_problem({"step": "3"}) == "'step' in its position is wrong"
    assert position_problem({"text": 3}) == "'text' in its position is wrong"

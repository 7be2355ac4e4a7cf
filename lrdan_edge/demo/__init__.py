"""The demonstration's data: a photograph becomes a conveyor with synthetic defects."""

"""What a function reads from outside is seen, and nothing else counts."""

import functools
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from bilevel.foundation.reads import reads

FACTOR = np.array([1.0])


def of_global(w):
    return FACTOR * w


def through(w):
    return of_global(w)


@dataclass(frozen=True, eq=False)
class Statement:
    loss: Any
    weight: float = 1.0


def test_nothing_changes_between_two_looks():
    for value in (of_global, through, Statement(of_global), functools.partial(of_global, w=1), jnp.sum, FACTOR, None):
        assert reads(value) == reads(value) and hash(reads(value)) == hash(reads(value))


def test_a_global_bound_anew_is_seen_through_functions_and_statements(monkeypatch):
    values = (of_global, through, Statement(through), functools.partial(through, 1.0), lambda w: of_global(w))
    before = [reads(value) for value in values]
    monkeypatch.setitem(of_global.__globals__, "FACTOR", np.array([1.0]))
    assert all(reads(value) != old for value, old in zip(values, before, strict=True))


def test_a_closure_bound_anew_is_seen_and_an_equal_number_is_the_same():
    def outer():
        factor = 2.0

        def loss(w):
            return factor * w

        def change(value):
            nonlocal factor
            factor = value

        return loss, change

    loss, change = outer()
    before = reads(loss)
    change(float("2"))
    assert reads(loss) == before
    change(3.0)
    assert reads(loss) != before


def test_an_attribute_of_a_bound_method_is_seen():
    class Model:
        strength = 1.0

        def loss(self, w):
            return self.strength * w

    model = Model()
    before = reads(model.loss)
    model.strength = 2.0
    assert reads(model.loss) != before


def test_cycles_end():
    def loss(w):
        return loss(w)

    assert reads(loss) == reads(loss)

"""The laws that every set and penalty obeys, over the table of `scripts/catalogue_nonsmooth.py`."""

import functools
import inspect
from typing import Any

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue_nonsmooth import ABSTRACT, NONSMOOTH, split, together

import bilevel as bl
from bilevel import constraints, penalties

STEP = 1.0
OF_TREES = [pytest.param(entry, id=entry.name) for entry in NONSMOOTH if entry.on_tree is not None]
OF_THREE = ("ExponentialCone",)  # a vector of three entries, which the tree of six is not
ALL = [pytest.param(entry, id=entry.name) for entry in NONSMOOTH]
KINKED = [pytest.param(entry, id=entry.name) for entry in NONSMOOTH if not entry.smooth]


def tree_of(entry):
    of_three = {"a": jnp.asarray(entry.at[:2]), "b": jnp.asarray(entry.at[2])}
    return jax.tree.map(jnp.asarray, of_three if entry.name in OF_THREE else split(entry.at))


def outputs(penalty, point):
    """Prox, value there and distances to the kinks, sorted."""

    @jax.jit
    def compute(point):
        after = penalty.prox(point, STEP, None)
        return after, penalty.value(after, None), jnp.sort(together(penalty.kinks(point, STEP, None)))

    return compute(point)


def test_the_table_is_complete():
    named = {*constraints.__all__, *penalties.__all__} - ABSTRACT
    assert {name for name in named if inspect.isclass(getattr(bl, name, None))} == {entry.name for entry in NONSMOOTH}


@pytest.mark.sample(10)
@pytest.mark.parametrize("entry", OF_TREES)
def test_a_tree_is_the_vector_of_its_leaves(entry):
    tree, vector = tree_of(entry), jnp.asarray(entry.at)
    on_tree, on_vector = outputs(entry.on_tree, tree), outputs(entry.whole, vector)
    assert jax.tree.map(jnp.shape, on_tree[0]) == jax.tree.map(jnp.shape, tree)
    for of_tree, of_vector in zip((together(on_tree[0]), *on_tree[1:]), on_vector, strict=True):
        np.testing.assert_allclose(of_tree, of_vector, atol=1e-14)


@pytest.mark.slow
@pytest.mark.sample(2)
@pytest.mark.parametrize("entry", OF_TREES)
def test_a_problem_on_a_tree_is_the_problem_on_its_vector(entry):
    """Solution and derivative, where loss and data move with a hyperparameter."""
    vector = jnp.asarray(entry.at)
    matrix = jnp.eye(vector.size) + 0.1

    def solve(penalty, start):
        def loss(w, h, batch):
            shift = together(w) - h * vector
            return 0.5 * shift @ matrix @ shift

        settings: dict[str, Any] = {"constraint" if isinstance(penalty, constraints.Constraint) else "penalty": penalty}
        solver = bl.ProximalGradient(tol=1e-13, max_steps=5000)
        inner = bl.InnerProblem(loss=loss, init=lambda key, h: start, solver=solver, **settings)
        return jax.jit(lambda h: jax.jvp(lambda h: together(inner.solve(h, None).params), (h,), (1.0,)))(1.0)

    results = [solve(entry.on_tree, tree_of(entry)), solve(entry.whole, vector)]
    for on_tree, on_vector in zip(*results, strict=True):
        np.testing.assert_allclose(on_tree, on_vector, atol=1e-9)


def test_leaves_of_different_rows_and_several_matrices_are_refused():
    rows = {"a": jnp.ones((4, 3)), "b": jnp.ones((2, 3))}
    for entry in (bl.Simplex(), bl.GroupLasso(1.0), bl.TotalVariation(1.0), bl.Isotonic()):
        name = type(entry).__name__
        with pytest.raises(ValueError, match=rf"bl.{name} acts along the last axis.*\(4, 3\), \(2, 3\).*bl.Parts"):
            entry.prox(rows, 1.0, None)
    for entry in (bl.PSDCone(), bl.NuclearNorm(1.0)):
        with pytest.raises(ValueError, match=rf"bl.{type(entry).__name__} is one of matrices.*2 arrays.*bl.Parts"):
            entry.prox(rows, 1.0, None)


def test_rows_of_several_leaves_stand_side_by_side():
    tree = {"a": jnp.arange(8.0).reshape(4, 2), "b": jnp.ones((4, 3))}
    projected = bl.Simplex().project(tree, None)
    beside = bl.projections.simplex(jnp.concatenate([tree["a"], tree["b"]], axis=1))
    np.testing.assert_array_equal(jnp.concatenate([projected["a"], projected["b"]], axis=1), beside)


def test_parts_act_on_each_part_alone():
    tree = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}
    apart = bl.Parts({"a": bl.L2Ball(1.0), "b": bl.L2Ball(2.0)}).prox(tree, 1.0, None)
    assert [leaf.tolist() for leaf in jax.tree.leaves(apart)] == [[1.0, 0.0], [2.0]]


@pytest.mark.parametrize("entry", ALL)
def test_float32_params_stay_float32_under_float64_hyperparameters(entry):
    point = jax.ShapeDtypeStruct(entry.at.shape, jnp.float32)
    after = jax.eval_shape(lambda x: entry.whole.prox(x, jnp.float64(STEP), None), point)
    value = jax.eval_shape(lambda x: entry.whole.value(x, None), point)
    distances = jax.eval_shape(lambda x: entry.whole.kinks(x, jnp.float64(STEP), None), point)
    assert {leaf.dtype for leaf in jax.tree.leaves((after, value, distances))} == {jnp.dtype("float32")}


@functools.cache
def compiled(entry):
    """Jacobian of the prox and the smallest distance to a kink, for a batch of flat points."""
    shape = entry.at.shape

    def jacobian(flat):
        return jax.jacfwd(lambda x: entry.whole.prox(x.reshape(shape), STEP, None).ravel())(flat)

    def nearest(flat):
        return jnp.min(together(entry.whole.kinks(flat.reshape(shape), STEP, None)))

    return jax.jit(jax.vmap(lambda flat: (jacobian(flat), nearest(flat))))


def kinks_on(entry, start, end, pieces=64):
    """The points of a segment at which the Jacobian jumps, with the distance to a kink that is claimed there."""
    at = lambda t: start + t[:, None] * (end - start)
    jump = lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(axis=(1, 2))
    low = np.linspace(0, 1, pieces + 1)[:-1]
    high = low + 1 / pieces
    for _ in range(52):
        middle = 0.5 * (low + high)
        left, centre, right = (compiled(entry)(at(t))[0] for t in (low, middle, high))
        to_left = jump(left, centre) >= jump(centre, right)
        low, high = np.where(to_left, low, middle), np.where(to_left, middle, high)
    (below, near), (above, _) = compiled(entry)(at(low)), compiled(entry)(at(high))
    jumps = jump(below, above) > 1e-4
    return at(low)[jumps], np.asarray(near)[jumps]


@pytest.mark.sample(2)
@pytest.mark.parametrize("entry", KINKED)
def test_wherever_the_derivative_jumps_the_distance_to_the_next_kink_is_zero(entry):
    flat, random = entry.at.ravel(), np.random.default_rng(6)
    found = [kinks_on(entry, flat, flat + 3 * random.normal(size=flat.size)) for _ in range(3)]
    found.append(kinks_on(entry, 1.5 * flat, -0.5 * flat + 0.03))
    nearest = np.nan_to_num(np.concatenate([near for _, near in found]), nan=0.0)  # NaN: not known, nothing is claimed
    assert nearest.size > 0
    assert nearest.max() < 1e-12


@pytest.mark.sample(8)
@pytest.mark.parametrize("entry", ALL)
def test_the_distance_to_the_next_kink_is_known_and_positive_at_a_point_in_general_position(entry):
    point = entry.at + 0.01 * np.random.default_rng(8).normal(size=entry.at.shape)
    assert float(jnp.min(together(entry.whole.kinks(point, STEP, None)))) > 1e-4


def report_at(entry, target):
    settings: dict[str, Any] = {
        "constraint" if isinstance(entry.whole, constraints.Constraint) else "penalty": entry.whole
    }
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: 0.5 * jnp.sum((w - h * batch) ** 2), init=lambda key, h: target, **settings
    )
    task = bl.Task(
        inner=inner,
        outer_loss=lambda w, h, batch: jnp.sum(jnp.sin(w)),
        init_hparams=lambda key: jnp.array(1.0),
        batches=bl.full_batch(target, None),
    )
    return bl.hypergradient(task, jnp.array(1.0))[2]


@pytest.mark.slow
@pytest.mark.sample(2)
@pytest.mark.parametrize("entry", KINKED)
def test_an_error_is_claimed_away_from_kinks_and_never_at_one(entry):
    flat, random = entry.at.ravel(), np.random.default_rng(7)
    points = np.zeros((0, flat.size))
    while not len(points):
        points, _ = kinks_on(entry, flat, flat + 2 * random.normal(size=flat.size))
    at_kink = report_at(entry, jnp.asarray(points[0].reshape(entry.at.shape)))
    assert at_kink.error_grade == "residual"
    assert int(at_kink.weakly_active) > 0
    elsewhere = report_at(entry, jnp.asarray(entry.at + 0.01 * random.normal(size=entry.at.shape)))
    assert elsewhere.error_grade == "estimate"
    assert int(elsewhere.weakly_active) == 0


@pytest.mark.slow
def test_a_prox_of_which_only_the_values_are_known_claims_nothing():
    mapping = bl.optimality.ProximalGradient(
        lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2), lambda w, step, h, batch: bl.prox.l1(w, step, jnp.exp(h))
    )
    inner = bl.InnerProblem(mapping.loss, lambda key, h: jnp.zeros(2), bl.L1(jnp.exp), optimality=mapping)
    task = bl.Task(
        inner=inner,
        outer_loss=lambda w, h, batch: jnp.sum(w**2),
        init_hparams=lambda key: jnp.array(0.0),
        batches=bl.full_batch(jnp.array([3.0, 0.5]), None),
    )
    report = bl.hypergradient(task, jnp.array(0.0))[2]
    assert (report.error_grade, int(report.weakly_active)) == ("residual", -1)


@pytest.mark.sample(8)
@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry.name) for entry in catalogue.ENTRIES])
def test_nan_in_is_nan_out(entry):
    """In every entry of every argument."""
    function = jax.jit(entry.function)
    for place, argument in enumerate(entry.args):
        if place == 1 and entry.name in ("prox.zero", "prox.from_projection(box)"):
            continue  # a step size without an effect
        for index in np.ndindex(np.shape(argument)):
            changed = np.array(argument, float)
            changed[index] = np.nan
            assert np.isnan(function(*entry.args[:place], changed, *entry.args[place + 1 :])).any()


@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry.name) for entry in catalogue.ENTRIES])
def test_complex_numbers_are_refused_by_name(entry):
    for place, argument in enumerate(entry.args):
        if place == 1 and entry.name in ("prox.zero", "prox.from_projection(box)"):
            continue
        changed = [*entry.args[:place], np.asarray(argument) + 1j, *entry.args[place + 1 :]]
        with pytest.raises(ValueError, match="of type complex128, but projections, proximal operators.*two arrays"):
            entry.function(*changed)

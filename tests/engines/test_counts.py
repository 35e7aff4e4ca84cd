"""The counters of the report against counts taken in the running program."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl

KEYS = jax.random.split(jax.random.key(2), 4)
FEATURES = 5


def error(params, hparams, batch):
    return jnp.mean(jnp.logaddexp(batch[0] @ params - batch[1], batch[1] - batch[0] @ params))


def penalised(params, hparams, batch):
    return error(params, hparams, batch) + 0.5 * jnp.sum(jnp.exp(hparams) * params**2)


def squares(params, hparams, batch):
    return 0.5 * jnp.mean((batch[0] @ params - batch[1]) ** 2) + 0.5 * jnp.sum(jnp.exp(hparams) * params**2)


FIXED = bl.GradientDescent(max_steps=60, tol=1e-2, step_size=0.4)
SEARCHING = bl.GradientDescent(max_steps=60, tol=1e-6)
ACCELERATED = bl.ProximalGradient(max_steps=100, tol=1e-6)
CASES = [
    ("residual-dense", bl.Implicit(accuracy="residual", linear_solve=bl.Dense()), FIXED, None),
    ("residual-cg", bl.Implicit(accuracy="residual", linear_solve=bl.CG()), SEARCHING, None),
    ("estimate-dense", bl.Implicit(linear_solve=bl.Dense()), bl.Newton(), None),
    ("estimate-cg", bl.Implicit(linear_solve=bl.CG()), bl.LBFGS(), None),
    ("estimate-minres", bl.Implicit(linear_solve=bl.MINRES()), bl.LBFGS(), None),
    ("estimate-gmres", bl.Implicit(linear_solve=bl.GMRES()), FIXED, None),
    ("estimate-bicgstab", bl.Implicit(linear_solve=bl.BiCGStab()), FIXED, None),
    ("residual-neumann", bl.Implicit(accuracy="residual", linear_solve=bl.Neumann(terms=7)), FIXED, None),
    ("residual-nystrom", bl.Implicit(accuracy="residual", linear_solve=bl.Nystrom(rank=3)), FIXED, None),
    ("preconditioned", bl.Implicit(linear_solve=bl.CG(preconditioner=bl.RandomizedNystrom(rank=3))), FIXED, None),
    ("lasso-fixed", bl.Implicit(linear_solve=bl.CG()), bl.ProximalGradient(step_size=0.4, tol=1e-6), "lasso"),
    ("lasso-searching", bl.Implicit(accuracy="residual"), bl.ProximalGradient(tol=1e-8), "lasso"),
    ("unrolled", bl.Unrolled(), FIXED, None),
    ("unrolled-searching", bl.Unrolled(), SEARCHING, None),
    ("forward", bl.Forward(), FIXED, None),
    ("one-step", bl.OneStep(), FIXED, None),
    ("truncated", bl.Truncated(steps=5), FIXED, None),
    ("one-step-searching", bl.OneStep(), SEARCHING, None),
    ("one-step-measured", bl.OneStep(accuracy="estimate"), FIXED, None),
    ("estimate-neumann", bl.Implicit(linear_solve=bl.Neumann(terms=7)), FIXED, None),
    ("refined", bl.Implicit(linear_solve=bl.CG(), refine=True), FIXED, None),
    ("refined-residual", bl.Implicit(linear_solve=bl.CG(), refine=True, accuracy="residual"), FIXED, None),
    ("unrolled-lbfgs", bl.Unrolled(), bl.LBFGS(tol=1e-6), None),
    ("unrolled-lasso", bl.Unrolled(), ACCELERATED, "lasso"),
    ("unrolled-lasso-fixed", bl.Unrolled(), bl.ProximalGradient(step_size=0.4, tol=1e-6), "lasso"),
    ("unrolled-box", bl.Unrolled(), ACCELERATED, "box"),
    ("unrolled-mirror", bl.Unrolled(), bl.MirrorDescent(max_steps=200, tol=1e-4), "fixed simplex"),
    ("unrolled-optax", bl.Unrolled(), bl.Optax(optax.adam(0.1), max_steps=300, tol=1e-3), None),
    ("forward-lbfgs", bl.Forward(), bl.LBFGS(tol=1e-6), None),
    ("forward-lasso", bl.Forward(), ACCELERATED, "lasso"),
    ("forward-optax", bl.Forward(), bl.Optax(optax.adam(0.1), max_steps=300, tol=1e-3), None),
    ("truncated-lbfgs", bl.Truncated(steps=5), bl.LBFGS(tol=1e-6), None),
    ("truncated-lasso", bl.Truncated(steps=5), ACCELERATED, "lasso"),
    ("truncated-mirror", bl.Truncated(steps=5), bl.MirrorDescent(max_steps=200, tol=1e-4), "fixed simplex"),
    ("one-step-lbfgs", bl.OneStep(), bl.LBFGS(tol=1e-6), None),
    ("one-step-optax", bl.OneStep(), bl.Optax(optax.adam(0.1), max_steps=300, tol=1e-3), None),
    ("closed-form", bl.ClosedForm(), FIXED, "squares"),
    ("normal", bl.Implicit(accuracy="residual", linear_solve=bl.Normal()), FIXED, None),
    ("newton", bl.Implicit(accuracy="residual", linear_solve=bl.CG()), bl.Newton(), None),
    ("newton-reused", bl.Implicit(reuse=True), bl.Newton(), None),
    ("lbfgs-reused", bl.Implicit(linear_solve=bl.CG(), reuse=True), bl.LBFGS(), None),
    ("lbfgs", bl.Implicit(accuracy="residual", linear_solve=bl.CG()), bl.LBFGS(), None),
    (
        "optax",
        bl.Implicit(accuracy="residual", linear_solve=bl.CG()),
        bl.Optax(optax.adam(0.1), max_steps=300, tol=1e-3),
        None,
    ),
    ("broyden", bl.Implicit(accuracy="residual", linear_solve=bl.CG()), bl.Broyden(), None),
    ("active-set", bl.Implicit(accuracy="residual", linear_solve=bl.CG()), bl.ActiveSetNewton(), "lasso"),
    ("spectral", bl.Implicit(accuracy="residual"), bl.SpectralProximalGradient(), "box"),
    ("mirror", bl.Implicit(accuracy="residual", linear_solve=bl.GMRES()), bl.MirrorDescent(tol=1e-6), "simplex"),
    ("box", bl.Implicit(accuracy="residual", linear_solve=bl.CG()), bl.LBFGSB(tol=1e-6), "box"),
    ("unrolled-newton", bl.Unrolled(), bl.Newton(linear_solve=bl.Dense()), None),
    ("unrolled-newton-cg", bl.Unrolled(), bl.Newton(linear_solve=bl.CG()), None),
    ("one-step-newton", bl.OneStep(), bl.Newton(linear_solve=bl.Dense()), None),
    ("truncated-newton", bl.Truncated(steps=3), bl.Newton(linear_solve=bl.Dense()), None),
    ("one-step-lasso", bl.OneStep(), ACCELERATED, "lasso"),
    ("one-step-lasso-fixed", bl.OneStep(), bl.ProximalGradient(step_size=0.4, tol=1e-6), "lasso"),
    ("one-step-mirror", bl.OneStep(), bl.MirrorDescent(max_steps=200, tol=1e-4), "fixed simplex"),
    ("one-step-box", bl.OneStep(), ACCELERATED, "box"),
    ("truncated-box", bl.Truncated(steps=5), ACCELERATED, "box"),
    ("unrolled-moving-simplex", bl.Unrolled(), bl.MirrorDescent(max_steps=200, tol=1e-4), "simplex"),
    ("unrolled-moving-start", bl.Unrolled(), FIXED, "moving start"),
    ("forward-moving-start", bl.Forward(), FIXED, "moving start"),
    ("unrolled-moving-start-box", bl.Unrolled(), ACCELERATED, "moving start"),
    ("unrolled-fire", bl.Unrolled(), bl.FIRE(max_steps=200, tol=1e-2), None),
    ("unrolled-three-steps", bl.Unrolled(steps=3), FIXED, None),
    ("unrolled-five-steps-searching", bl.Unrolled(steps=5), SEARCHING, None),
    ("forward-three-steps", bl.Forward(steps=3), FIXED, None),
    ("unrolled-broyden", bl.Unrolled(), bl.Broyden(tol=1e-4), None),
    ("unrolled-lbfgsb", bl.Unrolled(), bl.LBFGSB(tol=1e-6), "box"),
]
FAST = ("estimate-cg", "forward", "unrolled-newton")
NONSMOOTH = {
    "squares": {},
    "moving start": {},
    "lasso": {"penalty": bl.L1(weight=lambda h: 0.1 * jnp.exp(h))},
    "simplex": {"constraint": bl.Simplex(scale=lambda h: 4.0 * jnp.exp(h[0] + 2.0))},
    "fixed simplex": {"constraint": bl.Simplex(scale=4.0)},
    "box": {"constraint": bl.Box(lower=-1.0, upper=lambda h: 2.0 * jnp.exp(h + 2.0))},
}


@pytest.mark.parametrize(
    ("engine", "solver", "penalty"),
    [pytest.param(*case[1:], id=case[0], marks=[] if case[0] in FAST else [pytest.mark.slow]) for case in CASES],
)
def test_counters_are_exact(counted, engine, solver, penalty):
    x, xv = jax.random.normal(KEYS[0], (12, FEATURES)), jax.random.normal(KEYS[1], (12, FEATURES))
    y, yv = x @ jnp.arange(5.0), xv @ jnp.arange(5.0)
    inner_loss, outer_loss = counted({"lasso": error, "squares": squares}.get(penalty, penalised)), counted(error)
    extra = NONSMOOTH[penalty] if penalty else {}
    start = 0.8 if penalty and penalty.endswith("simplex") else 0.0

    def init(key, hparams):
        return start + (hparams if penalty == "moving start" else jnp.zeros(FEATURES))

    inner = bl.InnerProblem(loss=inner_loss, init=init, solver=solver, **extra)
    task = bl.Task(
        inner=inner,
        outer_loss=outer_loss,
        init_hparams=lambda key: jnp.zeros(FEATURES),
        batches=bl.full_batch((x, y), (xv, yv)),
    )
    _, grad, report = bl.hypergradient(task, jnp.full(FEATURES, -2.0), engine)
    jax.block_until_ready(grad)
    seen, counts = inner_loss.seen, report.counts
    assert int(counts.gradients) == seen["gradients"] + outer_loss.seen["gradients"]
    assert int(counts.hessian_products) == seen["hessian_products"]
    if penalty != "lasso":  # of a penalty's weight the derivative is in the prox
        assert int(counts.jacobian_products) == seen["jacobian_products"]


@dataclasses.dataclass(frozen=True)
class CountedBox(bl.Box):
    """A box that counts the unknowns it projects, whether one by one or all at once."""

    seen: ClassVar[list[int]] = []

    def project(self, point, hparams):
        def called(value):
            self.seen.append(value.size)
            return np.zeros(value.shape, np.float32)

        zeros = jax.ShapeDtypeStruct(point.shape, np.float32)
        told = jax.pure_callback(called, zeros, jax.lax.stop_gradient(point), vmap_method="expand_dims")
        return super().project(point, hparams) + told.astype(point.dtype)


PROXES = [
    ("gradient", bl.Implicit(accuracy="residual", linear_solve=bl.CG()), bl.ProximalGradient(tol=1e-6)),
    ("fixed", bl.Implicit(linear_solve=bl.CG()), bl.ProximalGradient(tol=1e-6, step_size=0.1)),
    ("lbfgsb", bl.Implicit(accuracy="residual", linear_solve=bl.CG()), bl.LBFGSB(tol=1e-6)),
    ("blocks", bl.Implicit(accuracy="residual", linear_solve=bl.CG()), bl.BlockCoordinateDescent()),
    ("active-set", bl.Implicit(accuracy="residual", linear_solve=bl.CG()), bl.ActiveSetNewton()),
    ("spectral", bl.Implicit(accuracy="residual", linear_solve=bl.CG()), bl.SpectralProximalGradient()),
    ("newton", bl.Implicit(accuracy="residual", linear_solve=bl.CG()), bl.ProximalNewton()),
    *[
        (f"{name}-{type(engine).__name__}", engine, solver)
        for engine in (bl.Unrolled(), bl.OneStep(), bl.Truncated(steps=3))
        for name, solver in (
            ("gradient", bl.ProximalGradient(tol=1e-6)),
            ("lbfgsb", bl.LBFGSB(tol=1e-6)),
            ("blocks", bl.BlockCoordinateDescent()),
        )
    ],
]


@pytest.mark.parametrize(
    ("engine", "solver"),
    [pytest.param(*case[1:], id=case[0], marks=[pytest.mark.slow] * (case[0] != "gradient")) for case in PROXES],
)
def test_proxes_are_counted(counted, engine, solver):
    x = jax.random.normal(KEYS[0], (12, 6))
    loss, outer_loss = (
        counted(lambda z, h, batch: 0.5 * jnp.mean(jnp.logaddexp(z - batch[1], batch[1] - z) + 0.1 * h * z**2)),
        counted(lambda w, h, batch: jnp.sum(w**2) + h**2),
    )
    inner = bl.InnerProblem(
        loss=bl.Linear(design=lambda batch: batch[0], loss=lambda z, w, h, batch: loss(z, h, batch)),
        init=lambda key, h: jnp.zeros(6),
        constraint=CountedBox(lower=-1.0, upper=lambda h: h),
        solver=solver,
    )
    task = bl.Task(inner, outer_loss, lambda key: jnp.ones(()), bl.full_batch((x, 0.5 * x @ jnp.arange(6.0)), None))
    CountedBox.seen.clear()
    _, grad, report = bl.hypergradient(task, jnp.ones(()), engine)
    jax.block_until_ready(grad)
    assert int(report.counts.proxes) == sum(CountedBox.seen) / 6
    assert int(report.counts.gradients) == loss.seen["gradients"] + outer_loss.seen["gradients"]

"""A loss that counts how often its gradients and second derivatives are computed, by callbacks as it runs."""

import collections
import itertools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import ad, batching, mlir

tick_p = jax.extend.core.Primitive("tick")  # the identity in x; ``anchor`` is a value of the point where it happens
REGISTER: dict[int, "Counted"] = {}
NUMBERS, SITES = itertools.count(), itertools.count()


def _run(x, anchor, *, kind, owner, lanes, site):
    def called(x, anchor, site):
        REGISTER[owner].seen[kind] += lanes
        return np.float32(0)

    # x, anchor and call site keep the compiler from merging calls with equal arguments, or moving them out of loops; a
    # call whose result nothing uses is dropped, as the work would be.
    told = (jnp.ravel(x)[0].astype(np.float32), anchor.astype(np.float32), np.int32(site))
    zero = jax.pure_callback(called, jax.ShapeDtypeStruct((), np.float32), *told)
    return x + zero.astype(x.dtype)


def _batched(args, axes, *, kind, owner, lanes, site):
    (x, anchor), (axis, anchor_axis) = args, axes
    anchor = anchor if anchor_axis is None else jnp.take(anchor, 0, axis=anchor_axis)
    lanes = lanes if axis is None else lanes * x.shape[axis]
    return tick_p.bind(x, anchor, kind=kind, owner=owner, lanes=lanes, site=next(SITES)), axis


def _transposed(cotangent, x, anchor, *, kind, owner, lanes, site):
    moved = tick_p.bind(ad.instantiate_zeros(cotangent), anchor, kind=kind, owner=owner, lanes=lanes, site=next(SITES))
    return [moved, None]


def _jvp(primals, tangents, **params):
    out = tick_p.bind(*primals, **params)
    moved = tick_p.bind(ad.instantiate_zeros(tangents[0]), primals[1], **{**params, "site": next(SITES)})
    return out, moved


tick_p.def_abstract_eval(lambda x, anchor, **_: x)
tick_p.def_impl(lambda x, anchor, **params: jax.jit(lambda x: _run(x, anchor, **params))(x))
mlir.register_lowering(tick_p, mlir.lower_fun(_run, multiple_results=False))
batching.primitive_batchers[tick_p] = _batched
ad.primitive_transposes[tick_p] = _transposed
ad.primitive_jvps[tick_p] = _jvp


class Counted:
    """loss(params, hparams, batch) that counts: ``seen`` has gradients, hessian and jacobian products executed."""

    def __init__(self, loss):
        self.loss, self.owner, self.seen = loss, next(NUMBERS), collections.Counter()
        REGISTER[self.owner] = self
        self._gradient = jax.custom_jvp(self._plain_gradient)
        self._gradient.defjvp(self._gradient_rule, symbolic_zeros=True)
        self._direct = jax.custom_jvp(jax.grad(loss, argnums=1))
        self._direct.defjvp(self._direct_rule, symbolic_zeros=True)
        self._value = jax.custom_jvp(loss)
        self._value.defjvp(self._value_rule, symbolic_zeros=True)

    def __call__(self, params, hparams, batch):
        return self._value(params, hparams, batch)

    def _tick(self, tree, params, kind):
        leaves, structure = jax.tree.flatten(tree)
        anchor = jax.lax.stop_gradient(jnp.ravel(jax.tree.leaves(params)[0])[0])
        leaves[0] = tick_p.bind(leaves[0], anchor, kind=kind, owner=self.owner, lanes=1, site=next(SITES))
        return jax.tree.unflatten(structure, leaves)

    def _plain_gradient(self, params, hparams, batch):
        return self._tick(jax.grad(self.loss)(params, hparams, batch), params, "gradients")

    def _value_rule(self, primals, tangents):
        params, hparams, batch = primals
        moved = [not _is_zero(tangent) for tangent in tangents]
        out = jnp.zeros(())
        if moved[0]:
            out = out + _dot(self._gradient(*primals), tangents[0])
        if moved[1]:
            direct = self._direct(params, hparams, batch)
            direct = direct if moved[0] else self._tick(direct, params, "gradients")  # else one pass gives both
            out = out + _dot(direct, tangents[1])
        return self.loss(*primals), out

    def _direct_rule(self, primals, tangents):
        params, hparams, batch = primals
        direct = jax.grad(self.loss, argnums=1)
        out = jax.tree.map(jnp.zeros_like, hparams)
        if not _is_zero(tangents[0]):  # the transposed Jacobian product, as forward over reverse takes it
            moved = self._tick(tangents[0], params, "jacobian_products")
            out = jax.tree.map(jnp.add, out, jax.jvp(lambda w: direct(w, hparams, batch), (params,), (moved,))[1])
        if not _is_zero(tangents[1]):
            change = jax.jvp(lambda h: direct(params, h, batch), (hparams,), (tangents[1],))[1]
            out = jax.tree.map(jnp.add, out, change)
        return direct(*primals), out

    def _gradient_rule(self, primals, tangents):
        params, hparams, batch = primals
        out = jax.tree.map(jnp.zeros_like, params)
        if not _is_zero(tangents[0]):
            moved = self._tick(tangents[0], params, "hessian_products")
            change = jax.jvp(lambda w: jax.grad(self.loss)(w, hparams, batch), (params,), (moved,))[1]
            out = jax.tree.map(jnp.add, out, change)
        if not _is_zero(tangents[1]):
            moved = self._tick(tangents[1], params, "jacobian_products")
            change = jax.jvp(lambda h: jax.grad(self.loss)(params, h, batch), (hparams,), (moved,))[1]
            out = jax.tree.map(jnp.add, out, change)
        return self._gradient(*primals), out


def _is_zero(tangent):
    return all(isinstance(leaf, jax.custom_derivatives.SymbolicZero) for leaf in jax.tree.leaves(tangent))


def _dot(x, y):
    return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), x, y)))


@pytest.fixture
def counted():
    return Counted

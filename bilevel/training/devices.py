"""One inner problem over many devices: data and large hyperparameters are spread by JAX, everything else is copied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bilevel.batches import Batches, HeldOut, Minibatch
from bilevel.foundation.typing import Batch, HParams, Key, Params, PyTree
from bilevel.losses.host_matrix import HostMatrix
from bilevel.solvers import Solver
from bilevel.streams import reads_host
from bilevel.task import Task

DATA, PARAMS = "data", "params"  # the axes: samples are spread over one, unknowns and hyperparameters over the other
Sizes = Mapping[str, int]


def mesh_of(sizes: Mesh | Sizes | None) -> Mesh | None:
    """The mesh of devices of these sizes; None for one device.

    >>> mesh_of({"data": 1, "params": 1}) is None
    True
    """
    if sizes is None or isinstance(sizes, Mesh):
        return _known(sizes)
    if not isinstance(sizes, Mapping) or set(sizes) - {DATA, PARAMS}:
        raise TypeError(f'mesh={sizes!r}: {{"data": N, "params": M}} is needed, or a jax.sharding.Mesh of these axes.')
    shape = tuple(sizes.get(axis, 1) for axis in (DATA, PARAMS))
    if any(not isinstance(size, int) or size < 1 for size in shape):
        raise ValueError(
            f"mesh.data={shape[0]}, mesh.params={shape[1]}: whole numbers of devices from 1 on are needed."
        )
    wanted = shape[0] * shape[1]
    if wanted == 1:
        return None
    devices = jax.devices()
    if jax.process_count() > 1:
        refuse_part(wanted)
    if wanted > len(devices):
        raise ValueError(
            f"mesh.data={shape[0]} and mesh.params={shape[1]} need {wanted} devices, and JAX has {len(devices)}: take "
            f"a smaller mesh, or set JAX_NUM_CPU_DEVICES={wanted} for virtual devices of one CPU."
        )
    return Mesh(np.array(devices[:wanted]).reshape(shape), (DATA, PARAMS))


def _known(mesh: Mesh | None) -> Mesh | None:
    if mesh is not None and set(mesh.axis_names) - {DATA, PARAMS}:
        raise ValueError(f"mesh has the axes {mesh.axis_names}: name them 'data' and 'params'.")
    return mesh


def refuse_part(used: int) -> None:
    """ValueError for several processes of which some have no device in the mesh: they would wait for ever."""
    processes, devices = jax.process_count(), len(jax.devices())
    if processes > 1 and used != devices:
        raise ValueError(
            f"mesh.data x mesh.params is {used}, and {processes} processes with {devices} devices in all take part: "
            f"set mesh.data={devices}, or another product of {devices}."
        )


def refuse_host(solver: Solver) -> None:
    """ValueError for a solver that works on one device only."""
    if not solver.shards:
        raise ValueError(
            f"{type(solver).__name__} solves on one device, and trainer.mesh names several: take a solver that is "
            "written in products, as bl.LBFGS, bl.GradientDescent, bl.ProximalGradient or bl.Newton, or leave the mesh "
            "out."
        )


class Leaves:
    """Arrays of samples as a compiled step takes them: spread over the devices along their leading axis.

    An array that the task passes on unchanged is cut once, so that no device holds all of it. It is filled up to a
    multiple of the number of devices, and a step reads the part without the filling. An array that is drawn anew at
    each step is spread when it is drawn.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._cut: dict[int, tuple[Any, jax.Array]] = {}  # by identity, beside the array itself, which keeps it alive

    def __call__(self, leaf: Any) -> Any:
        if np.ndim(leaf) == 0 or not jnp.issubdtype(jnp.result_type(leaf), np.number):
            return leaf
        rows = by_rows(self.mesh)
        if isinstance(leaf, Tracer):
            return jax.lax.with_sharding_constraint(leaf, rows)
        if np.shape(leaf)[0] == 0:
            return np.asarray(leaf)
        if id(leaf) not in self._cut:
            with jax.ensure_compile_time_eval():  # an array, not a step of the program that is being traced
                self._cut[id(leaf)] = leaf, cut(leaf, rows)
        whole = self._cut[id(leaf)][1]
        return jax.lax.with_sharding_constraint(whole[: np.shape(leaf)[0]], rows)


class Spread:
    """Batches whose leaves are spread over the devices by samples."""

    def __init__(self, batches: Batches, leaves: Leaves) -> None:
        self.batches, self.leaves = batches, leaves

    def __call__(self, key: Key, step: int | jax.Array) -> tuple[Batch, Batch]:
        if reads_host(self.batches, key):
            raise ValueError(
                "The batches are read on the host (bl.Streamed, bl.batches_from), and trainer.mesh names several "
                "devices, over which JAX does not spread what a host function returns: give arrays, or leave the mesh "
                "out."
            )
        batches = self.batches(key, step)
        if not isinstance(key, Tracer) and not isinstance(step, Tracer):
            return batches  # on the host
        _refuse_matrices(batches)
        return jax.tree.map(self.leaves, batches)


@dataclass(frozen=True, eq=False)
class SpreadMetrics:
    """`HeldOut` metrics whose samples are spread over the devices. Outside of a compiled program, which all processes
    run together, they are computed on a copy."""

    held_out: HeldOut
    leaves: Leaves

    def __call__(self, params: Params, hparams: HParams) -> dict[str, Any]:
        if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((params, hparams))):
            return self.held_out(params, hparams)
        return self.held_out.metrics(params, hparams, jax.tree.map(self.leaves, self.held_out.samples))


def cut(leaf: Any, rows: NamedSharding) -> jax.Array:
    """An array by rows, filled up with zeros to a multiple of the devices. Only the rows of this process's devices are
    read, so that an array which is mapped from a file (``np.load(path, mmap_mode="r")``) is not read whole."""
    if not hasattr(leaf, "shape"):
        leaf = np.asarray(leaf)
    samples, *others = leaf.shape
    dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)

    def part(place: Any) -> np.ndarray:  # a slice for each axis
        first, last, _ = place[0].indices(filled)
        found = np.asarray(leaf[first : min(last, samples)], dtype)
        return np.pad(found, [(0, last - first - found.shape[0]), *[(0, 0)] * len(others)])

    filled = samples + -samples % rows.mesh.shape[DATA]
    return jax.make_array_from_callback((filled, *others), rows, part)


def by_rows(mesh: Mesh) -> NamedSharding:
    """The leading axis spread over the axis of the data."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def _refuse_matrices(batches: PyTree) -> None:
    nodes = jax.tree.leaves(batches, is_leaf=lambda node: isinstance(node, HostMatrix))
    if any(isinstance(node, HostMatrix) for node in nodes):
        raise ValueError(
            "A bl.HostMatrix lies in the memory of one host, and trainer.mesh names several devices: give the design "
            "as an array, or leave the mesh out."
        )


def on_mesh(task: Task, mesh: Mesh) -> Task:
    """The task with its data spread over the devices, those to evaluate on too where they are stated (`HeldOut`)."""
    leaves, evaluate = Leaves(mesh), task.evaluate
    metrics = SpreadMetrics(evaluate, leaves) if isinstance(evaluate, HeldOut) else evaluate
    return replace(task, batches=Spread(task.batches, leaves), evaluate=metrics)


def samples_of(batches: PyTree) -> int:
    """The samples of the training data: the longest leading axis."""
    data = [batch.data if isinstance(batch, Minibatch) else batch for batch in batches]
    lengths = [np.shape(leaf)[0] for leaf in jax.tree.leaves(data[0]) if np.ndim(leaf)]
    return max(lengths, default=0)


def placed(tree: PyTree, mesh: Mesh, samples: int) -> PyTree:
    """The arrays of a state where they belong. An array with one entry for each sample lies beside the samples. Any
    other is spread over the axis of the params where that divides it, and else each device has a copy."""

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        spec = PartitionSpec(_axis(leaf.shape, mesh, samples)) if leaf.ndim else PartitionSpec()
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, tree)


def _axis(shape: tuple[int, ...], mesh: Mesh, samples: int) -> str | None:
    """What the leading axis of an array of the state is spread over."""
    if shape[0] == samples and shape[0] % mesh.shape[DATA] == 0:
        return DATA
    across = mesh.shape.get(PARAMS, 1)
    return PARAMS if across > 1 and shape[0] % across == 0 else None

"""Run by test_processes.py in each of several processes: fits on the devices of all of them; prints JSON."""

import json
import sys
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import optax
from many_devices import cleaning, lasso

import bilevel as bl
from bilevel.tasks import hyperclean, logistic
from bilevel.training import Result
from bilevel.training.processes import anywhere, of_first, summed

STEPS = 4


class Recorded(np.ndarray):
    """An array that remembers how many of its rows were asked for, as an array mapped from a file would read them."""

    rows: int = 0

    def __getitem__(self, place: Any) -> Any:
        found = np.asarray(self)[place]
        if isinstance(place, slice):
            self.rows += len(found)
        return found


def trainer(**settings: Any) -> bl.Trainer:
    given = {"optimizer": optax.adam(0.1), "steps": STEPS, "engine": bl.Implicit(linear_solve=bl.CG())}
    return bl.Trainer(**{**given, "mesh": {"data": len(jax.devices())}, **settings})


def told(result: Result) -> dict:
    """What the tests compare."""
    return {
        "hparams": np.asarray(result.hparams).tolist(),
        "params": np.asarray(result.params).tolist(),
        "losses": [line["outer/loss"] for line in result.metrics],
        "tested": [line["test/loss"] for line in result.metrics if "test/loss" in line],
        "errors": [line["error_estimate"] for line in result.metrics],
        "status": result.summary["status"],
    }


def drawn(samples: int) -> bl.Task:
    """Ridge regression on minibatches."""
    x = np.random.default_rng(0).normal(size=(samples, 5))
    y = x.sum(1) + np.random.default_rng(1).normal(size=samples)

    def error(w, h, batch):
        return 0.5 * ((batch[0] @ w - batch[1]) ** 2 * batch.weight).mean()

    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: error(w, h, batch) + jax.numpy.exp(h) * w @ w,
            init=lambda key, h: jax.numpy.zeros(5),
            solver=bl.LBFGS(),
        ),
        outer_loss=error,
        init_hparams=lambda key: jax.numpy.array(-2.0),
        batches=bl.minibatches((x, y), (x, y), batch_size=16),
    )


def partly_read() -> list[int]:
    """The rows of the training data that this process read for a fit, and how many there are."""
    task = cleaning(160)
    (x, y), validation = task.batches(jax.random.key(0), 0)
    recorded = x.view(Recorded)
    trainer().fit(replace(task, batches=bl.full_batch((recorded, y), validation)))
    return [recorded.rows, len(x)]


class Counted:
    """Counts the rows that are read of each data set that is not in memory, by the number of its rows."""

    def __init__(self) -> None:
        self.read, get = {}, bl.data.Rows.__getitem__

        def counted(rows: bl.data.Rows, place: Any) -> np.ndarray:
            found = get(rows, place)
            self.read[str(len(rows))] = self.read.get(str(len(rows)), 0) + len(found)
            return found

        setattr(bl.data.Rows, "__getitem__", counted)  # noqa: B010  # an assignment is refused by the type checker


def shipped(folder: str) -> dict:
    """Fits of tasks that are shipped, and the rows that were read for them after the tasks were built."""
    tasks = {
        "hyperclean": hyperclean(train=400, validation=100, stop=97),
        "logistic": logistic(train=301, validation=99, stop=97),
    }
    engine = bl.Implicit(linear_solve=bl.CG(tol=1e-13))  # Adam would enlarge the errors of small gradients
    tight = trainer(steps=2, checkpoint_every=2, optimizer=optax.sgd(1.0), engine=engine)
    found, counted = {}, Counted()
    for name, task in tasks.items():
        counted.read.clear()
        task = replace(task, baselines=lambda: {}, figures={}, headline=bl.Headline()).with_solver(bl.LBFGS(tol=1e-12))
        result = tight.fit(task, directory=f"{folder}-{name}")
        found[name] = {**told(result), "read": dict(counted.read)}
    return found


def main(process: int, processes: int, port: int, cache: str, folder: str, part: str) -> None:
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    if processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
    if part == "shipped":
        print("FOUND" + json.dumps(shipped(folder)))
        return
    first = process == 0
    found = {
        "even": told(trainer(checkpoint_every=2).fit(cleaning(160), directory=folder)),
        "uneven": told(trainer().fit(cleaning(157))),
        "drawn": told(trainer().fit(drawn(50))),
        "calls": told(trainer(steps_per_call=3).fit(cleaning(160))),
        "stopped": told(trainer(callbacks=[lambda moment: first and moment.step == 1]).fit(cleaning(160))),
        "read": partly_read(),
    }
    if processes > 1:
        agreed = [anywhere(first), anywhere(not first), anywhere(False), of_first("first" if first else "other")]
        found["agreed"] = [*agreed, summed(np.array([1e-17 + process, 0.1])).tolist()]
        try:
            trainer(mesh=None).fit(lasso())
        except ValueError as error:
            found["refused"] = str(error)
    print("FOUND" + json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])

"""Tasks whose inputs are read by rows, as in each of several processes, have the metrics and baselines of those in
memory."""

import jax
import numpy as np
import pytest

from bilevel import tasks
from bilevel.data import Rows, loading

BUILT = {
    "hyperclean": lambda: tasks.hyperclean(data="iris", train=40, validation=40, stop=20),
    "logistic": lambda: tasks.logistic(data="iris", train=56, validation=40, stop=20),
    "distillation": lambda: tasks.distillation(data="iris", train=64, stop=24),
    "feature_penalties": lambda: tasks.feature_penalties(data="breast_cancer", standardise=False),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", BUILT)
def test_metrics_and_baselines_are_those_of_arrays(name, monkeypatch):
    whole = BUILT[name]()
    monkeypatch.setattr(loading, "_in_processes", lambda: True)
    in_rows = BUILT[name]()
    with jax.enable_x64(True):
        samples = jax.tree.leaves((in_rows.evaluate.samples, in_rows.batches(jax.random.key(0), 0)))
        assert sum(isinstance(leaf, Rows) for leaf in samples) >= 3
        hparams = whole.init_hparams(jax.random.key(1))
        params = jax.tree.map(lambda leaf: leaf + 0.1, whole.inner.init(jax.random.key(2), hparams))
        for found, wanted in (
            (in_rows.evaluate(params, hparams), whole.evaluate(params, hparams)),
            (in_rows.baselines(), whole.baselines()),
        ):
            assert found.keys() == wanted.keys()
            for metric, number in wanted.items():
                np.testing.assert_allclose(found[metric], number, rtol=1e-9, err_msg=metric)

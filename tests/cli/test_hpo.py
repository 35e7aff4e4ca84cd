"""`bilevel experiment=hpo/NAME` ends well on the data that ship with scikit-learn, in two outer steps."""

import json

import pytest

SHORT = ("trainer.steps=2", "progress=false", "report=false", "output=run")
OURS = {  # an experiment, and what makes it small
    "augmentation": ("task.train=60", "task.validation=100", "task.width=4", "task.draws=2"),
    "learning_rate": ("task.steps=20", "task.method=adam"),
    "kernel_ridge": ("task.train=40", "task.validation=30"),
    "kfold": (),
    "weighted_lasso": (),
    "elastic_net": ("data=diabetes",),
    "sparse_logistic": ("data=breast_cancer",),
    "ijcnn1": ("data=breast_cancer", "task.held_out=''", "task.share=0.3", "task.standardise=true"),
    "hyperclean": ("data=digits", "task.train=200", "task.validation=100", "task.stop=50"),
    "hyperclean, replaced, in a ball": (
        "data=digits", "task.train=200", "task.validation=100", "task.stop=50", "task.corruption=uniform_replacement",
        "task.radius=100", "optimizer.learning_rate=0.05",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_an_experiment_ends_well(bilevel, folder, name):
    done = bilevel(f"experiment=hpo/{name.split(',')[0]}", *OURS[name], *SHORT)
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["steps"] == 2 and summary["best_outer_loss"] <= summary["initial_outer_loss"]
    if name.startswith("hyperclean"):
        assert 0 < summary["test_accuracy"] <= 1
    if name == "ijcnn1":
        assert "suboptimality" in summary

"""The commands behind the figures and tables of docs/ and experiments/, with what they write and what they measure.

`scripts/refresh.py` runs them. `{scratch}` stands for a folder that lasts as long as the run.
"""

from __future__ import annotations

from typing import NamedTuple

SOLVES = ("bilevel/solvers", "bilevel/kernels", "bilevel/implicit", "bilevel/problem.py")
DERIVES = (*SOLVES, "bilevel/engines", "bilevel/linear_solve")
PROGRAMS = ("bilevel/layers", "bilevel/kernels", "bilevel/solvers/programs")


class Measured(NamedTuple):
    """A command, what it writes besides its output, and the code whose change makes that old."""

    command: str
    writes: tuple[str, ...] = ()  # files of the repository
    measures: tuple[str, ...] = ()  # files and folders; the script of the command is always among them
    taken: tuple[tuple[str, str], ...] = ()  # files of the folder that {scratch} stands for, and where they go
    peers: tuple[str, ...] = ()  # the packages beside which it measures that need an interpreter of their own
    modules: tuple[str, ...] = ()  # those that have to be in this environment


def paper(name: str, *pictures: str) -> Measured:
    files = tuple(f"experiments/{name}/{file}" for file in ("results.csv", *pictures))
    return Measured(f"python experiments/{name}/reproduce.py", files, (f"experiments/{name}", *DERIVES))


def peer(
    name: str,
    *measures: str,
    peers: tuple[str, ...] = (),
    modules: tuple[str, ...] = (),
    kinds: tuple[str, ...] = ("results/{}.csv", "figures/{}.png"),
) -> Measured:
    files = tuple(f"experiments/peers/{kind.format(name)}" for kind in kinds)
    own = (f"experiments/peers/{name}.py", "experiments/peers/common.py")
    return Measured(f"python -m experiments.peers.{name}", files, (*own, *measures), (), peers, modules)


def collection(name: str, solvers: tuple[str, ...], tables: tuple[str, ...]) -> Measured:
    """CUTEst's problems of some kinds. The program goes on with the table that it finds, so it writes elsewhere."""
    judged = tuple(f"experiments/judges/{table}.csv" for table in tables)
    found = tuple((f"{table}.csv", place) for table, place in zip(tables, judged, strict=True))
    command = f"python experiments/judges/{name}.py --seconds 150 --out {{scratch}}"
    parts = ("cutest", "cutest_problems", *solvers)
    measures = (*(f"experiments/judges/{part}.py" for part in parts), *SOLVES)
    return Measured(command, judged, measures, found, modules=("sif2jax",))


def run(command: str, task: str, modules: tuple[str, ...] = ()) -> Measured:
    """A run of a shipped experiment, whose summary is a line of the ledger, experiments/README.md."""
    measures = (
        f"bilevel/tasks/{task}.py",
        "configs/experiment",
        f"configs/task/{task}.yaml",
        "bilevel/training",
        *DERIVES,
    )
    return Measured(f"{command} output={{scratch}}", (), measures, modules=modules)


def hpo(name: str, task: str, modules: tuple[str, ...] = ()) -> Measured:
    return run(f"bilevel experiment=hpo/{name}", task, modules)


def omniglot(changes: str = "", task: str = "meta_omniglot") -> Measured:
    return run(f"bilevel experiment=meta/omniglot{changes}", task)


GALLERY = ("cones", "matrices", "prox_curves", "prox_planes", "sequences", "sets", "simplices")
TABLE = {
    "architecture": Measured("python scripts/architecture.py", ("docs/figures/architecture.png",), ("bilevel",)),
    "gallery": Measured(
        "python scripts/gallery.py",
        tuple(f"docs/figures/gallery/{name}.png" for name in GALLERY),
        ("bilevel/projections", "bilevel/prox", "bilevel/cones.py"),
    ),
    "cleaned_labels": Measured(
        "bilevel output={scratch}",
        ("docs/figures/cleaned_labels.png",),
        ("bilevel/tasks/hyperclean.py", "bilevel/tasks/pictures.py", "configs/task/hyperclean.yaml"),
        (("figures/worst.png", "docs/figures/cleaned_labels.png"),),
    ),
    "task_times": Measured(
        "python scripts/task_times.py", ("docs/tasks.md",), ("bilevel/tasks", "bilevel/training", "configs/task")
    ),
    "catalogue": Measured("python scripts/catalogue.py", (), ("bilevel/projections", "bilevel/prox")),
    "accuracy": Measured("python scripts/accuracy.py", (), ("bilevel/engines/implicit_function", "bilevel/implicit")),
    "cold_start": Measured("python scripts/cold_start.py", (), ("bilevel/cli", "bilevel/training", *DERIVES)),
    "scaling_law": Measured("python scripts/scaling_law.py", (), ("bilevel/training", *DERIVES)),
    "steps_per_call": Measured("python scripts/steps_per_call.py", (), ("bilevel/training",)),
    "resume_times": Measured("python scripts/resume_times.py", (), ("bilevel/training", "bilevel/loggers")),
    "eager_speed": Measured("python scripts/eager_speed.py", (), ("bilevel/foundation", "bilevel/layers")),
    "sparse_designs": Measured(
        "python scripts/sparse_designs.py", (), ("bilevel/losses", "bilevel/solvers/first_order", *DERIVES)
    ),
    "many_cotangents": Measured("python scripts/many_cotangents.py", (), ("bilevel/linear_solve",)),
    "install_size": Measured("python scripts/install_size.py", (), ("pyproject.toml",)),
    "adaptive": Measured(
        "python experiments/adaptive/benchmark.py",
        ("experiments/adaptive/results.csv", "experiments/adaptive/adaptive.png"),
        ("bilevel/engines/implicit_function",),
    ),
    "reuse": Measured(
        "python -m experiments.reuse.benchmark",
        ("experiments/reuse/results.csv", "experiments/reuse/reuse.png"),
        ("experiments/reuse", *DERIVES),
    ),
    "recycling": Measured(
        "python -m experiments.reuse.recycling", ("experiments/reuse/recycling.csv",), ("bilevel/linear_solve",)
    ),
    "solvers": Measured(
        "OPENBLAS_NUM_THREADS=1 python experiments/solvers/benchmark.py --docs --peers clarabel osqp scipy sklearn",
        ("experiments/solvers/results.csv",),
        ("experiments/solvers", *SOLVES),
        peers=("qpax", "celer", "jaxopt"),
        modules=("clarabel", "osqp"),
    ),
    "warm_start": Measured("python experiments/solvers/warm_start.py", ("experiments/solvers/warm_start.csv",), SOLVES),
    "precision": paper("precision", "precision.png"),
    "distillation": paper("distillation", "curves.png", "images.png"),
    "learned_images": Measured(
        "python -m experiments.learned_images.table",
        ("experiments/learned_images/results.csv", "experiments/learned_images/table.png"),
        ("experiments/learned_images", "bilevel/tasks/kernel_distillation.py", "bilevel/kernels/of_points.py"),
    ),
    "molecular": paper("molecular", "sensitivity.png", "arrows.png"),
    "dictionary": paper("dictionary", "auc.png"),
    "svm": paper("svm", "svm.png"),
    "maros_meszaros": Measured(
        "python experiments/judges/maros_meszaros.py",
        ("experiments/judges/maros_meszaros.csv",),
        PROGRAMS,
    ),
    "cutest": collection("cutest", ("cutest_solvers",), ("cutest_none", "cutest_bounded")),
    "cutest_least_squares": collection(
        "cutest_least_squares", ("cutest_solvers", "cutest_squares_solvers"), ("cutest_least_squares",)
    ),
    "cutest_constrained": collection("cutest_constrained", ("cutest_constrained_solvers",), ("cutest_constrained",)),
    "stochastic": Measured(
        "python -m experiments.stochastic.benchmark --problem quadratics",  # the rows of ijcnn1 stay: README.md
        ("experiments/stochastic/results.csv",),
        ("experiments/stochastic", "bilevel/engines/stochastic"),
    ),
    "stochastic_figure": Measured(
        "python -m experiments.stochastic.figure",
        ("experiments/stochastic/quadratics.png", "experiments/stochastic/ijcnn1.png"),
        ("experiments/stochastic/results.csv",),
    ),
    "genes": Measured("python experiments/judges/genes.py", ("experiments/judges/genes.csv",), DERIVES),
    "peers_sklearn": Measured(
        "python -m experiments.peers.sklearn", ("experiments/peers/results/sklearn.csv",), ("bilevel/sklearn", *DERIVES)
    ),
    "peers_sklearn_figure": Measured(
        "python -m experiments.peers.sklearn --only= --figure",
        ("docs/figures/sklearn_penalties.png",),
        ("bilevel/sklearn", *DERIVES),
    ),
    "peers_lasso": peer("lasso", "bilevel/losses", *DERIVES, peers=("celer", "sparho", "jaxopt")),
    "peers_logistic": peer(
        "logistic", *DERIVES, peers=("jaxopt", "torchopt"), kinds=("results/{}.csv", "results/{}_curves.csv")
    ),
    "peers_logistic_figure": Measured(
        "python -m experiments.peers.logistic_figure", ("experiments/peers/figures/logistic.png",)
    ),
    "peers_qp": peer("qp", *PROGRAMS, peers=("jaxopt", "qpax", "cvxpylayers")),
    "peers_qp_small": peer("qp_small", *PROGRAMS, modules=("qpax",)),
    "peers_convex_layers": peer("convex_layers", *PROGRAMS, peers=("cvxpylayers",)),
    "peers_scaling": peer("scaling", *DERIVES),
    "peers_search": peer("search", *DERIVES, peers=("optuna",)),
    "peers_svm": peer("svm", *DERIVES, peers=("jaxopt",)),
    "hpo_learning_rate": hpo("learning_rate", "learning_rate"),
    "hpo_learning_rate_adam": hpo(
        "learning_rate task.method=adam task.start=0.01 baseline=gp", "learning_rate", modules=("optuna", "torch")
    ),
    "hpo_kernel_ridge": hpo("kernel_ridge", "kernel_ridge"),
    "hpo_kernel_ridge_random": hpo("kernel_ridge baseline=random", "kernel_ridge"),
    "hpo_kfold": hpo("kfold", "cross_validation"),
    "hpo_weighted_lasso": hpo("weighted_lasso", "cross_validation"),
    "hpo_ijcnn1": hpo("ijcnn1", "feature_penalties"),
    "hpo_a9a": hpo("a9a trainer.steps=25", "feature_penalties"),
    "hpo_elastic_net": hpo("elastic_net trainer.steps=8", "cross_validation"),
    "hpo_hyperclean": hpo("hyperclean", "hyperclean"),
    "hpo_augmentation": hpo("augmentation", "augmentation"),
    "hpo_sparse_logistic": run(
        "OPENBLAS_NUM_THREADS=1 bilevel experiment=hpo/sparse_logistic baseline=grid", "cross_validation"
    ),
    "hpo_reuters": run(
        "OPENBLAS_NUM_THREADS=1 bilevel experiment=hpo/sparse_logistic data=reuters baseline=grid", "cross_validation"
    ),
    "meta_few_shot_sinusoid": run("bilevel experiment=meta/few_shot_sinusoid", "few_shot_sinusoid"),
    "meta_sinusoid": run("bilevel experiment=meta/sinusoid", "meta_sinusoid"),
    "omniglot": omniglot(),
    "omniglot_20_way": omniglot(" task.way=20"),
    "omniglot_5_shots": omniglot(" task.shots=5"),
    "omniglot_20_way_5_shots": omniglot(" task.way=20 task.shots=5"),
    "omniglot_svm": omniglot(" task.head=svm engine=implicit"),
    "omniglot_maml": omniglot("_maml trainer.steps=250", "meta_omniglot_maml"),
    "omniglot_runs": omniglot("_runs"),
    "deq_digits": run("bilevel experiment=deq/digits", "equilibrium_network"),
}

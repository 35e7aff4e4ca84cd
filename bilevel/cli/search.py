"""A search above the gradients: Optuna proposes the settings of runs, for what has no derivative.

Examples are architectures, numbers of images and families of penalties. Each trial is a run of the outer loop, which
tunes everything that has a derivative. A trial is ended early where the others were better at the same step.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Transformer
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig

from bilevel.cli.sentences import SettingsError

if TYPE_CHECKING:
    import optuna

    from bilevel.training.callbacks import Callback, Moment

# Hydra takes sweepers of its plugins' namespace only, which no folder of this project lies in: `offer` makes the place.
PLUGINS, HOME = "hydra_plugins", "hydra_plugins.bilevel"
STUDY, STORAGE = "search", "search.db"
SAMPLERS = ("tpe", "random")
JUDGES = ("stop/loss", "outer/loss")  # the loss of a trial: the first of these that its run has
SUMMARY = "summary.json"
HALTED = "stopped_by_callback"


class Search(Sweeper):
    """The sweeper of ``hydra/sweeper=search``: ``trials`` runs, ``at_once`` of them handed to the launcher together.

    The space is the swept values of the command line: ``a,b`` or ``choice(a, b)``, ``range(1, 9)``,
    ``interval(0.1, 1)``, ``tag(log, interval(1e-4, 1))``, ``int(interval(1, 9))``. ``search.db`` in the folder of the
    sweep holds the study: the same command line goes on with it, and more ``trials`` continue it.
    """

    __module__ = HOME

    def __init__(self, trials: int, at_once: int, sampler: str, prune: bool, seed: int) -> None:
        if trials < 1 or at_once < 1:
            raise SettingsError(f"hydra.sweeper.trials={trials}, at_once={at_once}: both must be at least 1.")
        if sampler not in SAMPLERS:
            raise SettingsError(f"hydra.sweeper.sampler={sampler}: choose one of {', '.join(SAMPLERS)}.")
        self.trials, self.at_once, self.sampler, self.prune, self.seed = trials, at_once, sampler, prune, seed
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Runs trials until there are ``trials`` that ended, and raises the first failure of one at the end."""
        if importlib.util.find_spec("optuna") is None:
            raise SettingsError("hydra/sweeper=search needs Optuna: pip install 'bilevel[optuna]'.")
        loader = self.hydra_context.config_loader if self.hydra_context else None
        given = OverridesParser.create(config_loader=loader).parse_overrides(arguments)
        fixed = [str(one.input_line) for one in given if not one.is_sweep_override()]
        space = {one.get_key_element(): distribution(one) for one in given if one.is_sweep_override()}
        if not space:
            raise SettingsError(
                "hydra/sweeper=search: nothing is searched; give a setting several values, as task.penalties=a,b, or "
                "an interval, as 'optimizer.learning_rate=tag(log, interval(1e-3, 1))'."
            )
        place = Path(str(self.config.hydra.sweep.dir)) if self.config else Path()
        from bilevel.training.run_folder import RunFolder

        failure: Exception | None = None
        with RunFolder(place, resume=True):  # because two searches in one folder would end each other's trials
            study = self._study(place)
            refuse_other_space(study, space)
            while batch := self._next(study, space):
                failure = self._run(study, place, fixed, batch) or failure
        if failure:
            raise failure

    def _study(self, place: Path) -> optuna.Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        made = {
            "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
            "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
        }[self.sampler]
        study = optuna.create_study(study_name=STUDY, storage=storage(place), load_if_exists=True)
        study.sampler = made(self.seed + len(study.trials))  # a study that goes on draws no number twice
        return study

    def _next(self, study: optuna.Study, space: dict[str, Any]) -> list[optuna.trial.FrozenTrial]:
        """The next trials: one that an earlier start left unfinished, else new ones; none where all have ended."""
        from optuna.trial import TrialState

        trials = study.get_trials(deepcopy=False)
        if open_ones := [trial for trial in trials if trial.state == TrialState.RUNNING]:
            return open_ones[:1]
        new = min(self.at_once, self.trials - len(trials))
        numbers = [study.ask(space).number for _ in range(new)]
        return [study.get_trials(deepcopy=False)[number] for number in numbers]

    def _run(
        self, study: optuna.Study, place: Path, fixed: list[str], batch: Sequence[optuna.trial.FrozenTrial]
    ) -> Exception | None:
        """Launches the trials and records in the study how each ended; returns the first failure."""
        from optuna.trial import TrialState

        assert self.launcher is not None
        jobs = [[*fixed, *(f"{name}={value}" for name, value in trial.params.items())] for trial in batch]
        self.validate_batch_is_legal(jobs)
        failure: Exception | None = None
        for trial, job in zip(batch, self.launcher.launch(jobs, batch[0].number), strict=True):
            try:
                _ = job.return_value
                loss, halted = judged(place / str(trial.number))
            except Exception as error:
                failure = failure or error
                study.tell(trial.number, state=TrialState.FAIL)
                continue
            if halted and trial_of(place, trial.number).user_attrs.get("pruned"):
                study.tell(trial.number, state=TrialState.PRUNED)
            else:
                study.tell(trial.number, loss)
        return failure


def offer(arguments: Sequence[str]) -> None:
    """Makes the sweeper known to Hydra. SettingsError where the command line starts a single run."""
    if not {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(arguments):
        raise SettingsError("hydra/sweeper=search starts many runs: add -m.")
    Plugins.instance().register(Search)
    with contextlib.suppress(ImportError):  # no other plugin is installed
        importlib.import_module(PLUGINS)
    sys.modules.setdefault(PLUGINS, ModuleType(PLUGINS))
    sys.modules[HOME] = ModuleType(HOME)
    vars(sys.modules[HOME])[Search.__name__] = Search


def storage(place: Path) -> str:
    return f"sqlite:///{place.absolute() / STORAGE}"


def distribution(override: Override) -> optuna.distributions.BaseDistribution:
    """Optuna's distribution for the swept values of a setting."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        if low is None or high is None or not low < high or ("log" in value.tags and low <= 0):
            raise SettingsError(f"{override.input_line}: an interval needs low < high, and 0 < low where it is log.")
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log="log" in value.tags)
        return FloatDistribution(low, high, log="log" in value.tags)
    choices: Any = list(override.sweep_iterator(transformer=Transformer.encode))
    return CategoricalDistribution(choices)


def refuse_other_space(study: optuna.Study, space: dict[str, Any]) -> None:
    """SettingsError where the study in the folder searched other settings."""
    for trial in study.get_trials(deepcopy=False):
        if trial.distributions != space:
            raise SettingsError(
                f"{STORAGE} in this folder searches {', '.join(trial.distributions)} in other ranges: choose another "
                "folder by output=DIR."
            )


def judged(folder: Path) -> tuple[float, bool]:
    """The loss that a run is compared by, and whether it was ended by a callback."""
    summary = json.loads((folder / SUMMARY).read_text())
    return float(summary.get("stop_loss", summary["best_outer_loss"])), summary.get("status") == HALTED


def trial_of(place: Path, number: int) -> optuna.trial.FrozenTrial:
    import optuna

    return optuna.load_study(study_name=STUDY, storage=storage(place)).get_trials(deepcopy=False)[number]


def pruning(config: DictConfig) -> list[Callback]:
    """The callbacks of a run that is a trial of a search: one that reports its losses, and ends it where the median of
    the others was lower at the same step."""
    context = HydraConfig.get()
    sweeper = context.sweeper
    if context.mode != RunMode.MULTIRUN or not str(sweeper.get("_target_")).endswith(".Search") or not sweeper.prune:
        return []
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=max(config.trainer.steps // 10, 1))
    study = optuna.load_study(study_name=STUDY, storage=storage(Path(context.sweep.dir)), pruner=pruner)
    number = int(context.job.num)
    trial = optuna.trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)

    def report(moment: Moment) -> bool:
        loss = next(moment.metrics[name] for name in JUDGES if name in moment.metrics)
        trial.report(float(loss), moment.step)
        worse = bool(trial.should_prune())
        if worse:
            trial.set_user_attr("pruned", True)
        return worse

    return [report]

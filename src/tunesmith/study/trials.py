"""The trials of a study: drawn, watched and kept by Optuna in one SQLite file, so that no process owns them.

A trial that a killed process left unfinished stays "running" in the file; the next process draws it again, to the same settings,
and its training goes on from its own checkpoint.
"""

from __future__ import annotations

import contextlib
import fcntl
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tunesmith.errors import StorageError, setting
from tunesmith.seeds import seed_for
from tunesmith.storage import writing
from tunesmith.study.plan import DATABASE, TRIALS, Plan
from tunesmith.study.pruning import is_behind
from tunesmith.study.space import Range
from tunesmith.training.loop import Watch

_STARTUP = 10
"""So many trials are drawn at random before those that are finished guide the choice."""
_CLAIMS = ".claims.lock"
PRUNED = "pruned"


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn errors of the database at `path` into a `StorageError` that says what to do."""
    import sqlalchemy.exc
    from optuna.exceptions import StorageInternalError

    try:
        with writing(path):
            yield
    except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ is not None else error
        words = str(getattr(cause, "orig", cause))
        advice = {
            "disk is full": f"Free some space, then do the same again with {setting('resume', True)}",
            "disk I/O error": f"Free some space if the disk is full, then do the same again with {setting('resume', True)}",
            "not a database": f"It is damaged: start anew with {setting('overwrite', True)} or another {setting('out')}",
            "malformed": f"It is damaged: start anew with {setting('overwrite', True)} or another {setting('out')}",
            "readonly": "Change its permissions, or choose another place",
        }
        cure = next((cure for mark, cure in advice.items() if mark in words), f"Do the same again with {setting('resume', True)}")
        raise StorageError(f"the study {path} cannot be read or written: {words}. {cure}.") from error


class Trials:
    """The trials of the study in a directory; several processes may hold one each. Raises `StorageError` wherever the file fails."""

    def __init__(self, directory: Path, plan: Plan, *, jobs: int = 1) -> None:
        import optuna

        self.directory, self.plan, self.jobs = directory, plan, jobs
        self.ranges = plan.ranges()
        self.path = directory / DATABASE
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        most = max((r.ends()[-1] for r in self.ranges if r.name == "epochs"), default=plan.config().epochs)
        pruner: Any = {
            "median": optuna.pruners.NopPruner(),  # see _is_behind
            "hyperband": optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max(int(most), 2)),
            "none": optuna.pruners.NopPruner(),
        }[plan.pruner]
        with storing(self.path):
            directory.mkdir(parents=True, exist_ok=True)
            storage = optuna.storages.RDBStorage(f"sqlite:///{self.path.absolute()}", {"connect_args": {"timeout": 60}})
            direction: Literal["maximize", "minimize"] = "maximize" if plan.greater else "minimize"
            self.study = optuna.create_study(
                storage=storage, pruner=pruner, study_name="tunesmith", direction=direction, load_if_exists=True
            )
            if plan.usual and not self.all():
                base = plan.config()
                with self._alone():
                    if not self.all():
                        self.study.enqueue_trial({r.name: getattr(base, r.name) for r in self.ranges})

    def all(self) -> list[Any]:
        """Return Optuna's record of every trial, in their order, the one that waits for its start included."""
        return self.study.get_trials(deepcopy=False)

    def unfinished(self) -> list[int]:
        """Return the numbers of trials that began and did not end."""
        from optuna.trial import TrialState

        with storing(self.path):
            return [trial.number for trial in self.all() if trial.state == TrialState.RUNNING]

    def place(self, number: int) -> Path:
        """Return the directory of a trial; people count from 1."""
        return self.directory / TRIALS / str(number + 1)

    def claim(self) -> Any | None:
        """Begin the next trial and return it with its settings drawn; None when there are as many as planned."""
        from optuna.trial import TrialState

        with storing(self.path), self._alone():
            if sum(trial.state != TrialState.WAITING for trial in self.all()) >= self.plan.trials:
                return None
            return self._drawn(self.study.ask())

    def again(self, number: int) -> Any:
        """Return an unfinished trial that a process left behind, with the settings that were drawn for it."""
        import optuna

        with storing(self.path), self._alone():
            return self._drawn(optuna.trial.Trial(self.study, self.all()[number]._trial_id))

    def _drawn(self, trial: Any) -> Any:
        """Draw the settings of `trial`: those that it has already stay, so that a draw cut off in the middle goes on as it began."""
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            for range_ in self.ranges:
                # named by trial and range, as every draw: one that was cut off before this range draws what it would have drawn
                seed = seed_for(self.plan.config().seed, f"search {range_.name}", trial.number) % 2**32
                self.study.sampler = optuna.samplers.TPESampler(n_startup_trials=_STARTUP, seed=seed, constant_liar=self.jobs > 1)
                _suggest(trial, range_)
        return trial

    def twin(self, trial: Any) -> Any | None:
        """Return an earlier finished trial with the same settings, whose training would be the same; None when there is none."""
        from optuna.trial import TrialState

        with storing(self.path):
            for other in self.all()[: trial.number]:
                if (
                    other.params == trial.params
                    and other.state in (TrialState.COMPLETE, TrialState.PRUNED)
                    and "twin" not in other.user_attrs
                ):
                    return other
        return None

    def watch(self, trial: Any, epochs: int) -> Watch:
        """Return what tells Optuna each epoch's score and stops the training of a trial that does worse than others did.

        epochs: those of the trial. Only whole ones are compared, as trials differ in their steps; the last is not, as it ends anyway.
        """

        def watched(epoch: float, scores: dict[str, float]) -> str:
            if not float(epoch).is_integer() or epoch >= epochs:
                return ""
            with storing(self.path):
                if int(epoch) not in self.all()[trial.number].intermediate_values:  # it is when the process was killed before it saved
                    trial.report(scores[self.plan.metric], int(epoch))
                behind = self._is_behind(trial.number, epochs) if self.plan.pruner == "median" else trial.should_prune()
                return f"{PRUNED} after epoch {int(epoch)}" if behind else ""

        return watched

    def _is_behind(self, number: int, epochs: int) -> bool:
        """Whether a trial is worse than the median of those that were trained to their end, after the same share of their epochs."""
        from optuna.trial import TrialState

        records = self.all()
        ended = [one for one in records if one.state == TrialState.COMPLETE and "twin" not in one.user_attrs]
        others = [(one.intermediate_values, one.user_attrs.get("planned", epochs)) for one in ended]
        return is_behind(records[number].intermediate_values, epochs, others, greater=self.plan.greater)

    def tell(self, trial: Any, state: str, value: float | None = None, **notes: Any) -> Any:
        """End a trial: "complete" with its value, "pruned", or "fail"; returns its record. A finished one stays as it is."""
        from optuna.trial import TrialState

        with storing(self.path):
            for name, note in notes.items():
                trial.set_user_attr(name, note)
            kind = {"complete": TrialState.COMPLETE, PRUNED: TrialState.PRUNED, "fail": TrialState.FAIL}[state]
            return self.study.tell(trial, value if state == "complete" else None, state=kind)

    def rank(self, record: Any) -> tuple[float, float, int]:
        """Return what is greatest for the best of the complete trials: its value, then its smaller log loss, then who came first."""
        sign = 1 if self.plan.greater else -1
        return sign * record.value, -record.user_attrs.get("log_loss", 0.0), -record.number

    def best(self) -> Any | None:
        """Return the record of the best complete trial, None when there is none."""
        from optuna.trial import TrialState

        with storing(self.path):
            return max((trial for trial in self.all() if trial.state == TrialState.COMPLETE), key=self.rank, default=None)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the right to begin trials for this process; a process that dies lets go of it."""
        with open(self.directory / _CLAIMS, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _suggest(trial: Any, range_: Range) -> Any:
    if range_.values:
        return trial.suggest_categorical(range_.name, list(range_.values))
    if isinstance(range_.low, int):
        step = {} if range_.log else {"step": range_.step}
        return trial.suggest_int(range_.name, range_.low, range_.high, log=range_.log, **step)
    return trial.suggest_float(range_.name, range_.low, range_.high, step=range_.step, log=range_.log)

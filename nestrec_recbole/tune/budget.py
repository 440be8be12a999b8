"""What a search may spend and how it goes about it; nothing of Ray."""

from __future__ import annotations

from dataclasses import dataclass

from nestrec_recbole.errors import NestRecError, unknown

SCHEDULERS = ("asha", "median", "pbt", "none")
SEARCHERS = ("random", "optuna", "hyperopt")


@dataclass(frozen=True)
class Plan:
    """How a search goes.

    Attributes
    ----------
    trials : int
    epochs : int or None
        Of a trial, at most; None: as the settings say.
    scheduler : str
        ``asha`` (Li et al. 2020) lets the best third of the trials go on after a sixth, a third and two thirds of their
        epochs; others wait, in case that they come to be among the best third, and are stopped at the end. Where a
        searcher learns from trials that have ended, or the model is one of RecBole's and could not go on, they are
        stopped at once. ``median`` (Golovin et al. 2017) stops those below the median, ``none`` none; under ``pbt``
        (Jaderberg et al. 2017) those behind copy the best ones and change on the way.
    searcher : str
        ``random``, ``optuna`` or ``hyperopt``.
    seed : int
        Of the points that are tried; that of training is a setting.
    cpus, gpus : float
        Of a trial; parts of one are possible.
    at_once : int or None
        Trials, at most; None: as many as there are CPUs and GPUs for.
    hours : float or None
        Until no trial goes on.

    Raises
    ------
    NestRecError
        When one of them makes no sense.
    """

    trials: int
    epochs: int | None = None
    scheduler: str = "asha"
    searcher: str = "random"
    seed: int = 2020
    cpus: float = 1.0
    gpus: float = 0.0
    at_once: int | None = None
    hours: float | None = None

    def __post_init__(self) -> None:
        if self.scheduler not in SCHEDULERS:
            raise NestRecError(unknown("scheduler", self.scheduler, SCHEDULERS))
        if self.searcher not in SEARCHERS:
            raise NestRecError(unknown("searcher", self.searcher, SEARCHERS))
        for name, value in {"trials": self.trials, "epochs": self.epochs, "at_once": self.at_once}.items():
            if value is not None and value < 1:
                raise NestRecError(f"{name} is {value}; expected a whole number from 1")
        if self.cpus <= 0 or self.gpus < 0:
            asked = f"a trial asks for {self.cpus:g} CPUs and {self.gpus:g} GPUs"
            raise NestRecError(f"{asked}; expected CPUs above 0, GPUs from 0")
        if self.hours is not None and self.hours <= 0:
            raise NestRecError(f"the budget is {self.hours:g} hours; expected a number above 0")
        if self.population and self.searcher != "random":
            raise NestRecError(f"--scheduler pbt chooses its own points; leave --search {self.searcher} out")

    @property
    def population(self) -> bool:
        """Whether trials copy each other and change on the way."""
        return self.scheduler == "pbt"

"""Names and tables of Optuna that are not public, all of them; read in 5.0.0.

What Optuna offers in public does not reach the storage below its cache, which trial a process runs,
or the heartbeats without `Study.optimize`. That one is not used: it asks, trains and tells in one
call, hides a storage's error behind an `UnboundLocalError` of its own, and waits at a trial's end
for a heartbeat that hangs.
"""

import contextlib
import copy
import io
import json
import pickle
import threading
import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import optuna
import sqlalchemy
from optuna.exceptions import (
    ExperimentalWarning,
    StorageInternalError,
    UpdateFinishedTrialError,
)
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from pdsearch.errors import StorageError, first_line
from pdsearch.study.patience import Patience

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

ENQUEUED = "fixed_params"
"""The system attribute in which a trial keeps what `study.enqueue_trial` was given."""

NOT_FOUND: str = models.NOT_FOUND_MSG
"""What the KeyError says that comes where a study or a trial has been deleted."""

# What Optuna's cache of a storage calls of the storage itself.
_CALLS = (
    *("create_new_study", "delete_study", "set_study_user_attr", "set_study_system_attr"),
    *("get_study_id_from_name", "get_study_name_from_id", "get_study_directions"),
    *("get_study_user_attrs", "get_study_system_attrs", "get_all_studies", "_create_new_trial"),
    *("_set_trial_param", "get_trial_id_from_study_id_trial_number", "_get_best_trial_id"),
    *("set_trial_intermediate_value", "set_trial_user_attr", "set_trial_system_attr"),
    *("get_trial", "_get_trials"),
)


class PatientStorage(RDBStorage):
    """Optuna's storage, whose every call is made through a `Patience`.

    Args:
        url: as Optuna takes it.
        patience: how long it is waited for.
        **options: as for Optuna's.
    """

    def __init__(self, url: str, *, patience: Patience, **options: Any) -> None:
        self.patience = patience
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(url, **options)

    def record_heartbeat(self, trial_id: int) -> None:
        """As Optuna's, from a thread of its own, which neither waits nor fails."""
        try:
            super().record_heartbeat(trial_id)
        except (StorageInternalError, SQLAlchemyError):
            self.patience.missed()
        finally:
            self.remove_session()

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As Optuna's; one that was made, and whose answer was lost, is not an error."""
        calls = 0

        def call() -> bool:
            nonlocal calls
            calls += 1
            try:
                return RDBStorage.set_trial_state_values(self, trial_id, state, values)
            except UpdateFinishedTrialError:
                if calls > 1 and RDBStorage.get_trial(self, trial_id).state == state:
                    return True
                raise

        return self.patience(call)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        # Where the storage was away, nobody could give a sign of life.
        if self.patience.away_within(2 * (self.heartbeat_interval or 0)):
            return []
        return self.patience(lambda: RDBStorage._get_stale_trial_ids(self, study_id))


def _patient(name: str) -> Callable[..., Any]:
    def call(self: PatientStorage, *args: Any, **keys: Any) -> Any:
        return self.patience(lambda: getattr(RDBStorage, name)(self, *args, **keys))

    return call


for _name in _CALLS:
    setattr(PatientStorage, _name, _patient(_name))


def storage_of(study: "optuna.Study") -> BaseStorage:
    """A study's storage, with Optuna's cache."""
    return study._storage


def backend_of(study: "optuna.Study") -> RDBStorage | None:
    """The database below a study's cache; None where it is kept in another way."""
    return database_of(study._storage)


def database_of(storage: BaseStorage) -> RDBStorage | None:
    """The database below a storage's cache, if there is one; None where it is no database."""
    backend = getattr(storage, "_backend", storage)
    return backend if isinstance(backend, RDBStorage) else None


def study_names(storage: BaseStorage) -> list[str]:
    """The studies in a storage, in order.

    Optuna's own call reads all that each of them keeps: one that is damaged would hide the others.
    """
    database = database_of(storage)
    if database is None:
        return sorted(optuna.get_all_study_names(storage))
    with database.engine.connect() as connection:
        return sorted(connection.scalars(sqlalchemy.text("SELECT study_name FROM studies")))


def study_id(study: "optuna.Study") -> int:
    """A study's number in its storage."""
    return study._study_id


def trial_id(trial: "Trial | FrozenTrial") -> int:
    """A trial's number in its storage, as against that in its study."""
    return trial._trial_id


class StoredTrial:
    """A trial as its storage has it, which is written to whatever process runs the trial."""

    def __init__(self, study: "optuna.Study", trial: "Trial | FrozenTrial | int") -> None:
        self._storage = study._storage
        self._id = trial if isinstance(trial, int) else trial._trial_id

    def read(self) -> "FrozenTrial":
        """The trial as it is now."""
        return self._storage.get_trial(self._id)

    @property
    def user_attrs(self) -> dict[str, Any]:
        """Its attributes as they are now."""
        return self.read().user_attrs

    def set_user_attr(self, key: str, value: Any) -> None:
        """Write an attribute."""
        self._storage.set_trial_user_attr(self._id, key, value)

    def set_state(self, state: TrialState) -> bool:
        """Set its state; whether that was possible."""
        return self._storage.set_trial_state_values(self._id, state=state)


def contains(distribution: "BaseDistribution", value: Any) -> bool:
    """Whether a parameter may have a value."""
    return bool(distribution._contains(value))


def expire(
    study: "optuna.Study", *, retry: "Callable[[optuna.Study, FrozenTrial], object]"
) -> None:
    """Have Optuna fail the trials whose heartbeats have stopped, and call `retry` with each."""
    backend = backend_of(study)
    if backend is not None:
        backend.heartbeat_stale_trial_callback = retry  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


def ask(study: "optuna.Study") -> "Trial":
    """The next trial: the first of those that wait, or a new one."""
    study._thread_local.in_optimize_loop = True  # else it warns that nobody keeps a heartbeat
    try:
        return study.ask()
    finally:
        study._thread_local.in_optimize_loop = False


@contextlib.contextmanager
def beating(study: "optuna.Study", trial: "Trial") -> Iterator[None]:
    """Signs of life of a trial while it runs; one that fails or hangs is no reason to stop."""
    backend, number = backend_of(study), trial_id(trial)
    interval = backend.get_heartbeat_interval() if backend is not None else None
    if backend is None or interval is None:
        yield
        return
    over = threading.Event()

    def beat() -> None:
        while not over.is_set():
            backend.record_heartbeat(number)
            over.wait(interval)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=1)


class SeenStudy(optuna.Study):
    """A study of which only some trials are seen, read once until `forget` is called.

    Samplers ask a dozen times a trial, and asking a database takes milliseconds.

    Args:
        study: the whole one.
        seen: returns those of its trials that are seen.
    """

    def __init__(
        self, study: "optuna.Study", seen: "Callable[[list[FrozenTrial]], list[FrozenTrial]]"
    ) -> None:
        super().__init__(study.study_name, study._storage)
        self._seen = seen
        self._known: list[FrozenTrial] | None = None

    def forget(self) -> None:
        """Read the trials anew the next time."""
        self._known = None

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: "Container[TrialState] | None" = None,
        use_cache: bool = False,
    ) -> "list[FrozenTrial]":
        if self._known is None:
            self._known = self._seen(super()._get_trials(deepcopy=False))
        found = [trial for trial in self._known if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


class CmaEsSampler(optuna.samplers.CmaEsSampler):
    """Optuna's, whose state is kept with trials as a pickle: only one that runs nothing is read.

    Whoever can write to a storage could otherwise run anything wherever its study is resumed.
    """

    def _restore_optimizer(self, completed_trials: "list[FrozenTrial]") -> Any:
        for trial in reversed(completed_trials):
            prefix = self._attr_key_optimizer
            kept = {k: v for k, v in trial.system_attrs.items() if k.startswith(prefix)}
            if kept:
                try:
                    state = bytes.fromhex(self._concat_optimizer_attrs(kept))
                    return _Unpickler(io.BytesIO(state)).load()
                except Exception as error:  # a pickle's content may raise whatever it likes
                    raise StorageError(
                        f"trial {trial.number}: what it keeps of CMA-ES cannot be read "
                        f"({first_line(error)}): search under another study.name"
                    ) from error
        return None


class _Unpickler(pickle.Unpickler):
    """Makes what CMA-ES's state is made of, and nothing else."""

    _ALLOWED = frozenset(
        {
            ("cmaes._cma", "CMA"),
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            *(
                (f"numpy.{core}.{module}", name)
                for core in ("core", "_core")  # NumPy 1 and 2
                for module, name in (
                    ("multiarray", "_reconstruct"),
                    ("multiarray", "scalar"),
                    ("numeric", "_frombuffer"),
                )
            ),
            ("numpy.random._pickle", "__randomstate_ctor"),
            ("numpy.random._pickle", "__bit_generator_ctor"),
            ("numpy.random._mt19937", "MT19937"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return super().find_class(module, name)


# -------------------------------------------------------------------------- the database's tables


def has_beat(study: "optuna.Study", trial: "FrozenTrial") -> bool:
    """Whether a trial ever had a heartbeat; True where that is not kept."""
    backend = backend_of(study)
    if backend is None:
        return True
    query = sqlalchemy.text("SELECT COUNT(*) FROM trial_heartbeats WHERE trial_id = :trial")
    with backend.engine.connect() as connection:
        return connection.execute(query, {"trial": trial_id(trial)}).scalar() != 0


_QUERIES = {
    "its {key!r}": "SELECT a.key, {value}, 0 FROM study_{kind}_attributes a "
    "JOIN studies s ON s.study_id = a.study_id WHERE s.study_name = :name",
    "trial {number}'s {key!r}": "SELECT a.key, {value}, t.number FROM trial_{kind}_attributes "
    "a JOIN trials t ON t.trial_id = a.trial_id JOIN studies s ON s.study_id = t.study_id "
    "WHERE s.study_name = :name",
}
_PARAMETERS = (
    "SELECT p.param_name, {value}, t.number FROM trial_params p "
    "JOIN trials t ON t.trial_id = p.trial_id JOIN studies s ON s.study_id = t.study_id "
    "WHERE s.study_name = :name"
)


def find_damage(name: str, backend: BaseStorage) -> str | None:
    """Return which value is no JSON, the first that is found; None if none is."""
    database = database_of(backend)
    if database is None:
        return None
    # SQLite gives bytes as they are, and text only where it is text.
    value = "CAST({} AS BLOB)" if database.engine.dialect.name == "sqlite" else "{}"
    queries = [
        (said, text.format(kind=kind, value=value.format("a.value_json")))
        for said, text in _QUERIES.items()
        for kind in ("user", "system")
    ]
    parameters = _PARAMETERS.format(value=value.format("p.distribution_json"))
    queries.append(("trial {number}'s parameter {key!r}", parameters))
    try:
        with database.engine.connect() as connection:
            for said, text in queries:
                for key, value, number in connection.execute(sqlalchemy.text(text), {"name": name}):
                    try:
                        json.loads(value)
                    except (ValueError, TypeError, RecursionError):
                        return said.format(key=key, number=number) + " is no JSON"
    except Exception:  # too damaged to look into: what was raised first is reported
        return None
    return None

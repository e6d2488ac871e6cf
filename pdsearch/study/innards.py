"""Everything that uses private names or tables of Optuna; read in 5.0.0.

Optuna's public interface reaches neither the storage below its cache nor the trial that a process
runs, and has no heartbeats outside `Study.optimize`. That method is not used: it asks, trains
and tells in one call, hides a storage error behind an `UnboundLocalError`, and at the end of a
trial waits for a heartbeat that hangs.
"""

import contextlib
import copy
import io
import json
import pickle
import threading
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage, _CachedStorage
from optuna.storages._rdb import models
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, Trial, TrialState

from pdsearch.errors import StorageError, first_line
from pdsearch.study.patience import STORAGE_ERRORS, Patience

ENQUEUED = "fixed_params"
"""The system attribute with the parameters that `study.enqueue_trial` was given."""

NOT_FOUND: str = models.NOT_FOUND_MSG
"""The text of the KeyError for a study or a trial that has been deleted."""

# The methods of the storage that Optuna's cache calls.
_CALLS = (
    *("create_new_study", "delete_study", "set_study_user_attr", "set_study_system_attr"),
    *("get_study_id_from_name", "get_study_name_from_id", "get_study_directions"),
    *("get_study_user_attrs", "get_study_system_attrs", "get_all_studies", "_create_new_trial"),
    *("_set_trial_param", "get_trial_id_from_study_id_trial_number", "_get_best_trial_id"),
    *("set_trial_intermediate_value", "set_trial_user_attr", "set_trial_system_attr"),
    *("get_trial", "_get_trials"),
)


class PatientStorage(RDBStorage):
    """Optuna's storage, with every call made through a `Patience`."""

    def __init__(self, url: str, *, patience: Patience, **options: Any) -> None:
        self.patience = patience
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(url, **options)

    def record_heartbeat(self, trial_id: int) -> None:
        """Record a heartbeat; called in a separate thread, it neither waits nor fails."""
        try:
            super().record_heartbeat(trial_id)
        except STORAGE_ERRORS:
            self.patience.missed()
        finally:
            self.remove_session()

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Set a trial's state; a repeated call whose first answer was lost is not an error."""
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
        # While the storage was unreachable, no process could record a heartbeat.
        if self.patience.away_within(2 * (self.heartbeat_interval or 0)):
            return []
        return self.patience(lambda: RDBStorage._get_stale_trial_ids(self, study_id))


def _patient(name: str) -> Callable[..., Any]:
    def call(self: PatientStorage, *args: Any, **keys: Any) -> Any:
        return self.patience(lambda: getattr(RDBStorage, name)(self, *args, **keys))

    return call


for _name in _CALLS:
    setattr(PatientStorage, _name, _patient(_name))


def storage_of(study: optuna.Study) -> BaseStorage:
    """Return a study's storage, with Optuna's cache."""
    return study._storage


def backend_of(of: optuna.Study | BaseStorage) -> RDBStorage:
    """Return the database of a study or of its storage, below Optuna's cache."""
    storage: Any = of._storage if isinstance(of, optuna.Study) else of
    return getattr(storage, "_backend", storage)


class OverlaidStorage(_CachedStorage):
    """A study's storage that shows further system attributes of the study, without storing them.

    Args:
        study: The study.
        overlay: Makes them of the study's trials and of the attributes that are stored.
    """

    def __init__(
        self,
        study: optuna.Study,
        overlay: Callable[[Sequence[FrozenTrial], Mapping[str, Any]], Mapping[str, Any]],
    ) -> None:
        super().__init__(backend_of(study))
        self._study, self._overlay = study._study_id, overlay

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the stored attributes, and the overlay's where the study is the one."""
        return self._with_overlay(study_id, super().get_study_system_attrs(study_id))

    def get_all_studies(self) -> list[FrozenStudy]:
        """Return all studies, with the overlay's attributes in the one."""
        studies = super().get_all_studies()
        for study in studies:
            study.system_attrs = self._with_overlay(study._study_id, study.system_attrs)
        return studies

    def _with_overlay(self, study_id: int, stored: dict[str, Any]) -> dict[str, Any]:
        if study_id != self._study:
            return stored
        return {**stored, **self._overlay(self.get_all_trials(study_id, deepcopy=False), stored)}


def study_names(storage: BaseStorage) -> list[str]:
    """Return the names of the studies in a storage, sorted.

    Optuna's own function reads everything that each study keeps, so that a damaged study would
    hide the others.
    """
    with backend_of(storage).engine.connect() as connection:
        return sorted(connection.scalars(sqlalchemy.text("SELECT study_name FROM studies")))


def study_id(study: optuna.Study) -> int:
    """Return a study's number in its storage."""
    return study._study_id


def trial_id(trial: Trial | FrozenTrial) -> int:
    """Return a trial's number in its storage, which is not its number in the study."""
    return trial._trial_id


class StoredTrial:
    """A trial in its storage, which any process may read and write."""

    def __init__(self, study: optuna.Study, trial: Trial | FrozenTrial | int) -> None:
        self._storage = study._storage
        self._id = trial if isinstance(trial, int) else trial._trial_id

    def read(self) -> FrozenTrial:
        """Return the trial as it is now."""
        return self._storage.get_trial(self._id)

    def state(self) -> TrialState:
        """Return its state as it is now, in one query instead of one for each kind of attribute."""
        backend = backend_of(self._storage)
        assert isinstance(backend, PatientStorage)
        return backend.patience(self._read_state)

    def _read_state(self) -> TrialState:
        query = sqlalchemy.text("SELECT state FROM trials WHERE trial_id = :trial")
        with backend_of(self._storage).engine.connect() as connection:
            found = connection.scalar(query, {"trial": self._id})
        if found is None:
            raise KeyError(NOT_FOUND)
        return TrialState[found]

    @property
    def user_attrs(self) -> dict[str, Any]:
        """Its attributes as they are now."""
        return self.read().user_attrs

    def set_user_attr(self, key: str, value: Any) -> None:
        """Write an attribute."""
        self._storage.set_trial_user_attr(self._id, key, value)

    def set_state(self, state: TrialState) -> bool:
        """Set its state; return whether that was possible."""
        return self._storage.set_trial_state_values(self._id, state=state)


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a distribution contains a value."""
    return bool(distribution._contains(value))


def expire(study: optuna.Study, *, retry: Callable[[optuna.Study, FrozenTrial], object]) -> None:
    """Have Optuna fail the trials whose heartbeats have stopped, and call `retry` for each."""
    backend_of(study).heartbeat_stale_trial_callback = retry  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


def ask(study: optuna.Study) -> Trial:
    """Return the next trial: the first of those that wait, or a new one."""
    study._thread_local.in_optimize_loop = True  # else Optuna warns of missing heartbeats
    try:
        return study.ask()
    finally:
        study._thread_local.in_optimize_loop = False


def as_asked(trial: Trial) -> FrozenTrial:
    """Return what the storage held of a trial when it was asked for."""
    return trial._cached_frozen_trial


@contextlib.contextmanager
def beating(study: optuna.Study, trial: Trial) -> Iterator[None]:
    """Record a trial's heartbeats during the block; one that fails or hangs does not stop it."""
    backend, number, over = backend_of(study), trial_id(trial), threading.Event()

    def beat() -> None:
        while not over.is_set():
            backend.record_heartbeat(number)
            over.wait(backend.get_heartbeat_interval())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=1)


class SeenStudy(optuna.Study):
    """A study that shows only some of its trials, read once until `forget` is called.

    Samplers ask for them a dozen times per trial, and each query of a database takes milliseconds.
    `seen` selects the trials of the whole `study`.
    """

    def __init__(
        self, study: optuna.Study, seen: Callable[[list[FrozenTrial]], list[FrozenTrial]]
    ) -> None:
        super().__init__(study.study_name, study._storage)
        self._seen = seen
        self._known: list[FrozenTrial] | None = None

    def forget(self) -> None:
        """Read the trials again the next time."""
        self._known = None

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        if self._known is None:
            self._known = self._seen(super()._get_trials(deepcopy=False))
        found = [trial for trial in self._known if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


class CmaEsSampler(optuna.samplers.CmaEsSampler):
    """Optuna's sampler, but it reads its pickled state with an `_Unpickler`.

    Otherwise everybody with access to a storage could run any code where its study is resumed.
    """

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            prefix = self._attr_key_optimizer
            kept = {k: v for k, v in trial.system_attrs.items() if k.startswith(prefix)}
            if kept:
                try:
                    state = bytes.fromhex(self._concat_optimizer_attrs(kept))
                    return _Unpickler(io.BytesIO(state)).load()
                except Exception as error:  # damaged data may raise anything
                    raise StorageError(
                        f"trial {trial.number}: its state of CMA-ES cannot be read "
                        f"({first_line(error)}): search under another study.name"
                    ) from error
        return None


class _Unpickler(pickle.Unpickler):
    """Creates only what the state of CMA-ES consists of."""

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
            raise pickle.UnpicklingError(f"it contains {module}.{name}")
        return super().find_class(module, name)


# -------------------------------------------------------------------------- the database's tables


def has_beat(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Whether a trial ever had a heartbeat."""
    query = sqlalchemy.text("SELECT COUNT(*) FROM trial_heartbeats WHERE trial_id = :trial")
    with backend_of(study).engine.connect() as connection:
        return connection.execute(query, {"trial": trial_id(trial)}).scalar() != 0


# Tables with JSON: key, value and trial's number, and how a message names a value.
_OF_STUDY = "JOIN studies s ON s.study_id = a.study_id"
_OF_TRIAL = "JOIN trials t ON t.trial_id = a.trial_id JOIN studies s ON s.study_id = t.study_id"
_JSON = (
    ("study_user_attributes", "key", "value_json", "0", _OF_STUDY, "its {key!r}"),
    ("study_system_attributes", "key", "value_json", "0", _OF_STUDY, "its {key!r}"),
    ("trial_user_attributes", "key", "value_json", "t.number", _OF_TRIAL, "trial {n}'s {key!r}"),
    ("trial_system_attributes", "key", "value_json", "t.number", _OF_TRIAL, "trial {n}'s {key!r}"),
    (
        *("trial_params", "param_name", "distribution_json", "t.number", _OF_TRIAL),
        "trial {n}'s parameter {key!r}",
    ),
)


def silent(study: optuna.Study, *, after: float) -> set[int]:
    """Return the ids of running trials without a heartbeat for more than `after` seconds."""
    query = sqlalchemy.text(
        "SELECT t.trial_id, t.datetime_start, h.heartbeat, CURRENT_TIMESTAMP FROM trials t "
        "LEFT JOIN trial_heartbeats h ON h.trial_id = t.trial_id "
        "WHERE t.study_id = :study AND t.state = 'RUNNING'"
    )
    with backend_of(study).engine.connect() as connection:
        rows = connection.execute(query, {"study": study_id(study)}).all()
    found = set()
    for number, started, heartbeat, now in rows:
        # Start times are local times of the worker; heartbeats and `now` are database times.
        age = _moment(now) - _moment(heartbeat) if heartbeat else datetime.now() - _moment(started)
        if age.total_seconds() > after:
            found.add(number)
    return found


def _moment(value: Any) -> datetime:
    """Return a database time as a datetime; SQLite returns text."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    assert isinstance(moment, datetime)
    return moment.replace(tzinfo=None)


def find_damage(name: str, backend: BaseStorage) -> str | None:
    """Return which value is not JSON, the first that is found; None if all are."""
    engine = backend_of(backend).engine
    # SQLite returns bytes as they are, but text only if it is valid.
    blob = "CAST(a.{} AS BLOB)" if engine.dialect.name == "sqlite" else "a.{}"
    try:
        with engine.connect() as connection:
            for table, key, value, number, join, said in _JSON:
                query = (
                    f"SELECT a.{key}, {blob.format(value)}, {number} FROM {table} a {join} "
                    "WHERE s.study_name = :name"
                )
                for found, text, n in connection.execute(sqlalchemy.text(query), {"name": name}):
                    try:
                        json.loads(text)
                    except (ValueError, TypeError, RecursionError):
                        return said.format(key=found, n=n) + " is not JSON"
    except Exception:  # too damaged to search: the original error is reported
        return None
    return None

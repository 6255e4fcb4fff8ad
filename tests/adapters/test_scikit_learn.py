"""scikit-learn gives the same numbers on our workers as on joblib's default ones."""

from __future__ import annotations

import sys
from typing import Any

import pytest

# In the extra `integrations`: with SciPy it is too large for every Python that CI runs.
sklearn = pytest.importorskip("sklearn", reason="it is installed on one Python only")

import joblib  # noqa: E402
import numpy as np  # noqa: E402
from sklearn.datasets import make_classification  # noqa: E402
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402

import fullcourt.joblib  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
if sys.platform == "win32":
    pytest.skip("tested on Linux", allow_module_level=True)


@pytest.fixture(scope="module")
def data() -> Any:
    return make_classification(300, 12, random_state=0)


def on_both(work: Any) -> tuple[Any, Any]:
    fullcourt.joblib.register()
    expected = work()
    with joblib.parallel_config(backend="fullcourt", n_jobs=2) as config:
        found = work()
    pool = config["backend"]._idle  # it ends with the block anyway; wait for that
    pool.close()
    pool.join()
    return expected, found


def test_cross_val_score(data: Any) -> None:
    expected, found = on_both(lambda: cross_val_score(LogisticRegression(), *data, cv=5))
    assert (expected == found).all()


def test_random_forest(data: Any) -> None:
    def work() -> Any:
        forest = RandomForestClassifier(20, random_state=1).fit(*data)
        return forest.predict_proba(data[0])

    expected, found = on_both(work)
    assert (expected == found).all()


def test_grid_search_with_nested_parallelism(data: Any) -> None:
    def work() -> Any:
        forest = RandomForestClassifier(10, random_state=1, n_jobs=2)
        return GridSearchCV(forest, {"max_depth": [2, 4], "min_samples_leaf": [1, 3]}, cv=3).fit(*data)

    expected, found = on_both(work)
    assert expected.best_params_ == found.best_params_
    assert (expected.cv_results_["mean_test_score"] == found.cv_results_["mean_test_score"]).all()


def test_openmp_in_workers_after_openmp_here_does_not_hang(data: Any) -> None:
    """It would, in a fork of this process."""
    HistGradientBoostingClassifier(max_iter=3).fit(*data)
    model = HistGradientBoostingClassifier(max_iter=3, random_state=0)
    expected, found = on_both(lambda: cross_val_score(model, *data, cv=3))
    assert (expected == found).all()


def test_large_data_is_shared_and_can_be_written_to() -> None:
    data = np.random.default_rng(0).normal(size=(40_000, 10)), np.arange(40_000) % 2
    expected, found = on_both(lambda: cross_val_score(LogisticRegression(), *data, cv=4))
    assert (expected == found).all()

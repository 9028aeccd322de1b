"""VisionClassifier keeps scikit-learn's contract, and trains as `visionbench.fit` does."""

import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import visionbench
from visionbench import VisionClassifier
from visionbench.data import RandomCrop
from visionbench.errors import UserError
from visionbench.estimator import EstimatorError, TrainingDiverged
from visionbench.models import MLP
from visionbench.runs.folder import RunFolder

DIGITS = load_digits()
IMAGES = (DIGITS.images * 15).astype(np.uint8)[:300]
LABELS = DIGITS.target[:300]
ROWS = DIGITS.data[:300]
SMALL = {"model.widths": [16], "model.optimizer.lr": 0.02, "trainer.precision": "32-true"}

# Checks of scikit-learn that cannot pass, with the reasons.
EXPECTED_TO_FAIL: dict[str, str] = {}
CHECKED = VisionClassifier(batch_size=16, options={"model.widths": [16], "trainer.precision": "32-true"})
CHECKS = [
    pytest.param(check, id=f"{number}-{check.func.__name__}", marks=pytest.mark.slow)  # each trains several times
    for number, (_, check) in enumerate(estimator_checks_generator(CHECKED))
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with the one for temporary files in it."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


@pytest.mark.filterwarnings("ignore:A column-vector y was passed")  # the checks pass one, and ask for this warning
@pytest.mark.parametrize("check", CHECKS)
def test_scikit_learns_own_check(check):
    if (reason := EXPECTED_TO_FAIL.get(check.func.__name__)) is not None:
        pytest.xfail(reason)
    check(clone(CHECKED))


def test_a_search_names_a_failed_candidate_which_does_not_win(place, capsys):
    search = GridSearchCV(
        VisionClassifier(max_epochs=1, options=SMALL),
        {"model.optimizer.lr": [1e-2, 1e38], "model.dropout": [0.0, 0.2]},
        cv=3,
    )
    with pytest.warns(FitFailedWarning) as warned, pytest.warns(UserWarning, match="scores are non-finite"):
        search.fit(IMAGES, LABELS)
    scores, ranks = search.cv_results_["mean_test_score"], search.cv_results_["rank_test_score"]
    has_failed = np.array([tried["model.optimizer.lr"] == 1e38 for tried in search.cv_results_["params"]])
    assert np.isnan(scores[has_failed]).all()
    assert (scores[~has_failed] > 0.5).all()
    assert min(ranks[has_failed]) > max(ranks[~has_failed])
    assert search.best_params_["model.optimizer.lr"] == 1e-2
    assert search.best_estimator_.score(IMAGES, LABELS) > 0.7
    (text,) = {str(entry.message) for entry in warned if issubclass(entry.category, FitFailedWarning)}
    assert "6 fits failed out of a total of 12" in text
    for dropout in (0.0, 0.2):
        named = (
            r"TrainingDiverged: The training diverged \(loss nan in epoch 1, batch \d+ .*\n"
            rf"This was the fit of VisionClassifier\(.*model.optimizer.lr=1e\+38, .*model.dropout={dropout}\)"
        )
        assert re.search(named, text), text
    assert capsys.readouterr() == ("", "")
    assert [path for path in place.rglob("*") if path.is_file()] == []


def test_a_search_in_which_all_candidates_fail_has_no_result(place):
    search = GridSearchCV(VisionClassifier(max_epochs=1), {"model.dropout": [2.0, 3.0]}, cv=2)
    with pytest.raises(ValueError, match=r"All the 4 fits failed[\s\S]*model\.dropout=3\.0\)"):
        search.fit(IMAGES, LABELS)
    assert not hasattr(search, "best_params_")


def test_a_name_that_is_no_parameter_ends_a_search_at_once():
    with pytest.raises(ValueError, match="Invalid parameter 'max_epoch' for estimator VisionClassifier"):
        GridSearchCV(VisionClassifier(), {"max_epoch": [1, 2]}, cv=2).fit(IMAGES, LABELS)


def test_a_diverged_run_is_no_fit(place):
    estimator = VisionClassifier(max_epochs=2, options={**SMALL, "model.optimizer.lr": 1e38})
    with pytest.raises(TrainingDiverged, match=r"diverged \(loss .* in epoch 1, batch \d+ \(step \d+\)\), so that"):
        estimator.fit(IMAGES, LABELS)
    with pytest.raises(NotFittedError):
        estimator.predict(IMAGES)
    fitted = VisionClassifier(max_epochs=1, options=SMALL).fit(IMAGES, LABELS)
    with pytest.raises(TrainingDiverged):
        fitted.set_params(**{"model.optimizer.lr": 1e38}).fit(IMAGES, LABELS)
    with pytest.raises(NotFittedError):
        fitted.predict(IMAGES)


class Interrupted(MLP):
    """Gets Ctrl+C in its training."""

    from_command_line = False  # other tests list the models there are

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        if self.trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_ends_a_search_instead_of_one_candidate(place):
    search = GridSearchCV(VisionClassifier(Interrupted, max_epochs=3, options=SMALL), {"seed": [0, 1]}, cv=2)
    with pytest.raises(KeyboardInterrupt):
        search.fit(IMAGES, LABELS)
    assert list((place / "temporary").iterdir()) == []


@pytest.mark.parametrize("val_size", [0, 60])
def test_weights_are_those_of_visionbench_fit_on_the_same_arrays(place, val_size):
    options = {"model.widths": [16], "model.dropout": 0.3, "objective.metric": "val/acc"}
    estimator = VisionClassifier("MLP", max_epochs=3, batch_size=32, val_size=val_size, seed=7, options=options)
    estimator.fit(IMAGES, LABELS)
    data = visionbench.Arrays(IMAGES, LABELS, batch_size=32, val_size=val_size, test_size=0)
    result = visionbench.fit("MLP", data, seed=7, max_epochs=3, threads=1, **options)
    assert estimator.weights_digest_ == result.weights_digest
    assert estimator.metrics_ == result.metrics
    assert estimator.best_epoch_ == result.best_epoch
    assert (estimator.n_iter_, estimator.run_dir_) == (3, None)
    probabilities, names = visionbench.open_run(result.folder).predict(IMAGES)
    assert np.array_equal(estimator.predict_proba(IMAGES), np.concatenate([probabilities]))
    assert estimator.predict(IMAGES).astype(str).tolist() == names


def test_probabilities_are_those_that_chose_the_epoch(place):
    data = visionbench.Arrays(IMAGES, LABELS, val_size=60, test_size=0)
    data.setup()
    estimator = VisionClassifier("CNN", max_epochs=2, val_size=60, options={"model.dense": 8}).fit(IMAGES, LABELS)
    correct = estimator.predict(IMAGES[data.val_index]) == LABELS[data.val_index]
    assert correct.mean() == estimator.metrics_["val/acc"]


def test_predictions_take_the_threads_of_the_rule_or_those_asked_for(place):
    before = torch.get_num_threads()
    for threads, expected in ((0, 1), (2, 2)):
        estimator = VisionClassifier(max_epochs=1, threads=threads, options=SMALL).fit(ROWS, LABELS)
        seen = []
        estimator.model_.register_forward_hook(lambda *_, seen=seen: seen.append(torch.get_num_threads()))
        torch.set_num_threads(3)
        try:
            estimator.predict(ROWS[:2])
            assert torch.get_num_threads() == 3
        finally:
            torch.set_num_threads(before)
        assert seen == [expected]


def test_rows_are_standardized_on_the_rows_that_are_trained_on():
    scaled = ROWS * np.linspace(1e-3, 1e6, ROWS.shape[1]) - 1e5
    plain = VisionClassifier(max_epochs=2, val_size=50, options=SMALL).fit(ROWS, LABELS)
    other = VisionClassifier(max_epochs=2, val_size=50, options=SMALL).fit(scaled, LABELS)
    assert plain.metrics_["val/acc"] == other.metrics_["val/acc"] > 0.5
    assert np.array_equal(plain.predict(ROWS), other.predict(scaled))
    unscaled = VisionClassifier(max_epochs=2, val_size=50, options={**SMALL, "data.scaling": "none"})
    assert unscaled.fit(ROWS, LABELS).weights_digest_ != plain.weights_digest_


def test_pipelines_take_options_of_their_classifier(place):
    pipeline = make_pipeline(StandardScaler(), VisionClassifier(max_epochs=3, options=SMALL))
    search = GridSearchCV(pipeline, {"visionclassifier__model.widths": [[2], [32]]}, cv=2).fit(ROWS, LABELS)
    assert search.best_params_ == {"visionclassifier__model.widths": [32]}
    assert search.best_estimator_[-1].model_.network.hidden[0][0].out_features == 32
    assert search.best_score_ > 0.7


def test_labels_may_be_strings_in_any_order():
    words = np.array(["zero", "one", "two"])[LABELS % 3]
    estimator = VisionClassifier(max_epochs=5, options=SMALL).fit(IMAGES, words)
    assert estimator.classes_.tolist() == ["one", "two", "zero"]
    assert estimator.score(IMAGES, words) > 0.7
    probabilities = estimator.predict_proba(IMAGES[:5])
    assert (estimator.classes_[probabilities.argmax(axis=1)] == estimator.predict(IMAGES[:5])).all()


def test_a_clone_has_the_options_and_none_of_what_was_learnt():
    augment = [RandomCrop(padding=1)]
    estimator = VisionClassifier("CNN", seed=3, options={"model.dense": 8, "data.augment": augment})
    copied = clone(estimator.set_params(**{"model.dense": 4, "max_epochs": 2}))
    assert copied.get_params()["model.dense"] == 4
    assert copied.get_params(deep=False).keys() == estimator.get_params(deep=False).keys()
    assert (copied.seed, copied.max_epochs, len(copied.options["data.augment"])) == (3, 2, 1)
    assert repr(VisionClassifier("CNN", options={"model.dense": 4})) == (
        "VisionClassifier(model='CNN', options={'model.dense': 4})"
    )
    with pytest.raises(NotFittedError):
        copied.predict(IMAGES)


def test_setting_an_option_leaves_the_callers_mapping_alone():
    options = {"model.dropout": 0.1}
    VisionClassifier(options=options).set_params(**{"model.dropout": 0.5, "metrics": ["macro_f1"]})
    assert options == {"model.dropout": 0.1}


def test_a_pickle_predicts_the_same(place):
    for estimator, samples in ((VisionClassifier("CNN", max_epochs=1), IMAGES), (VisionClassifier(max_epochs=1), ROWS)):
        estimator.fit(samples, LABELS)
        copied = pickle.loads(pickle.dumps(estimator))
        assert np.array_equal(copied.predict_proba(samples), estimator.predict_proba(samples))
        assert copied.weights_digest_ == estimator.weights_digest_


@pytest.mark.slow
def test_a_pickle_predicts_the_same_in_another_process(place):
    estimator = VisionClassifier("CNN", max_epochs=1, options={"model.dense": 8}).fit(IMAGES, LABELS)
    Path("fitted.pickle").write_bytes(pickle.dumps((estimator, IMAGES)))
    script = (
        "import pickle, sys; e, x = pickle.load(open('fitted.pickle', 'rb')); "
        "sys.stdout.buffer.write(e.predict_proba(x).tobytes())"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert printed.stdout == estimator.predict_proba(IMAGES).tobytes()
    assert printed.stderr == b""


@pytest.mark.slow
def test_two_jobs_give_the_scores_of_one(place):
    estimator = VisionClassifier("CNN", max_epochs=1, options={"model.dense": 8})
    alone = cross_val_score(estimator, IMAGES, LABELS, cv=3)
    assert cross_val_score(estimator, IMAGES, LABELS, cv=3, n_jobs=2).tolist() == alone.tolist()


@pytest.mark.filterwarnings("ignore:Total length of")  # scikit-learn sets the filters of a thread in all of them
def test_two_threads_give_the_scores_of_one(place):
    estimator = VisionClassifier(max_epochs=1, options=SMALL)
    alone = cross_val_score(estimator, IMAGES, LABELS, cv=3)
    with joblib.parallel_config("threading", n_jobs=2):
        assert cross_val_score(estimator, IMAGES, LABELS, cv=3).tolist() == alone.tolist()


def test_run_folders_are_kept_where_they_are_asked_for(place):
    estimator = VisionClassifier(max_epochs=1, run_dir="kept", options=SMALL).fit(IMAGES, LABELS)
    assert estimator.run_dir_ == "kept"
    assert RunFolder(Path("kept")).metadata["weights_digest"] == estimator.weights_digest_
    with pytest.raises(ValueError, match="run_dir is kept, which is there already"):
        estimator.fit(IMAGES, LABELS)
    cross_val_score(VisionClassifier(max_epochs=1, log_dir="logs", options={**SMALL, "name": "cv"}), ROWS, LABELS, cv=2)
    assert [RunFolder(Path(f"logs/cv/version_{n}")).status for n in (0, 1)] == ["finished", "finished"]


REFUSED = {
    "model.dropuot": (0.5, "There is no option --model.dropuot; did you mean --model.dropout?"),
    "data.augmentt": ([], r"There is no option data\.augmentt for images; did you mean data\.augment\?"),
    "data.folds": (3, "VisionClassifier has no data.folds, since it tests nothing"),
    "data.images": (3, "There is no option data.images for images"),
    "trainer.max_epochs": (3, "trainer.max_epochs is the parameter max_epochs of VisionClassifier"),
    "resume": ("auto", "VisionClassifier has no option resume, expected a dotted name"),
    "trainer.fast_dev_run": (True, "trainer.fast_dev_run is set so that no weights are kept"),
    "trainer.enable_checkpointing": (False, "trainer.enable_checkpointing is set so that no weights are kept"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_cannot_be_are_refused_in_a_sentence(place, name):
    value, sentence = REFUSED[name]
    with pytest.raises(EstimatorError, match=sentence) as refusal:
        VisionClassifier(max_epochs=1, options={name: value}).fit(IMAGES, LABELS)
    assert isinstance(refusal.value, UserError | ValueError)
    assert "\n" not in str(refusal.value)


def test_samples_that_cannot_be_are_refused_in_a_sentence():
    for samples, sentence in (
        (DIGITS.images[:300], "X is float64 of shape \\(300, 8, 8\\), expected images as uint8"),
        (np.zeros((300, 8, 8, 2), np.uint8), "expected 1 channel \\(gray\\) or 3 channels"),
        (ROWS * 1e300, "which cannot be standardized"),
    ):
        with pytest.raises(ValueError, match=sentence):
            VisionClassifier(max_epochs=1).fit(samples, LABELS)
    with pytest.raises(ValueError, match="CNN takes images, but the data set has rows of 64 features"):
        VisionClassifier("CNN", max_epochs=1).fit(ROWS, LABELS)
    with pytest.raises(ValueError, match="y has 1 class, expected 2 or more"):
        VisionClassifier(max_epochs=1).fit(IMAGES, np.zeros(300))
    with pytest.raises(ValueError, match=r"model is of type MLP.*expected the name of a model"):
        VisionClassifier(MLP(10, (1, 8, 8), widths=[8])).fit(IMAGES, LABELS)


def test_other_images_than_those_of_fit_are_refused():
    estimator = VisionClassifier(max_epochs=1, options=SMALL).fit(IMAGES, LABELS)
    assert estimator.n_features_in_ == 64
    with pytest.raises(ValueError, match=r"height, width and channels \(7, 8, 1\).* was fitted on \(8, 8, 1\)"):
        estimator.predict(IMAGES[:, 1:])


def test_the_example_of_the_docs_runs(place, capsys):
    text = (Path(__file__).parents[1] / "docs/estimator.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "docs/estimator.md", "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    assert names["search"].best_params_["model.dense"] in (16, 32)
    assert lines[0].startswith("{'model.dense'")

import math
import pickle
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from visionbench.errors import RunFailed, UserError
from visionbench.evaluation.measures import reliability
from visionbench.evaluation.metrics import METRICS, Evaluator, expand, mode_of, resolve
from visionbench.evaluation.predictions import Predictions

pytestmark = pytest.mark.fast

NAMES = {2: ["cat", "dog"], 3: ["cat", "dog", "T-shirt/top"], 10: [str(digit) for digit in range(10)]}


def names_for(num_classes):
    return [name for name, spec in METRICS.items() if spec.num_classes in (None, num_classes)] + ["per_class_f1"]


def split(num_classes, seed, samples=500, absent=(), unpredicted=(), ties=True):
    """Labels, predicted classes and probabilities in single precision, with skewed classes."""
    generator = torch.Generator().manual_seed(seed)
    shares = 0.5 ** torch.arange(num_classes)
    shares[list(absent)] = 0
    labels = torch.multinomial(shares, samples, replacement=True, generator=generator)
    logits = torch.randn(samples, num_classes, generator=generator) + 1.5 * torch.eye(num_classes)[labels]
    if ties:
        logits = (logits * 4).round() / 4
    logits[:, list(unpredicted)] = -9.0
    probabilities = logits.softmax(dim=1)
    return labels, probabilities.argmax(dim=1), probabilities


def by_scikit_learn(labels, predicted, probabilities, class_names):
    labels, predicted, probabilities = labels.numpy(), predicted.numpy(), probabilities.double().numpy()
    every = range(len(class_names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes without samples
        expected = {
            "acc": sklearn_metrics.accuracy_score(labels, predicted),
            "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, predicted),
            "macro_f1": sklearn_metrics.f1_score(labels, predicted, average="macro"),
            "cohen_kappa": sklearn_metrics.cohen_kappa_score(labels, predicted),
            "log_loss": sklearn_metrics.log_loss(labels, probabilities, labels=every),
            "calibration_error": by_calibration_curve(labels == predicted, probabilities.max(axis=1)),
        }
        if len(class_names) == 2:
            expected["auc"] = sklearn_metrics.roc_auc_score(labels, probabilities[:, 1])
        scores = sklearn_metrics.f1_score(labels, predicted, average=None, labels=every)
    return expected | {f"f1_{name}": score for name, score in zip(class_names, scores, strict=True)}


def by_calibration_curve(correct, confidence):
    accuracy, mean_confidence = calibration_curve(correct, confidence, n_bins=15)
    # The same bins once more, for the number of samples in each.
    places = np.searchsorted(np.linspace(0, 1, 16)[1:-1], confidence)
    count = np.bincount(places, minlength=15)
    return (count[count > 0] * np.abs(accuracy - mean_confidence)).sum() / len(confidence)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("num_classes", "absent", "unpredicted"),
    [
        (2, (), ()),
        (2, (), (1,)),
        (3, (), ()),
        (3, (1,), ()),  # predicted, but never a label
        (3, (), (1,)),  # a label, but never predicted
        (3, (2,), (2,)),  # neither
        (10, (), ()),
        (10, (0, 3, 9), (3, 4, 9)),
    ],
)
def test_values_are_those_of_scikit_learn(num_classes, absent, unpredicted, seed):
    data = split(num_classes, seed, absent=absent, unpredicted=unpredicted)
    values = Evaluator(names_for(num_classes), NAMES[num_classes]).compute(*data)
    expected = by_scikit_learn(*data, NAMES[num_classes])
    assert values.keys() == expected.keys()
    assert all(type(value) is float for value in values.values())
    for name, value in values.items():
        assert value == pytest.approx(expected[name], rel=1e-12, abs=1e-14, nan_ok=True), name
    assert values["acc"] == int((data[0] == data[1]).sum()) / 500  # the number that training logs, to the last bit


def test_cases_cover_what_torchmetrics_defines_differently():
    from torchmetrics.functional.classification import multiclass_accuracy

    labels, predicted, _ = split(3, 0, absent=(1,))
    value = Evaluator(["balanced_accuracy"], NAMES[3]).compute(labels, predicted)["balanced_accuracy"]
    assert abs(value - float(multiclass_accuracy(predicted, labels, 3, average="macro"))) > 0.1


def test_torchmetrics_agrees_in_single_precision_where_it_has_the_same_definition():
    from torchmetrics.functional import classification

    labels, predicted, probabilities = split(2, 1)
    values = Evaluator(["macro_f1", "cohen_kappa", "auc", "calibration_error"], NAMES[2]).compute(
        labels, predicted, probabilities
    )
    assert values["macro_f1"] == pytest.approx(
        float(classification.multiclass_f1_score(predicted, labels, 2)), abs=1e-6
    )
    kappa = float(classification.multiclass_cohen_kappa(predicted, labels, 2))
    assert values["cohen_kappa"] == pytest.approx(kappa, abs=1e-6)
    assert values["auc"] == pytest.approx(float(classification.binary_auroc(probabilities[:, 1], labels)), abs=1e-6)
    error = float(classification.multiclass_calibration_error(probabilities, labels, 2))
    assert values["calibration_error"] == pytest.approx(error, abs=1e-6)


def test_calibration_error_is_that_of_the_report_page():
    labels, predicted, probabilities = split(3, 5)
    predictions = Predictions("val", probabilities.numpy(), predicted.numpy(), labels.numpy(), [])
    value = Evaluator(["calibration_error"], NAMES[3]).compute(labels, predicted, probabilities)["calibration_error"]
    assert value == pytest.approx(reliability(predictions)[1], rel=1e-12)


def test_calibration_bin_holds_its_upper_edge():
    labels, predicted = torch.tensor([0, 1]), torch.tensor([0, 0])
    probabilities = torch.tensor([[0.6, 0.4], [0.65, 0.35]], dtype=torch.float64)  # bins 9 and 10
    value = Evaluator(["calibration_error"], NAMES[2]).compute(labels, predicted, probabilities)["calibration_error"]
    assert value == pytest.approx((0.4 + 0.65) / 2)  # one bin for both would give 0.125


def test_calibration_uses_the_confidence_of_the_predicted_class():
    labels, predicted = torch.tensor([1]), torch.tensor([1])
    value = Evaluator(["calibration_error"], NAMES[2]).compute(labels, predicted, torch.tensor([[0.75, 0.25]]))
    assert value == {"calibration_error": 0.75}


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_order_of_samples_changes_no_bit(num_classes):
    labels, predicted, probabilities = split(num_classes, 7)
    evaluator = Evaluator(names_for(num_classes), NAMES[num_classes])
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    shuffled = evaluator.compute(labels[order], predicted[order], probabilities[order])
    assert shuffled == evaluator.compute(labels, predicted, probabilities)


def test_one_class_alone():
    labels = torch.zeros(4, dtype=torch.int64)
    probabilities = torch.tensor([[0.9, 0.1]]).repeat(4, 1)
    values = Evaluator(names_for(2), NAMES[2]).compute(labels, labels, probabilities)
    assert math.isnan(values.pop("auc"))
    assert math.isnan(values.pop("cohen_kappa"))
    loss, error = values.pop("log_loss"), values.pop("calibration_error")
    assert (loss, error) == pytest.approx((-math.log(0.9), 0.1))
    expected = {"acc": 1.0, "balanced_accuracy": 1.0, "macro_f1": 1.0, "f1_cat": 1.0, "f1_dog": 0.0}
    assert values | expected == values  # what one class means is known of these; a new metric may have another rule


@pytest.mark.parametrize(("predicted", "score", "kappa"), [(1, 1.0, math.nan), (0, 0.0, 0.0)])
def test_one_sample(predicted, score, kappa):
    data = torch.tensor([1]), torch.tensor([predicted]), torch.tensor([[0.5, 0.5]])
    values = Evaluator(names_for(2), NAMES[2]).compute(*data)
    assert [values[name] for name in ("acc", "balanced_accuracy", "macro_f1", "f1_dog")] == [score] * 4
    assert values["cohen_kappa"] == pytest.approx(kappa, nan_ok=True)
    assert math.isnan(values["auc"])
    assert (values["log_loss"], values["calibration_error"]) == pytest.approx((math.log(2), 0.5))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_probability_that_is_no_number(bad, my_metrics):
    labels, predicted, probabilities = split(2, 3)
    probabilities[17, 0] = bad
    values = Evaluator([*names_for(2), "my_metrics.Share"], NAMES[2]).compute(labels, predicted, probabilities)
    not_a_number = {name for name, value in values.items() if math.isnan(value)}
    assert not_a_number == {"auc", "log_loss", "calibration_error", "my_metrics.Share"}


def test_probability_of_zero_costs_36():
    value = Evaluator(["log_loss"], NAMES[2]).compute(torch.tensor([0]), torch.tensor([1]), torch.tensor([[0.0, 1.0]]))
    assert value["log_loss"] == pytest.approx(36.0437, abs=1e-4)


def test_rounding_error_of_a_probability_is_no_logit():
    data = torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([[1.0000001, -1e-7], [0.0, 1.0]])
    values = Evaluator(["calibration_error", "log_loss"], NAMES[2]).compute(*data)
    assert values == pytest.approx({"calibration_error": 0.0, "log_loss": 0.0}, abs=1e-12)
    assert float(data[2].max()) > 1  # what the caller passed is not changed


def test_probabilities_may_be_left_out():
    labels, predicted, _ = split(3, 2)
    evaluator = Evaluator(["acc", "per_class_f1"], NAMES[3])
    assert not evaluator.needs_probabilities
    assert list(evaluator.compute(labels, predicted)) == ["acc", "f1_cat", "f1_dog", "f1_T-shirt/top"]
    evaluator = Evaluator(["acc", "log_loss"], NAMES[3])
    assert evaluator.needs_probabilities
    with pytest.raises(ValueError, match="none were passed"):
        evaluator.compute(labels, predicted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.zeros(0, dtype=torch.int64)}, "no samples"),
        ({"labels": torch.tensor([0, 2])}, "go from 0 to 2, expected 0 to 1"),
        ({"predicted": torch.tensor([-1, 1])}, "go from -1 to 1, expected 0 to 1"),
        ({"predicted": torch.tensor([0.0, 1.0])}, "expected integers"),
        ({"predicted": torch.tensor([0])}, r"shape \(2,\)"),
        ({"probabilities": torch.ones(2, 3)}, r"expected \(2, 2\)"),
        ({"probabilities": torch.tensor([[-3.0, 2.0], [0.0, 1.0]])}, "pass probabilities, not logits"),
    ],
)
def test_inputs_that_are_refused(changes, message):
    inputs = {
        "labels": torch.tensor([0, 1]),
        "predicted": torch.tensor([0, 1]),
        "probabilities": torch.tensor([[0.5, 0.5], [0.5, 0.5]]),
    }
    evaluator = Evaluator(names_for(2), NAMES[2])
    evaluator.compute(**inputs)
    with pytest.raises(ValueError, match=message):
        evaluator.compute(**(inputs | changes))


def test_modes():
    modes = {name: mode_of(name) for name in METRICS}
    assert {name for name, mode in modes.items() if mode == "min"} == {"log_loss", "calibration_error"}
    assert set(modes.values()) == {"min", "max"}
    assert mode_of("f1_any class") == mode_of("f1_dog", NAMES[2]) == "max"
    assert Evaluator(["acc", "log_loss"], NAMES[2]).modes == {"acc": "max", "log_loss": "min"}
    with pytest.raises(UserError, match=r"no metric 'f1_dgo'; did you mean f1_dog\?"):
        mode_of("f1_dgo", NAMES[2])


def test_rows_of_the_registry():
    for name, spec in METRICS.items():
        assert spec.name == name
        assert spec.summary
        assert not set(spec.other_names) & set(METRICS)


def test_names_are_expanded_once():
    assert expand(["acc", "f1_dog", "per_class_f1", "acc"], NAMES[2]) == ["acc", "f1_dog", "f1_cat"]


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("accuracy", "acc"),
        ("Macro-F1", "macro_f1"),
        ("f1", "macro_f1"),
        ("ballanced_accuracy", "balanced_accuracy"),
        ("auroc", "auc"),
        ("ECE", "calibration_error"),
        ("nll", "log_loss"),
        ("f1_tshirt/top", "f1_T-shirt/top"),
        ("f1_t-shirt/top", "f1_T-shirt/top"),
        ("per_clas_f1", "per_class_f1"),
    ],
)
def test_unknown_name_gets_a_suggestion(name, suggestion):
    with pytest.raises(UserError, match=f"There is no metric '{name}'; did you mean {suggestion}\\?"):
        resolve(name, NAMES[3])


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError) as caught:
        resolve("zzz", NAMES[3])
    assert "did you mean" not in str(caught.value)
    assert all(name in str(caught.value) for name in METRICS)


def test_numbers_of_classes():
    with pytest.raises(UserError, match="auc is defined for 2 classes, but the data set has 3 classes; remove auc"):
        resolve("auc", NAMES[3])
    assert resolve("auc", NAMES[2]).source == "probabilities"
    assert resolve("macro_f1", NAMES[3]).source == "confusion matrix"


def test_group_of_metrics_is_no_metric():
    with pytest.raises(UserError, match="one metric for each class; name one of them, such as f1_cat"):
        mode_of("per_class_f1", NAMES[2])


@pytest.fixture
def my_metrics(tmp_path, monkeypatch):
    (tmp_path / "my_metrics.py").write_text(
        textwrap.dedent("""
        import torch
        from torchmetrics import Metric
        from torchmetrics.classification import MulticlassAccuracy

        class Share(Metric):
            higher_is_better = False

            def __init__(self):
                def gather(*args, **kwargs):
                    raise AssertionError("gathered again")
                # As if there were other processes.
                super().__init__(dist_sync_fn=gather, distributed_available_fn=lambda: True)
                self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
                self.count = 0  # no state: reset() would leave it
                self.inner = MulticlassAccuracy(num_classes=2, distributed_available_fn=lambda: True)

            def update(self, probabilities, labels):
                self.total += probabilities[:, 1].sum()
                self.count += len(labels)

            def compute(self):
                assert self.total.dtype == torch.float64
                return self.total / self.count

        class Top3(MulticlassAccuracy):
            def __init__(self, num_classes):
                super().__init__(num_classes, top_k=3, average="micro")

        class NoMode(Share):
            higher_is_better = None

        class PerClass(MulticlassAccuracy):
            def __init__(self, num_classes):
                super().__init__(num_classes, average=None)

        class Fails(Share):
            def update(self, probabilities, labels):
                raise RuntimeError("the shapes differ")

        class FailsLater(Share):
            def update(self, probabilities, labels):
                if len(labels) > 5:
                    raise RuntimeError("too many samples")
                super().update(probabilities, labels)

        class Needy(Share):
            def __init__(self, beta, num_classes, gamma=1):
                super().__init__()

        class Broken(Share):
            def __init__(self):
                raise ValueError("no such file")

        not_a_metric = 3
        """)
    )
    (tmp_path / "broken_module.py").write_text("import no_such_package_for_sure\n")
    (tmp_path / "failing_module.py").write_text("raise ValueError('bad table')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("my_metrics", "broken_module", "failing_module"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("my_metrics")
def test_metrics_of_the_user():
    labels, predicted, probabilities = split(10, 4, ties=False)
    names = ["my_metrics.Share", "my_metrics.Top3", "torchmetrics.classification.MulticlassMatthewsCorrCoef"]
    evaluator = Evaluator(["acc", *names], NAMES[10])
    assert list(evaluator.modes.values()) == ["max", "min", "max", "max"]
    assert evaluator.modes == {name: mode_of(name) for name in ["acc", *names]}
    values = evaluator.compute(labels, predicted, probabilities)
    assert values["my_metrics.Share"] == pytest.approx(float(probabilities[:, 1].double().mean()), rel=1e-12)
    top3 = sklearn_metrics.top_k_accuracy_score(labels, probabilities, k=3, labels=range(10))
    assert values["my_metrics.Top3"] == pytest.approx(top3, abs=1e-7)
    assert values[names[2]] == pytest.approx(sklearn_metrics.matthews_corrcoef(labels, predicted), abs=1e-6)
    # Nothing is left of an earlier epoch.
    half = Evaluator(names, NAMES[10]).compute(labels[:250], predicted[:250], probabilities[:250])
    later = evaluator.compute(labels[:250], predicted[:250], probabilities[:250])
    assert {name: later[name] for name in names} == half


@pytest.mark.usefixtures("my_metrics")
def test_evaluator_can_be_sent_to_another_process():
    data = split(10, 4)
    evaluator = Evaluator(["acc", "f1_3", "my_metrics.Top3"], NAMES[10])
    assert pickle.loads(pickle.dumps(evaluator)).compute(*data) == evaluator.compute(*data)


@pytest.mark.usefixtures("my_metrics")
def test_class_named_like_a_path():
    assert resolve("f1_my_metrics.Share", ["my_metrics.Share", "b"]).source == "confusion matrix"


@pytest.mark.usefixtures("my_metrics")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_metric.Top3", "cannot be imported: there is no module my_metric; check the path"),
        ("torchmetrics.no_part.Top3", "there is no module torchmetrics.no_part;"),
        (
            "broken_module.A",
            "broken_module failed with ModuleNotFoundError: No module named 'no_such_package_for_sure'",
        ),
        ("failing_module.A", "failing_module failed with ValueError: bad table."),
        ("my_metrics.Top4", r"my_metrics has no class Top4; did you mean my_metrics.Top3\?"),
        ("my_metrics.not_a_metric", "my_metrics.not_a_metric is no torchmetrics.Metric class"),
        ("builtins.dict", "builtins.dict is no torchmetrics.Metric class"),
        ("my_metrics.NoMode", "its higher_is_better is None; set higher_is_better to True or False"),
        ("my_metrics.Needy", r"needs 1 argument \(beta\), but a metric may need num_classes alone"),
        ("my_metrics.PerClass", r"gives a tensor of shape \(3,\), expected one number"),
        ("my_metrics.Fails", "cannot be computed for 3 classes: RuntimeError: the shapes differ."),
        ("my_metrics.Broken", "cannot be computed for 3 classes: ValueError: no such file."),
        ("torchmetrics.classification.BinaryAUROC", "cannot be computed for 3 classes: "),
    ],
)
def test_metrics_of_the_user_that_are_refused(name, message):
    with pytest.raises(UserError, match=message) as caught:
        Evaluator([name], NAMES[3])
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("my_metrics")
def test_mode_of_a_metric_without_mode_is_refused():
    with pytest.raises(UserError, match="does not state whether large values are good"):
        mode_of("my_metrics.NoMode")


@pytest.mark.usefixtures("my_metrics")
def test_metric_of_the_user_that_fails_in_a_run():
    evaluator = Evaluator(["my_metrics.FailsLater"], NAMES[2])
    with pytest.raises(RunFailed, match="FailsLater failed on 500 samples: RuntimeError: too many samples"):
        evaluator.compute(*split(2, 0))


def test_import_is_light():
    heavy = "{'torch', 'torchmetrics', 'sklearn'} & set(sys.modules)"
    code = f"import sys, visionbench.evaluation.metrics; sys.exit(bool({heavy}))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_page_has_the_rows_of_the_registry():
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    for name, spec in METRICS.items():
        assert f"| `{name}` | {spec.mode} | {spec.source} | {spec.summary}" in page

"""What the report measures: golden values, the theorems of CKA, second implementations."""

import numpy as np
import pytest
import sklearn.decomposition
import sklearn.metrics
import torch
from conftest import GOLDEN, draw, rotation

import cka
from analysis.report_measures import RELATIONS, Centroids, Comparison, restoration, view
from tasks.glue import get_task

RTE, STSB = get_task("RTE"), get_task("STS-B")
MAPS = [(between, estimator) for between in ("tokens", "samples") for estimator in cka.ESTIMATORS]


def seen(h, mask=None):
    """A View whose penultimate features are h, between others."""
    return view(torch.zeros(len(h), 2), [h + 1, h, h.square()], mask)


def compared(h_s, h_t, mask=None):
    comparison = Comparison()
    comparison.add(seen(h_s, mask), seen(h_t, mask))
    return comparison


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_values(case):
    h_s, h_t = (torch.tensor(case["inputs"][name], dtype=torch.float64) for name in "st")
    found, expected = compared(h_s, h_t), case["expected"]
    for name, value in found.relation_differences().items():
        assert expected[name] is None or value == pytest.approx(expected[name], abs=1e-10)
    assert found.diagonal("biased") == pytest.approx(expected["cka_local"], abs=1e-10)
    assert found.layer_map("tokens", "biased")[-2, -2] == pytest.approx(
        np.mean(expected["cka_intra"]), abs=1e-10
    )
    assert found.layer_map("samples", "biased")[-2, -2] == found.diagonal("biased")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1, 300])
def test_a_model_beside_itself_is_exactly_one_and_zero(dtype, scale):
    itself = Comparison()
    for seed in range(3):
        h = view(
            torch.zeros(6, 2),
            [scale * draw(10 * seed + k, 6, 5, 7).to(dtype) for k in range(4)],
        )
        itself.add(h, h)
    for estimator in cka.ESTIMATORS:
        assert itself.diagonal(estimator) == 1
        assert (np.diag(itself.heat_map(estimator, itself)) == 1).all()
    for between, estimator in MAPS:
        assert (np.diag(itself.layer_map(between, estimator)) == 1).all()
    assert itself.relation_differences() == dict.fromkeys(RELATIONS, 0)


@pytest.mark.parametrize("seed", range(3))
def test_a_rotated_and_scaled_copy_has_cka_one_and_relation_differences(seed):
    h_t = draw(seed, 8, 5, 6)
    turn = rotation(6, seed + 10)
    copy = compared(2 * h_t @ turn, h_t)
    assert all(copy.layer_map(*key)[1, 1] == pytest.approx(1, abs=1e-12) for key in MAPS)
    differences = copy.relation_differences()
    assert all(differences[name] > 0.1 for name in RELATIONS if "euclidean" in name)
    assert all(
        differences[name] < 1e-12 for name in RELATIONS if "cosine" in name
    )  # angles allow both
    turned = compared(h_t @ turn, h_t).relation_differences()
    assert all(value < 1e-12 for value in turned.values())  # and distances a rotation


def test_heat_map_pixels_are_cka_of_any_two_mini_batches():
    h_s, h_t = (
        [draw(k, 6, 3, 4) for k in range(3)],
        [draw(k + 9, 6, 3, 5) for k in range(3)],
    )
    student, teacher = Comparison(), Comparison()
    for one, other in zip(h_s, h_t, strict=True):
        student.add(seen(one), seen(other))
        teacher.add(seen(other), seen(other))
    for estimator in cka.ESTIMATORS:
        pixels = student.heat_map(estimator, teacher)
        expected = [
            [cka.linear_cka(y.flatten(1), x.flatten(1), estimator=estimator).item() for x in h_s]
            for y in h_t
        ]
        assert pixels == pytest.approx(np.array(expected), abs=1e-12)
        assert student.diagonal(estimator) == pytest.approx(np.diag(expected).mean(), abs=1e-12)


def test_debiased_is_the_unbiased_hsic_of_song():
    def hsic(k, m):
        n = len(k)
        k, m = (x - np.diag(np.diag(x)) for x in (k, m))
        one = np.ones(n)
        return (
            np.trace(k @ m)
            + one @ k @ one * (one @ m @ one) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (one @ k @ m @ one)
        ) / (n * (n - 3))

    h_s, h_t = draw(0, 7, 3, 4).flatten(1).numpy(), draw(1, 7, 3, 5).flatten(1).numpy()
    k, m = h_s @ h_s.T, h_t @ h_t.T
    found = compared(draw(0, 7, 3, 4), draw(1, 7, 3, 5)).diagonal("debiased")
    assert found == pytest.approx(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)), abs=1e-12)


def test_means_are_over_mini_batches_or_samples_and_a_partial_one_relates_no_samples():
    h_s, h_t = draw(0, 10, 4, 3), draw(1, 10, 4, 5)
    both = Comparison()
    both.add(seen(h_s[:6]), seen(h_t[:6]))
    both.add(seen(h_s[6:]), seen(h_t[6:]), whole=False)
    first, rest = compared(h_s[:6], h_t[:6]), compared(h_s[6:], h_t[6:])
    for estimator in cka.ESTIMATORS:
        assert both.diagonal(estimator) == first.diagonal(estimator)
        assert (both.layer_map("samples", estimator) == first.layer_map("samples", estimator)).all()
        tokens = (
            6 * first.layer_map("tokens", estimator) + 4 * rest.layer_map("tokens", estimator)
        ) / 10
        assert both.layer_map("tokens", estimator) == pytest.approx(tokens, abs=1e-12)
    found, one, other = (c.relation_differences() for c in (both, first, rest))
    for name in RELATIONS:
        expected = one[name] if "inter" in name else 0.6 * one[name] + 0.4 * other[name]
        assert found[name] == pytest.approx(expected, abs=1e-12)
    assert both.outputs().shape == (10, 2)


def test_masked_positions_have_no_part():
    h_s, h_t = draw(0, 5, 6, 4), draw(1, 5, 6, 3)
    mask = torch.arange(6) < torch.tensor([6, 5, 4, 4, 6]).unsqueeze(1)
    other = torch.where(mask.unsqueeze(-1), h_s, 50 * draw(2, 5, 6, 4))
    one, same = compared(h_s, h_t, mask), compared(other, h_t, mask)
    assert all((one.layer_map(*key) == same.layer_map(*key)).all() for key in MAPS)
    assert one.relation_differences() == same.relation_differences()
    assert compared(h_s, h_t).relation_differences() != one.relation_differences()


def test_samples_with_too_few_tokens_are_left_out_of_the_debiased_mean():
    h, mask = draw(0, 5, 6, 4), torch.arange(6) < torch.tensor([6, 3, 5, 2, 4]).unsqueeze(1)
    itself = compared(h, h, mask)
    assert (np.diag(itself.layer_map("tokens", "debiased")) == 1).all()
    assert (np.diag(itself.layer_map("tokens", "biased")) == 1).all()
    none = compared(h, h, torch.arange(6).expand(5, 6) < 3)
    assert np.isnan(none.layer_map("tokens", "debiased"))


def test_constant_features_have_cka_zero_not_nan():
    constant = compared(torch.ones(5, 4, 3), draw(0, 5, 4, 3))
    assert constant.is_finite()
    assert constant.diagonal("biased") == 0
    assert np.isfinite(constant.heat_map("debiased", constant)).all()
    assert not compared(torch.full((5, 4, 3), torch.nan), draw(0, 5, 4, 3)).is_finite()


# ---- predictions ---------------------------------------------------------------------------------


def logits(classes):
    return np.eye(2)[classes]


def test_restoration_counts_by_hand():
    #           teacher, student, label
    rows = np.array(
        [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 1, 1), (1, 1, 0), (1, 1, 1), (1, 1, 1), (1, 0, 0)]
    )
    numbers, classes = restoration(logits(rows[:, 1]), logits(rows[:, 0]), rows[:, 2], RTE)
    assert classes[["teacher", "student", "both"]].to_numpy().tolist() == [[3, 3, 2], [5, 5, 4]]
    assert numbers["accuracy"] == 6 / 8
    assert (numbers["wrong"], numbers["loyalty_wrong"]) == (3, 2 / 3)
    rows[7, 1] = 1  # now the student says 0 twice, the teacher three times
    numbers, classes = restoration(logits(rows[:, 1]), logits(rows[:, 0]), rows[:, 2], RTE)
    assert classes.precision.tolist() == pytest.approx([2 / 2, 5 / 6])
    assert classes.recall.tolist() == pytest.approx([2 / 3, 5 / 5])
    assert (numbers["precision"], numbers["recall"]) == pytest.approx((11 / 12, 5 / 6))
    assert numbers["f1"] == pytest.approx(
        sklearn.metrics.f1_score(rows[:, 0], rows[:, 1], average="macro")
    )


def test_restoration_where_the_teacher_is_never_wrong_or_sees_one_class():
    y = np.ones(4, int)
    numbers, classes = restoration(logits(y), logits(y), y, RTE)
    assert np.isnan(numbers["loyalty_wrong"])
    assert (numbers["precision"], numbers["recall"], numbers["f1"]) == (1, 1, 1)
    assert classes.teacher.tolist() == [0, 4]
    assert classes.f1.isna().tolist() == [True, False]


def test_restoration_of_scores():
    labels, t = np.arange(8.0), np.arange(8.0)[:, None] + [[3], [0], [0], [0], [0], [0], [0], [-3]]
    numbers, classes = restoration(2 * t + 1, t, labels, STSB)
    assert classes is None
    assert numbers["pearson"] == pytest.approx(1)
    assert numbers["wrong"] == 2
    s = t.copy()
    s[[0, 7]] = s[[7, 0]]  # only where the teacher errs most
    assert restoration(s, t, labels, STSB)[0]["loyalty_wrong"] == pytest.approx(-1)
    assert np.isnan(restoration(np.ones((8, 1)), t, labels, STSB)[0]["pearson"])


# ---- the global structure ------------------------------------------------------------------------


def test_centroids_beside_scikit_learn():
    m, x = draw(0, 6, 10), draw(1, 9, 10)
    centroids = Centroids(m.float())
    expected = sklearn.metrics.pairwise_distances_argmin(x.numpy(), m.float().numpy())
    assert centroids.nearest(x).tolist() == expected.tolist()
    pca = sklearn.decomposition.PCA(2).fit(m.float().double().numpy())
    assert centroids.points(x).abs().numpy() == pytest.approx(
        np.abs(pca.transform(x.numpy())), abs=1e-9
    )
    assert centroids.plane[2] == pytest.approx(pca.explained_variance_ratio_.sum())


def test_only_students_of_the_memory_width_are_placed():
    m_t, m_s = Centroids(draw(0, 3, 20)), Centroids(draw(0, 3, 12))
    comparison = Comparison(m_t, m_s)
    comparison.add(seen(draw(0, 5, 4, 3)), seen(draw(1, 5, 4, 5)))
    assert not comparison.nearest
    assert len(comparison.clusters(own=True)) == 5
    placed = Comparison(m_t)
    placed.add(seen(draw(0, 5, 4, 5)), seen(draw(1, 5, 4, 5)))
    assert placed.plane().shape == (5, 2)

"""The report's figures for 1, 3 and 10 models, and its page."""

import base64
import io
import re
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT  # noqa: F401 - puts the repository on the path
from matplotlib import cbook
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis import figures_memory, figures_report
from analysis.report_page import Section, page
from training.cluster_picture import picture_of_clusters

NAMES = ("VKD", "FSD_I", "none", "PKD", "RKD", "MiniLM", "Gram", "FSD_L", "FSD_G", "FSD_ILG")
RNG = np.random.default_rng(0)


def table(count, *columns):
    """Two runs a model, a number a column."""
    rows = [
        {"name": name, "run": run} | dict.fromkeys(columns, 0.5 + 0.1 * run)
        for name in NAMES[:count]
        for run in (0, 1)
    ]
    return pd.DataFrame(rows)


def training(count):
    return pd.concat(
        [
            table(count, *figures_report.RELATIONS).assign(step=step, epoch=step / 100)
            for step in (0, 100, 200)
        ]
    )


def layers(count):
    return {
        name: {kind: RNG.uniform(-0.1, 1, (5, 3)) for kind in ("biased", "debiased")}
        for name in NAMES[:count]
    }


def projection(count, label_names=("no", "yes"), samples=30):
    panels = {
        name: {
            "points": RNG.normal(size=(samples, 2)),
            "centroids": np.eye(2) if name == "VKD" else None,
        }
        for name in ("teacher", *NAMES[:count])
    }
    labels = np.arange(samples) % 2 if label_names else np.linspace(0, 5, samples)
    return figures_memory.draw_projection(
        panels, labels, label_names, np.zeros((4, 2)), 0.614, "RTE"
    )


def squares(count):
    return {"teacher": np.eye(4)} | {
        name: np.full((4, 4), 0.1 * k) for k, name in enumerate(NAMES[:count])
    }


DRAWN = {  # what is drawn, and its panels for n models
    "heat_maps": (
        lambda n: figures_report.draw_heat_maps(
            squares(n), "biased", dict.fromkeys(squares(n), 0.5)
        ),
        lambda n: n + 1,
    ),
    "layer_maps": (lambda n: figures_report.draw_layer_maps(layers(n), "tokens"), lambda n: 2 * n),
    "restoration": (
        lambda n: figures_report.draw_restoration(
            table(n, "precision", "recall", "f1", "accuracy")
        ),
        lambda n: 4,
    ),
    "relation_differences": (
        lambda n: figures_report.draw_relation_differences(table(n, *figures_report.RELATIONS)),
        lambda n: 4,
    ),
    "relation_training": (
        lambda n: figures_report.draw_relation_training(training(n)),
        lambda n: 4,
    ),
    "occupancy": (
        lambda n: figures_memory.draw_occupancy({name: np.arange(9) for name in NAMES[:n]}, 36),
        lambda n: 1,
    ),
    "projection": (projection, lambda n: n + 1),
    "cost": (
        lambda n: figures_report.draw_cost(
            pd.DataFrame({"name": NAMES[:n], "training": 0.9, "inference": 1.0}), "VKD"
        ),
        lambda n: 2,
    ),
}


def panels_of(figure):
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 10])
@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_has_its_panels_title_and_axis_names(name, count):
    figure = DRAWN[name][0](count)
    panels = panels_of(figure)
    assert isinstance(figure, Figure) and len(panels) == DRAWN[name][1](count)
    assert figure.get_suptitle() and (len(panels) == 1 or all(axes.get_title() for axes in panels))
    assert figure.get_supxlabel() or any(axes.get_xlabel() for axes in panels)
    assert figure.get_supylabel() or all(axes.get_ylabel() for axes in panels)
    width, height = figure.get_size_inches()
    assert 5 <= width <= 10.5 and height <= 20
    figure.savefig(io.BytesIO(), format="svg")
    texts_drawn = [figure._suptitle, figure._supxlabel, *figure.legends]
    boxes = [text.get_window_extent() for text in texts_drawn if text is not None]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_names_are_drawn_as_they_are_written(name, monkeypatch):
    """Between two $ matplotlib would read a formula, and refuse what is none."""
    monkeypatch.setattr(sys.modules[__name__], "NAMES", ("VKD", "$FSD$ _{", "$", "$$", "a$b\\$"))
    figure = DRAWN[name][0](5)
    figure.savefig(io.BytesIO(), format="svg")
    said = [text.get_text() for text in figure.findobj(Text)]
    # a logarithm's ticks are formulas of matplotlib's own
    assert not any(cbook.is_math_text(text) for text in said if "mathdefault" not in text)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("$", "$$", "_$_{$"), tuple("abcdefghij")])
def test_classes_of_any_name_and_number_are_drawn(words):
    """Also more of them than there are colours."""
    figure = projection(2, words)
    figure.savefig(io.BytesIO(), format="png")
    assert len(texts(figure)) == len(words) + 2
    samples = pd.DataFrame(
        {"label": np.arange(30) % len(words), "x": 0.1, "y": RNG.normal(size=30)}
    )
    figure = picture_of_clusters(samples, np.eye(2), [10, 20], 0.5, words, "prices")
    figure.savefig(io.BytesIO(), format="png")
    counts = samples.label.value_counts()
    shown = [text.replace(r"\$", "$") for text in texts(figure)]
    assert shown[:-1] == [f"{word} ({counts[k]})" for k, word in enumerate(words)]


def test_heat_maps_share_a_scale_and_say_the_diagonals_mean():
    maps = {"teacher": np.eye(3), "FSD_I": np.diag([0.9, 0.6, 0.3]) - 0.2 + 0.2 * np.eye(3)}
    figure = figures_report.draw_heat_maps(maps, "debiased", {"teacher": 1, "FSD_I": 0.6})
    assert {axes.images[0].get_clim() for axes in panels_of(figure)} == {(-0.2, 1.0)}
    assert [axes.get_title() for axes in panels_of(figure)] == [
        "teacher\ndiagonal 1.000",
        "FSD_I\ndiagonal 0.600",
    ]
    assert figure.axes[-1].get_ylabel() == "CKA, debiased"
    assert "teacher" in figure.get_supylabel() and "model" in figure.get_supxlabel()


def test_layer_maps_frame_the_penultimate_pair_and_can_be_read():
    values = np.linspace(-0.05, 1, 15).reshape(5, 3)  # teacher of 4 layers, model of 2
    figure = figures_report.draw_layer_maps(
        {"VKD": {"biased": np.abs(values), "debiased": values}}, "samples"
    )
    biased, debiased = panels_of(figure)
    assert biased.get_title() == "VKD\nbiased" and debiased.get_title() == "VKD\ndebiased"
    assert {axes.images[0].get_clim() for axes in (biased, debiased)} == {(-0.05, 1)}
    assert (
        all(patch.get_xy() == (0.5, 2.5) for patch in debiased.patches)
        and len(debiased.patches) == 2
    )
    assert "penultimate" in texts(figure)[0] and "samples" in figure.get_suptitle()
    numbers = {text.get_position(): text for text in debiased.texts}
    assert numbers[2, 4].get_text() == "1.00" and numbers[2, 4].get_color() == "black"
    assert numbers[0, 0].get_text() == "-0.05" and numbers[0, 0].get_color() == "white"
    large = figures_report.draw_layer_maps(
        {"VKD": {"biased": np.ones((13, 7)), "debiased": np.ones((13, 7))}}, "samples"
    )
    assert not any(axes.texts for axes in large.axes)


def test_a_dot_a_run_and_a_diamond_for_their_mean_in_percent():
    figure = figures_report.draw_restoration(table(2, "pearson", "loyalty_wrong"))
    assert [axes.get_title() for axes in figure.axes] == [
        "Pearson with the teacher",
        "where the teacher is wrong",
    ]
    runs, mean, *_ = figure.axes[0].collections
    assert runs.get_offsets()[:, 0].tolist() == pytest.approx([50, 60])
    assert mean.get_offsets()[0, 0] == pytest.approx(55)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["VKD", "FSD_I"]
    figure = figures_report.draw_relation_differences(table(1, *figures_report.RELATIONS))
    assert figure.axes[0].collections[1].get_offsets()[0, 0] == pytest.approx(0.55)
    assert "lower is closer" in figure.get_suptitle()


def test_training_lines_are_means_over_runs_and_all_differ():
    axes = figures_report.draw_relation_training(training(10)).axes[0]
    means = [line for line in axes.lines if line.get_label() in NAMES]
    assert len(axes.lines) == 3 * 10 and list(means[0].get_ydata()) == pytest.approx([0.55] * 3)
    assert list(means[0].get_xdata()) == [0, 1, 2] and all(line.get_markevery() for line in means)
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in means}
    assert len(looks) == 10 and len({line.get_marker() for line in means}) == 10
    single = training(1).query("run == 0")
    assert len(figures_report.draw_relation_training(single).axes[0].lines) == 1


def test_occupancy_has_the_centroids_in_the_order_of_the_teacher():
    figure = figures_memory.draw_occupancy(
        {"teacher": np.array([0, 5, 0, 7]), "VKD": np.array([9, 0, 2, 1])}, 12
    )
    axes = figure.axes[0]
    assert axes.images[0].get_array().tolist() == [[7, 5, None, None], [1, None, 9, 2]]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "teacher, 2 in use",
        "VKD, 3 in use",
    ]
    assert "12 samples" in figure.get_suptitle() and "teacher" in axes.get_xlabel()


def test_projection_is_rasterized_bounded_and_shares_its_axes():
    figure = projection(2, samples=6001)
    teacher, vkd, _ = panels_of(figure)
    dots = [axes.collections[0] for axes in panels_of(figure)]
    assert all(
        isinstance(d, PathCollection) and d.get_rasterized() and len(d.get_offsets()) == 5000
        for d in dots
    )
    assert "5000 of 6001 samples" in figure.get_suptitle() and "61 %" in figure.get_supylabel()
    assert (
        len(teacher.collections) == 2
        and len(vkd.collections) == 3
        and teacher.get_xlim() == vkd.get_xlim()
    )
    assert texts(figure)[:2] == ["no (3001)", "yes (3000)"] and len(texts(figure)) == 4
    regression = projection(1, None)
    assert regression.axes[-1].get_ylabel() == "score" and "5000" not in regression.get_suptitle()


def test_cost_says_what_was_not_measured():
    measured = pd.DataFrame(
        {"name": ["VKD", "RKD"], "training": [1.0, 0.77], "inference": [1.0, np.nan]}
    )
    figure = figures_report.draw_cost(measured, "VKD")
    assert "relative to VKD" in figure.get_suptitle()
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == [
        "1.00",
        "0.77",
        "1.00",
        "not measured",
    ]
    assert all(list(axes.lines[0].get_xdata()) == [1, 1] for axes in figure.axes)


def test_the_page_escapes_embeds_and_needs_nothing_else():
    bad = "<script>alert('x')</script>"
    shown = pd.DataFrame(
        {f"method{bad}": ["VKD", bad], "score": ["**90.1**", None], "share": [1 / 3, 0.5]}
    )
    text = page(
        bad,
        [(bad, bad)],
        [
            Section(bad, bad, [(f'"{bad}', b"<svg/>", bad)], [(shown, bad)], [bad]),
            Section("Second", "Nothing.", [], [], []),
        ],
    )
    assert "<script" not in text and text.count("&lt;script&gt;") == 13  # each once
    embedded = re.findall(r'<img alt="[^"]*" src="data:image/svg\+xml;base64,([^"]+)">', text)
    assert [base64.b64decode(data) for data in embedded] == [b"<svg/>"]
    references = re.findall(r'(?:src|href|url)\s*[=(]\s*"?([^")\s]+)', text)
    assert references and all(reference.startswith(("data:", "#")) for reference in references)
    for link in re.findall(r'href="#([^"]+)"', text):
        assert f'id="{link}"' in text
    assert "<figcaption>" in text and "<caption>" in text and '<th scope="row">VKD</th>' in text
    assert '<td class="number"><strong>90.1</strong></td><td class="number">0.333333</td>' in text
    assert '<td class="number">–</td>' in text
    assert '<th scope="col" class="number">score</th>' in text

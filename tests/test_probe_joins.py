"""analysis/probe.py --probed: it joins runs that differ in their seed alone."""

import shutil

import pandas as pd
import pytest
from conftest import flags, save_models, write_task
from probes import probed

from analysis import probe
from common import UserError

ALL = ("--beta", 2, "--gamma_i", 3, "--gamma_g", 0.5, "--gamma_m", 0.01)


@pytest.fixture(scope="module")
def joinable(tmp_path_factory):
    """make(name, seed, *flags, probes=2): the path of the CSV of a short probed run.

    The models are in two folders; pretrained/ is the same in both.
    """
    folder = tmp_path_factory.mktemp("joinable")
    write_task(save_models(folder / "tiny"))
    shutil.copytree(folder / "tiny", folder / "elsewhere")

    def make(name, seed, *more, probes=2, place="tiny", measured=()):
        run = flags(folder / place, folder / f"run {name}", "--internal", "--max_steps", 3)
        csv = folder / f"{name}.csv"
        words = [*run, "--seed", seed, *more]
        probed(
            "glue_with_cka_i.py", [str(w) for w in words], "--csv", csv, *measured, probes=probes
        )
        return str(csv)

    make.folder = folder
    return make


@pytest.fixture(scope="module")
def first(joinable):
    return joinable("first", 1)


@pytest.mark.slow
@pytest.mark.parametrize("more", ["--mask_padding", "--beta 2"])
def test_runs_that_differ_in_more_than_their_seed_are_not_joined(joinable, first, more):
    """Two forms of a method, or two weights, would be averaged without a word."""
    other = joinable(more, 2, *more.split())
    with pytest.raises(UserError, match="differ in their seed alone, but these have 2 settings"):
        probe.main(["--probed", first, other])


@pytest.mark.slow
def test_runs_that_were_measured_otherwise_are_not_joined(joinable, first):
    with pytest.raises(UserError, match="seed 1 at 2 steps; seed 2 at 3 steps: measure all with"):
        probe.main(["--probed", first, joinable("often", 2, probes=3)])
    with pytest.raises(UserError, match=r"2 settings \(flags, models, data, or --batches\)"):
        probe.main(["--probed", first, joinable("batches", 2, measured=("--batches", 2))])


@pytest.mark.slow
def test_runs_that_began_with_other_weights_are_not_joined(joinable, first):
    """Whatever the folder is called that the students copied from."""
    folder = joinable.folder / "elsewhere" / "pretrained"
    assert not probe.main(["--probed", first, joinable("moved", 2, place="elsewhere")])
    kept = folder.rename(joinable.folder / "kept")
    shutil.copytree(save_models(joinable.folder / "other", seed=5) / "pretrained", folder)
    other = joinable("other", 3, place="elsewhere")
    shutil.rmtree(folder)
    kept.rename(folder)
    with pytest.raises(UserError, match="2 settings"):
        probe.main(["--probed", first, other])


def test_runs_that_differ_in_places_or_the_cache_are_joined(joinable, first):
    cached = joinable("cached", 4, "--teacher_cache", joinable.folder / "cache", "--no_cuda")
    assert not probe.main(["--probed", first, cached])


def test_a_run_is_joined_once_and_of_one_method(joinable, first, tmp_path):
    with pytest.raises(UserError, match="has seed 1 twice"):
        probe.main(["--probed", first, first])
    other = pd.read_csv(first)
    other.assign(method="FSD_L").to_csv(tmp_path / "q.csv", index=False)
    with pytest.raises(UserError, match="FSD_I on RTE, FSD_L on RTE"):
        probe.main(["--probed", first, str(tmp_path / "q.csv")])
    other.assign(settings="").to_csv(tmp_path / "q.csv", index=False)
    with pytest.raises(UserError, match="nothing in the column settings"):
        probe.main(["--probed", first, str(tmp_path / "q.csv")])
    other.assign(settings="12e456789012").to_csv(tmp_path / "q.csv", index=False)
    assert probe.read([tmp_path / "q.csv"]).settings.unique() == ["12e456789012"]


@pytest.mark.slow
def test_tables_of_several_runs(tiny, trained_with_dropout, tmp_path, capsys):
    """The CSVs of two seeds are drawn and put into a page; means are over both."""
    page = tmp_path / "why.md"
    page.write_text("Why?\n<!-- table joined -->\nold\n<!-- end joined -->\n")
    for seed in (1, 2):
        probed(
            "glue_with_cka_ilg.py",
            flags(
                tiny,
                tmp_path / f"s{seed}",
                *ALL,
                "--seed",
                seed,
                "--teacher_memory_path",
                trained_with_dropout,
            ),
            "--csv",
            tmp_path / f"p{seed}.csv",
            probes=2,
        )
    capsys.readouterr()
    paths = [str(tmp_path / f"p{seed}.csv") for seed in (1, 2)]
    assert not probe.main(
        [
            "--probed",
            *paths,
            "--csv",
            str(tmp_path / "joined.csv"),
            "--figure",
            str(tmp_path / "f.svg"),
            "--insert",
            str(page),
        ]
    )
    text = capsys.readouterr().out
    assert text.strip() in page.read_text() and "old" not in page.read_text()
    assert "seeds 1, 2; means over 2 steps from 1 to 6" in text
    assert "± standard deviation over the seeds" in text
    joined = pd.read_csv(tmp_path / "joined.csv")
    pulls = joined[
        (joined.quantity == "weighted_norm")
        & (joined.term == "intra")
        & (joined.other == "parameters")
    ]
    one, two = pulls.groupby("seed").value.mean()
    spread = abs(one - two) / 2**0.5
    assert len(pulls) == 4 and f"| {pulls.value.mean():.3g} ± {spread:.2g} |" in text
    for said in (
        "| F_MM | 1 |",
        "| samples, L | debiased | 8 | 384, 384 |",
        "CKA(M_t, M_s), biased",
    ):
        assert said in text
    probe.main(["--probed", str(tmp_path / "joined.csv"), "--figure", str(tmp_path / "g.svg")])
    assert (tmp_path / "f.svg").read_bytes() == (tmp_path / "g.svg").read_bytes()

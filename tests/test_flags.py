"""What follows from a flag's declaration: its parser, what a resumed run shares, its column."""

from pathlib import Path

import pytest

import glue_with_cka_g
import glue_with_cka_i
import glue_with_cka_ilg
import train_memory
import train_teacher
from baselines import glue_with_baseline
from common import UserError
from training import flags, methods, results_csv
from training.flag import OLD, ROLES, Flag

SCRIPTS = (train_teacher, glue_with_cka_i, glue_with_cka_g, glue_with_cka_ilg, glue_with_baseline)
# What earlier versions let a resumed run change: their checkpoints have all other flags.
FREE_TO_CHANGE = """
output_dir overwrite_output_dir resume_from_checkpoint run_file results_csv data_dir cache_dir
overwrite_cache student_model_name_or_path save_steps save_total_limit logging_steps do_eval
do_predict eval_all_checkpoints evaluate_during_training max_eval_samples max_predict_samples
per_gpu_eval_batch_size model_name_or_path model_type student_model_type teacher_memory_path
teacher_cache dataloader_num_workers train_file validation_file test_file
""".split()


def actions(script):
    return {a.dest: a for a in script.make_parser()._actions if a.dest not in ("help", *OLD)}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_of_a_script_is_declared(script):
    """Argparse reads it as its declaration says, and so does a results.csv."""
    for name, action in actions(script).items():
        flag = flags.known()[name]
        column = flag.column
        assert flag.role in ROLES and flag.help
        assert (action.const is True and not action.metavar) == (flag.type is bool)
        assert (action.type in (int, float)) == flag.is_number
        assert (column in results_csv.number_columns()) == flag.is_number
        assert results_csv.is_text(column) == (flag.type in (str, Path))


def test_all_flags_are_some_scripts():
    taken = {name for script in SCRIPTS for name in actions(script)}
    taken |= {flag.name for flag in flags.MEMORY}
    assert taken == flags.known().keys()


def test_a_resumed_run_may_change_what_it_always_might():
    assert {name for name in flags.known() if not flags.is_shared(name)} == set(FREE_TO_CHANGE)
    assert flags.is_shared("what_nobody_declared")


def test_the_hparams_are_what_is_tuned():
    found = flags.hyperparameters()
    assert {"learning_rate", "beta", "gamma_a", "between", "seed", "student_layers"} <= found
    assert not {"output_dir", "logging_steps", "config_name", "internal", "do_eval"} & found
    assert not any(flags.known()[name].is_place for name in found)


def test_weights_are_those_of_the_losses():
    names = set("alpha temperature beta gamma_i gamma_l gamma_g gamma_m".split())
    of_rivals = [
        flag.name
        for method in methods.read_methods().values()
        for flag in method.flags.values()
        if flag.role == "weight"
    ]
    assert {"gamma_a", "gamma_d"} <= set(of_rivals)
    assert {flag.name for flag in flags.named("weight")} == names | set(of_rivals)


@pytest.mark.parametrize(
    ("flag", "good", "bad"),
    [
        (Flag("x", "weight", float, least=0), (0, 1e9, None), (-1e-9, float("inf"), float("nan"))),
        (Flag("x", "weight", float, above=0), (1e-9,), (0.0, float("nan"))),
        (Flag("x", "weight", float, least=0, most=1), (0, 1), (1.5,)),
        (Flag("x", "budget", int, least=2), (2,), (1,)),
        (Flag("x", "weight", float), (-1.0, float("inf")), ()),
        (Flag("x", "place", Path), ("-1",), ()),
    ],
)
def test_limits(flag, good, bad):
    for value in good:
        flag.check(value)
    for value in bad:
        with pytest.raises(UserError, match="--x must be"):
            flag.check(value)


def test_a_memory_has_use_for_some_flags_only():
    assert "warmup_ratio" in train_memory.NO_USE and "seed" not in train_memory.NO_USE


def test_a_role_is_one_of_the_table():
    with pytest.raises(ValueError, match="has the role wight"):
        Flag("x", "wight", int)


# ---- what a rival's file declares ----------------------------------------------------------------

WHOLE = """
METHOD = {
    "name": "New",
    "help": "nothing",
    "defaults": {"beta": 2.0, "gamma_x": 3.0, "seven": 7},
    "flags": {
        "gamma_x": {"role": "weight", "type": "float", "least": 0, "help": "x"},
        "seven": {"role": "variant", "type": "int", "help": "y", "before": 6},
    },
}
raise RuntimeError("nobody runs this file to read its METHOD")
"""


def read(folder, text, name="new"):
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    methods.read_methods.cache_clear()
    return methods.read_methods(folder)


def test_a_declaration_is_read_without_running_its_file(tmp_path):
    (tmp_path / "shared.py").write_text("import no_such_module\n")
    found = read(tmp_path, WHOLE)
    assert found.keys() == {"new"} and found["new"].name == "New"
    flag = found["new"].flags["gamma_x"]
    assert (flag.type, flag.default, flag.role, flag.least) == (float, 3.0, "weight", 0)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("3.0", "float(3)", "line 2 has a METHOD that is no literal"),
        ('"float"', '"double"', "the type of --gamma_x is 'double'"),
        ('"weight"', '"wight"', "has the role wight"),
        ('"gamma_x": 3.0, ', "", "says nothing of 'gamma_x'"),
        ('"type": "float", ', "", "says nothing of 'type'"),
        ('"help": "nothing",', "", "missing 1 required .* 'help'"),
        ('"help": "nothing",', '"help": "", "layers": "first",', "layers is 'first'"),
        ('"help": "nothing",', '"help": "", "colour": 1,', "'colour'"),
        ("METHOD = {", "METHOD = {{", "no Python file|no literal"),
    ],
)
def test_a_wrong_declaration_is_one_sentence(tmp_path, old, new, said):
    assert old in WHOLE
    with pytest.raises(UserError, match=said) as error:
        read(tmp_path, WHOLE.replace(old, new))
    assert "new.py" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (WHOLE.replace("seven", "eight"), "declares --gamma_x, which is declared elsewhere"),
        (WHOLE.replace("gamma_x", "alpha"), "declares --alpha, which is declared elsewhere"),
        (WHOLE[: WHOLE.index('    "flags"')] + "}", "takes --seven, which is declared nowhere"),
    ],
)
def test_a_flag_is_declared_once(tmp_path, monkeypatch, other, said):
    if "takes" not in said:
        read(tmp_path, WHOLE)
    found = read(tmp_path, other.replace("gamma_x", "beta", "takes" in said), "other")
    monkeypatch.setattr(flags, "read_methods", lambda: found)
    ours = {flag.name: flag for section in flags.SECTIONS for flag in section}
    with pytest.raises(UserError, match=said):
        flags.flags_of_rivals(ours)


def test_what_runs_of_rivals_had_before_a_flag(tmp_path, monkeypatch):
    found = read(tmp_path, WHOLE)
    monkeypatch.setattr(flags, "read_methods", lambda: found)
    other = {"method": "RKD", "gamma_x": None}
    assert flags.as_of_today(other)["seven"] is None
    for name in ("New", "new"):  # in a run's settings, and among its flags
        assert flags.as_of_today({"method": name, "gamma_x": 3.0})["seven"] == 6
    assert "seven" not in flags.as_of_today({"method": "FSD_I", "alpha": 0.5})

"""Start scripts/reproduce, one_task, demo.sh and study as users do; read the commands they plan."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

import distill
import glue_with_cka_g
import glue_with_cka_i
import glue_with_cka_ilg
import train_memory
import train_teacher
from baselines import glue_with_baseline
from training import checks

SCRIPTS = {
    f"{module.__name__.split('.')[-1]}.py": module
    for module in (
        train_teacher,
        glue_with_cka_i,
        glue_with_cka_g,
        glue_with_cka_ilg,
        glue_with_baseline,
    )
}
CHOSEN = {
    "ALPHA": "0.5",
    "TEMPERATURE": "10",
    "NUM_TRAIN_EPOCHS": "3",
    "GAMMA_M": "0.1",
    "GAMMA_D": "100",
}


def reproduce(*arguments, cwd, script="scripts/reproduce", **environment):
    """Run the script as a user does; returns the finished process."""
    return subprocess.run(
        [str(ROOT / script), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHON": sys.executable} | environment,
    )


def read_plan(text):
    """{stage: [command as words]} of a plan; checks the numbers of commands that it states."""
    stages = {}
    for name, number, block in re.findall(
        r"^## (\S+): .*\n## (\d+) commands?, --keep \w+\n((?:.+\n)*)", text, re.M
    ):
        stages[name] = [shlex.split(line) for line in block.splitlines()]
        assert len(stages[name]) == int(number), name
    for name, commands in stages.items():
        assert re.search(rf"^{name} +{len(commands)} ", text, re.M), f"{name} is not in the table"
    assert re.search(rf"^total +{sum(map(len, stages.values()))} ", text, re.M)
    return stages


def value(words, flag):
    """The value of a flag in a command; of a flag given twice the last value, which counts."""
    return words[len(words) - 1 - words[::-1].index(f"--{flag}") + 1]


def values(commands, flag):
    return {value(words, flag) for words in commands}


def parse(words, monkeypatch):
    """The arguments of a planned command, parsed and checked by its own script; values that a plan
    leaves open (BEST_...) are filled in.
    """
    script = next(i for i, word in enumerate(words) if word.endswith(".py"))
    name, argv = (
        Path(words[script]).name,
        [
            re.sub(
                r"^BEST_([A-Z_]+?)(_I|_L|_IL|_G|_ILG|_PKD|_RKD|_MINILM)?$",
                lambda m: CHOSEN.get(m[1], "0.1"),
                word,
            )
            for word in words[script + 1 :]
        ],
    )
    if name == "train_memory.py":
        args, idle = train_memory.parse(argv)
        assert not idle
    else:
        seen = []
        monkeypatch.setattr(
            distill, "run", lambda args, method, *rest, **more: seen.append((args, method))
        )
        SCRIPTS[name].main(argv)
        ((args, method),) = seen
        args.method_name = method
    checks.check_arguments(args)
    return args


def write_stub(tmp_path):
    """Write a stand-in for the Python interpreter, which notes its arguments. With it a training is
    finished at once, and best.py finds 0.7 for every flag.

    Returns its path, and a function that returns the calls so far, each a list of words.
    """
    path, log = tmp_path / "stub", tmp_path / "stub.log"
    path.write_text(f"""#!/usr/bin/env bash
case $1 in */reproduce.py | */one_task.py | */demo.py) exec {sys.executable} "$@" ;; esac
printf '%q ' "$@" >> {log}
echo >> {log}
case $1 in
  *best.py) for flag in ${{@:4:$#-5}}; do printf -- '--%s 0.7 ' $flag; done; exit ;;
esac
for word; do [ "$before" != --output_dir ] || out=$word; before=$word; done
[ -z "$out" ] || {{ mkdir -p "$out"; echo '"finished": true' > "$out/run.json"; }}
[ -z "$FAILS" ] || [[ "$1" != *$FAILS ]]
""")
    path.chmod(0o755)

    def calls():
        return [shlex.split(line) for line in log.read_text().splitlines()]

    return path, calls


def run_study(tmp_path, *flags):
    """Run scripts/study with a space in RUNS_DIR, and in a Slurm array, whose shards it ignores;
    returns the finished process.
    """
    environment = {
        "PYTHON": sys.executable,
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "SLURM_ARRAY_TASK_ID": "1",
        "SLURM_ARRAY_TASK_COUNT": "2",
        "SLURM_ARRAY_TASK_MIN": "0",
        "ESTIMATE": "off",
    }
    words = ["org/model", str(tmp_path), str(tmp_path / "my runs"), *flags]
    return subprocess.run(
        ["bash", str(ROOT / "scripts/study"), *words],
        capture_output=True,
        text=True,
        env=environment,
    )


def study_commands(text):
    """Yield (part, run's name, script, its words) for each command of a study's plan."""
    for line in text.splitlines():
        _, script, *words = shlex.split(line)
        folder = Path(value(words, "output_dir"))
        yield folder.parts[-3], folder.name, Path(script).name, words


def plan_study(tmp_path, *flags):
    """The commands that scripts/study --plan prints, as study_commands yields them."""
    done = run_study(tmp_path, *flags, "--plan")
    assert done.returncode == 0, done.stderr
    return list(study_commands(done.stdout))

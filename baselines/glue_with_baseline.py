"""FSD's rivals under FSD's loop: distil a teacher into a student on a task with --method.

    python baselines/glue_with_baseline.py --method rkd --gamma_d 100 --gamma_a 200 \\
      --model_type bert --model_name_or_path TEACHER --copy_teacher \\
      --model_name_or_path_for_copy bert-base-uncased --data_dir DATA_DIR --task_name RTE \\
      --do_lower_case --do_train --do_eval --per_gpu_train_batch_size 32 --learning_rate 5e-5 \\
      --num_train_epochs 3 --alpha 0.5 --temperature 5 --output_dir OUTPUT_DIR

Total loss: α CE + (1-α) KD + β structure. Each file of this folder that declares a METHOD is one
method. The methods and their structures:
"""

import dataclasses
import functools
import importlib
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import UserError, cli
from training import checks, flags
from training.flag import Section
from training.methods import Method, read_methods

# ---- the methods ---------------------------------------------------------------------------------

WITHOUT_STRUCTURE = {
    "none": Method("none", "nothing: the cross-entropy alone; the teacher is only observed", {}),
    "vkd": Method("VKD", "nothing", {"alpha": 0.5, "temperature": 5.0}),
}


@functools.cache
def methods():
    """{word of --method: Method}. A rival's defaults are its own flags' and VKD's α and τ."""
    vkd = WITHOUT_STRUCTURE["vkd"].defaults
    rivals = {
        name: dataclasses.replace(method, defaults=vkd | method.defaults)
        for name, method in read_methods().items()
    }
    return WITHOUT_STRUCTURE | rivals


def own_flags():
    """The sorted names of the flags that some methods take and others do not."""
    return sorted({name for method in methods().values() for name in method.defaults})


def module_of(args):
    """The module of --method, None for none and vkd, which have no structure."""
    if args.method in WITHOUT_STRUCTURE:
        return None
    return importlib.import_module(f"baselines.{args.method}")  # here, as it imports torch


def terms(args, memories=None):
    """{name: Term} of α CE + (1-α) KD + the structure of --method; for none, of CE alone."""
    from terms import vkd_terms  # here, so that the flags are read without torch

    if args.method == "none":
        return {"ce": vkd_terms(1.0, 1.0)["ce"]}
    rival = module_of(args)
    structure = rival.structure(args) if rival else {}
    return vkd_terms(args.alpha, args.temperature) | structure


def name_of(args):
    """The method's name in tables; VKD if all weights of its structure are 0."""
    weighs = args.method == "none" or any(
        term.weight for name, term in terms(args).items() if name not in ("ce", "kd")
    )
    return methods()[args.method].name if weighs else "VKD"


def layers(args):
    """The layers that the method compares, for distill.run: "penultimate" or "every"."""
    return methods()[args.method].layers


# ---- flags ---------------------------------------------------------------------------------------


def fill_flags(args):
    """Give the method's own flags their defaults; refuse those of other methods."""
    method = methods()[args.method]
    own = method.defaults
    for name in own_flags():
        if getattr(args, name) is None:
            setattr(args, name, own.get(name))
        elif name not in own:
            raise UserError(
                f"--{name} means nothing to --method {args.method}, which takes "
                f"{', '.join(f'--{flag}' for flag in own) or 'no weight'}: leave it out"
            )
    if args.do_layerwise and not method.layerwise:
        takers = ", ".join(name for name, other in methods().items() if other.layerwise)
        raise UserError(
            f"--do_layerwise means nothing to --method {args.method}, only to {takers}: leave it "
            "out"
        )
    for values in method.excluded:
        if all(getattr(args, name) == value for name, value in values.items()):
            words = " and ".join(f"--{name} {value}" for name, value in values.items())
            raise UserError(f"{words} exclude each other: pass one of them")


def check(args, student, teacher):
    """Refuse models that the method cannot compare."""
    checks.check_first_tokens(args, student, teacher)
    rival = module_of(args)
    if hasattr(rival, "check"):
        rival.check(args, student, teacher)


def describe_methods():
    """One paragraph for each method, for --help."""
    lines = (
        textwrap.fill(
            method.help, 96, initial_indent=f"    {name:<10}  ", subsequent_indent=16 * " "
        )
        for name, method in methods().items()
    )
    return "\n".join(lines)


def method_flags():
    """--method, and the flags that some methods take, as a Section."""
    method = dataclasses.replace(flags.METHOD.flag("method"), choices=tuple(methods()))
    shared = {flag.name for section in (flags.LOSS, flags.STUDENT) for flag in section}
    more = (flags.known()[name] for name in own_flags() if name not in shared)
    return Section(flags.LOSS.title, method, *more)


def make_parser():
    parser = flags.make_parser(
        f"{__doc__}\n{describe_methods()}\n", flags.STUDENT, flags.LOSS, method_flags()
    )
    parser.set_defaults(**dict.fromkeys(own_flags()))  # fill_flags sets them by the method
    return parser


def main(argv=None, loop=None):
    """Run the command line. loop: see distill.run. Returns the exit code."""
    args = make_parser().parse_args(argv)
    fill_flags(args)
    checks.check_arguments(args)
    import distill  # after the flags, as it imports for seconds

    return distill.run(args, name_of(args), terms, check, loop, layers(args))


if __name__ == "__main__":
    sys.exit(cli(main))

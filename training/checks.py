"""What a script refuses before any work is done: values beyond a flag's limits, flags that do not
go together, places that cannot be written to.
"""

from pathlib import Path

from common import UserError, follow, make_folders
from tasks.glue import get_task
from tasks.own import FLAGS, check_files, own_files
from training import flags
from training.results_csv import read_results


def check_arguments(args):
    """Refuse flags that are wrong alone or together, before any work is done.

    A script calls this before it imports what its run needs, which takes seconds, and the run calls
    it again.
    """
    check_data(args)
    check_splits(args)
    for name, flag in flags.known().items():
        flag.check(getattr(args, name, None))
    if getattr(args, "warmup_steps", 0) and args.warmup_ratio:
        raise UserError(
            f"--warmup_steps {args.warmup_steps} and --warmup_ratio {args.warmup_ratio:g} "
            "both say how long to warm up: pass one of them"
        )
    if not (args.do_train or args.do_eval or args.do_predict):
        raise UserError("nothing to do: pass --do_train, --do_eval or --do_predict")
    if flags.needs_memory(args) and args.do_train:
        check_global(args)
    if getattr(args, "student_layers", None):
        check_student_layers(args)
    check_precision(args)
    if args.do_train:
        check_sources(args)
    make_folders(args, cache_dir=args.cache_dir)
    if args.do_train:
        check_places(args)


def check_data(args):
    """Refuse a task that is not known, or data files that are missing."""
    check_files(args)
    if own_files(args):
        return
    get_task(args.task_name)
    if not args.data_dir:
        raise UserError(
            "--data_dir is missing, the folder with GLUE's files: pass it, or files of your own "
            "with --train_file and --validation_file"
        )


def check_splits(args):
    """Refuse to train, evaluate or predict on own files if the file for it was not given, and to
    score on a task of GLUE that has no rows with labels.
    """
    files = own_files(args)
    if (args.do_eval or args.evaluate_during_training) and not files:
        task = get_task(args.task_name)
        if not any(split.startswith("dev") for split in task.files):
            raise UserError(
                f"{task.name} has no rows with labels to score a model on: leave --do_eval and "
                "--evaluate_during_training out, and predict its rows with --do_predict"
            )
    needed = {
        "train": args.do_train,
        "dev": args.do_eval or args.evaluate_during_training,
        "test": args.do_predict,
    }
    for split, asked in needed.items() if files else ():
        if asked and split not in files:
            flag = {"train": "do_train", "dev": "do_eval", "test": "do_predict"}[split]
            flag = flag if getattr(args, flag) else "evaluate_during_training"
            raise UserError(f"--{flag} needs --{FLAGS[split]}: pass it, or leave --{flag} out")


def check_global(args):
    """Refuse a global structure without a memory, or layer by layer: a memory is of the penultimate
    layer.
    """
    if not args.teacher_memory_path:
        raise UserError(
            "the global structure needs --teacher_memory_path, the folder that train_memory.py "
            "wrote; run that first"
        )
    if args.do_layerwise:
        raise UserError(
            "--do_layerwise cannot go with the global structure G, whose memory is of the "
            "penultimate layer alone: leave the flag out, or G with --gamma_g 0 "
            "(glue_with_cka_ilg.py)"
        )


def check_precision(args):
    """Refuse --fp16 together with --bf16, or --fp16 without a GPU."""
    if args.fp16 and args.bf16:
        raise UserError("--fp16 and --bf16 exclude each other: pass one of them")
    if args.fp16 and (args.no_cuda or not has_gpu()):
        raise UserError("--fp16 needs a GPU and none is in use here: pass --bf16 or neither")


def check_sources(args):
    """Refuse an output folder that is also one that the run reads a model or a memory from."""
    output = Path(args.output_dir).resolve()
    for name in ("model_name_or_path", "model_name_or_path_for_copy", "teacher_memory_path"):
        source = getattr(args, name, None) and Path(getattr(args, name))
        if source and output in (source.resolve(), source.is_file() and source.resolve().parent):
            raise UserError(
                f"--output_dir {args.output_dir} is also --{name}, which it would overwrite: name "
                "another"
            )


def check_forms(args, has_intra, has_local):
    """Refuse a form of the structure I or L, other than the paper's, if the loss has no I or L."""
    for structure, flag, papers, there in (
        ("I", "intra_reduction", "mean_log", has_intra),
        ("L", "sample_features", "flat", has_local),
    ):
        if (form := getattr(args, flag)) != papers and not there:
            raise UserError(
                f"--{flag} {form} is for the structure {structure}, which this loss does not have: "
                f"leave the flag out, or give {structure} a weight"
            )


def check_first_tokens(args, student, teacher):
    """Refuse --sample_features first for XLNet, which pads on the left."""
    if args.sample_features == "first" and "xlnet" in student.config.model_type:
        raise UserError(
            "XLNet pads on the left and has no first token to compare: take another "
            "model, method, or --sample_features flat"
        )


def check_student_layers(args):
    """Refuse --student_layers if --student_num_hidden_layers is another number, or if nothing is
    copied.
    """
    count = len(args.student_layers.split(","))
    if args.student_num_hidden_layers not in (None, count):
        raise UserError(
            f"--student_layers {args.student_layers} makes a student of {count} layers, but "
            f"--student_num_hidden_layers is {args.student_num_hidden_layers}: leave one "
            "of them out"
        )
    if not getattr(args, "copy_teacher", True):
        raise UserError(
            f"--student_layers {args.student_layers} says what to copy, but without "
            "--copy_teacher the student starts with random weights: pass --copy_teacher, too, "
            "or leave --student_layers out"
        )


def has_gpu():
    """True where torch sees a GPU."""
    import torch  # here, as no other check needs it

    return torch.cuda.is_available()


def check_places(args):
    """Refuse folders that cannot be written to, or a bad --results_csv, before any work is done."""
    table = args.results_csv and Path(args.results_csv)
    make_folders(
        args,
        output_dir=args.output_dir,
        run_file=args.run_file,
        results_csv=table and follow(table).parent,
        teacher_cache=getattr(args, "teacher_cache", None),
    )
    if table and table.exists() and not table.is_file():
        raise UserError(
            f"--results_csv {table} is {'a folder' if table.is_dir() else 'no regular file'}: name "
            "a file"
        )
    if table and table.exists():
        read_results(table)

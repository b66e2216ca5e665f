"""The flags of every script, in HuggingFace's names and the paper's letters, and the checks on
their values.
"""

import argparse
import itertools
import math
import os
import re
from pathlib import Path

import choices
from common import UserError, expand_path, expand_path_or_none, follow, make_folders
from glue_data.tasks import TASKS, get_task
from training.results_csv import read_results


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors and no abbreviations; ~ at the start of a text is a home, as in
    all paths.
    """

    def __init__(self, doc):
        super().__init__(
            description=doc,
            usage="%(prog)s [flags]",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.register(
            "type", None, expand_path_or_none
        )  # of a flag without a type, so that no path is forgotten

    def error(self, message):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")

    def parse_known_args(self, args=None, namespace=None):
        found, rest = super().parse_known_args(args, namespace)
        take_old_spellings(found)
        return found, rest


def shared_flags(parser):
    """The flags of HuggingFace's GLUE scripts, in their old and new spellings."""
    group = parser.add_argument_group("models")
    add = group.add_argument
    add(
        "--model_type",
        help="Family of the model, as transformers names it (bert, roberta, albert, ...); checked.",
    )
    add(
        "--model_name_or_path",
        type=expand_path,
        required=True,
        help="Folder or hub name of the fine-tuned teacher "
        "(train_teacher.py: of the pretrained model to fine-tune).",
    )
    add(
        "--student_num_hidden_layers",
        type=int,
        help="Layers of the student; default: half of the teacher's (train_teacher.py: all).",
    )
    add(
        "--config_name",
        default="",
        help="Folder or hub name of another configuration for --model_name_or_path.",
    )
    add(
        "--tokenizer_name",
        default="",
        help="Folder or hub name of the tokenizer; default: the model's own.",
    )
    add(
        "--cache_dir",
        default="",
        help="Folder for downloaded models and tokenised features; default: those of "
        "HuggingFace and ~/.cache/fsd-glue.",
    )
    add(
        "--do_lower_case",
        action="store_true",
        help="Lower-case the text, whatever the tokenizer's own setting.",
    )
    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--task_name", required=True, help="GLUE task, in any case: " + ", ".join(TASKS) + ".")
    add(
        "--data_dir",
        type=expand_path,
        required=True,
        help="Folder with the task's official .tsv files, or the folder above it.",
    )
    add(
        "--max_seq_length",
        type=int,
        default=128,
        help="W, tokens a sample is padded or cut to. Default 128.",
    )
    add(
        "--overwrite_cache",
        action="store_true",
        help="Tokenise again even where cached features fit.",
    )
    add("--max_train_samples", type=int, help="Use only the first N training rows.")
    add("--max_eval_samples", type=int, help="Use only the first N rows of each dev set.")
    add("--max_predict_samples", type=int, help="Use only the first N rows of each test set.")
    group = parser.add_argument_group("what to do, and where it goes")
    add = group.add_argument
    add("--do_train", action="store_true", help="Train, and save the model in --output_dir.")
    add("--do_eval", action="store_true", help="Evaluate the model in --output_dir on the dev set.")
    add(
        "--do_predict",
        action="store_true",
        help="Write GLUE leaderboard files for the test set to submission/.",
    )
    add(
        "--evaluate_during_training",
        action="store_true",
        help="Also evaluate every --logging_steps.",
    )
    add(
        "--eval_all_checkpoints",
        action="store_true",
        help="Also evaluate every checkpoint that was kept.",
    )
    add(
        "--output_dir",
        type=expand_path,
        required=True,
        help="Folder of this run: the model, checkpoints, logs, results.",
    )
    add(
        "--overwrite_output_dir",
        action="store_true",
        help="Replace a finished run, or one with other settings, in "
        "--output_dir. An unfinished run with the same settings is resumed all the same.",
    )
    add(
        "--resume_from_checkpoint",
        type=expand_path,
        nargs="?",
        const=True,
        metavar="CHECKPOINT",
        help="Insist on "
        "resuming, from this checkpoint or the newest; without the flag a checkpoint found is "
        "resumed and a missing one is no error.",
    )
    add(
        "--run_file",
        "--logging_dir",
        help="TensorBoard folder; default: tensorboard/ in --output_dir. A run that "
        "finds it taken by another run writes to a folder of its own below it.",
    )
    add(
        "--results_csv",
        help="Append one row with settings and results of the training to this shared table.",
    )
    add(
        "--logging_steps",
        type=int,
        default=500,
        help="Log every N optimizer steps, and at the end. Default 500.",
    )
    add(
        "--save_steps",
        type=int,
        default=500,
        help="Checkpoint every N optimizer steps. Default 500.",
    )
    add(
        "--save_total_limit",
        type=int,
        default=1,
        help="Checkpoints kept, 0 for all. Default 1, the newest.",
    )
    group = parser.add_argument_group("training")
    add = group.add_argument
    add(
        "--per_gpu_train_batch_size",
        "--per_device_train_batch_size",
        type=int,
        default=8,
        help="Samples a process "
        "takes per mini-batch; the structure between samples is that of all processes' "
        "mini-batch. Default 8.",
    )
    add(
        "--per_gpu_eval_batch_size",
        "--per_device_eval_batch_size",
        type=int,
        default=8,
        help="Default 8.",
    )
    add(
        "--gradient_accumulation_steps",
        type=int,
        default=1,
        help="Mini-batches per optimizer step; each keeps its "
        "own structure, their losses are averaged. Default 1.",
    )
    add("--learning_rate", type=float, default=5e-5, help="Peak rate of AdamW. Default 5e-5.")
    add("--weight_decay", type=float, default=0.0, help="On all but biases and norms. Default 0.")
    add("--adam_epsilon", type=float, default=1e-8, help="Default 1e-8.")
    add(
        "--max_grad_norm",
        type=float,
        default=1.0,
        help="Gradient norm to clip at, 0 for never. Default 1.",
    )
    add("--num_train_epochs", type=float, default=3.0, help="Default 3.")
    add(
        "--max_steps",
        type=int,
        default=-1,
        help="If positive, the number of optimizer steps instead of epochs.",
    )
    add(
        "--warmup_steps",
        type=int,
        default=0,
        help="Steps of linear warm-up before the linear decay. Default 0.",
    )
    add(
        "--warmup_ratio",
        type=float,
        default=0.0,
        help="Instead of --warmup_steps: the share of all "
        "steps that warm up, rounded up. Default 0.",
    )
    add(
        "--seed",
        type=int,
        default=42,
        help="Seed of the head's start, dropout and order. Default 42.",
    )
    add(
        "--group_by_length",
        action="store_true",
        help="Rows of like length share a mini-batch. Where "
        "mini-batches are cut to their longest row that is less to compute; else (structures with "
        "padding) only other mini-batches.",
    )
    add(
        "--dataloader_num_workers",
        type=int,
        default=0,
        help="Processes that prepare mini-batches ahead. Default 0.",
    )
    add(
        "--compile",
        action="store_true",
        help="Compile the models with torch.compile, which takes time at the "
        "start; dropout draws other random numbers then.",
    )
    add("--no_cuda", action="store_true", help="Stay on the CPU.")
    add("--fp16", action="store_true", help="Mixed precision with float16; needs a GPU.")
    add("--bf16", action="store_true", help="Mixed precision with bfloat16.")
    old_flags(parser)


def old_flags(parser):
    """Flags of HuggingFace's 2020 GLUE script that no run keeps: they say something else, or
    nothing.
    """
    group = parser.add_argument_group("old spellings")

    def add(*names, **options):
        group.add_argument(*names, default=argparse.SUPPRESS, **options)

    add(
        "--local_rank",
        "--local-rank",
        type=int,
        help="What torch.distributed.launch passes, or -1; LOCAL_RANK says it.",
    )
    add(
        "--fp16_opt_level",
        choices=("O0", "O1", "O2", "O3"),
        help="What --fp16 does is O1; with O0 it does nothing.",
    )
    add("--server_ip", help="Must be empty.")
    add("--server_port", help="Must be empty.")


def take_old_spellings(args):
    """Do what the old flags say and forget them: they are no settings of a run, and differ between
    its processes.
    """
    given = {
        name: vars(args).pop(name)
        for name in ("local_rank", "fp16_opt_level", "server_ip", "server_port")
        if name in args
    }
    rank, launched = given.get("local_rank", -1), os.environ.get("LOCAL_RANK")
    if rank < -1:
        raise UserError(f"--local_rank must be at least -1, got {rank}: leave it out")
    if rank >= 0 and launched is None:
        raise UserError(
            f"--local_rank {rank} is for a launcher to pass, and LOCAL_RANK, which it sets, is "
            "missing: leave the flag out, or start several processes with torchrun "
            "--nproc_per_node N"
        )
    if rank >= 0 and str(rank) != launched:
        raise UserError(
            f"--local_rank is {rank}, but the launcher's LOCAL_RANK is {launched}: leave the flag "
            "out"
        )
    level = given.get("fp16_opt_level")
    if level and args.fp16:
        if level in ("O2", "O3"):
            raise UserError(
                f"--fp16_opt_level {level} keeps the weights themselves in half precision, and "
                "here they stay in float32: pass O1, which --fp16 does by itself, or O0 for no "
                "half precision"
            )
        args.fp16 = level == "O1"
    for name in ("server_ip", "server_port"):
        if given.get(name):
            raise UserError(
                f"--{name} {given[name]} is for a remote debugger, which this project does not "
                "have: leave it out"
            )


def distillation_flags(parser):
    """The flags of the scripts that distil: where the student comes from, VKD, β, the layers.
    Returns the group.
    """
    group = parser.add_argument_group("student")
    add = group.add_argument
    add("--student_model_type", help="Family of the student; must be the teacher's.")
    add(
        "--student_model_name_or_path",
        help="The student's own folder: a checkpoint of this project in it is "
        "resumed, unless --output_dir has one. Default: --output_dir.",
    )
    add(
        "--model_name_or_path_for_copy",
        help="Where the student's shape and first layers come from: the pretrained "
        "model, or the teacher's folder; default: the teacher.",
    )
    add(
        "--copy_teacher",
        action="store_true",
        help="Start the student from the first layers of "
        "--model_name_or_path_for_copy; without it the student starts at random.",
    )
    student_layers_flag(group, "--model_name_or_path_for_copy")
    add(
        "--teacher_cache",
        metavar="DIR",
        help="Keep what the loss needs of the teacher in DIR, for all runs with this "
        "teacher, data and length: the first one computes it, features in half precision, the "
        "others read it.",
    )
    group = parser.add_argument_group("loss: α CE + (1-α) KD + β structure")
    add = group.add_argument
    add(
        "--alpha",
        type=float,
        default=0.5,
        help="α, weight of the cross-entropy; 1-α is KD's. Default 0.5.",
    )
    add("--temperature", type=float, default=5.0, help="τ of KD. Default 5.")
    add(
        "--beta",
        type=float,
        default=1.0,
        help="β, weight of the feature structure; 0 is VKD. Default 1.",
    )
    add(
        "--mask_padding",
        action="store_true",
        help="Leave padded positions out of the structures, as "
        "the paper does not; then they are not computed either: mini-batches are cut to their "
        "longest row, as they are where no structure reads them. In earlier versions this also did "
        "what --group_by_length does.",
    )
    add(
        "--do_layerwise",
        action="store_true",
        help="Align student layers 1, 2, ... with every k-th layer of the "
        "teacher (k = teacher's / student's layers), averaged, instead of the penultimate layers.",
    )
    return group


def student_layers_flag(group, source):
    """Which layers a student copies, for a group of flags. source: the flag that says what from."""
    group.add_argument(
        "--student_layers",
        type=list_layers,
        metavar="I,J,...",
        help=f"Copy these layers of {source}, counted from 0, in this order, as "
        "0,2,4,6,8,10, instead of the first ones; the student has so many.",
    )


def list_layers(word):
    """The argparse type of --student_layers: its text, where that is numbers in ascending order."""
    wanted = "expected layers counted from 0, in ascending order, with commas between, as 0,2,4"
    if not re.fullmatch("[0-9]{1,4}(,[0-9]{1,4})*", word):
        raise argparse.ArgumentTypeError(f"{wanted}; found {word!r}")
    layers = [int(layer) for layer in word.split(",")]
    for layer, following in itertools.pairwise(sorted(layers)):
        if layer == following:
            raise argparse.ArgumentTypeError(
                f"{wanted}; found layer {layer} twice in {word}: name it once"
            )
    if layers != sorted(layers):
        ordered = ",".join(map(str, sorted(layers)))
        raise argparse.ArgumentTypeError(f"{wanted}; found {word}: pass {ordered}")
    return ",".join(map(str, layers))


def cka_flags(group):
    """The forms of CKA and of I, into the group that distillation_flags returned."""
    add = group.add_argument
    add(
        "--cka_estimator",
        choices=choices.ESTIMATORS,
        default="biased",
        help="Of I, L and F_MM: biased is the paper's; debiased keeps its signal when the batch is "
        "small beside the features' width. Default biased.",
    )
    add(
        "--intra_reduction",
        choices=choices.REDUCTIONS,
        default="mean_log",
        help="Of I: mean_log is Eq. 6; log_mean is the authors' released form. Default mean_log.",
    )


def local_flags(group):
    """The form of L, into the group that distillation_flags returned."""
    group.add_argument(
        "--sample_features",
        choices=choices.SAMPLE_FEATURES,
        default="flat",
        help="Of L: what stands for a sample, all its tokens, W*D numbers (Eq. 7), or its first "
        "token, D numbers, a form of ours. Default flat.",
    )


def global_flags(group):
    """The flags of the scripts with a global structure, into the group that distillation_flags
    returned.
    """
    add = group.add_argument
    add(
        "--teacher_memory_path",
        help="The memory: the folder or file that train_memory.py wrote for this teacher, "
        "task and --max_seq_length.",
    )
    add(
        "--gamma_m",
        type=float,
        default=1e-6,
        help="γ_m in G = F_MM + γ_m F_E + (1-γ_m) F_C; distances are hundreds "
        "of times larger than cosines, hence small. Default 1e-6.",
    )
    add(
        "--student_memory_init",
        choices=choices.STUDENT_MEMORY_INITS,
        default="matched",
        help="Start of the student's memory, which the paper only calls random. "
        "matched, ours: Gaussian with the mean and deviation of the teacher's memory. "
        "released, the authors': N(0, 1). Default matched.",
    )
    add(
        "--student_memory_learning_rate",
        type=float,
        help="Peak rate of AdamW for the student's memory. Default: --learning_rate.",
    )


def needs_memory(args):
    """True where the loss has a global structure of weight above 0."""
    return hasattr(args, "teacher_memory_path") and args.beta * getattr(args, "gamma_g", 1.0) != 0


AT_LEAST = {
    "max_seq_length": 2,
    "per_gpu_train_batch_size": 1,
    "per_gpu_eval_batch_size": 1,
    "learning_rate": 0,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 0,
    "logging_steps": 1,
    "save_steps": 1,
    "save_total_limit": 0,
    "warmup_steps": 0,
    "warmup_ratio": 0,
    "weight_decay": 0,
    "adam_epsilon": 0,
    "max_grad_norm": 0,
    "student_num_hidden_layers": 1,
    "max_train_samples": 1,
    "max_eval_samples": 1,
    "max_predict_samples": 1,
    "beta": 0,
    "alpha": 0,
    "seed": 0,
    "gamma_i": 0,
    "gamma_l": 0,
    "gamma_g": 0,
    "gamma_m": 0,
    "gamma_d": 0,
    "gamma_a": 0,
    "relation_heads": 1,
    "student_memory_learning_rate": 0,
    "num_centroid": 1,
    "memory_num_train_epochs": 1,
    "memory_learning_rate": 0,
    "per_gpu_memory_train_batch_size": 1,
    "dataloader_num_workers": 0,
}


def check_arguments(args):
    """Refuse values that cannot be meant, before any work is done. Returns the task.

    A script asks before it imports what its run needs, which takes seconds, and the run asks again.
    """
    task = get_task(args.task_name)
    for name, least in AT_LEAST.items():
        value = getattr(args, name, None)
        if value is not None and not (math.isfinite(value) and value >= least):
            raise UserError(f"--{name} must be at least {least}, got {value:g}")
    for name in ("alpha", "gamma_m", "memory_learning_rate", "warmup_ratio"):
        if (getattr(args, name, None) or 0) > 1:
            raise UserError(f"--{name} must be between 0 and 1, got {getattr(args, name):g}")
    if getattr(args, "temperature", None) is not None and args.temperature <= 0:
        raise UserError(f"--temperature must be above 0, got {args.temperature:g}")
    if getattr(args, "warmup_steps", 0) and args.warmup_ratio:
        raise UserError(
            f"--warmup_steps {args.warmup_steps} and --warmup_ratio {args.warmup_ratio:g} "
            "both say how long to warm up: pass one of them"
        )
    if not (args.do_train or args.do_eval or args.do_predict):
        raise UserError("nothing to do: pass --do_train, --do_eval or --do_predict")
    if needs_memory(args) and args.do_train:
        if not args.teacher_memory_path:
            raise UserError(
                "the global structure needs --teacher_memory_path, the folder that train_memory.py "
                "wrote; run that first"
            )
        if args.do_layerwise:
            raise UserError(
                "--do_layerwise has no global structure, as the memory is of the penultimate layer "
                "alone: leave it out, or take its weight away with --gamma_g 0 "
                "(glue_with_cka_ilg.py)"
            )
    if getattr(args, "student_layers", None):
        check_student_layers(args)
    if args.fp16 and args.bf16:
        raise UserError("--fp16 and --bf16 exclude each other: pass one of them")
    if args.fp16 and (args.no_cuda or not has_gpu()):
        raise UserError("--fp16 needs a GPU and none is in use here: pass --bf16 or neither")
    output = Path(args.output_dir).resolve()
    for name in ("model_name_or_path", "model_name_or_path_for_copy", "teacher_memory_path"):
        source = getattr(args, name, None)
        if (
            source
            and args.do_train
            and output
            in (
                Path(source).resolve(),
                Path(source).resolve().parent if Path(source).is_file() else None,
            )
        ):
            raise UserError(
                f"--output_dir {args.output_dir} is also --{name}, which it would overwrite: name "
                "another"
            )
    if args.seed >= 2**32:
        raise UserError(f"--seed must be below 2^32, got {args.seed}")
    make_folders(args, cache_dir=args.cache_dir)
    if args.do_train:
        check_places(args)
    return task


def check_sample_features(args, has_local):
    """Refuse --sample_features where the loss has no L."""
    if args.sample_features != "flat" and not has_local:
        raise UserError(
            f"--sample_features {args.sample_features} is of L, which this loss does not "
            "have: leave it out, or give L a weight"
        )


def check_first_tokens(args, student, teacher):
    """Refuse models without a first token to compare."""
    if args.sample_features == "first" and "xlnet" in student.config.model_type:
        raise UserError(
            "XLNet pads on the left and has no first token to compare: take another "
            "model, method, or --sample_features flat"
        )


def check_student_layers(args):
    """Refuse --student_layers beside another number of layers, or where nothing is copied."""
    count = len(args.student_layers.split(","))
    if args.student_num_hidden_layers not in (None, count):
        raise UserError(
            f"--student_layers {args.student_layers} is a student of {count} layers, but "
            f"--student_num_hidden_layers is {args.student_num_hidden_layers}: leave one "
            "of them out"
        )
    if not getattr(args, "copy_teacher", True):
        raise UserError(
            f"--student_layers {args.student_layers} says what to copy, but without "
            "--copy_teacher the student starts at random: pass that, too, or leave "
            "--student_layers out"
        )


def has_gpu():
    """True where torch sees a GPU."""
    import torch  # here, as no other check needs it

    return torch.cuda.is_available()


def check_places(args):
    """Refuse places that cannot be written to, before any work is done."""
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

"""The flags of HuggingFace's GLUE scripts, in their old and new spellings, which every script that
trains takes. Roles and limits are explained in training/flags.py.
"""

from pathlib import Path

from glue_data.tasks import TASKS
from training.flag import Flag, Section


def had_groups(settings):
    """Whether rows were grouped by length before --group_by_length: where --mask_padding was given,
    but not by train_memory.py.
    """
    return str(settings.get("mask_padding")).lower() == "true" and "num_centroid" not in settings


MODELS = Section(
    "models",
    Flag(
        "model_type",
        "free",
        str,
        help="Family of the model, as transformers names it (bert, roberta, albert, ...); checked.",
    ),
    Flag(
        "model_name_or_path",
        "place",
        Path,
        help="Folder or hub name of the fine-tuned teacher (train_teacher.py: of the pretrained "
        "model to fine-tune).",
        required=True,
    ),
    Flag(
        "student_num_hidden_layers",
        "model",
        int,
        help="Layers of the student; default: half of the teacher's (train_teacher.py: all).",
        least=1,
        kmeans=False,
    ),
    Flag(
        "config_name",
        "model",
        Path,
        "",
        "Folder or hub name of another configuration for --model_name_or_path.",
    ),
    Flag(
        "tokenizer_name",
        "model",
        Path,
        "",
        "Folder or hub name of the tokenizer; default: the model's own.",
    ),
    Flag(
        "cache_dir",
        "place",
        Path,
        "",
        "Folder for downloaded models and tokenised features; default: those of HuggingFace and "
        "~/.cache/fsd-glue.",
    ),
    Flag(
        "do_lower_case",
        "data",
        bool,
        False,
        "Lower-case the text, whatever the tokenizer's own setting.",
    ),
)
DATA = Section(
    "data",
    Flag(
        "task_name",
        "data",
        str,
        help="GLUE task, in any case: " + ", ".join(TASKS) + ".",
        required=True,
    ),
    Flag(
        "data_dir",
        "place",
        Path,
        help="Folder with the task's official .tsv files, or the folder above it.",
        required=True,
    ),
    Flag(
        "max_seq_length",
        "data",
        int,
        128,
        "W, tokens a sample is padded or cut to. Default 128.",
        least=2,
        caption="length",
        paces=True,
    ),
    Flag(
        "overwrite_cache",
        "free",
        bool,
        False,
        "Tokenise again even where cached features fit.",
    ),
    Flag(
        "max_train_samples",
        "data",
        int,
        help="Use only the first N training rows.",
        least=1,
        caption="training rows at most",
    ),
    Flag(
        "max_eval_samples",
        "data",
        int,
        help="Use only the first N rows of each dev set.",
        least=1,
        shared=False,  # no training reads them
        kmeans=False,
    ),
    Flag(
        "max_predict_samples",
        "free",
        int,
        help="Use only the first N rows of each test set.",
        least=1,
        kmeans=False,
    ),
)
ACTIONS = Section(
    "what to do, and where it goes",
    Flag(
        "do_train",
        "action",
        bool,
        False,
        "Train, and save the model in --output_dir.",
        shared=True,  # as earlier versions' checkpoints have it
    ),
    Flag(
        "do_eval",
        "action",
        bool,
        False,
        "Evaluate the model in --output_dir on the dev set.",
        kmeans=False,
    ),
    Flag(
        "do_predict",
        "action",
        bool,
        False,
        "Write GLUE leaderboard files for the test set to submission/.",
        kmeans=False,
    ),
    Flag(
        "evaluate_during_training",
        "free",
        bool,
        False,
        "Also evaluate every --logging_steps.",
        kmeans=False,
    ),
    Flag(
        "eval_all_checkpoints",
        "free",
        bool,
        False,
        "Also evaluate every checkpoint that was kept.",
        kmeans=False,
    ),
    Flag(
        "output_dir",
        "place",
        Path,
        help="Folder of this run: the model, checkpoints, logs, results.",
        required=True,
    ),
    Flag(
        "overwrite_output_dir",
        "free",
        bool,
        False,
        "Replace a finished run, or one with other settings, in --output_dir. An unfinished run "
        "with the same settings is resumed all the same.",
    ),
    Flag(
        "resume_from_checkpoint",
        "free",
        Path,
        help="Insist on resuming, from this checkpoint or the newest; without the flag a "
        "checkpoint found is resumed and a missing one is no error.",
        options={"nargs": "?", "const": True, "metavar": "CHECKPOINT"},
    ),
    Flag(
        "run_file",
        "place",
        Path,
        help="TensorBoard folder; default: tensorboard/ in --output_dir. A run that finds it taken "
        "by another run writes to a folder of its own below it.",
        aliases=("logging_dir",),
    ),
    Flag(
        "results_csv",
        "place",
        Path,
        help="Append one row with settings and results of the training to this shared table.",
        kmeans=False,
    ),
    Flag(
        "logging_steps",
        "free",
        int,
        500,
        "Log every N optimizer steps, and at the end. Default 500.",
        least=1,
    ),
    Flag(
        "save_steps", "free", int, 500, "Checkpoint every N optimizer steps. Default 500.", least=1
    ),
    Flag(
        "save_total_limit",
        "free",
        int,
        1,
        "Checkpoints kept, 0 for all. Default 1, the newest.",
        least=0,
        kmeans=False,
    ),
)
TRAINING = Section(
    "training",
    Flag(
        "per_gpu_train_batch_size",
        "budget",
        int,
        8,
        "Samples a process takes per mini-batch; the structure between samples is that of all "
        "processes' mini-batch. Default 8.",
        aliases=("per_device_train_batch_size",),
        least=1,
        caption="batch",
        paces=True,
    ),
    Flag(
        "per_gpu_eval_batch_size",
        "free",
        int,
        8,
        "Default 8.",
        aliases=("per_device_eval_batch_size",),
        least=1,
        kmeans=False,
    ),
    Flag(
        "gradient_accumulation_steps",
        "budget",
        int,
        1,
        "Mini-batches per optimizer step; each keeps its own structure, their losses are averaged. "
        "Default 1.",
        least=1,
        caption="accumulation",
        paces=True,
        usual=1,
        kmeans=False,
    ),
    Flag(
        "learning_rate",
        "budget",
        float,
        5e-5,
        "Peak rate of AdamW. Default 5e-5.",
        least=0,
        caption="learning rate",
        kmeans=False,
    ),
    Flag(
        "weight_decay",
        "budget",
        float,
        0.0,
        "On all but biases and norms. Default 0.",
        least=0,
        kmeans=False,
    ),
    Flag("adam_epsilon", "budget", float, 1e-8, "Default 1e-8.", least=0, kmeans=False),
    Flag(
        "max_grad_norm",
        "budget",
        float,
        1.0,
        "Gradient norm to clip at, 0 for never. Default 1.",
        least=0,
        kmeans=False,
    ),
    Flag(
        "num_train_epochs",
        "budget",
        float,
        3.0,
        "Default 3.",
        least=0,
        caption="epochs",
    ),
    Flag(
        "max_steps",
        "budget",
        int,
        -1,
        "If positive, the number of optimizer steps instead of epochs.",
        caption="steps at most",
        usual=-1,
        kmeans=False,
    ),
    Flag(
        "warmup_steps",
        "budget",
        int,
        0,
        "Steps of linear warm-up before the linear decay. Default 0.",
        least=0,
        kmeans=False,
    ),
    Flag(
        "warmup_ratio",
        "budget",
        float,
        0.0,
        "Instead of --warmup_steps: the share of all steps that warm up, rounded up. Default 0.",
        least=0,
        most=1,
        caption="warm-up",
        usual=0,
        kmeans=False,
        before=0.0,
        beside=("warmup_steps",),
    ),
    Flag(
        "seed",
        "seed",
        int,
        42,
        "Seed of the head's start, dropout and order. Default 42.",
        least=0,
        most=2**32 - 1,
    ),
    Flag(
        "group_by_length",
        "variant",
        bool,
        False,
        "Rows of like length share a mini-batch. Where mini-batches are cut to their longest row "
        "that is less to compute; else (structures with padding) only other mini-batches.",
        of="(?!teacher)",  # a teacher has no variants
        paces=True,
        kmeans=False,
        before=had_groups,
        beside=(),
    ),
    Flag(
        "dataloader_num_workers",
        "free",
        int,
        0,
        "Processes that prepare mini-batches ahead. Default 0.",
        least=0,
    ),
    Flag("no_cuda", "model", bool, False, "Stay on the CPU."),
    Flag("fp16", "model", bool, False, "Mixed precision with float16; needs a GPU."),
    Flag("bf16", "model", bool, False, "Mixed precision with bfloat16."),
)
GLUE = (MODELS, DATA, ACTIONS, TRAINING)

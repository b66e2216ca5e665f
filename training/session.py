"""What every run has around its work: its task, its device, its rows, its output folder."""

import contextlib
import os
import sys
import weakref
from pathlib import Path

import accelerate
import huggingface_hub
import torch
import transformers

import common
from common import UserError, say, termination
from precision import tell_slow_bfloat16
from tasks.features import load_features
from tasks.glue import TASKS, get_task
from tasks.own import make_task, own_files
from tasks.submission import check_indices
from training import allocation, checks, models, reading, rescoring
from training.batches import with_labelled, with_mask
from training.loading import for_student, has_teacher, load_config


@contextlib.contextmanager
def open_session(args, bound=None):
    """Check the flags, quieten the libraries, lock the output folder. Yields the Session;
    afterwards leaves the process group, if there is one.

    bound: whether the run uses the answers of --model_name_or_path, so that its names for the
    classes hold; by default True if it is a student's teacher.
    """
    checks.check_arguments(args)
    for library in (transformers, huggingface_hub):
        library.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    models.mask_without_waiting()
    allocation.keep_freed_memory()
    if not args.do_train:
        models.find_trained(args.output_dir)
        rescoring.check_results_csv(args)
        rescoring.take_trained_columns(args, args.output_dir)
        as_trained = rescoring.read_at_trained_length(args)
    if args.do_train:
        bound = has_teacher(args) if bound is None else bound
        task = find_task(args, args.model_name_or_path, bound)
        as_trained = True
    else:  # the trained model's own names for the classes, and its own family
        task = find_task(for_student(args), args.output_dir)
        if told := rescoring.tell_other_columns(task, args.output_dir):
            say(f"note: {told}")
        as_trained = as_trained and not told
    args.task_name = task.name
    with common.lock_output_dir(args.output_dir):
        try:
            yield Session(args, task, as_trained)
        except termination.Terminated:
            leave_group()
            raise
    leave_group()


def find_task(args, model, bound=True):
    """The Task of a run: GLUE's of --task_name, or that of the user's own files.

    model: the folder or hub name of the model whose names for the classes are taken. bound: False
    if it gets a new head, so that its names are only a suggestion.
    """
    if not own_files(args):
        return get_task(args.task_name)
    words = ()
    if not args.do_regression:
        config = load_config(args, str(model), "model")
        words = [str(config.id2label.get(k, "")) for k in range(config.num_labels)]
    return make_task(args, words, bound)


def make_accelerator(args):
    """The Accelerator of a run: its device, its processes, its precision."""
    # None, without a flag, is what accelerate launch was told
    precision = "fp16" if args.fp16 else "bf16" if args.bf16 else None
    try:
        accelerator = accelerate.Accelerator(
            mixed_precision=precision,
            # torchrun's processes join on CPUs only when told, and a Mac's GPU has no float64
            cpu=args.no_cuda or not torch.cuda.is_available(),
            dynamo_backend="no",  # whatever accelerate launch was told
            kwargs_handlers=[accelerate.DistributedDataParallelKwargs(), *share_gpus(args.no_cuda)],
        )
    except (ValueError, ImportError) as error:  # a precision that this device does not have
        raise UserError(
            f"this device cannot run in the precision asked for ({error}): run without --fp16 and "
            "--bf16, or on another device"
        ) from None
    bf16 = accelerator.mixed_precision == "bf16"
    if bf16 and (told := tell_slow_bfloat16(accelerator.device)):
        say(told)
    return accelerator


def share_gpus(no_cuda):
    """accelerate's handlers, a list, for processes that share GPUs: NCCL takes one process per GPU,
    gloo several. [] if there is a GPU for each.

    Sets LOCAL_RANK to the GPU of this process; they take them in turn.
    """
    processes, cards = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if no_cuda or not 0 < cards < processes:
        return []
    own = int(os.environ["LOCAL_RANK"])
    os.environ["LOCAL_RANK"] = str(own % cards)  # which accelerate takes for the card's number
    if own == 0:
        say(
            f"note: {processes} processes share {cards} of this machine's GPUs, and exchange what "
            "they have over gloo, not NCCL: with as many processes as GPUs a run is faster"
        )
    return [accelerate.InitProcessGroupKwargs(backend="gloo")]


def leave_group():
    """Leave the process group: gloo's threads may outlive the interpreter, and abort it."""
    if torch.distributed.is_initialized():
        accelerate.PartialState().destroy_process_group()


class Session:
    """One run's flags, task, accelerator and output folder, and the rows that it reads.

    as_trained: False if a trained model reads other columns or another length than in its training.
    """

    def __init__(self, args, task, as_trained=True):
        self.args, self.task, self.output = args, task, Path(args.output_dir)
        self.as_trained = as_trained
        self.accelerator = make_accelerator(args)
        self._ignores_padding = weakref.WeakKeyDictionary()  # model -> ignores_padding
        self.sources = {}  # split -> Features.source, of the splits that were read

    @property
    def device(self):
        return self.accelerator.device

    def device_name(self):
        """The GPU's name, or "cpu"."""
        return torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"

    def features(self, split, tokenizer, most=None, task=None, data_dir=None, length=None):
        """The Features of a split: its tokenised rows.

        most: take only so many first rows. task, data_dir: by default the session's. length: tokens
        per row, by default --max_seq_length. The main process reads the file first, the others then
        read its cache.
        """
        args = self.args
        with self.accelerator.main_process_first():
            features = load_features(
                task or self.task,
                data_dir or args.data_dir,
                split,
                tokenizer,
                length or args.max_seq_length,
                args.cache_dir or None,
                args.overwrite_cache,
                most,
            )
        if task in (None, self.task):
            self.sources[split] = features.source
        return features._replace(tensors=with_labelled(with_mask(features.tensors, args)))

    def dev_splits(self):
        """The names of the task's dev sets; MNLI has two."""
        return [split for split in self.task.files if split.startswith("dev")]

    def test_sets(self):
        """What --do_predict predicts, [(task, split, data folder)].

        A model for MNLI also predicts AX, if AX's file is there.
        """
        found = [(self.task, split, self.args.data_dir) for split in self.task.submissions]
        if self.task.name != "MNLI":
            return found
        ax, folder = TASKS["ax"], Path(self.args.data_dir)
        for place in (folder, folder.parent):
            if (place / ax.folder / ax.files["test"]).is_file():
                return [*found, (ax, "test", place)]
        say(f"no {ax.folder}/{ax.files['test']} in {folder}: AX is left out of the predictions")
        return found

    def read_as_student(self, split, tokenizer, *more):
        """`features` at the row length of the model that is trained."""
        return self.features(split, tokenizer, *more, length=for_student(self.args).max_seq_length)

    def training_features(self, tokenizer):
        """The Features of the training rows, as the student reads them.

        Also reads the dev and test rows that the run will need, so that a bad row stops it now and
        not at its end.
        """
        args = self.args
        features = self.read_as_student("train", tokenizer, args.max_train_samples)
        if args.do_eval or args.evaluate_during_training:
            for split in self.dev_splits():
                self.read_as_student(split, tokenizer)
        if args.do_predict:
            for task, split, data_dir in self.test_sets():
                rows = self.read_as_student(split, tokenizer, None, task, data_dir)
                check_indices(task, split, rows.indices)
        args.overwrite_cache = False  # done once
        return features

    def can_cut(self, model, features):
        """Whether padding may be cut off for this model; tried once, on rows with padding."""
        plain = accelerate.utils.extract_model_from_parallel(
            model, keep_fp32_wrapper=True, keep_torch_compile=False
        )
        if self._ignores_padding.get(plain) is None:
            found = reading.ignores_padding(model, features.tensors)
            self._ignores_padding[plain] = found
            if found is False:
                say(
                    f"note: {type(plain).__name__} reads padding as well, or minds how long rows "
                    "are, so nothing is cut off"
                )
        return self._ignores_padding[plain] is not False


def peak_memory(device):
    """The most memory that this process has held, in MiB.

    On a GPU what was allocated there since the last reset; on a CPU the resident set of the whole
    process since its start, with Python, the libraries and the reading of the data.
    """
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    import resource  # here, as Windows has none

    # ru_maxrss is in bytes on macOS, in KiB on Linux
    unit = 1 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)

"""The tokenizer of a run: made to lower-case if asked to, refused if it is not the model's, and
saved so that it reads the same when it is loaded again.
"""

import tempfile
from pathlib import Path

import transformers
from tokenizers import normalizers

from common import UserError
from tasks.features import tokenizer_fingerprint
from training.loading import for_student, hub_arguments, load_config, loading


def load_tokenizer(args):
    """The tokenizer of --tokenizer_name or of the model, lower-casing if --do_lower_case says so;
    it reads the same after saving.
    """
    name = args.tokenizer_name or args.model_name_or_path
    config = load_config(args, args.config_name or args.model_name_or_path, "model")
    tokenizer = prepare_tokenizer(args, name, config)
    if args.tokenizer_name and has_tokenizer(args.model_name_or_path):
        check_vocabulary(args, tokenizer, args.model_name_or_path, config)
    return tokenizer


def own_tokenizer(args, tokenizer, config):
    """The tokenizer of the model that the student is copied from, if its vocabulary is not the
    teacher's; else None. tokenizer, config: the teacher's.
    """
    source = args.model_name_or_path_for_copy
    if not source:
        return None
    if Path(source).is_dir() and not has_tokenizer(source):
        check_same_size(args, source, config)
        return None
    if read_tokenizer(args, source, config).get_vocab() == tokenizer.get_vocab():
        return None
    return prepare_tokenizer(args, source, load_config(for_student(args), source, "model"))


def check_same_size(args, source, config):
    """Refuse a model to copy that has no tokenizer, and embeddings for another number of tokens
    than the teacher's config says.
    """
    size = load_config(for_student(args), source, "model").vocab_size
    if size != config.vocab_size:
        raise UserError(
            f"the model {source} has no tokenizer, and embeddings for {size} tokens where the "
            f"teacher has {config.vocab_size}, so it reads other tokens: put the files of its own "
            "tokenizer there"
        )


def prepare_tokenizer(args, name, config):
    """The tokenizer of a folder or hub name, fitted to the flags and to the model's config.

    UserError if there is none, or if it has no padding token or cannot lower-case as
    --do_lower_case asks.
    """
    options = {"do_lower_case": True} if args.do_lower_case else {}
    tokenizer = read_tokenizer(args, name, config, **options)
    check_vocabulary_is_there(tokenizer, name)
    if tokenizer.pad_token_id is None:
        raise UserError(
            f"the tokenizer {name} has no padding token, with which short rows of a mini-batch are "
            "filled up: name another with --tokenizer_name, or give it a pad_token"
        )
    if args.do_lower_case and not lowers_case(tokenizer):
        tokenizer = add_lower_case(tokenizer, config, name)
    match_token_types(tokenizer, config)
    return tokenizer


def read_tokenizer(args, name, config, **options):
    """The tokenizer of a folder or hub name; if its files do not name a class, of the class of the
    model's family.
    """
    options |= hub_arguments(args) | {"trust_remote_code": False}  # no code in a file is ever run
    with loading("tokenizer", name):
        try:
            return transformers.AutoTokenizer.from_pretrained(name, **options)
        except ValueError:  # a vocabulary alone, as HuggingFace's first versions left it
            return transformers.AutoTokenizer.from_pretrained(name, config=config, **options)


def check_vocabulary_is_there(tokenizer, name):
    """Refuse special tokens alone, which transformers makes up for a folder without a tokenizer."""
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise UserError(
            f"there is no tokenizer in {name}, only special tokens: put the files of the model's "
            "own tokenizer there (tokenizer.json, or its vocabulary), or name it with "
            "--tokenizer_name"
        )


def lowers_case(tokenizer):
    """True if the tokenizer reads "ABC" as "abc"."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer.tokenize("ABC") == tokenizer.tokenize("abc")
    # not by its tokens, as a small vocabulary may know neither text
    return backend.normalizer is not None and "abc" in backend.normalizer.normalize_str("ABC")


def add_lower_case(tokenizer, config, name):
    """The tokenizer with lower-casing before all else, for families that have no such option of
    their own.

    Some classes make their normalizer anew when they are loaded, and would lose it; a tokenizer of
    such a class is replaced by one of transformers' general class, which keeps what is in
    tokenizer.json. UserError if that does not help either.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"--do_lower_case: the tokenizer {name}, {type(tokenizer).__name__}, has no "
            "lower-casing: leave the flag out, or lower-case the data"
        )
    steps = [normalizers.Lowercase()] + ([backend.normalizer] if backend.normalizer else [])
    backend.normalizer = normalizers.Sequence(steps)
    if is_saved_whole(tokenizer, config):
        return tokenizer
    general = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **tokenizer.special_tokens_map,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_input_names=tokenizer.model_input_names,
    )
    if is_saved_whole(general, config):
        return general
    raise UserError(
        f"--do_lower_case: the tokenizer {name}, {type(tokenizer).__name__}, loses the "
        "lower-casing when it is saved: leave the flag out, or lower-case the data"
    )


def is_saved_whole(tokenizer, config):
    """True if a tokenizer, saved beside a model's configuration, is the same when loaded again."""
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return saved_reads_alike(tokenizer, folder)


def saved_reads_alike(tokenizer, folder):
    """True if the tokenizer in a folder, loaded with AutoTokenizer, has this one's fingerprint."""
    other = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return tokenizer_fingerprint(other) == tokenizer_fingerprint(tokenizer)


def match_token_types(tokenizer, config):
    """Make the tokenizer, in place, return token types only if the model knows two or more.

    RoBERTa knows one. BERT knows two, but transformers' general class, which many folders name,
    does not return them.
    """
    types, names = getattr(config, "type_vocab_size", None), tokenizer.model_input_names
    if types is None or (types >= 2) == ("token_type_ids" in names):
        return
    if types < 2:
        names = [name for name in names if name != "token_type_ids"]
    elif 1 in getattr(tokenizer("a", "b", return_token_type_ids=True), "token_type_ids", ()):
        names = [names[0], "token_type_ids", *names[1:]]
    tokenizer.model_input_names = names
    tokenizer.init_kwargs["model_input_names"] = names  # these are saved


def check_tokenizer(args, tokenizer, config, name):
    """Refuse a tokenizer whose vocabulary does not fit the model in size, or a --max_seq_length
    that is too long for either.
    """
    size, rows = len(tokenizer), config.vocab_size
    if size > rows or rows - size > 1024:  # some checkpoints pad their embeddings to a round number
        raise UserError(
            f"the tokenizer {args.tokenizer_name or args.model_name_or_path} has {size} tokens, "
            f"but the model {name} has embeddings for {rows}: pass the model's own tokenizer as "
            "--tokenizer_name"
        )
    longest = min(
        tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or 10**9
    )
    if 0 < longest < args.max_seq_length:
        raise UserError(
            f"--max_seq_length is {args.max_seq_length}, but {name} takes at most {longest} "
            "tokens: lower it, or for a student alone pass --student_max_seq_length"
        )


def has_tokenizer(folder):
    """True if a folder has files of a tokenizer."""
    return any(
        file
        for pattern in ("*token*", "vocab*", "merges*", "*.model")
        for file in Path(folder).glob(pattern)
    )


def check_vocabulary(args, tokenizer, source, config):
    """Refuse a tokenizer with other token ids than that of `source`, whose layers are used."""
    if Path(source).is_dir() and not has_tokenizer(source):
        return
    other = read_tokenizer(args, source, config)
    differ = dict(tokenizer.get_vocab().items() ^ other.get_vocab().items())
    if differ:
        raise UserError(
            f"the tokenizer in use and that of {source} differ in {len(differ)} tokens, such as "
            f"{min(differ)!r}: take models of one vocabulary, and their own tokenizer"
        )

"""What becomes of training rows that have no label."""

from common import UserError, say
from tasks.features import select


def mind_missing_labels(features, args, has_teacher):
    """The Features to train on: with a teacher all rows, without one only those that have a label.

    If no row has a label, args.alpha becomes 0: the loss is KD and the structures alone. UserError
    if the loss was the cross-entropy alone.
    """
    labelled = features.tensors.get("labelled")
    if labelled is None:
        return features
    rows, found = len(labelled), int(labelled.sum())
    where, none = features.source["file"], "has no labels"
    if args.max_train_samples and args.max_train_samples < features.source["rows"]:
        where, none = f"the first {rows} rows of {where}", "have no labels"
    features = features._replace(source=features.source | {"unlabelled": rows - found})
    alone = getattr(args, "alpha", None) is None  # the loss is the cross-entropy alone
    if not found and alone:
        raise UserError(
            f"{where} {none}, and the loss is the cross-entropy alone: name the column of the "
            "labels with --label_column_name, read more rows, or distil a teacher with another "
            "method"
        )
    if not has_teacher:
        say(f"note: {rows - found} of {rows} rows of {where} have no label and are left out")
        return select(features, labelled.nonzero().flatten())
    if found:
        part = "no part in the loss" if alone else "KD and the structures, no cross-entropy"
        say(f"note: {rows - found} of {rows} rows of {where} have no label: they have {part}")
    else:
        say(f"note: {where} {none}: α is 0, the loss is KD and the structures")
        args.alpha = 0.0
    return features

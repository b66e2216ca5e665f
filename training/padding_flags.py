"""The two flags about the padding of rows: --mask_padding, whether structures read it, and
--group_by_length, whether rows of like length share a mini-batch, which then needs less of it. In
earlier versions --mask_padding did both.
"""

from training.flag import Flag, Section


def had_groups(settings):
    """Whether a run from before --group_by_length grouped its rows by length: with --mask_padding
    all did, except train_memory.py. settings: the run's flags, name -> value.
    """
    return str(settings.get("mask_padding")).lower() == "true" and "num_centroid" not in settings


PADDING = Section(  # taken for a loss and for its memory, which must agree
    "padding",
    Flag(
        "mask_padding",
        "variant",
        bool,
        False,
        "Leave padded positions out of the structures (a memory counts them as 0, and serves runs "
        "with this flag), as the paper does not; then they are not computed either: mini-batches "
        "are cut to their longest row, as they are where no structure reads them. In earlier "
        "versions this also did what --group_by_length does.",
        paces=True,
    ),
)
GROUPS = Section(
    "padding",
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
)

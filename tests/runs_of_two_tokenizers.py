"""Runs of students with a tokenizer of their own: of which methods, and those that are refused."""

import glue_with_cka_i
from baselines import glue_with_baseline

METHODS = {  # what compares samples
    "VKD": (glue_with_cka_i, ["--beta", 0]),
    "FSD_L": (glue_with_cka_i, []),
    "FSD_L, masked": (glue_with_cka_i, ["--mask_padding"]),
    "FSD_L, first": (glue_with_cka_i, ["--sample_features", "first"]),
    "RKD": (glue_with_baseline, ["--method", "rkd"]),
    "Gram": (glue_with_baseline, ["--method", "gram"]),
    "Procrustes": (glue_with_baseline, ["--method", "procrustes"]),
}
OF_TOKENS = {
    "FSD_I": (glue_with_cka_i, ["--internal"], "intra"),
    "MiniLM": (glue_with_baseline, ["--method", "minilm"], "attention"),
    "PKD": (glue_with_baseline, ["--method", "pkd"], "patience"),
    "Gram": (glue_with_baseline, ["--method", "gram", "--between", "tokens"], "gram"),
}

"""The choices of some flags, in a file of their own so that reading flags does not import torch."""

ESTIMATORS = ("biased", "debiased")  # of CKA
REDUCTIONS = ("mean_log", "log_mean")  # of the samples' CKA in I
SAMPLE_FEATURES = ("flat", "first")  # a sample's features: all its tokens', or its first token's
MEMORY_INITS = ("kmeans++", "random", "normal", "released")  # the first centroids of k-means
STUDENT_MEMORY_INITS = ("matched", "released", "averaged")  # how M_s starts

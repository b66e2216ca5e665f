"""The forms that flags can name; they are here so that reading flags does not import torch."""

ESTIMATORS = ("biased", "debiased")  # of CKA
REDUCTIONS = ("mean_log", "log_mean")  # of I
SAMPLE_FEATURES = ("flat", "first")  # what stands for a sample
MEMORY_INITS = ("kmeans++", "random", "normal", "released")  # the first centroids of k-means
STUDENT_MEMORY_INITS = ("matched", "released", "averaged")  # how M_s starts

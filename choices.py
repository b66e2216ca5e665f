"""The forms that a flag can name, apart from what computes them and so imports torch."""

ESTIMATORS = ("biased", "debiased")  # of CKA
REDUCTIONS = ("mean_log", "log_mean")  # of I
SAMPLE_FEATURES = ("flat", "first")  # what stands for a sample
MEMORY_INITS = ("kmeans++", "random", "normal", "released")
STUDENT_MEMORY_INITS = ("matched", "released", "averaged")

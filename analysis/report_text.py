"""The texts of the report: titles, paragraphs, captions. fill_in fills the {names} in them."""

TOPICS = {  # name -> (title, text)
    "restoration": (
        "Restoration of the teacher's predictions",
        """
        Does the student say what the teacher says, right or wrong? High agreement where the
        teacher is wrong means that the student took over the teacher's decisions, not only the
        labels.""",
    ),
    "heat_maps": (
        "CKA between mini-batches",
        """
        Do the same samples relate to each other as they do in the teacher? The more the diagonal
        stands out of its surroundings, the more of this structure was transferred; the teacher
        beside itself is 1.""",
    ),
    "layers": (
        "Layer by layer",
        """
        Which layer of the teacher does a layer of the student resemble? Row 0 and column 0 are
        the embeddings. FSD aligns the penultimate layers; what else becomes alike, it does not
        ask for.""",
    ),
    "relation_differences": (
        "Relation differences",
        """
        CKA allows any scale; distances do not, and cosines no shift of the origin: these are
        compared themselves (Eq. 12-13). A student can have a CKA near 1 and still live at
        another scale.""",
    ),
    "global": (
        "Global structure",
        """
        Where do samples lie among the centroids of the teacher's memory? A student that kept
        this structure puts the same samples together; one that kept it elsewhere in space (CKA
        allows any rotation) has all near few centroids.""",
    ),
    "cost": (
        "Cost",
        """
        What does a method cost in training, and its student afterwards?""",
    ),
}

FIGURES = {  # name -> (alternative text, caption)
    "restoration": (
        "Restoration by model",
        """
        Each dot is a run, the diamond its model's mean; further right, the student predicts more
        like the teacher.""",
    ),
    "heat_maps": (
        "Heat maps of the {estimator} CKA",
        """
        Pixel (p, q): CKA, {estimator}, between the teacher's penultimate features of mini-batch
        p and the model's of mini-batch q, {size} samples each; above each map the mean of the
        diagonal, where both saw the same samples. One colour scale for all.{drawn}{first}""",
    ),
    "layers_tokens": (
        "CKA of every layer with every other, between tokens",
        """
        Mean CKA between the tokens of a sample: teacher's layer (row) with the student's
        (column); the frame marks the penultimate layers.{first}""",
    ),
    "layers_samples": (
        "CKA of every layer with every other, between samples",
        """
        Mean CKA between the samples of a mini-batch: teacher's layer (row) with the student's
        (column); the frame marks the penultimate layers.{first}""",
    ),
    "relation_differences": (
        "Relation differences by model",
        """
        Each dot is a run, the diamond its model's mean; further left, distances and angles are
        more like the teacher's.""",
    ),
    "relation_training": (
        "Relation differences along training",
        """
        The same on the training's mini-batches with dropout, as the runs logged them
        (--logging_steps); faint lines are single runs, the strong one their mean.""",
    ),
    "occupancy": (
        "Samples a centroid",
        """
        How many samples have each of the teacher's centroids as their nearest.{first}""",
    ),
    "projection": (
        "Samples and centroids in a plane",
        """
        All panels share the plane of the two principal axes of the teacher's centroids
        (crosses); triangles are the student's own centroids.{first}""",
    ),
    "cost": (
        "Throughput by model",
        """
        Relative to {reference}; longer is faster.""",
    ),
}

TABLES = {
    "restoration": """
        Restoration of the teacher's predictions, %, {runs}; {rows} rows. {how} Own scores are
        the student's against the labels.""",
    "classes": """
        The same by class: how many rows the teacher and the student give to it, and how many of
        these are the same rows, {runs}.""",
    "6": """
        Table 6: mean CKA on the diagonal over {batches} mini-batches of {size} samples, {runs};
        elsewhere: between different mini-batches{drawn}, where the biased form is above 0 for
        any two. The paper's is the biased one, its mean over tasks.""",
    "layers": """
        CKA of the penultimate layers, student's and teacher's (layer {penultimate} of {depth}),
        between the tokens of a sample and between the samples of a mini-batch, {runs}; nearest
        layer: the teacher's with the highest debiased CKA to the student's penultimate one, in
        each run.""",
    "7": """
        Table 7: relation differences of the penultimate features, mean |ψ(teacher) - ψ(student)|
        over the pairs of samples of a mini-batch (inter) and of tokens of a sample (intra),
        {runs}; lower is closer. Mean rank: the mean of the four columns' ranks among all models
        here{those}. The paper's is among its four methods, over its tasks.""",
    "global": """
        Samples by their nearest of the teacher's {centroids} centroids, {runs}: centroids
        occupied, samples at the same centroid as in the teacher, and the adjusted Rand index of
        the two clusterings (1: the same clusters, 0: chance). own: the same with the student's
        memory, where it has one, and the CKA of the two memories.""",
    "8": """
        Table 8: throughput relative to {reference}, inference measured here ({size} samples a
        mini-batch, as long as the longest, median of {rounds} rounds), {source}. MB: the stored
        weights, 10^6 bytes. ms a row: of these samples one by one, and in the mini-batch.
        Inference needs no student memory.""",
}

HOW = {  # whether the task is a regression -> how restoration is measured
    False: """
        The teacher's predictions are taken as the truth: precision, recall and F1 are means over
        the classes, agreement is the share of equal predictions, then that on the {wrong} rows
        alone that the teacher gets wrong. A class that only the student predicts has recall 0, as
        in scikit-learn.""",
    True: """
        Pearson and Spearman between the scores of student and teacher; where the teacher is wrong:
        Pearson on the {wrong} rows where it errs most.""",
}


def fill_in(text, **facts):
    """The text on one line, its {names} replaced by the facts of these names."""
    return " ".join(text.split()).format(**facts)

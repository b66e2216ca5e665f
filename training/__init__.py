"""The parts of a run around the training loop (loop.py): flags, models, mini-batches, checkpoints,
records, logs, and the memory's clustering.

Words in this package:
refuse: raise common.UserError, whose text tells the user in one line what is wrong and what to do.
rows: the samples of a data file; a split is the train, dev or test rows.
settings: what decides the result of a run, name -> value; a resumed run must have the same.
memory: the C centroids of the teacher's features of the training rows (train_memory.py).
teacher cache: the outputs of a teacher for the training rows, stored on disk (--teacher_cache).
shard: a file of the teacher cache, of up to 1,024 samples, with a note: JSON of what the shard is,
  and a checksum. The shards of earlier versions have no note.
targets: what a loss term reads of a mini-batch beside the models' outputs: labels, masks.
mask: which positions of a row count in the structures, if they leave padding out.
picture: a memory's clusters, drawn on the two principal axes of its centroids.
own files: rows of the user's own, with --train_file and so on, in place of GLUE's files.
rival: a published method that FSD is compared with; each has a file in baselines/.
main process: of several processes the first, which alone writes and prints.
"""

import os

# let torch allocate huge memory pages on a CPU: for the kernel to set up small ones can take longer
# than the arithmetic
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

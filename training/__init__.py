"""What a run needs around the loop: flags, models, mini-batches, checkpoints, records, and the
order of its steps.
"""

import os

# huge pages for what torch allocates on a CPU, where making small ones can take longer than the
# arithmetic
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

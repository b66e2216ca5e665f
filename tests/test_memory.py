"""memory.py: k-means against scikit-learn and by hand, the file, the student's memory."""
import itertools

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as SklearnKMeans

import memory


def blobs(seed, rows=300, number=6, width=12, spread=0.6):
    """Overlapping Gaussian blobs, (N, p) float32."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(number, width, generator=generator)
    return centres[torch.randint(number, (rows,), generator=generator)] + spread * torch.randn(
        rows, width, generator=generator)


def run(x, start, passes, batch=32, rate=1.0):
    """The KMeans after so many passes, and what each found."""
    kmeans, found = memory.KMeans(start.clone(), len(x), rate), []
    for _ in range(passes):
        for indices in torch.arange(len(x)).split(batch):
            kmeans.add(x[indices], indices)
        found.append(kmeans.update())
    return kmeans, found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("passes", [1, 3, 20])
def test_is_scikit_learns_lloyd(seed, passes):
    x = blobs(seed)
    start = memory.start_centroids(x, 8, "kmeans++", seed)
    kmeans, found = run(x, start, passes)
    wanted = SklearnKMeans(8, init=start.numpy(), n_init=1, max_iter=passes, tol=0, algorithm="lloyd").fit(x.numpy())
    np.testing.assert_allclose(kmeans.centroids.numpy(), wanted.cluster_centers_, rtol=1e-4, atol=1e-5)
    assignment = torch.cdist(x, kmeans.centroids).argmin(1)
    assert (assignment.numpy() == wanted.labels_).mean() >= 0.999
    inertias = [pass_["inertia"] for pass_ in found]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(inertias))

"""The memories of the global structure G: k-means makes the teacher's, training the student's.

The features of a data set never fit in memory at once (MNLI: 392,702 samples of 128 * 768 numbers,
154 GB), so one pass over the data, through the teacher or from its cache on the disk, is one step
of Lloyd's algorithm: each mini-batch is assigned to the present centroids and added to the sums of
its clusters, and the centroids move when the pass ends. For each sample only its cluster's number,
now and in the pass before, and a point of the picture (the clusters on two axes) are kept.
"""

import torch

import cka
from common import UserError
from seeds import mix

SAMPLE = 4  # features to sample for each centroid; the first centroids are drawn from them


def start_centroids(sample, number, init, seed):
    """The first centroids (C, p) float32, the same for the same seed.

    sample: random features (S, p), S >= C. number: C. init: "kmeans++", scikit-learn's, on the
    sample; "random", C of its rows; "normal", a form of ours, Gaussian with each coordinate's mean
    and variance. For the authors' form see `released_centroids`.
    """
    if init == "kmeans++":
        import sklearn.cluster  # here, as nothing else needs it

        found, _ = sklearn.cluster.kmeans_plusplus(sample.numpy(), number, random_state=seed)
        return torch.from_numpy(found)
    generator = torch.Generator().manual_seed(seed)
    if init == "random":
        return sample[torch.randperm(len(sample), generator=generator)[:number]]
    return sample.mean(0) + start_noise(number, sample.shape[1], seed) * sample.std(0, correction=0)


def released_centroids(last, mini_batches, shape, seed):
    """The first centroids (C, p) of the authors' released code: Gaussian, one mean and variance.

    Mean and variance are those of all numbers in `last`, the features of the training set's last
    mini-batch, divided by the number of mini-batches. The centroids lie closer together than the
    features, so most never win a sample. shape: (C, p).
    """
    variance, mean = (value / mini_batches for value in torch.var_mean(last.double()))
    return (start_noise(*shape, seed) * variance.sqrt() + mean).float()


def start_noise(number, width, seed):
    """Noise N(0, 1) of shape (number, width), other than any student's memory starts with."""
    return torch.randn(number, width, generator=torch.Generator().manual_seed(mix(seed, "memory")))


def principal_axes(m):
    """The two principal axes of centroids m (C, p).

    Returns the mean (p,), the axes (p, 2), and the share of the variance that they explain, from 0
    to 1. An axis without variance is all 0.
    """
    centre = m.mean(0)
    centred = m - centre
    variances, vectors = torch.linalg.eigh(centred @ centred.mT)  # ascending
    axes = torch.zeros(m.shape[1], 2, dtype=m.dtype, device=m.device)
    for k in range(min(2, len(vectors))):
        if variances[-1 - k] > 1e-6 * variances[-1]:
            axes[:, k] = centred.mT @ vectors[:, -1 - k] / variances[-1 - k].sqrt()
    return centre, axes, (variances[-2:].sum() / variances.sum().clamp(min=1e-12)).item()


def check_finite(x):
    """Refuse features, or sums of them, that are infinite or NaN."""
    if not x.isfinite().all():
        raise UserError(
            "the teacher's features are not finite numbers: run without --fp16, or fine-tune the "
            "teacher again"
        )


class KMeans(torch.nn.Module):
    """Lloyd's k-means (Euclidean) on features that come in mini-batches.

    One pass: `add` each mini-batch, then `update`. centroids: (C, p) float32, the start. rows: N,
    the number of samples. rate: how far a centroid goes towards the mean of its samples; 1 is
    Lloyd's. Sums are float64, so that a small cluster loses nothing beside large ones. An empty
    cluster restarts at the sample farthest from its centroid, which leaves its old cluster
    (scikit-learn's rule); if `restarts` is False it stays, as in the authors' released code. Of
    several processes (`world`, this one is `rank`) each adds its own rows, and `reduce` (tensor ->
    its sum over processes) joins them. The buffers are the whole state: about four times C * p
    float32 numbers, and 4 N numbers.
    """

    def __init__(
        self, centroids, rows, rate=1.0, rank=0, world=1, reduce=lambda x: x, restarts=True
    ):
        super().__init__()
        self.restarts = restarts
        self.rate, self.rank, self.world, self.reduce = rate, rank, world, reduce
        number, width = centroids.shape
        for name, start in {
            "centroids": centroids.float(),
            "half_squares": torch.zeros(number),  # |m|²/2; computed from m, as are centre and axes
            "centre": torch.zeros(width),
            "axes": torch.zeros(width, 2),  # the centroids' principal axes, for the picture
            "before": torch.full((rows,), -1),  # each sample's cluster in the pass before
            "assignment": torch.zeros(rows, dtype=torch.int64),
            "points": torch.zeros(rows, 2),  # each sample's coordinates on the axes
            "sums": torch.zeros(number, width, dtype=torch.float64),
            "counts": torch.zeros(number, dtype=torch.int64),
            "inertia": torch.zeros((), dtype=torch.float64),
            "far_distance": torch.zeros(number),  # squared; of the C farthest samples of this pass
            "far_index": torch.zeros(number, dtype=torch.int64),
            "far_rows": torch.zeros(number, width),
        }.items():
            self.register_buffer(name, start)
        self.begin()

    def begin(self):
        """Start a pass: compute what it needs of the centroids, and set its sums to 0."""
        self.half_squares = torch.linalg.vector_norm(self.centroids, dim=-1).square() / 2
        self.centre, axes, self.explained = principal_axes(self.centroids)
        self.axes.copy_(axes)
        for name in ("sums", "inertia", "counts", "assignment", "points", "far_distance"):
            getattr(self, name).zero_()

    @torch.no_grad()
    def add(self, x, indices):
        """Assign a mini-batch to its nearest centroids, and add it to their clusters.

        x: (B, p) float32. indices: (B,), each sample's number among the N.
        """
        indices = indices.to(x.device, non_blocking=True)
        nearest = (x @ self.centroids.mT - self.half_squares).argmax(1)  # argmin |x - m|², (B,)
        members = torch.nn.functional.one_hot(nearest, len(self.centroids)).to(x.dtype)  # (B, C)
        distance = (x - self.centroids[nearest]).square().sum(1)
        self.sums += members.mT @ x  # in a fixed order, unlike index_add_ on a GPU
        self.counts += members.sum(0).long()
        self.inertia += distance.double().sum()
        self.assignment[indices] = nearest
        self.points[indices] = (x - self.centre) @ self.axes
        # of the C farthest so far, the nearest give way to farther samples of this mini-batch
        k = min(len(x), len(self.centroids))
        (new, i), (old, j) = distance.topk(k), self.far_distance.topk(k, largest=False)
        enters = new > old
        self.far_distance[j] = torch.where(enters, new, old)
        self.far_index[j] = torch.where(enters, indices[i], self.far_index[j])
        self.far_rows[j] = torch.where(enters.unsqueeze(1), x[i], self.far_rows[j])

    def so_far(self):
        """{name: number} of the unfinished pass: inertia, and clusters in use, of all processes."""
        return {
            "inertia_so_far": self.reduce(self.inertia).item(),
            "occupied_so_far": (self.reduce(self.counts) > 0).sum().item(),
        }

    def totals(self):
        """{buffer: tensor} of the pass so far: all processes' sums and their C farthest samples."""
        found = {
            name: self.reduce(getattr(self, name))
            for name in ("sums", "inertia", "counts", "assignment", "points")
        }
        if self.world == 1:
            return found | {
                name: getattr(self, name) for name in ("far_distance", "far_index", "far_rows")
            }
        number = len(self.centroids)
        distances = self.far_distance.new_zeros(self.world, number)
        distances[self.rank] = self.far_distance
        distance, places = self.reduce(distances).flatten().topk(number)
        mine, places = places // number == self.rank, places % number
        return found | {
            "far_distance": distance,
            "far_index": self.reduce(self.far_index[places] * mine),
            "far_rows": self.reduce(self.far_rows[places] * mine.unsqueeze(1)),
        }

    @torch.no_grad()
    def update(self):
        """End a pass: move the centroids. Returns a dict of what the pass found.

        inertia: the sum of squared distances to the centroids as they were when the pass began.
        sizes: the number of samples in each cluster, a list of C.
        changed: the number of samples that are in another cluster than after the pass before.
        restarted: the number of empty clusters that were given a sample.
        assignment: (N,), the number of each sample's cluster.
        points: (N, 2), the samples on the two principal axes of the centroids, for the picture.
        centroids: (C, 2), the moved centroids on these axes.
        explained: the share of the centroids' variance on these axes, 0 to 1.
        """
        found = self.totals()
        check_finite(found["inertia"])
        sums, counts = found["sums"], found["counts"]
        restarted = self.restart(found, sums, counts) if self.restarts else []
        # a cluster that stays empty stays where it is
        rate = self.rate * (counts > 0).to(self.centroids.dtype)
        rate[restarted] = 1
        means = sums.div_(counts.clamp(min=1).unsqueeze(1)).to(self.centroids.dtype)
        self.centroids.lerp_(means, rate.unsqueeze(1))
        result = {
            "inertia": found["inertia"].item(),
            "sizes": counts.tolist(),
            "restarted": len(restarted),
            "changed": (found["assignment"] != self.before).sum().item(),
            "assignment": found["assignment"].cpu().clone(),
            "points": found["points"].cpu().clone(),
            "centroids": ((self.centroids - self.centre) @ self.axes).cpu(),
            "explained": self.explained,
        }
        self.before.copy_(found["assignment"])
        self.begin()
        return result

    def restart(self, found, sums, counts):
        """Give each empty cluster one of the farthest samples, as long as there are any.

        Changes its arguments in place. Returns the numbers of the clusters that got a sample.
        """
        empty, restarted = (counts == 0).nonzero().flatten().tolist(), []
        for place in (
            found["far_distance"].argsort(descending=True, stable=True).tolist() if empty else []
        ):
            left = found["assignment"][found["far_index"][place]]
            if len(restarted) == len(empty) or found["far_distance"][place] <= 0:
                break
            if counts[left] > 1:
                taken = empty[len(restarted)]
                sums[left] -= found["far_rows"][place]
                sums[taken] += found["far_rows"][place]
                counts[left] -= 1
                counts[taken] += 1
                found["assignment"][found["far_index"][place]] = taken
                restarted.append(taken)
        return restarted

    def state(self):
        """What `load` goes on from, in the middle of a pass too: name -> tensor on the CPU.

        It is the same in all processes, and all must call this, as their sums are added up.
        """
        state = {"centroids": self.centroids, "before": self.before} | self.totals()
        return {name: value.cpu() for name, value in state.items()}

    def load(self, state):
        """Go on from a `state`. The first process takes all sums; the others start at 0."""
        self.centroids.copy_(state["centroids"])
        self.before.copy_(state["before"])
        self.begin()
        for name, value in state.items() if self.rank == 0 else ():
            getattr(self, name).copy_(value)


class Memories(torch.nn.Module):
    """The teacher's memory, frozen, and the student's, trained with the student (Eq. 8-9).

    m_t: the teacher's, (C, W_t*D_t). width: D_s. length: the student's W. used: (W,) bool, the
    positions at which some sample has a token, if structures leave padding out; None for all.
    init: how the student's memory starts, of which the paper says only that it is random.
    "matched", a form of ours: Gaussian with the mean and deviation of the teacher's numbers, so
    that both memories begin at one scale. "released", the authors': N(0, 1). "averaged", ours: as
    "matched", until `average` is called. Only the student's memory is a parameter.
    """

    def __init__(self, m_t, width, length, seed, estimator="biased", init="matched", used=None):
        super().__init__()
        self.estimator = estimator
        self.teacher = cka.FrozenMemory(m_t, estimator)
        noise = torch.randn(len(m_t), length * width, generator=torch.Generator().manual_seed(seed))
        deviation, mean = (1.0, 0.0) if init == "released" else torch.std_mean(m_t)
        start = (noise.to(m_t.device) * deviation + mean).view(len(m_t), length, width)
        if used is not None:
            start[:, ~used] = 0
        self.student = torch.nn.Parameter(start.flatten(1))

    @torch.no_grad()
    def average(self, mini_batches):
        """Set each centroid of the student's memory to the mean features of one teacher's cluster.

        mini_batches: for all training rows, pairs of the student's features (B, W*D_s) and the
        distances (B, C) of the teacher's features to its centroids. A row belongs to its nearest
        centroid of the teacher; a centroid without rows starts as the mean of all rows.
        """
        sums = torch.zeros_like(self.student, dtype=torch.float64)
        counts = torch.zeros(len(sums), dtype=torch.float64, device=sums.device)
        for h_s, distances in mini_batches:
            nearest = distances.argmin(1)
            members = torch.nn.functional.one_hot(nearest, len(sums)).double()  # (B, C)
            sums += members.mT @ h_s.double()  # in a fixed order, unlike index_add_ on a GPU
            counts += members.sum(0)
        means = sums / counts.clamp(min=1).unsqueeze(1)
        means[counts == 0] = sums.sum(0) / counts.sum()
        self.student.copy_(means)

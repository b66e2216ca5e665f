"""memory.py: k-means against scikit-learn and by hand, its state, the file, M_s."""

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.cluster import KMeans as SklearnKMeans

import memory
from common import UserError
from training import memory_file


def blobs(seed, rows=300, number=6, width=12, spread=0.6):
    """Overlapping Gaussian blobs, (N, p) float32."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(number, width, generator=generator)
    return centres[torch.randint(number, (rows,), generator=generator)] + spread * torch.randn(
        rows, width, generator=generator
    )


def run(x, start, passes, batch=32, rate=1.0):
    """The KMeans after so many passes, and what each found."""
    kmeans, found = memory.KMeans(start.clone(), len(x), rate), []
    for _ in range(passes):
        for indices in torch.arange(len(x)).split(batch):
            kmeans.add(x[indices], indices)
        found.append(kmeans.update())
    return kmeans, found


def nearest(x, centroids):
    return torch.cdist(x.double(), centroids.double()).argmin(1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("passes", [1, 3, 20])
def test_is_scikit_learns_lloyd(seed, passes):
    x = blobs(seed)
    start = memory.start_centroids(x, 8, "kmeans++", seed)
    kmeans, found = run(x, start, passes)
    wanted = SklearnKMeans(
        8, init=start.numpy(), n_init=1, max_iter=passes, tol=0, algorithm="lloyd"
    ).fit(x.numpy())
    np.testing.assert_allclose(
        kmeans.centroids.numpy(), wanted.cluster_centers_, rtol=1e-4, atol=1e-5
    )
    assert (nearest(x, kmeans.centroids).numpy() == wanted.labels_).mean() >= 0.999
    inertias = [result["inertia"] for result in found]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(inertias))
    assert inertias[0] == pytest.approx(
        torch.cdist(x, start).amin(1).square().sum().item(), rel=1e-5
    )


@pytest.mark.parametrize("empty", [1, 3])
def test_empty_clusters_restart_as_scikit_learns_do(empty):
    """The start has centroids that win no sample."""
    x = blobs(3)
    start = torch.cat([x[:5], torch.full((empty, 12), 99.0) + torch.arange(empty)[:, None]])
    kmeans, found = run(x, start, 1)
    wanted = SklearnKMeans(
        5 + empty, init=start.numpy(), n_init=1, max_iter=1, tol=0, algorithm="lloyd"
    ).fit(x.numpy())
    order = torch.cdist(kmeans.centroids, torch.from_numpy(wanted.cluster_centers_)).argmin(1)
    assert order.unique().numel() == 5 + empty  # which empty cluster takes which sample is free
    np.testing.assert_allclose(
        kmeans.centroids.numpy(), wanted.cluster_centers_[order], rtol=1e-4, atol=1e-5
    )
    assert found[0]["restarted"] == empty and found[0]["sizes"][5:] == [1] * empty
    farthest = torch.cdist(x, start).amin(1).topk(empty).indices
    assert sorted(found[0]["assignment"][farthest].tolist()) == list(range(5, 5 + empty))
    torch.testing.assert_close(kmeans.centroids[5:], x[farthest])


def test_a_restart_leaves_no_other_cluster_empty_and_goes_all_the_way():
    """The farthest sample, 100, is alone in its cluster, so the next one restarts the third; the
    rate is not for it.
    """
    x = torch.tensor([[0.0], [1.0], [100.0]])
    kmeans, (found,) = run(x, torch.tensor([[0.4], [90.0], [999.0]]), 1, rate=0.5)
    assert found["assignment"].tolist() == [0, 2, 1] and found["sizes"] == [1, 1, 1]
    torch.testing.assert_close(kmeans.centroids, torch.tensor([[0.2], [95.0], [1.0]]))


def test_the_size_of_the_mini_batches_does_not_matter():
    x = blobs(0)
    start = torch.cat([x[:6], torch.full((2, 12), 99.0)])
    wanted = run(x, start, 4, batch=300)[0].centroids
    for batch in (1, 7, 32):
        torch.testing.assert_close(
            run(x, start, 4, batch)[0].centroids, wanted, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("rate", [0.25, 1.0])
def test_one_pass_by_hand(rate):
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [10.0, 0.0]])
    kmeans, (found,) = run(x, torch.tensor([[1.0, 1.0], [8.0, 0.0]]), 1, rate=rate)
    assert found["inertia"] == 2 + 2 + 4 and found["sizes"] == [2, 1] and found["changed"] == 3
    assert found["assignment"].tolist() == [0, 0, 1]
    assert kmeans.centroids.tolist() == [[1.0, 1.0 - rate], [8.0 + 2 * rate, 0.0]]


def test_sums_lose_no_small_numbers():
    """In float32, 1e8 + 1 + 1 - 1e8 is 0."""
    kmeans, _ = run(torch.tensor([[1e8], [1.0], [1.0], [-1e8]]), torch.tensor([[0.0]]), 1, batch=1)
    assert kmeans.centroids.item() == 0.5


def test_fewer_different_samples_than_centroids():
    """Duplicates leave clusters empty for ever; nothing loops and nothing becomes NaN."""
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat(10, 1)
    start = memory.start_centroids(x, 5, "kmeans++", 0)
    kmeans, found = run(x, start, 5)
    assert torch.equal(kmeans.centroids, start)  # an empty cluster stays where it is
    assert kmeans.centroids.isfinite().all() and found[-1]["inertia"] == 0
    assert sorted(found[-1]["sizes"])[-2:] == [10, 10] and found[-1]["changed"] == 0


def test_a_single_centroid_is_the_mean():
    x = blobs(1)
    kmeans, found = run(x, x[:1], 2)
    torch.testing.assert_close(kmeans.centroids[0], x.mean(0))
    assert found[1]["changed"] == 0


def test_saved_in_the_middle_of_a_pass_and_loaded_it_is_the_same(tmp_path):
    x = blobs(2)
    start = torch.cat([x[:5], torch.full((1, 12), 99.0)])
    batches = torch.arange(300).split(32)
    straight = run(x, start, 3)[0]
    first = memory.KMeans(start.clone(), 300)
    for indices in batches:
        first.add(x[indices], indices)
    first.update()
    for indices in batches[:4]:
        first.add(x[indices], indices)
    memory_file.save_state(tmp_path / "state.safetensors", first.state(), {"progress": "{}"})
    second = memory.KMeans(torch.zeros(6, 12), 300)
    second.load(load_file(tmp_path / "state.safetensors"))
    for indices in batches[4:]:
        second.add(x[indices], indices)
    second.update()
    for indices in batches:
        second.add(x[indices], indices)
    found = second.update()
    assert torch.equal(second.centroids, straight.centroids)
    assert torch.equal(found["assignment"], straight.before)


def test_the_picture_shows_the_principal_axes():
    """Points and centroids on axes along which the centroids vary most, by a second implementation
    (SVD).
    """
    x = blobs(4)
    kmeans = memory.KMeans(x[:6].clone(), 300)
    kmeans.add(x, torch.arange(300))
    found = kmeans.update()
    _, singular, axes = torch.linalg.svd(x[:6] - x[:6].mean(0), full_matrices=False)
    wanted = (x - x[:6].mean(0)) @ axes[:2].T
    torch.testing.assert_close(found["points"].abs(), wanted.abs(), rtol=1e-4, atol=1e-4)
    assert found["explained"] == pytest.approx(
        (singular[:2].square().sum() / singular.square().sum()).item(), rel=1e-4
    )


@pytest.mark.parametrize("init", ["kmeans++", "random", "normal"])
def test_starts(init):
    sample = blobs(0)
    start = memory.start_centroids(sample, 9, init, seed=4)
    assert start.shape == (9, 12) and start.dtype == torch.float32
    assert torch.equal(start, memory.start_centroids(sample, 9, init, seed=4))
    assert not torch.equal(start, memory.start_centroids(sample, 9, init, seed=5))
    of_sample = (start[:, None] == sample[None]).all(-1).any(1)
    assert of_sample.all() if init != "normal" else not of_sample.any()
    many = memory.start_centroids(sample[:200], 200, init, seed=4)
    if init == "normal":
        torch.testing.assert_close(many.mean(0), sample[:200].mean(0), atol=0.3, rtol=0)
        torch.testing.assert_close(many.std(0), sample[:200].std(0), atol=0.3, rtol=0)


def test_features_that_are_not_finite_are_refused():
    x = blobs(0)
    x[7, 3] = float("nan")
    kmeans = memory.KMeans(x[:4].nan_to_num(), 300)
    kmeans.add(x, torch.arange(300))
    with pytest.raises(UserError, match="not finite numbers"):
        kmeans.update()


# ---- the file ------------------------------------------------------------------------------------


def test_a_memory_is_read_as_it_was_written(tmp_path):
    facts = {"task": "RTE", "teacher": "a" * 64, "max_seq_length": 8}
    memory_file.save_memory(tmp_path / memory_file.FILE, torch.eye(3), facts)
    for path in (tmp_path, tmp_path / memory_file.FILE):
        centroids, found = memory_file.load_memory(memory_file.find_memory(path), facts)
        assert torch.equal(centroids, torch.eye(3)) and found == facts
    wanted = (
        "its teacher is aaaaaaaaaaaa there and bbbbbbbbbbbb here, "
        "its max seq length is 8 there and 9 here; train"
    )
    with pytest.raises(UserError, match=wanted):
        memory_file.load_memory(
            tmp_path / memory_file.FILE, facts | {"teacher": "b" * 64, "max_seq_length": 9}
        )


@pytest.mark.parametrize("content", [b"", b"not a memory", None, "cut"])
def test_damaged_and_foreign_files_are_refused(content, tmp_path):
    path = tmp_path / memory_file.FILE
    memory_file.save_memory(path, torch.eye(3), {"task": "RTE"})
    if content is None:
        save_file({"centroids": torch.eye(3)}, path)  # without metadata
    else:
        path.write_bytes(path.read_bytes()[:-4] if content == "cut" else content)
    with pytest.raises(UserError, match=r"no memory that train_memory\.py wrote, or a damaged one"):
        memory_file.load_memory(path)
    with pytest.raises(UserError, match="there is no memory"):
        memory_file.find_memory(tmp_path / "nowhere")


# ---- in training ---------------------------------------------------------------------------------


def test_only_the_students_memory_is_trained():
    m_t = 3 + 2 * torch.randn(50, 6 * 8, generator=torch.Generator().manual_seed(0))
    memories = memory.Memories(m_t, width=4, length=6, seed=1)
    assert [(name, tuple(p.shape)) for name, p in memories.named_parameters()] == [
        ("student", (50, 24))
    ]
    assert memories.state_dict().keys() == {"student"}
    assert memories.student.mean().item() == pytest.approx(3, abs=0.3)
    assert memories.student.std().item() == pytest.approx(2, abs=0.3)
    again = memory.Memories(m_t, width=4, length=6, seed=1)
    assert torch.equal(memories.student, again.student)
    assert not torch.equal(
        memories.student, memory.Memories(m_t, width=4, length=6, seed=2).student
    )


def test_where_all_samples_have_padding_the_students_memory_has_none():
    m_t, used = torch.randn(5, 48), torch.arange(6) < 4
    student = memory.Memories(m_t, width=3, length=6, seed=1, used=used).student.view(5, 6, 3)
    assert (student[:, 4:] == 0).all() and (student[:, :4] != 0).all()

"""tasks/download.py: GLUE from a small server, checksums, and what `check` counts."""

import contextlib
import hashlib
import http.server
import io
import threading
import zipfile
from pathlib import Path

import pytest
from glue_files import REAL_DATA, expect_error, put, real_file

import tasks.download as download
import utils_glue
from common import cli
from tasks.download import download_task
from tasks.glue import TASKS, get_task


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` (path -> bytes) on 127.0.0.1; the first `failures` requests get a 503."""

    files, failures, requests, cut = {}, 0, 0, 0

    class RequestHandlerClass(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.requests += 1
            body = self.server.files.get(self.requestline.split()[1][1:])
            if body is None or self.server.requests <= self.server.failures:
                return self.send_error(404 if body is None else 503)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) - self.server.cut])

        def log_message(self, *args):
            pass

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.RequestHandlerClass)
        self.url, self.files = f"http://127.0.0.1:{self.server_port}", {}


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "RETRY_WAITS", (0, 0, 0))
    monkeypatch.setattr(download, "CHECKSUMS", put(tmp_path, "sums/glue.sha256", ""))
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


# ---- a task in a zip -----------------------------------------------------------------------------


QNLI_FILES = {
    "train.tsv": "index\tquestion\tsentence\tlabel\n0\ta\tb\tentailment\n1\ta\tb\tentailment\n",
    "dev.tsv": "index\tquestion\tsentence\tlabel\n0\tc\td\tnot_entailment\n",
    "test.tsv": "index\tquestion\tsentence\n0\ta\td\n",
}
QNLI_PLACED = {f"QNLI/{name}": content for name, content in QNLI_FILES.items()}
SMALL_QNLI = TASKS["qnli"]._replace(rows={"train": 2, "dev": 1, "test": 1})


def zip_of(files):
    with contextlib.closing(io.BytesIO()) as buffer:
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return buffer.getvalue()


@pytest.fixture
def qnli(server, monkeypatch):
    """The server with a QNLI archive: another folder, a stray copy, a resource fork, escaping
    members.
    """
    strays = ["QNLIv2/original/dev.tsv", "__MACOSX/train.tsv", "../../../test.tsv", "../../new.tsv"]
    files = {f"QNLIv2/{name}": content for name, content in QNLI_FILES.items()}
    server.files["glue/data/QNLIv2.zip"] = zip_of(
        {"QNLIv2/": ""} | files | dict.fromkeys(strays, "stray")
    )
    monkeypatch.setitem(TASKS, "qnli", SMALL_QNLI)
    return server


def files_below(folder):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_download_of_a_zip(qnli, tmp_path, capsys):
    args = [
        "download",
        "--data_dir",
        str(tmp_path / "data"),
        "--tasks",
        "QNLI",
        "--base_url",
        qnli.url,
    ]
    assert cli(utils_glue.main, args) == 0
    assert files_below(tmp_path / "data") == QNLI_PLACED
    assert files_below(tmp_path).keys() == {
        "sums/glue.sha256",
        *(f"data/{name}" for name in QNLI_PLACED),
    }
    assert cli(utils_glue.main, args) == 0 and qnli.requests == 1, "a task already there is skipped"
    put(tmp_path, "data/QNLI/dev.tsv", "mine")
    assert cli(utils_glue.main, [*args, "--overwrite"]) == 0
    assert files_below(tmp_path / "data") == QNLI_PLACED
    capsys.readouterr()
    assert cli(utils_glue.main, ["check", "--data_dir", str(tmp_path / "data")]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["QNLI", "train", "2", "2"],
        ["QNLI", "dev", "1", "1"],
        ["QNLI", "test", "1", "1"],
    ]


def test_a_partial_folder_is_not_replaced(qnli, tmp_path):
    mine = put(tmp_path, "QNLI/train.tsv", "mine")
    with expect_error("without dev.tsv, test.tsv", "--overwrite"):
        download_task(SMALL_QNLI, tmp_path, qnli.url)
    assert mine.read_text() == "mine" and qnli.requests == 0


# ---- MRPC, which GLUE puts together --------------------------------------------------------------


def mrpc_row(number):
    return f'{number % 2}\t{number}\t{number + 10}\tFirst "{number} .\tSecond {number} .'


def test_download_of_mrpc(server, tmp_path):
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    train = "\r\n".join(["\ufeff" + header, *map(mrpc_row, range(4))])
    test = "\n".join(["\ufeff" + header, *map(mrpc_row, (8, 9)), ""])
    sources = {
        "senteval/senteval_data/msr_paraphrase_train.txt": train,
        "senteval/senteval_data/msr_paraphrase_test.txt": test,
        "glue/data/mrpc_dev_ids.tsv": "2\t12\n1\t11\n",
    }
    server.files = {path: text.encode() for path, text in sources.items()}
    task = TASKS["mrpc"]._replace(rows={"train": 2, "dev": 2, "test": 2})
    download_task(task, tmp_path, server.url)
    found = {name: (tmp_path / "MRPC" / name).read_bytes().decode() for name in task.files.values()}
    assert found == {
        "train.tsv": "\n".join(["\ufeff" + header, mrpc_row(0), mrpc_row(3), ""]),
        "dev.tsv": "\n".join(["\ufeff" + header, mrpc_row(1), mrpc_row(2), ""]),
        "test.tsv": "\n".join(
            [header.replace("Quality", "index"), mrpc_row(8), "1" + mrpc_row(9)[1:], ""]
        ),
    }
    for path, name in task.downloads.items():
        assert (tmp_path / "MRPC" / name).read_bytes() == server.files[path]


def test_real_mrpc_is_split_as_glue_does(tmp_path):
    folder = real_file(get_task("mrpc"), "test").parent
    for name in ("msr_paraphrase_train.txt", "dev_ids.tsv"):
        if not (folder / name).is_file():
            pytest.skip(f"FSD_GLUE has no {name} of MRPC, as Microsoft publishes it")
        put(tmp_path, name, (folder / name).read_bytes())
    test = (folder / "test.tsv").read_text(encoding="utf-8")
    rows = ["0\t" + row.split("\t", 1)[1] + "\n" for row in test.split("\n")[:-1]]
    put(tmp_path, "msr_paraphrase_test.txt", "".join(rows))
    download._split_mrpc(tmp_path)
    for name in ("train.tsv", "dev.tsv", "test.tsv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


# ---- what goes wrong -----------------------------------------------------------------------------


def test_wrong_checksums_and_row_counts_are_refused(qnli, tmp_path, monkeypatch, capsys):
    args = [
        "download",
        "--data_dir",
        str(tmp_path / "data"),
        "--tasks",
        "qnli",
        "--base_url",
        qnli.url,
    ]
    good = hashlib.sha256(QNLI_FILES["dev.tsv"].encode()).hexdigest()
    monkeypatch.setitem(TASKS, "qnli", SMALL_QNLI._replace(rows={"train": 3, "dev": 1, "test": 1}))
    bad = "0" * 64
    for sums, parts in (
        (f"{bad}  QNLI/dev.tsv\n{bad}  RTE/dev.tsv\n", ["QNLI/dev.tsv", bad, good]),
        (
            f"{good}  QNLI/dev.tsv\n{bad}  RTE/dev.tsv\n",
            ["number of rows 3 of QNLI/train.tsv", "found 2"],
        ),
    ):
        download.CHECKSUMS.write_text(sums)
        assert cli(utils_glue.main, args) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: Expected")
        assert all(part in error for part in [*parts, "--no_verify"])
        assert list((tmp_path / "data").iterdir()) == []
    assert cli(utils_glue.main, [*args, "--no_verify"]) == 0
    assert files_below(tmp_path / "data") == QNLI_PLACED


def test_two_failures_are_retried(qnli, tmp_path):
    qnli.failures = 2
    download_task(SMALL_QNLI, tmp_path, qnli.url + "/")
    assert qnli.requests == 3 and files_below(tmp_path / "QNLI") == QNLI_FILES


def test_dead_servers_and_broken_archives(qnli, tmp_path):
    download = {"task": SMALL_QNLI, "data_dir": tmp_path / "data", "base_url": qnli.url}
    url = f"{qnli.url}/glue/data/QNLIv2.zip"
    qnli.failures = 4
    with expect_error(url, "503", "4 tries", "--base_url"):
        download_task(**download)
    qnli.failures, qnli.cut = 0, 10
    with expect_error(url, r"ended after \d+ of \d+ bytes"):
        download_task(**download)
    qnli.cut, qnli.files["glue/data/QNLIv2.zip"] = 0, b"<html>"
    with expect_error("QNLIv2.zip", "not a zip"):
        download_task(**download)
    qnli.files["glue/data/QNLIv2.zip"] = zip_of({"x/train.tsv": ""})
    with expect_error("QNLIv2.zip", "no dev.tsv, test.tsv"):
        download_task(**download, verify=False)
    with expect_error("http://127.0.0.1:9/glue/data/QNLIv2.zip", "refused"):
        download_task(**download | {"base_url": "http://127.0.0.1:9"})
    assert list((tmp_path / "data").iterdir()) == []


def test_check_without_data(tmp_path):
    with expect_error(str(tmp_path / "RTE"), "none", "download"):
        utils_glue.main(["check", "--data_dir", str(tmp_path)])


# ---- the known checksums -------------------------------------------------------------------------


def known_checksums():
    """[[digest, place]] of glue.sha256."""
    text = Path(download.__file__).with_name("glue.sha256").read_text()
    return [line.split("  ") for line in text.splitlines()]


def test_known_checksums():
    """glue.sha256 has sha256sum's format and names files of the table alone."""
    lines = known_checksums()
    known = {
        f"{task.folder}/{name}"
        for task in TASKS.values()
        for name in (*task.files.values(), *task.downloads.values())
    }
    assert len(lines) == 15 and {place for _, place in lines} <= known
    assert all(len(digest) == 64 and int(digest, 16) for digest, _ in lines)


def test_real_files_have_the_known_checksums():
    real_file(get_task("rte"), "train")
    for digest, place in known_checksums():
        file = Path(REAL_DATA, place)
        if place != "QNLI/train.tsv" and file.is_file():  # of QNLI an extract will do
            assert hashlib.sha256(file.read_bytes()).hexdigest() == digest, place

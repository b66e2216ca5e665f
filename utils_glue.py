"""Download GLUE's files, count their rows, and zip predictions for GLUE's server.

python utils_glue.py download --data_dir data --tasks rte mrpc
python utils_glue.py check --data_dir data
python utils_glue.py submit outputs/cola outputs/rte ... --output submission.zip
"""

import argparse
import sys
from pathlib import Path

from common import cli, expand_path
from tasks.download import BASE_URL, download_task
from tasks.glue import TASKS, get_task
from tasks.reading import count_rows
from tasks.submission import zip_submission
from tasks.task import expect


def check_data(data_dir):
    """Print, for each split found in data_dir/FOLDER, its number of rows and the official one."""
    splits = [
        (task, split, Path(data_dir, task.folder, name))
        for task in TASKS.values()
        for split, name in task.files.items()
    ]
    splits = [(task, split, path) for task, split, path in splits if path.is_file()]
    expect(
        splits,
        f"task folders such as {Path(data_dir, 'RTE')}",
        "none",
        f"run `python utils_glue.py download --data_dir {data_dir}`",
    )
    print(f"{'task':<6} {'split':<8} {'rows':>8} {'official':>8}")
    for task, split, path in splits:
        rows, official = count_rows(task, split, path), task.rows[split]
        print(
            f"{task.name:<6} {split:<8} {rows:>8,} "
            f"{official:>8,}{'' if rows == official else '  differs'}"
        )


def main(argv=None):
    """Run the command line. UserError for every mistake that a user can mend."""
    parser = argparse.ArgumentParser(description="Download and check GLUE data; pack predictions.")
    commands = parser.add_subparsers(dest="command", required=True)
    download = commands.add_parser("download", help="Download the official data.")
    download.add_argument(
        "--data_dir",
        type=expand_path,
        required=True,
        help="The folder that gets one folder for each task.",
    )
    download.add_argument(
        "--tasks", nargs="+", default=["all"], help="The tasks to download, or all."
    )
    download.add_argument(
        "--base_url", default=BASE_URL, help="The server, or a mirror with the same paths."
    )
    download.add_argument(
        "--overwrite", action="store_true", help="Replace the folders already there."
    )
    download.add_argument(
        "--no_verify", action="store_true", help="Keep files other than the official ones."
    )
    check = commands.add_parser("check", help="Count the rows found beside the official ones.")
    check.add_argument(
        "--data_dir",
        type=expand_path,
        required=True,
        help="The folder with one folder for each task.",
    )
    submit = commands.add_parser("submit", help="Check the eleven prediction files and zip them.")
    submit.add_argument(
        "folders",
        nargs="+",
        type=expand_path,
        help="The folders that hold the files, or submission/.",
    )
    submit.add_argument("--output", type=expand_path, required=True, help="The zip file to write.")
    args = parser.parse_args(argv)
    if args.command == "check":
        check_data(args.data_dir)
    elif args.command == "submit":
        zip_submission(args.folders, args.output)
        print(f"wrote {args.output}")
    else:
        for task in TASKS.values() if args.tasks == ["all"] else map(get_task, args.tasks):
            download_task(task, args.data_dir, args.base_url, args.overwrite, not args.no_verify)


if __name__ == "__main__":
    sys.exit(cli(main))

"""Tables of runs (CLEAN) and of a benchmark (STEP) as CSV text, for tests that damage them."""

import io

import pandas as pd

HEAD = (
    "method,task,seed,acc,minutes,parameters,device,machine,precision,processes,started,commit,"
    "teacher,torch,transformers,--learning_rate,--mask_padding,--output_dir,--tokenizer_name"
)
ROW = 'cpu,"M, 2 cores",bf16,1,{started},123456,,2.1,5.0,0.0001,,{folder},'
CLEAN = (
    "\n".join(
        [
            HEAD,
            *(
                f"{method},RTE,{seed},{acc},2.5,17000000,"
                + ROW.format(started=f"2026-0{seed}", folder=folder)
                for method, seed, acc, folder in (
                    ("VKD", 1, 0.5, "007"),
                    ("VKD", 2, 0.75, "1"),
                    ("FSD_I", 1, 0.625, "2026"),
                    ("FSD_I", 2, 0.875, "12"),
                )
            ),
        ]
    )
    + "\n"
)
LINES = CLEAN.splitlines()
STEP = """form,model,precision,B,W,examples / s,x VKD,peak MiB,device,machine,torch,commit
VKD,bert-base,no,8,24,10.5,1.0,900,cpu,"M, 2 cores",2.1,0123456
"FSD_I, cached",bert-base,no,8,24,8.25,0.75,950,cpu,"M, 2 cores",2.1,0123456
"""


def spreadsheet(text, separator=";"):
    """The table as a spreadsheet saves it in a country with decimal commas."""
    cells = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, header=None)
    numbers = cells.drop(columns=range(11, 15)).columns  # not the commit and the versions
    cells[numbers] = cells[numbers].replace(r"^(\d+)\.(\d+)$", r"\1,\2", regex=True)
    return cells.to_csv(sep=separator, index=False, header=False, lineterminator="\r\n")


def written(folder, text, name="r.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path

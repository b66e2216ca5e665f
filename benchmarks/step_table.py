"""The rows of benchmarks/step.py's table: medians, ratios, and shares of a GPU's peak speed."""

import statistics

from forms import FORMS

# Dense TFLOP/s of the tensor cores with bfloat16 or float16 inputs, by NVIDIA's data sheets. Of the
# names that occur in a card's full name, the first one counts.
PEAKS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H800": 989,
    "H200": 989,
    "B200": 2250,
    "A100": 312,
    "A800": 312,
    "A30": 165,
    "A10G": 70,
    "A10": 125,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX 6000 Ada": 364,
    "RTX 4090": 165,
    "RTX 3090": 71,
}


def peak_of(name):
    """The peak of a card in TFLOP/s, None if it is not known. name: as torch gives it."""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


class Measured:
    """What step.measure returned for one model and precision, made into rows of a table."""

    def __init__(self, found, precision):
        self.found, self.precision = found, precision
        self.rounds, self.widths = found["seconds"], found["tokens"]
        self.step = {
            form: statistics.median(one[form] for one in self.rounds) for form in self.rounds[0]
        }

    def rows(self, peaks, columns):
        """A row per form. peaks: form -> MiB. columns: what step.common_columns returned."""
        first, before, last = columns
        return [
            {
                **first,
                "precision": "no" if form == "published" else self.precision,
                "form": form,
                **before,
                "W'": round(self.widths[form], 1),
                "examples / s": round(self.found["samples"][form] / self.step[form], 2),
                **self.ratios(form),
                **(self.on_a_card(form) if self.found["device"] != "cpu" else {}),
                **last,
                "peak MiB": peaks[form],
            }
            for form in self.step
        ]

    def ratio(self, form, to):
        """How many times as fast as the form `to` a form is, by the median of the rounds' ratios.

        "" if `to` was not measured.
        """
        if to not in self.step:
            return ""
        digits = 2 if to in ("published", "floor") else 3
        share = self.found["samples"][form] / self.found["samples"][to]
        return round(share * statistics.median(one[to] / one[form] for one in self.rounds), digits)

    def ratios(self, form):
        """The columns that compare a form's speed with other forms'."""
        student = not form.startswith("teacher")
        vkd = same = ""
        if student and ":" not in form:
            end = ", cached" if form.endswith(", cached") else ""
            vkd = "VKD" + end
            forms = (vkd, "VKD, padded" + end, "VKD, grouped" + end)
            alike = (to for to in forms if self.widths.get(to) == self.widths[form])
            same = next(alike, "")
        return {
            "x published": self.ratio(form, "published") if student else "",
            "x VKD": self.ratio(form, vkd),
            "x VKD, same W'": self.ratio(form, same),
            "x floor": self.ratio(form, "floor") if student else "",
            "x plain loop": self.ratio(form, FORMS[form].peer),
        }

    def on_a_card(self, form):
        """The columns for a GPU: milliseconds, TFLOP/s, and shares of the card's peak in %."""
        rate = self.found["flops"][form] / self.step[form] / 1e12
        limit = None
        if form != "published" and self.precision != "no":
            limit = peak_of(self.found["device"])
        product = self.found["product"]
        return {
            "ms": round(1e3 * self.step[form], 2),
            "model TFLOP/s": round(rate, 1),
            "MFU %": round(100 * rate / limit, 1) if limit else "",
            "8192³, % of peak": round(100 * product / limit, 1) if limit else "",
        }

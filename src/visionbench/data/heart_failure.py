"""Heart failure prediction."""

from typing import Any

from visionbench.data.table import CellValue, Table

# A living patient has neither a cholesterol nor a blood pressure of 0.
MISSING: dict[str, CellValue | list[CellValue]] = {"Cholesterol": 0, "RestingBP": 0}


class HeartFailure(Table):
    """918 patients, of whom 55 % have a heart disease, from five earlier studies in one table.

    - Rows: 11 features, of which 6 are numeric (Age, RestingBP, Cholesterol, FastingBS, MaxHR, Oldpeak) and 5
      categorical (Sex, ChestPainType, RestingECG, ExerciseAngina, ST_Slope). Zeros in Cholesterol (172 patients) and in
      RestingBP (1) stand for missing values; `missing: null` reads them as numbers.
    - Classes: 0 and 1, the values of HeartDisease.
    - Split: that of train.csv and test.csv, in the course CS 6140 718 and 200 rows; validation is cut from train.csv.
      The published table is one file without a split, from which test is cut too.
    - Source: fedesoriano, "Heart Failure Prediction Dataset", Kaggle, 2021. License: ODbL 1.0.
    - Files: FOLDER is Kaggle's data set "Heart Failure Prediction" by fedesoriano, whose single file is heart.csv (the
      path of that file, or a folder with it as train.csv), or a folder with train.csv and test.csv.

    Args:
        source: Folder or file that holds the table; read only. By default the one that was prepared last.
        target: Name of the column that holds the class.
        missing: Values that mark a missing cell, by column, for example {Cholesterol: 0}; one value or a list; null for
            none.
    """

    title = "Heart failure"
    named = True
    usual_missing = {name: [value] for name, value in MISSING.items()}

    def __init__(
        self,
        source: str | None = None,
        target: str = "HeartDisease",
        missing: dict[str, CellValue | list[CellValue]] | None = MISSING,
        **kwargs: Any,
    ) -> None:
        super().__init__(source or "", target, missing=missing, **kwargs)

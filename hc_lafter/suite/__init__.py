"""What the notebooks and the report need.

`study` is what a notebook starts and ends with, `plans` the runs that each needs, `plots` everything that is drawn;
`figures` collects the files of figures for a paper; `chain` and `runner` run the notebooks; `claims`, `ledger`,
`comparing`, `reporting` and `report` make the ledger and its page. This room may use every other, and none may use it.
A number is made elsewhere: no model, no data set and no training lives here.
"""

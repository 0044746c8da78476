"""From a system to a tuned one: features and views of a data set, regimes, the fit loop, a run and its predictions.

A system comes in as a module that names its parameter groups. Nothing here knows a system by name, draws, writes a
report or knows the suite: what a run has to be told about profile and places is asked for in `setting`.
"""

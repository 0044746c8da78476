"""From a system to a tuned one.

`material` is what runs read: a CLIP, a data set, and all that the frozen tower says of it (`features`, `views`,
`masks`, `texts`); `training` is the one fit loop, `convergence` the rule for when it has trained enough. `run` says
what a run is and where its result is kept, `computing` how it is computed, `runs` who computes it; `tune` does it all
in one call. A system comes in as a module that names its parameter groups. Nothing here knows a system by name, draws,
writes a report or knows the suite: what decides the material is the value in `setting`.
"""

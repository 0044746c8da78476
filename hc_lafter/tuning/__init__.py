"""From a system to a tuned one.

`material` is what runs read: a CLIP, a data set, and all that the frozen tower says of it (`features`, `views`,
`masks`, `texts`); `training` is the one fit loop; `runs` says what a run is, where its result is kept and who computes
it. A system comes in as a module that names its parameter groups. Nothing here knows a system by name, draws, writes a
report or knows the suite: what decides the material is the value in `setting`.
"""

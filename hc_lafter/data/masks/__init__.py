"""The published sets with masks, in mmsegmentation's layouts: `sets` names and opens them, `formats` lists their files.

`names` has their classes and zero-shot splits as data, `checks` what the doctor asks of masks alone. A new set is a row
of `sets.SETS`. Scoring masks is the business of `hc_lafter.analysis.segmentation`; nothing that knows a model belongs
in this folder.
"""

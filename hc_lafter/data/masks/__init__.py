"""The published sets with masks, in mmsegmentation's layouts: their files, class names, splits and doctor.

Scoring masks is `hc_lafter.analysis.segmentation`'s; nothing here knows a model.
"""

"""Arrays in, numbers out: CKA, outlier factors, probes, metrics of classes and masks, intervals, costs.

Nothing here loads a CLIP, opens a data set, tunes, draws or writes a file; whoever has arrays may use it alone.
"""

"""Emotions: the wheels and label distributions, and the published sets in the layouts in which they are handed out.

`sets` names the sets and recognises their folders, `labels` reads those with one label per image, `votes` those that
keep what their annotators said (`ldl_mat` the division that comes with two of them), `names` has the words for
emotions, `wheels` their order on a ring. A reader lists files and opens no image; making records of a listing is the
business of `hc_lafter.data.own.images`.
"""

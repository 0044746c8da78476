"""The embedded world: scenes with emotions, drawn by code from a seed.

`scene` draws what is in a picture and what it evokes, `painter` and `pen` put it into pixels and masks, `grammar` into
sentences, `dataset` makes records of them. Nothing that reads a file or knows another data set belongs in this folder.
Its fingerprint is a hash of the code: a changed word in these files is another data set to every cache.
"""

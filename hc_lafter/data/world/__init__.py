"""The embedded world: scenes with emotions, drawn by code from a seed.

`scene` draws what is in a picture and what it evokes, `painter` and `pen` put it into pixels and masks, `grammar` into
sentences, `dataset` makes records of them. Nothing here reads a file or knows another data set.
"""

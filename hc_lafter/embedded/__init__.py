"""The shipped weights, their cards, and what makes both again.

`hc_lafter.clip.load` reads the weights and nothing else of this room. `pretrain` trains a CLIP like them (``hc-lafter
pretrain``), `fidelity` says in what it resembles real ones (``hc-lafter fidelity``), `measure`
holds the readings that both take, `cards` writes the cards from their JSON. No other room imports from here.
"""

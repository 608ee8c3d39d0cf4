"""NoProp: blocks that each learn to denoise the label's embedding, without a path between them.

Li, Teh and Pascanu, "NoProp: Training Neural Networks without Back-propagation or
Forward-propagation", 2025, arXiv 2503.24322. The gradient stays inside a block: it is block-local
back-propagation. Variants: DT (discrete time, a block a step), CT (continuous time) and FM (flow
matching). ``docs/guides/layer-wise.md`` lists the choices that the paper leaves open.
"""

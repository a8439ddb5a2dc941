"""All decoder blocks of a model in one call, for backends where handing over single operations costs time.

What a call computes is what `quire.engine.model.transformer` composes of the single operations; a backend that
does not fuse leaves it at that.
"""

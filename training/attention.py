"""Records the queries, keys and values of a model's last self-attention in a forward pass; for
MiniLM.
"""

import contextlib

import accelerate

from common import UserError

FAMILIES = (
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "electra",
    "albert",
    "distilbert",
    "mpnet",
)
PROJECTIONS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q", "k", "v"))


def last_attention(model):
    """The unwrapped model, and a list of its last self-attention's query, key and value
    projections.

    UserError if the model is of a family whose attention is not known to be softmax(QKᵀ/√d).
    """
    plain = accelerate.utils.extract_model_from_parallel(
        model, keep_fp32_wrapper=True, keep_torch_compile=False
    )
    family = plain.config.model_type
    if family not in FAMILIES:
        raise UserError(
            f"MiniLM needs a model whose attention is softmax(QKᵀ/√d), of the families "
            f"{', '.join(FAMILIES)}; found {family}: take one of these, or another method"
        )
    for module in plain.modules():
        children = dict(module.named_children())
        for names in PROJECTIONS:
            if all(name in children for name in names):
                found = [children[name] for name in names]
    return plain, found


def has_position_bias(model):
    """True if a model adds a position bias to its products of queries and keys, as MPNet does."""
    return any(name.endswith("relative_attention_bias") for name, _ in model.named_modules())


@contextlib.contextmanager
def heard(model):
    """Record the last self-attention of `model` in each forward pass while the context is open.

    Yields a list of three, which a forward pass fills with queries, keys and values, (k, A, W, d)
    each.
    """
    plain, projections = last_attention(model)
    heads, outputs = plain.config.num_attention_heads, [None] * 3

    def listener(i):
        def listen(module, arguments, x):
            outputs[i] = x.unflatten(-1, (heads, -1)).transpose(1, 2)  # (k, W, A*d) -> (k, A, W, d)

        return listen

    handles = [
        projection.register_forward_hook(listener(i)) for i, projection in enumerate(projections)
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()

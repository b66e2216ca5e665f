"""Tries before the training whether a model can read a run's rows, and whether padding matters."""

import torch

from common import UserError
from training.batches import MiniBatch, Rows, span


def check_reading(model, tokenizer, length, what):
    """Refuse a model that cannot read a row of `length` tokens, or has not one hidden state per
    token.

    what: the model, in words. The model is on the CPU, where an index beyond an embedding raises an
    error; on a GPU it would abort the process.
    """
    width, layers = model.config.hidden_size, range(model.config.num_hidden_layers + 1)
    token = next(i for i in range(len(tokenizer) - 1, -1, -1) if i not in tokenizer.all_special_ids)

    def read(tokens):
        names = {"input_ids": token, "attention_mask": 1, "token_type_ids": int(tokens > 1)}
        inputs = {
            name: torch.full((1, tokens), value)
            for name, value in names.items()
            if name in ("input_ids", "attention_mask", *tokenizer.model_input_names)
        }
        item = {"indices": torch.arange(1), "inputs": inputs, "targets": {}, "teacher": {}}
        batch = MiniBatch(item, "cpu")
        return batch.forward(model, layers)

    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = {tuple(h.shape) for h in read(length).features}
    except Exception as error:  # every family raises its own
        longest = longest_read(read, length)
        reason = (
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        )
        if longest < 2:
            raise UserError(
                f"the {what} cannot be run on its tokenizer's tokens ({reason}): give another "
                "model, or its own tokenizer"
            ) from None
        raise UserError(
            f"--max_seq_length is {length}, but the {what} takes at most {longest} tokens "
            f"({reason}): pass {longest} or less"
        ) from None
    finally:
        model.train(training)
    if found != {(1, length, width)}:
        shapes = " and ".join(f"{shape[1]} tokens, {shape[2]} wide" for shape in sorted(found))
        raise UserError(
            f"the {what}, of type {model.config.model_type}, has hidden states of {shapes} for a "
            f"row of {length} tokens, {width} wide: features are compared token by token, so take "
            "a family that keeps one hidden state for each token"
        )


def longest_read(read, length):
    """The most tokens below `length` for which read(tokens) raises nothing, else 0."""
    low, high = 0, length  # low tokens can be read, or low is 0; high tokens cannot
    while high - low > 1:
        middle = (low + high) // 2
        try:
            with torch.no_grad():
                read(middle)
            low = middle
        except Exception:  # as above
            high = middle
    return low


def minds_lengths(config):
    """True for models that may only be given rows of one length.

    BigBird changes its attention for good once it has met a short row; a feed-forward part that
    works in chunks takes only lengths that are multiples of the chunk.
    """
    return config.model_type == "big_bird" or bool(getattr(config, "chunk_size_feed_forward", 0))


def ignores_padding(model, features):
    """True if a row gives the same outputs with its padding as without, so that padding may be cut
    off.

    False for families that mix padding into other tokens, as FNet, that cannot take shorter rows,
    or that count positions from the left in rows padded on the left. features: name -> tensor (N,
    W), of which the row with the fewest tokens is tried; None if that has no padding.
    """
    if minds_lengths(model.config):
        return False
    mask = features["attention_mask"]
    row = mask.sum(1).argmin().view(1)
    if mask[row].all():
        return None
    training, last = model.training, model.config.num_hidden_layers
    model.eval()
    try:
        with torch.no_grad():
            whole, cut = (
                MiniBatch(Rows(features, short)[row], model.device).forward(model, (last,))
                for short in (False, True)
            )
            tokens = whole.features[0][:, span(mask[row].bool())]
            return all(
                torch.allclose(*pair, rtol=1e-3, atol=1e-3)
                for pair in ((whole.logits, cut.logits), (tokens, cut.features[0]))
            )
    except RuntimeError:
        return False  # of a family with more hidden states than a short row has tokens: Reformer
    finally:
        model.train(training)


def leaves_weights_out(model, features):
    """True for a model with weights that its outputs do not depend on, as XLNet's mask embedding,
    or not at each step, as with layerdrop, which drops whole layers. features: as in
    ignores_padding.
    """
    if getattr(model.config, "layerdrop", 0):
        return True
    training = model.training
    model.eval()
    batch = MiniBatch(Rows(features)[torch.arange(1)], model.device)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    found = torch.autograd.grad(batch.forward(model).logits.sum(), trained, allow_unused=True)
    model.train(training)
    return any(gradient is None for gradient in found)

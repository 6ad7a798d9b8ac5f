"""The containers on their way between memories; what they hold is tested where it is made."""

from dataclasses import replace

import pytest
import torch

from intarsia.types import Batch, Embeddings, Features, Links, TokenBatch


@pytest.fixture
def batch():
    def tensor(*shape):
        return torch.zeros(2, *shape)

    def tokens():
        return TokenBatch(tensor(3), tensor(3), tensor(3), tensor(3, 2))

    links = Links(tensor(1, 4), tensor(1, 2), tensor(1), tensor(1), tensor(1, 1), tokens())
    states = Features(image_global=tensor(5))
    problems = (("a", "broken"),)
    return Batch(tensor(), tensor(), tensor(3, 4, 4), tokens(), states, None, links, problems)


def test_captions_are_their_picture_s_own_unless_told_otherwise(batch):
    assert batch.image_ids is batch.text_ids is batch.pictures
    true, said = torch.tensor([[0, 2], [1, 2]]), torch.tensor([2, 1])
    told = replace(batch, true=true, said=said)
    assert told.image_ids is true and told.text_ids is said


NUM_TENSORS = 3 + 4 + 1 + 5 + 4  # of the batch above: its own, tokens, states, links, phrases


def test_every_tensor_of_a_batch_is_pinned(batch, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x) or x + 1)
    found = batch.pin_memory()
    assert len({id(x) for x in pinned}) == len(pinned) == NUM_TENSORS
    assert found.links.phrases.offsets.all() and found.states.image_global.all()
    assert found.problems == batch.problems and found.features is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only CUDA pins memory")
def test_a_data_loader_pins_batches(batch):
    loader = torch.utils.data.DataLoader([batch], batch_size=None, pin_memory=True)
    (found,) = loader
    assert found.pixels.is_pinned() and found.links.phrases.ids.is_pinned()


def test_copies_to_the_cpu_are_whole_on_return_and_others_do_not_wait(monkeypatch):
    asked, to = [], torch.Tensor.to

    def spy(x, device, **options):
        asked.append((torch.device(device).type, options["non_blocking"]))
        return to(x, device, **options)

    monkeypatch.setattr(torch.Tensor, "to", spy)
    embeddings = Embeddings({"global": torch.ones(2, 3)}, ids=torch.arange(2))
    embeddings.to("meta")
    embeddings.cpu()
    embeddings.to(torch.device("cpu", 0))
    assert asked == [("meta", True)] * 2 + [("cpu", False)] * 4
